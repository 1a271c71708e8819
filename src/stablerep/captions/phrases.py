"""What a synthesised caption is about and the sentences that say it: pure functions of a seed.

Three kinds, after SynCLR (Tian et al. 2023): a class alone, before a background, or in a relation to another one.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["class", "background", "relation"]

BACKGROUNDS = (
    "on a sandy beach",
    "in a snowy field",
    "in a green meadow",
    "in a dense forest",
    "beside a quiet lake",
    "by a wooden fence",
    "in front of a brick wall",
    "on a city street",
    "in a busy market",
    "in a small kitchen",
    "on a wooden table",
    "in a bright living room",
    "in an old garden",
    "on a mountain path",
    "under a cloudy sky",
    "in a desert at noon",
    "beneath tall trees in autumn",
    "at the edge of a river",
    "on a stone bridge",
    "in a park at dusk",
    "in a harbour",
    "on a rooftop",
    "inside a large hall",
    "against a plain white background",
    "in a narrow alley",
    "in a field of flowers",
    "on a gravel road",
    "in light rain",
    "in thick fog",
    "under street lights at night",
)
RELATIONS = (
    "next to",
    "in front of",
    "behind",
    "on top of",
    "under",
    "to the left of",
    "to the right of",
    "near",
    "facing",
    "far behind",
)
_VIEWS = (
    "a photo of",
    "a close-up of",
    "a side view of",
    "a picture taken from above of",
    "a blurry photo of",
    "a bright photo of",
    "a drawing of",
    "a painting of",
    "a black and white photo of",
    "a detailed image of",
    "a cropped photo of",
    "a view from afar of",
)
_ATTRIBUTES = (
    "",
    "small",
    "large",
    "old",
    "new",
    "bright",
    "dark",
    "colourful",
    "plain",
    "clean",
    "dirty",
    "beautiful",
    "strange",
    "single",
    "familiar",
    "unusual",
    "elegant",
    "simple",
    "dusty",
    "shiny",
    "tiny",
    "huge",
    "real",
    "wet",
    "weathered",
    "lovely",
    "typical",
    "partly hidden",
    "well-lit",
)
_TEMPLATES: Mapping[Kind, tuple[str, ...]] = {
    "class": ("{view} {thing}", "{thing}", "{view} {thing} in soft light", "{view} {thing} in hard light"),
    "background": ("{view} {thing} {background}", "{thing} {background}", "{background}, {thing}"),
    "relation": (
        "{view} {thing} {relation} {other}",
        "{thing} {relation} {other}",
        "{thing} {relation} {other} {background}",
    ),
}

# Examples shown to a language model: what is asked for, and a caption that answers it.
EXAMPLES: Mapping[Kind, tuple[tuple[str, str], ...]] = {
    "class": (
        ("tabby cat", "a tabby cat stretches and yawns after a long nap"),
        ("coffee mug", "a chipped blue coffee mug with steam rising from it"),
        ("fire engine", "a red fire engine races past with its lights flashing"),
        ("sunflower", "one tall sunflower turns its heavy head to the sun"),
        ("accordion", "an old accordion with worn keys and a leather strap"),
        ("sea turtle", "a sea turtle glides slowly, its shell covered in patterns"),
    ),
    "background": (
        ("golden retriever, on a sandy beach", "a golden retriever shakes off water on a sandy beach"),
        ("bicycle, in front of a brick wall", "a rusty bicycle leans in front of a brick wall"),
        ("teapot, on a wooden table", "a white teapot and two cups stand on a wooden table"),
        ("fox, in a snowy field", "a lone fox listens for mice in a snowy field"),
        ("lighthouse, in thick fog", "the lamp of a lighthouse glows faintly in thick fog"),
        ("violin, inside a large hall", "a violin lies on a chair inside a large hall"),
    ),
    "relation": (
        ("cat, under, umbrella", "a wet cat hides under a yellow umbrella"),
        ("lamp, next to, sofa", "a tall lamp lights the room next to a grey sofa"),
        ("horse, behind, gate", "a brown horse waits behind a wooden gate"),
        ("book, on top of, piano", "an open book rests on top of a black piano"),
        ("child, facing, snowman", "a child with a red scarf stands facing a snowman"),
        ("boat, to the left of, pier", "a small boat floats to the left of a stone pier"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """How often each kind of caption is drawn, as a ratio; published: 0.44, 0.45 and 0.11 (SynCLR)."""

    class_only: float = 0.44
    """The class alone."""
    background: float = 0.45
    """The class before a background."""
    relation: float = 0.11
    """The class in a spatial relation to another class."""

    def __post_init__(self) -> None:
        ratio = (self.class_only, self.background, self.relation)
        if min(ratio) < 0 or sum(ratio) <= 0:
            raise ValueError(f"the mixture needs numbers of at least 0 with a sum above 0, got {ratio}")


@dataclass(frozen=True, kw_only=True)
class Words:
    """The lists that captions are drawn from."""

    classes: tuple[str, ...]
    backgrounds: tuple[str, ...] = BACKGROUNDS
    relations: tuple[str, ...] = RELATIONS


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What one caption is to say."""

    kind: Kind
    concept: str
    background: str
    relation: str
    other: str

    @property
    def asked(self) -> str:
        """The words that a language model is to make a caption of."""
        wanted = {
            "class": (self.concept,),
            "background": (self.concept, self.background),
            "relation": (self.concept, self.relation, self.other),
        }
        return ", ".join(wanted[self.kind])


def draw_subject(draw: random.Random, words: Words, mixture: Mixture, concept: str | None = None) -> Subject:
    """A kind by the mixture and words for it; the class is drawn too where none is given."""
    kinds: tuple[Kind, ...] = ("class", "background", "relation")
    (kind,) = draw.choices(kinds, (mixture.class_only, mixture.background, mixture.relation))
    drawn = draw.choice(words.classes)
    subject = concept or drawn
    others = [draw.choice(words.classes) for _ in range(2)]
    return Subject(
        kind=kind,
        concept=subject,
        background=draw.choice(words.backgrounds),
        relation=draw.choice(words.relations),
        other=others[0] if others[0] != subject else others[1],
    )


def template_caption(draw: random.Random, subject: Subject) -> tuple[str, str]:
    """A caption by one of the templates of its kind, and the name of the template."""
    templates = _TEMPLATES[subject.kind]
    number = draw.randrange(len(templates))
    text = templates[number].format(
        view=draw.choice(_VIEWS),
        thing=with_article(f"{draw.choice(_ATTRIBUTES)} {subject.concept}".strip()),
        background=subject.background,
        relation=subject.relation,
        other=with_article(subject.other),
    )
    return text, f"{subject.kind}-{number}"


def model_prompt(draw: random.Random, subject: Subject, num_examples: int) -> str:
    """What a language model is to complete: some examples of the same kind, then the words of this caption."""
    pool = EXAMPLES[subject.kind]
    shown: Sequence[tuple[str, str]] = draw.sample(pool, min(num_examples, len(pool)))
    lines = [f"{asked} => {caption}" for asked, caption in shown]
    return "\n".join(["Captions of pictures, made from words:", *lines, f"{subject.asked} =>"])


def with_article(noun: str) -> str:
    """``apple`` -> ``an apple``: by the first letter, which is right for most English nouns."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def first_line(completion: str) -> str:
    """The caption in what a language model wrote: its first line, without quotation marks around it."""
    line = completion.strip().splitlines()[0] if completion.strip() else ""
    return line.strip().strip("\"'“”").strip()
