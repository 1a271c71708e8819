"""What a text edit acts on: the layers of a pipeline that read text, and the vectors that reach them.

In U-Nets and cross-attention transformers these are the keys and values of every cross-attention; in transformers that
mix text and picture in one attention (Stable Diffusion 3, FLUX) the embedders through which all text enters. Where a
pooled vector of the whole prompt enters beside the tokens (SDXL, Stable Diffusion 3, FLUX), it is edited as well: a
concept that is gone from the tokens alone would come back through it.

Shapes: T tokens of a prompt, D width of the vectors.
"""

import inspect
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stablerep.errors import UserError
from stablerep.generation.editing import Moves, moment
from stablerep.generation.pipelines import Conditioning, DiffusersTeacher

TokenChoice = Literal["last", "following", "all"]
StreamName = Literal["tokens", "pooled"]

_CHUNK = 64  # prompts whose vectors are held at once


@dataclass(frozen=True)
class Stream:
    """Layers that read the same vectors: parameter names within the model, in their first ``D`` columns."""

    name: StreamName
    weights: tuple[str, ...]


@dataclass(frozen=True)
class _Kind:
    """How one class of pipelines lets text in."""

    model: str
    """Component that holds the layers."""
    tokens: str
    """Pattern of the names of the weights that read tokens."""
    pooled: str | None = None
    """Pattern of those that read the pooled vector."""
    tokenizers: tuple[str, ...] = ("tokenizer",)
    """Tokenizer of each stretch of the token sequence, in order."""


_CROSS = r"\.attn2\.to_[kv]\.weight$"
_JOINT = {
    "model": "transformer",
    "tokens": r"^context_embedder\.weight$",
    "pooled": r"^time_text_embed\.text_embedder\.linear_1\.weight$",
}
_KINDS: dict[str, _Kind] = {
    "StableDiffusionPipeline": _Kind("unet", _CROSS),
    "StableDiffusionXLPipeline": _Kind("unet", _CROSS, pooled=r"^add_embedding\.linear_1\.weight$"),
    "PixArtAlphaPipeline": _Kind("transformer", _CROSS),
    "PixArtSigmaPipeline": _Kind("transformer", _CROSS),
    "SanaPipeline": _Kind("transformer", _CROSS),
    "StableDiffusion3Pipeline": _Kind(**_JOINT, tokenizers=("tokenizer", "tokenizer_3")),
    "FluxPipeline": _Kind(**_JOINT, tokenizers=("tokenizer_2",)),
}


@dataclass(frozen=True)
class Stretch:
    """Part of a token sequence that one text encoder wrote: its ids from ``start`` on, then padding up to ``end``."""

    ids: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class PromptVectors:
    """One prompt as the edited layers read it: tokens (T, D), and the pooled vector (1, D) where there is one."""

    tokens: Tensor
    stretches: tuple[Stretch, ...]
    pooled: Tensor | None


class TextSide:
    """The layers of a teacher that read text, and their inputs for any prompt.

    Raises ``UserError`` for a pipeline whose layers are not known.
    """

    def __init__(self, teacher: DiffusersTeacher) -> None:
        self._teacher = teacher
        self._pipeline = teacher.pipeline
        name = type(self._pipeline).__name__
        if name not in _KINDS:
            raise UserError(f"{name} cannot be edited; pipelines that can: {', '.join(_KINDS)}")
        self._kind = _KINDS[name]
        self.component = self._kind.model
        self.model: nn.Module = getattr(self._pipeline, self.component)
        self.streams = tuple(self._streams())

    def _streams(self) -> Iterator[Stream]:
        names = [name for name, _ in self.model.named_parameters()]
        for stream, pattern in (("tokens", self._kind.tokens), ("pooled", self._kind.pooled)):
            found = tuple(name for name in names if pattern and re.search(pattern, name))
            if pattern and not found:
                raise UserError(
                    f"{self.component} of the teacher has no weight {pattern}; it cannot be edited"
                )
            if found:
                yield Stream(stream, found)  # type: ignore[arg-type]  # one of the two names above

    def vectors(self, prompts: Sequence[str]) -> list[PromptVectors]:
        """The inputs of the edited layers for each prompt."""
        return [vector for chunk in self._chunks(prompts) for vector in chunk]

    def moments(self, prompts: Sequence[str]) -> dict[StreamName, Tensor]:
        """Stream -> sum (D, D) of c c^T over all vectors of the prompts; padding counts as one token.

        The vectors of no prompt, which guidance subtracts from every other, are always among them.
        """
        sums: dict[StreamName, Tensor] = {}
        for chunk in itertools.chain(self._chunks(prompts), self._unconditional()):
            for stream in self.streams:
                vectors, weights = zip(*(_all_of(one, stream.name) for one in chunk), strict=True)
                _add(sums, stream.name, moment(torch.cat(vectors), torch.cat(weights)))
        return sums

    def _unconditional(self) -> Iterator[list[PromptVectors]]:
        """The vectors that stand for no prompt, if the pipeline has any, as a chunk of one prompt."""
        self._teacher.encode([""])
        row = {name.removeprefix("negative_"): some[:1] for name, some in self._teacher.unconditional.items()}
        if row:
            yield [self._read(self._teacher.settings["negative_prompt"], row)]

    def _chunks(self, prompts: Sequence[str]) -> Iterator[list[PromptVectors]]:
        for begin in range(0, len(prompts), _CHUNK):
            part = prompts[begin : begin + _CHUNK]
            rows = self._teacher.encode(part)
            yield [self._read(prompt, row) for prompt, row in zip(part, rows, strict=True)]

    def _read(self, prompt: str, row: Conditioning) -> PromptVectors:
        embeds, mask = row["prompt_embeds"], row.get("prompt_attention_mask")
        assert isinstance(embeds, Tensor)
        with torch.inference_mode():
            tokens = _entered(self.model, embeds)[0].float().cpu()
        masked = int(mask.sum()) if isinstance(mask, Tensor) else None
        pooled = row.get("pooled_prompt_embeds")
        return PromptVectors(
            tokens,
            tuple(self._stretches(prompt, len(tokens), masked)),
            pooled.float().cpu() if isinstance(pooled, Tensor) and len(self.streams) > 1 else None,
        )

    def _stretches(self, prompt: str, length: int, masked: int | None) -> Iterator[Stretch]:
        pipeline, start = self._pipeline, 0
        for number, name in enumerate(self._kind.tokenizers):
            is_last = number == len(self._kind.tokenizers) - 1
            end = length if is_last else start + pipeline.tokenizer_max_length
            tokenizer = getattr(pipeline, name)
            if tokenizer is None:  # its encoder was left out, and zeros stand in its place
                return
            ids = _token_ids(pipeline, tokenizer, prompt, end - start)
            read = end if masked is None else start + masked
            yield Stretch(tuple(ids[: read - start]), start, read)
            start = end


_Goals = dict[int, tuple[Tensor, float]]
"""Row of a vector of a prompt -> where it goes (D,), and the weight with which that counts."""


def moves(
    source: PromptVectors, target: PromptVectors, stream: StreamName, choice: TokenChoice
) -> Moves | None:
    """Which vectors of ``source`` go where in ``target``; None where the prompts do not differ there."""
    return _moves(_vectors(source, stream), _goals(source, target, stream, choice))


def shifts(
    source: PromptVectors,
    targets: Sequence[tuple[float, PromptVectors]],
    stream: StreamName,
    choice: TokenChoice,
) -> Moves | None:
    """c -> c + sum_i alpha_i a_i, of the prompts (alpha_i, with a_i): a_i is what stands in the place of c.

    Positions that some target does not have are left out; None where nothing is left.
    """
    own = _vectors(source, stream)
    parts = [_goals(source, target, stream, choice) for _, target in targets]
    goals: _Goals = {}
    for row in parts[0]:
        if all(row in part for part in parts):
            shift = sum(alpha * part[row][0] for (alpha, _), part in zip(targets, parts, strict=True))
            goals[row] = (own[row] + shift, parts[0][row][1])
    return _moves(own, goals)


def _goals(source: PromptVectors, target: PromptVectors, stream: StreamName, choice: TokenChoice) -> _Goals:
    here, there = _vectors(source, stream), _vectors(target, stream)
    if stream == "pooled":
        return {} if torch.equal(here, there) else {0: (there[0], 1.0)}
    return {
        row: (there[column], weight)
        for one, other in zip(source.stretches, target.stretches, strict=True)
        for row, column, weight in aligned(one, other, choice)
    }


def _moves(vectors: Tensor, goals: _Goals) -> Moves | None:
    if not goals:
        return None
    targets, weights = zip(*goals.values(), strict=True)
    return Moves(vectors[list(goals)], torch.stack(targets), torch.tensor(weights))


def _vectors(prompt: PromptVectors, stream: StreamName) -> Tensor:
    """All vectors (N, D) of a stream; without a pooled vector there is none."""
    if stream == "tokens":
        return prompt.tokens
    return prompt.tokens[:0] if prompt.pooled is None else prompt.pooled


def aligned(source: Stretch, target: Stretch, choice: TokenChoice) -> list[tuple[int, int, float]]:
    """Positions of two prompts that differ in one phrase: (in source, in target, weight); none where they are equal.

    What both begin and end with belongs together; the tokens between are the phrase. ``last`` takes the last token of
    the phrase, ``following`` that and what comes after it, padding included, as text encoders carry the phrase on into
    them; ``all`` every token. Padding counts as one token together.
    """
    begin, end = _common(source.ids, target.ids)
    last, last_target = len(source.ids) - end - 1, len(target.ids) - end - 1
    if last < begin and end > 0 and last_target >= begin:
        # Words came in: what follows them now stands for them.
        last, last_target, end = last + 1, last_target + 1, end - 1
    if last < begin:
        return []
    # Nothing in place of the phrase: its token becomes what follows it there, else what precedes it.
    nothing = begin if begin < len(target.ids) else begin - 1
    matches = [(last, last_target if last_target >= begin else nothing, 1.0)]
    if choice == "all":
        earlier = max(min(last_target, last) - begin, 0)
        matches += [(last - i, last_target - i, 1.0) for i in range(1, earlier + 1)]
        beyond = matches[-1][1]
        matches += [(i, beyond, 1.0) for i in range(begin, last - earlier)]
        matches += [(i, i, 1.0) for i in range(begin)]
    if choice != "last":
        matches += [(last + i, last_target + i, 1.0) for i in range(1, end + 1)]
        num = min(source.end - source.start - len(source.ids), target.end - target.start - len(target.ids))
        matches += [(len(source.ids) + i, len(target.ids) + i, 1 / num) for i in range(num)]
    return [(source.start + i, target.start + j, weight) for i, j, weight in matches]


def _common(source: Sequence[int], target: Sequence[int]) -> tuple[int, int]:
    """How many tokens two sequences share at their beginning, and at their end beyond it."""
    shorter = min(len(source), len(target))
    begin = next((i for i in range(shorter) if source[i] != target[i]), shorter)
    end = next((i for i in range(shorter - begin) if source[-1 - i] != target[-1 - i]), shorter - begin)
    return begin, end


def _all_of(prompt: PromptVectors, stream: StreamName) -> tuple[Tensor, Tensor]:
    """Every vector (N, D) of a prompt with its weight (N,)."""
    if stream == "pooled":
        assert prompt.pooled is not None
        return prompt.pooled, torch.ones(1)
    rows, weights = list[int](), list[float]()
    for stretch in prompt.stretches:
        num = stretch.end - stretch.start - len(stretch.ids)
        rows += range(stretch.start, stretch.end)
        weights += [1.0] * len(stretch.ids) + [1 / num if num else 0.0] * num
    return prompt.tokens[rows], torch.tensor(weights)


def _add(sums: dict[StreamName, Tensor], name: StreamName, part: Tensor) -> None:
    sums[name] = sums[name] + part if name in sums else part


def _entered(model: Any, embeds: Tensor) -> Tensor:
    """What the text encoder gave, as it reaches the edited layers."""
    projection: Callable[[Tensor], Tensor] | None = getattr(model, "caption_projection", None)
    if projection is not None:
        embeds = projection(embeds)
    norm: Callable[[Tensor], Tensor] | None = getattr(model, "caption_norm", None)
    return embeds if norm is None else norm(embeds)


def _token_ids(pipeline: Any, tokenizer: Any, prompt: str, length: int) -> list[int]:
    """The ids of a prompt at the positions where the pipeline puts them, without padding."""
    if hasattr(pipeline, "_text_preprocessing"):
        prompt = pipeline._text_preprocessing(prompt, clean_caption=False)[0]
    instruction = _instruction(pipeline)
    ids: list[int] = tokenizer(instruction + prompt).input_ids
    # Sana puts an instruction before the prompt and then drops its tokens, but for the first.
    dropped = len(tokenizer(instruction).input_ids) - 2 if instruction else 0
    ids = ids[:1] + ids[1 + dropped :]
    return ids if len(ids) <= length else [*ids[: length - 1], ids[-1]]


def _instruction(pipeline: Any) -> str:
    parameter = inspect.signature(type(pipeline).__call__).parameters.get("complex_human_instruction")
    return "\n".join(parameter.default) if parameter is not None and parameter.default else ""
