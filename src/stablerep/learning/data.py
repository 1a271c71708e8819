"""Which images make up which batch: a pure function of (run seed, step), whatever happened before."""

import functools
import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from stablerep import runtime
from stablerep.errors import UserError
from stablerep.features import decode_image
from stablerep.learning.method import Batch
from stablerep.learning.views import ViewConfig, make_views
from stablerep.store import OK, REAL, CaptionTable, ImageTable, in_style

_VIEWS_AT_A_TIME = 256
_MOST_BYTES_AHEAD = 2**31  # of batches that wait

Tokenize = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the training images come from and how many views of them make a batch."""

    images: tuple[Path, ...]
    """Image tables; the images of one caption are gathered over all of them."""
    captions: Path | None = None
    """Caption table, for methods that read text."""
    style_probability: float = 0.0
    """Captions to which the style of their first image is joined where it is known, as painters are asked for it."""
    origin: Literal["painted", "real", "any"] = "any"
    """Painted pictures, real ones, or both."""
    where: str | None = None
    """A further filter on the image rows, such as "split = 'train'"."""
    exclude_styles: tuple[str, ...] = ()
    """Styles never to train on: those held out for testing."""
    num_captions: int | None = None
    """Train on this many captions only, the first in hash order; all where not given."""
    captions_per_batch: int = 128
    """N, the captions of one batch over all processes."""
    images_per_caption: int = 6
    """Images drawn per caption and batch, without replacement."""
    crops_per_image: int = 1
    """Augmented views of each drawn image."""
    view: ViewConfig = field(default_factory=ViewConfig)
    """How an image becomes a view."""
    num_threads: int = 1
    """Threads that prepare batches ahead of the training step."""

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("images must name at least one image table")
        for name in ("captions_per_batch", "images_per_caption", "crops_per_image", "num_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.style_probability <= 1:
            raise ValueError(f"style_probability must be in [0, 1], got {self.style_probability}")


def identity_of(*parts: int | str) -> int:
    """An identity as a 63-bit integer that fits a tensor: equal parts, equal integer."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass(frozen=True)
class _ImageRef:
    table: int
    position: int
    caption: str
    origin: str
    image_index: int
    style: str | None
    label: str | None


class ViewSource:
    """Batches of views, addressed by step. The same step is the same batch on any machine, after any resume."""

    def __init__(self, config: DataConfig, *, seed: int, tokenize: Tokenize | None = None) -> None:
        self.config = config
        self.seed = seed
        self._tokenize = tokenize
        self._tables = [ImageTable.open(path) for path in config.images]
        self._images = self._index()
        self._order = functools.lru_cache(maxsize=2)(self._permutation)
        self.caption_ids = self._choose_captions()
        self._texts = self._alternative_texts() if tokenize else {}
        if config.captions_per_batch % runtime.world_size():
            raise UserError(
                f"captions_per_batch {config.captions_per_batch} cannot be shared equally by {runtime.world_size()} "
                "processes; choose a multiple"
            )
        if len(self.caption_ids) < config.captions_per_batch:
            raise UserError(
                f"{', '.join(map(str, config.images))}: {len(self.caption_ids)} captions have usable images, fewer "
                f"than one batch of {config.captions_per_batch}; lower captions_per_batch, raise num_captions or widen "
                "the filter"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass over the captions; the remainder waits for the next permutation."""
        return len(self.caption_ids) // self.config.captions_per_batch

    @property
    def num_images(self) -> int:
        """Images that training may draw."""
        return sum(len(self._images[caption]) for caption in self.caption_ids)

    def batch(self, step: int) -> Batch:
        """The batch of this step (0, 1, ...), this rank's part of it; shapes as in ``method.Batch``."""
        config = self.config
        epoch, index = divmod(step, self.steps_per_epoch)
        num_local = config.captions_per_batch // runtime.world_size()
        start = index * config.captions_per_batch + runtime.rank() * num_local
        captions = [self.caption_ids[row] for row in self._order(epoch)[start : start + num_local]]
        drawn = [self._draw(caption, epoch) for caption in captions]
        num_views = config.images_per_caption * config.crops_per_image
        refs = [ref for images, _ in drawn for ref in images for _ in range(config.crops_per_image)]
        seeds = [
            runtime.seed_for(self.seed, "view", epoch, caption, view)
            for caption in captions
            for view in range(num_views)
        ]
        views = self._views(refs, seeds)
        image_ids = [identity_of(ref.origin, ref.caption, ref.image_index) for ref in refs]
        labels = [
            image if ref.label is None else identity_of("label", ref.label)
            for ref, image in zip(refs, image_ids, strict=True)
        ]
        batch = {
            "image": views.view(num_local, num_views, *views.shape[1:]),
            "caption_id": torch.tensor([identity_of(caption) for caption in captions]),
            "image_id": torch.tensor(image_ids).view(num_local, num_views),
            "label": torch.tensor(labels).view(num_local, num_views),
            "valid": torch.tensor([valid for _, valid in drawn]).repeat_interleave(
                config.crops_per_image, dim=1
            ),
            "seed": torch.tensor(
                [runtime.seed_for(self.seed, "batch", epoch, caption) for caption in captions]
            ),
        }
        if self._tokenize:
            texts = [
                self._text(caption, images[0].style, epoch)
                for caption, (images, _) in zip(captions, drawn, strict=True)
            ]
            batch["tokens"] = self._tokenize(texts)
        return batch

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of the steps ``start .. stop - 1``, prepared ahead by threads."""
        ahead = self._num_ahead()
        with ThreadPoolExecutor(self.config.num_threads) as pool:
            pending: deque[Future[Batch]] = deque()
            for step in range(start, stop):
                pending.append(pool.submit(self.batch, step))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def digest(self) -> str:
        """Hash of the captions, images and texts that batches are drawn from: with the seed, all that makes a batch."""
        digest = hashlib.blake2b(digest_size=16)
        for caption in self.caption_ids:
            images = [f"{ref.origin}\x1e{ref.image_index}" for ref in self._images[caption]]
            digest.update("\x1f".join([caption, *images, *self._texts.get(caption, [])]).encode())
        if self._tokenize:  # another vocabulary shows in the first texts
            texts = [text for caption in self.caption_ids[:1000] for text in self._texts[caption]]
            digest.update(self._tokenize(texts).numpy().tobytes())
        return digest.hexdigest()

    def _index(self) -> dict[str, list[_ImageRef]]:
        """The usable images of each caption, each once, even where several tables hold it."""
        images: dict[str, dict[tuple[str, int], _ImageRef]] = {}
        for number, table in enumerate(self._tables):
            positions = _allowed_positions(table, self.config)
            rows = table.read(["caption_id", "origin", "image_index", "style", "label"]).take(positions)
            columns = (rows[name].to_pylist() for name in rows.column_names)
            for position, *identity in zip(positions.tolist(), *columns, strict=True):
                ref = _ImageRef(number, position, *identity)
                images.setdefault(ref.caption, {}).setdefault((ref.origin, ref.image_index), ref)
        return {caption: [refs[key] for key in sorted(refs)] for caption, refs in images.items()}

    def _choose_captions(self) -> list[str]:
        """Caption ids are hashes, so their order is random but the same for every size: n captions contain n/2."""
        captions = sorted(self._images)
        return captions if self.config.num_captions is None else captions[: self.config.num_captions]

    def _permutation(self, epoch: int) -> np.ndarray:
        return runtime.numpy_generator(self.seed, "order", epoch).permutation(len(self.caption_ids))

    def _draw(self, caption: str, epoch: int) -> tuple[list[_ImageRef], list[bool]]:
        refs, wanted = self._images[caption], self.config.images_per_caption
        order = runtime.numpy_generator(self.seed, "draw", epoch, caption).permutation(len(refs))
        chosen = [refs[index] for index in order[:wanted]]
        missing = wanted - len(chosen)
        return chosen + [chosen[0]] * missing, [True] * len(chosen) + [False] * missing

    def _num_ahead(self) -> int:
        """Batches that wait while one is used: one more than there are threads, fewer where they are large."""
        num_views = self.config.captions_per_batch // runtime.world_size() * self.config.images_per_caption
        pixels = num_views * self.config.crops_per_image * 3 * self.config.view.image_size**2
        return min(self.config.num_threads + 1, max(1, _MOST_BYTES_AHEAD // (4 * pixels)))

    def _views(self, refs: Sequence[_ImageRef], seeds: Sequence[int]) -> Tensor:
        """One view per image and seed, a part at a time: a large batch of images need not be decoded all at once."""
        size = self.config.view.image_size
        views = torch.empty(len(refs), 3, size, size)
        for start in range(0, len(refs), _VIEWS_AT_A_TIME):
            part = slice(start, start + _VIEWS_AT_A_TIME)
            views[part] = make_views(self._load(refs[part]), seeds[part], self.config.view)
        return views

    def _load(self, refs: Sequence[_ImageRef]) -> list[Tensor]:
        pictures: dict[_ImageRef, Tensor] = {}
        for number, table in enumerate(self._tables):
            wanted = [ref for ref in dict.fromkeys(refs) if ref.table == number]
            if wanted:
                encoded = table.take_images([ref.position for ref in wanted])
                for ref, picture in zip(wanted, encoded, strict=True):
                    pictures[ref] = _decode_row(picture, ref, table.path)
        return [pictures[ref] for ref in refs]

    def _alternative_texts(self) -> dict[str, list[str]]:
        """For each caption all texts of its concept, so that text is as varied as the source allows."""
        if self.config.captions is None:
            raise UserError("this method reads text: give the caption table (data.captions)")
        rows = CaptionTable.open(self.config.captions).read(["id", "text", "concept"]).to_pylist()
        by_concept: dict[str, list[str]] = {}
        for row in rows:
            by_concept.setdefault(row["concept"] or row["id"], []).append(row["text"])
        for alternatives in by_concept.values():
            alternatives.sort()
        texts = {row["id"]: by_concept[row["concept"] or row["id"]] for row in rows}
        unknown = [caption for caption in self.caption_ids if caption not in texts]
        if unknown:
            raise UserError(
                f"{self.config.captions} has no caption {unknown[0]} ({len(unknown)} such); give its table"
            )
        return texts

    def _text(self, caption: str, style: str | None, epoch: int) -> str:
        texts = self._texts[caption]
        generator = runtime.numpy_generator(self.seed, "text", epoch, caption)
        text = texts[int(generator.integers(len(texts)))]
        if style is None or generator.random() >= self.config.style_probability:
            return text
        return in_style(text, style)


def _decode_row(encoded: bytes, ref: _ImageRef, path: str) -> Tensor:
    try:
        return decode_image(encoded)
    except (OSError, SyntaxError, ValueError) as error:  # whatever PIL raises for a damaged file
        raise UserError(
            f"{path}: image {ref.image_index} of caption {ref.caption} (origin {ref.origin}) cannot be decoded "
            f"({error}); leave it out with a filter (where)"
        ) from error


def _allowed_positions(table: ImageTable, config: DataConfig) -> np.ndarray:
    """Positions of the usable rows: whatever the filter says, failures and held-out styles never enter."""
    conditions = [f"status = '{OK}'"]
    if config.origin != "any":
        conditions.append(f"origin {'=' if config.origin == 'real' else '!='} '{REAL}'")
    for style in config.exclude_styles:
        quoted = style.replace("'", "''")
        conditions.append(f"(style IS NULL OR style != '{quoted}')")
    allowed = table.positions(" AND ".join(conditions))
    if config.where is None:
        return allowed
    try:
        asked = table.positions(config.where)  # apart: no bracket in it can then undo the conditions
    except ValueError as error:
        reason = str(error).split(", /")[0]  # Lance appends the place in its own source
        raise UserError(f"{table.path}: the filter {config.where!r} is not valid ({reason})") from error
    return np.intersect1d(allowed, asked)
