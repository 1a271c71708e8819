"""What each part of claims.py compares: pure descriptions, which read no table and train nothing."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stablerep.errors import UserError

RIVALS = ("simclr:real", "clip:real")
PAINTED = ("simclr:painted", "clip:painted", "stablerep:painted", "stablerep-plus:painted")
LEARNERS = ("stablerep", "stablerep-plus", "simclr", "clip", "supervised")
TRAIN = "split = 'train'"
FIVE_SEEDS = ("matrix", "reference")
"""Parts whose numbers stand side by side in one table of five seeds; curves have three."""
VIEWS = 4
"""Views of a caption in a batch, over whatever pictures there are of it."""
_COUNTS = (
    "num_captions", "sizes", "num_images", "images", "fixed", "teacher_steps", "kept_of", "num_steps", "num_train"
)  # fmt: skip
_AXES = ("sizes", "headline", "times", "images", "guidance", "real_shares", "kept")


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What is measured, and how long."""

    world: Path
    """Folder that `stablerep world` wrote."""
    settings: str
    """Recipe of the world: icons or fashion."""
    out: Path
    parts: tuple[str, ...] = ("matrix",)
    """Of matrix, reference, sizes, images, guidance, mix, kept, weights, teachers, headline."""
    num_captions: int = 2000
    """Captions of all parts but `reference`, `sizes`, `headline` and the fixed half of `images`."""
    sizes: tuple[int | Literal["all"], ...] = (250, 500, 1000, 2000, "all")
    headline: tuple[int, ...] = (1000, 2000)
    """Painted pictures that StableRep+ learns from, two of each caption."""
    times: tuple[float, ...] = (1.0, 2.5)
    """So many times as many real pictures CLIP gets in `headline`, two of each caption as well."""
    num_images: int = 4
    """Pictures painted per caption in `matrix`, `sizes`, `guidance` and `teachers`."""
    images: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Pictures painted per caption in `images`."""
    fixed: int = 2400
    """Pictures painted in all, however many of each caption, in the fixed half of `images`."""
    guidance: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 4.0, 8.0)
    teacher_steps: tuple[int, ...] = (4, 8, 12)
    """Steps in which the teacher of the recipe paints in `teachers`."""
    teachers: tuple[str, ...] = ()
    """Further painters in `teachers`, each in its own steps, such as a distilled one."""
    real_shares: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Shares of real ones among the pictures that a learner sees, in `mix`."""
    kept: tuple[float, ...] = (1.0, 0.75, 0.5)
    """Shares that are kept in `kept`."""
    kept_of: int = 8
    """Pictures per caption of which they are kept; `weights` learns from all of them."""
    num_steps: int = 1000
    num_train: int = 10_000
    """Labelled real pictures that the probes are fitted on."""
    seeds: tuple[int, ...] | None = None
    """Where not given, 0 to 4 in `matrix` and `reference`, and 0 to 2 elsewhere."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else (value,)
            if any(number != "all" and number < 1 for number in numbers):
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in (*_AXES, "seeds"):
            values = getattr(self, name)
            if values is not None and (not values or len(set(values)) < len(values)):
                raise ValueError(f"{name} must hold different values, got {values}")
        if not all(0 <= share <= 1 for share in self.real_shares):
            raise ValueError(f"real_shares must be in [0, 1], got {self.real_shares}")
        if not all(0 < share <= 1 for share in self.kept):
            raise ValueError(f"kept must be in (0, 1], got {self.kept}")

    def seeds_of(self, part: str) -> tuple[int, ...]:
        """Run seeds of a part."""
        return self.seeds or tuple(range(5 if part in FIVE_SEEDS else 3))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One comparison: where it lies on the axis of its part, and what differs from the recipe."""

    value: float | str
    arms: tuple[str, ...]
    num_captions: tuple[int | Literal["all"], ...]
    """all: that have a real picture to learn from."""
    num_images: int
    """Painted pictures of each caption that are learned from."""
    painted: str
    """Name of the table of painted pictures, shared by the cells that paint alike."""
    num_real: int | None = 1
    """Real pictures of each caption that are learned from; None: all."""
    least_real: int = 1
    """Only captions with so many real pictures."""
    where: str = TRAIN
    audited: bool = False
    """The table of painted pictures is filled, and matched with its captions, before."""
    painting: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Further settings of `stablerep generate`."""
    is_timed: bool = False
    """Its place is the seconds that painting took."""
    place: float | None = None
    """Where it lies on the axis of a figure; None where that is the number of captions, or no number."""
    line: str = "{arm}"
    """Name of its lines in a figure; {arm} is replaced by the arm."""
    data: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """By method, further settings of its data."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of captions, once it is counted how many "all" are."""
        return tuple(num for num in self.num_captions if isinstance(num, int))

    def learner(self, method: str, left_out: str = "") -> dict[str, Any]:
        """Settings of the data of one method, without the captions that a filter leaves out."""
        given = {} if self.num_real is None else {"num_real": self.num_real}
        return {"where": self.where + left_out, **given, **self.data.get(method, {})}


def _cell(config: Claims, value: float | str, arms: tuple[str, ...]) -> Cell:
    return Cell(
        value=value,
        arms=arms,
        num_captions=(config.num_captions,),
        num_images=config.num_images,
        painted=f"images-{config.num_images}",
    )


def _views_over(num_images: int) -> dict[str, int]:
    """``VIEWS`` views of a caption over as many of its pictures as divide them: every cell sees equally many views."""
    shown = max(num for num in range(1, VIEWS + 1) if VIEWS % num == 0 and num <= num_images)
    return {"images_per_caption": shown, "crops_per_image": VIEWS // shown}


def _matrix(config: Claims) -> Iterator[Cell]:
    """Every learner on the same captions: one real picture each, or K painted ones, or both."""
    arms = (*RIVALS, *PAINTED, "stablerep-plus:both", "supervised:real")
    yield _cell(config, "same captions", arms)


def _reference(config: Claims) -> Iterator[Cell]:
    """The rivals on all real pictures that the teacher learned from, which no learner of the matrix sees."""
    cell = _cell(config, "all real", (*RIVALS, "supervised:real"))
    yield dataclasses.replace(cell, num_captions=("all",), num_real=None)


def _sizes(config: Claims) -> Iterator[Cell]:
    arms = (*RIVALS, "stablerep:painted", "stablerep-plus:painted")
    yield dataclasses.replace(_cell(config, "sizes", arms), num_captions=config.sizes)


def _images(config: Claims) -> Iterator[Cell]:
    """K pictures per caption: with as many pictures seen, and (fixed) with as many pictures painted in all."""
    for num in config.images:
        if config.fixed % num:
            raise UserError(
                f"images {num} does not divide fixed {config.fixed}, so that the budgets would differ; "
                "choose numbers that divide it (--images, --fixed)"
            )
        for name, line, captions in (
            (f"{num}", "{arm}", config.num_captions),
            (f"{num} fixed", "{arm}, fixed number painted", config.fixed // num),
        ):
            yield dataclasses.replace(
                _cell(config, name, ("simclr:painted", "stablerep:painted")),
                place=num,
                line=line,
                num_captions=(captions,),
                num_images=num,
                painted="images",
                data={"stablerep": _views_over(num)},
            )


def _guidance(config: Claims) -> Iterator[Cell]:
    for scale in config.guidance:
        cell = _cell(config, scale, ("simclr:painted", "clip:painted", "stablerep:painted"))
        painting = {"guidance_scale": scale}
        yield dataclasses.replace(cell, place=scale, painted=f"guidance-{scale:g}", painting=painting)


def _mix(config: Claims) -> Iterator[Cell]:
    """As many real as painted pictures of each caption, each as many as a batch shows: every share can be drawn."""
    for share in config.real_shares:
        source = {0.0: "painted", 1.0: "real"}.get(share, "both")
        data: dict[str, Any] = _views_over(VIEWS)
        if source == "both":
            data["mix"] = [1 - share, share]  # the painted table comes first
        yield dataclasses.replace(
            _cell(config, share, (f"stablerep-plus:{source}",)),
            place=share,
            line="stablerep-plus",
            num_images=VIEWS,
            painted=f"images-{VIEWS}",
            num_real=VIEWS,
            least_real=VIEWS,
            data={"stablerep-plus": data},
        )


def _kept(config: Claims) -> Iterator[Cell]:
    """The best of the pictures of each caption by match, beside as many at random: the first ones."""
    for share in config.kept:
        num = max(1, round(share * config.kept_of))
        cell = dataclasses.replace(
            _audited(config, f"random {num} of {config.kept_of}", ("stablerep:painted",)),
            place=num,
            line="{arm}, random",
            num_images=num,
            data={"stablerep": _views_over(num)},
        )
        if num == config.kept_of:
            yield dataclasses.replace(cell, value=f"all {num}", line="{arm}, all")
            continue
        yield cell
        best = f"{TRAIN} AND match_rank < {num}"
        yield dataclasses.replace(
            cell, value=f"best {num} of {config.kept_of}", line="{arm}, best", where=best
        )


def _weights(config: Claims) -> Iterator[Cell]:
    """Every picture counts alike, or by its level of match: the share, 0 to 1, of captions of others that fit worse."""
    arms = ("stablerep:painted", "stablerep-plus:painted")
    yield _audited(config, "uniform", arms)
    weighted = {arm.partition(":")[0]: {"weight": "match_level"} for arm in arms}
    yield dataclasses.replace(_audited(config, "match level", arms), data=weighted)


def _audited(config: Claims, value: str, arms: tuple[str, ...]) -> Cell:
    return dataclasses.replace(
        _cell(config, value, arms),
        num_images=config.kept_of,
        painted=f"audited-{config.kept_of}",
        audited=True,
    )


def _teachers(config: Claims) -> Iterator[Cell]:
    """The same learner on pictures of several teachers: what it reaches, beside how long they painted."""
    paintings: list[tuple[str, dict[str, Any]]] = [
        (f"{num} steps", {"num_inference_steps": num}) for num in config.teacher_steps
    ]
    paintings += [(_called(teacher), {"teacher": teacher}) for teacher in config.teachers]
    names = [name for name, _ in paintings]
    if len(set(names)) < len(names):
        raise UserError(
            f"two teachers would have one name among {', '.join(names)}; give different steps, and teachers in folders "
            "of different names (--teacher-steps, --teachers)"
        )
    for name, painting in paintings:
        cell = _cell(config, name, ("stablerep:painted",))
        painted = f"teacher-{name.replace(' ', '-')}"
        yield dataclasses.replace(cell, painted=painted, painting=painting, is_timed=True)


def _called(teacher: str) -> str:
    """The name of a teacher, of the run where it is the ``teacher`` folder of one."""
    path = Path(teacher)
    return path.parent.name if path.name == "teacher" and path.parent.name else path.name


def _headline(config: Claims) -> Iterator[Cell]:
    """n counts pictures, as in the paper: both get half as many captions with two pictures each."""
    for num in config.headline:
        yield dataclasses.replace(
            _cell(config, f"{num} painted", ("stablerep-plus:painted",)),
            place=num,
            num_captions=(captions_of(num),),
            num_images=2,
            least_real=2,
            painted="two",
            data={"stablerep-plus": _views_over(2)},
        )
    for num in real_pictures(config):
        yield dataclasses.replace(
            _cell(config, f"{num} real", ("clip:real",)),
            place=num,
            num_captions=(captions_of(num),),
            num_real=2,
            least_real=2,
        )


def captions_of(num_pictures: int) -> int:
    """Captions of two pictures each that make so many pictures."""
    if num_pictures < 2 or num_pictures % 2:
        raise UserError(
            f"headline counts two pictures of each caption, and {num_pictures} is not even; give even numbers "
            "and even products with times (--headline, --times)"
        )
    return num_pictures // 2


def real_pictures(config: Claims) -> list[int]:
    """The numbers of real pictures that CLIP gets in `headline`, each once."""
    return sorted({round(times * num) for num in config.headline for times in config.times})


PARTS: dict[str, Callable[[Claims], Iterator[Cell]]] = {
    "matrix": _matrix,
    "reference": _reference,
    "sizes": _sizes,
    "images": _images,
    "guidance": _guidance,
    "mix": _mix,
    "kept": _kept,
    "weights": _weights,
    "teachers": _teachers,
    "headline": _headline,
}
