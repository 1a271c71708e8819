"""Which images make up which batch: a pure function of (run seed, step), whatever happened before."""

import functools
import hashlib
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from stablerep import runtime
from stablerep.errors import UserError
from stablerep.learning.method import Batch
from stablerep.learning.mixing import draw_images
from stablerep.learning.pictures import Picture, Pictures, decoded_bytes
from stablerep.learning.views import ViewConfig, apply_parameters, draw_parameters
from stablerep.store import OK, REAL, CaptionTable, ImageTable, in_style

Tokenize = Callable[[Sequence[str]], Tensor]

_MEGABYTE = 2**20
_MOST_AHEAD = 1024 * _MEGABYTE


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the training images come from and how many views of them make a batch."""

    images: tuple[Path, ...]
    """Image tables; the images of one caption are gathered over all of them."""
    mix: tuple[float, ...] | None = None
    """How often an image comes from each table, as a ratio such as (1, 3); where not given, all images of a caption
    are equally likely. Where a caption has no image left in a table, the others take its place."""
    captions: Path | None = None
    """Caption table, for methods that read text."""
    style_probability: float = 0.0
    """Captions to which the style of their first image is joined where it is known, as painters are asked for it."""
    origin: Literal["painted", "real", "any"] = "any"
    """Painted pictures, real ones, or both."""
    where: str | None = None
    """A further filter on the image rows, such as "split = 'train'"."""
    keep: str | None = None
    """A column of true and false, such as the mask of an audit: rows where it is not true are left out."""
    weight: str | None = None
    """A column of numbers from 0: how much each image counts in the loss."""
    exclude_styles: tuple[str, ...] = ()
    """Styles never to train on: those held out for testing."""
    num_captions: int | None = None
    """Train on this many captions only, the first in hash order; all where not given."""
    one_per_group: bool = False
    """An epoch shows one caption of every group instead of every caption, so that a group of many captions, such as one
    drawing in all its colours, counts once."""
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
    cache_megabytes: int = 512
    """Tables whose decoded pictures fit into this much memory are decoded once and stay there; 0 for none."""

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("images must name at least one image table")
        for name in ("captions_per_batch", "images_per_caption", "crops_per_image", "num_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.style_probability <= 1:
            raise ValueError(f"style_probability must be in [0, 1], got {self.style_probability}")
        if self.cache_megabytes < 0:
            raise ValueError(f"cache_megabytes must not be negative, got {self.cache_megabytes}")
        if self.mix is not None and len(self.mix) != len(self.images):
            raise ValueError(
                f"mix must give one number per table, got {len(self.mix)} for {len(self.images)}"
            )
        if self.mix is not None and not all(share > 0 and math.isfinite(share) for share in self.mix):
            raise ValueError(
                f"mix must be positive and finite, got {self.mix}; leave a table out instead of giving it 0"
            )


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
    group: str | None


class ViewSource:
    """Batches of views, addressed by step. The same step is the same batch on any machine, after any resume."""

    def __init__(self, config: DataConfig, *, seed: int, tokenize: Tokenize | None = None) -> None:
        self.config = config
        self.seed = seed
        self._tokenize = tokenize
        self._tables = [ImageTable.open(path) for path in config.images]
        self._positions = [_allowed_positions(table, config) for table in self._tables]
        self._images = self._index()
        self._weights = [
            _read_weights(table, positions, config.weight)
            for table, positions in zip(self._tables, self._positions, strict=True)
            if config.weight is not None
        ]
        self._stays = self._choose_tables_that_stay()
        self._decoded: dict[_ImageRef, Tensor] = {}
        self._order = functools.lru_cache(maxsize=2)(self._permutation)
        self.caption_ids = self._choose_captions()
        self._turns = self._take_turns()
        self._texts = self._alternative_texts() if tokenize else {}
        if config.captions_per_batch % runtime.world_size():
            raise UserError(
                f"captions_per_batch {config.captions_per_batch} cannot be shared equally by {runtime.world_size()} "
                "processes; choose a multiple"
            )
        if len(self._turns) < config.captions_per_batch:
            counted = "groups of captions" if config.one_per_group else "captions"
            raise UserError(
                f"{', '.join(map(str, config.images))}: {len(self._turns)} {counted} have usable images, fewer "
                f"than one batch of {config.captions_per_batch}; lower captions_per_batch (--data.captions-per-batch), "
                "raise num_captions or widen the filter"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass over the captions (or groups); the rest waits for the next permutation."""
        return len(self._turns) // self.config.captions_per_batch

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
        pictures = self._load(refs)
        views = apply_parameters(pictures, draw_parameters(seeds, pictures.sizes, config.view), config.view)
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
        if config.weight is not None:
            weights = [float(self._weights[ref.table][ref.position]) for ref in refs]
            batch["weight"] = torch.tensor(weights).view(num_local, num_views)
        if self._tokenize:
            texts = [
                self._text(caption, images[0].style, epoch)
                for caption, (images, _) in zip(captions, drawn, strict=True)
            ]
            batch["tokens"] = self._tokenize(texts)
        return batch

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of the steps ``start .. stop - 1``, prepared ahead by threads.

        As many lie ready as keep the threads busy, but no more than a gigabyte of views, and at least one.
        """
        steps = iter(range(start, stop))
        ahead = max(1, min(self.config.num_threads + 1, _MOST_AHEAD // self._batch_bytes()))
        # The threads share the processor with one another and with training, so each computes alone.
        with ThreadPoolExecutor(
            self.config.num_threads, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            pending = deque(pool.submit(self.batch, step) for step in itertools.islice(steps, ahead))
            while pending:
                batch = pending.popleft().result()
                pending.extend(pool.submit(self.batch, step) for step in itertools.islice(steps, 1))
                yield batch

    def _batch_bytes(self) -> int:
        config = self.config
        num_views = config.captions_per_batch * config.images_per_caption * config.crops_per_image
        return num_views // runtime.world_size() * 3 * config.view.image_size**2

    def digest(self) -> str:
        """Hash of the captions, images and texts that batches are drawn from: with the seed, all that makes a batch."""
        digest = hashlib.blake2b(digest_size=16)
        for caption in self.caption_ids:
            images = [
                f"{ref.origin}\x1e{ref.image_index}\x1e{ref.style}\x1e{ref.label}\x1e{ref.group}"
                for ref in self._images[caption]
            ]
            if self._weights:
                images += [str(self._weights[ref.table][ref.position]) for ref in self._images[caption]]
            digest.update("\x1f".join([caption, *images, *self._texts.get(caption, [])]).encode())
        if self._tokenize:  # another vocabulary shows in the first texts
            texts = [text for caption in self.caption_ids[:1000] for text in self._texts[caption]]
            digest.update(self._tokenize(texts).numpy().tobytes())
        return digest.hexdigest()

    def _index(self) -> dict[str, list[_ImageRef]]:
        """The usable images of each caption, each once, even where several tables hold it."""
        images: dict[str, dict[tuple[str, int], _ImageRef]] = {}
        for number, (table, positions) in enumerate(zip(self._tables, self._positions, strict=True)):
            rows = table.read(["caption_id", "origin", "image_index", "style", "label", "group"]).take(
                positions
            )
            columns = (rows[name].to_pylist() for name in rows.column_names)
            for position, *identity in zip(positions.tolist(), *columns, strict=True):
                ref = _ImageRef(number, position, *identity)
                images.setdefault(ref.caption, {}).setdefault((ref.origin, ref.image_index), ref)
        return {caption: [refs[key] for key in sorted(refs)] for caption, refs in images.items()}

    def _choose_captions(self) -> list[str]:
        """Caption ids are hashes, so their order is random but the same for every size: n captions contain n/2."""
        captions = sorted(self._images)
        return captions if self.config.num_captions is None else captions[: self.config.num_captions]

    def _take_turns(self) -> list[list[int]]:
        """Rows of the captions, together where only one of them is shown in an epoch."""
        if not self.config.one_per_group:
            return [[row] for row in range(len(self.caption_ids))]
        turns: dict[str, list[int]] = {}
        for row, caption in enumerate(self.caption_ids):
            turns.setdefault(self._images[caption][0].group or caption, []).append(row)
        return list(turns.values())

    def _permutation(self, epoch: int) -> list[int]:
        """Rows of the captions that an epoch shows, in their order."""
        order = runtime.numpy_generator(self.seed, "order", epoch).permutation(len(self._turns))
        member = runtime.numpy_generator(self.seed, "member", epoch).random(len(self._turns))
        return [self._turns[turn][int(member[turn] * len(self._turns[turn]))] for turn in order]

    def _choose_tables_that_stay(self) -> list[bool]:
        """Which tables are small enough, taken in their order, to be decoded only once."""
        left = self.config.cache_megabytes * _MEGABYTE
        stays = []
        for table, positions in zip(self._tables, self._positions, strict=True):
            size = decoded_bytes(table, positions)
            stays.append(size is not None and size <= left)
            left -= size if size is not None and size <= left else 0
        return stays

    def _draw(self, caption: str, epoch: int) -> tuple[list[_ImageRef], list[bool]]:
        refs, wanted = self._images[caption], self.config.images_per_caption
        generator = runtime.numpy_generator(self.seed, "draw", epoch, caption)
        sources = np.array([ref.table for ref in refs])
        chosen = [refs[index] for index in draw_images(sources, wanted, self.config.mix, generator)]
        missing = wanted - len(chosen)
        return chosen + [chosen[0]] * missing, [True] * len(chosen) + [False] * missing

    def _load(self, refs: Sequence[_ImageRef]) -> Pictures:
        images: dict[_ImageRef, Tensor | Picture] = {
            ref: self._decoded[ref] for ref in refs if ref in self._decoded
        }
        for number, table in enumerate(self._tables):
            wanted = [ref for ref in dict.fromkeys(refs) if ref.table == number and ref not in images]
            encoded = table.take_images([ref.position for ref in wanted]) if wanted else []
            for ref, image in zip(wanted, encoded, strict=True):
                picture = Picture(image, _place(table, ref))
                images[ref] = picture
                if self._stays[number]:
                    images[ref] = self._decoded[ref] = picture.decode()
        return Pictures([images[ref] for ref in refs])

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


def _place(table: ImageTable, ref: _ImageRef) -> str:
    return f"{table.path}: image {ref.image_index} of caption {ref.caption} (origin {ref.origin})"


def _read_weights(table: ImageTable, positions: np.ndarray, column: str) -> np.ndarray:
    """The weight of every row of the table, float32; those that may be drawn must be numbers from 0."""
    kind = table.field(column).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise UserError(f"{table.path}: weights must be numbers, and column {column!r} holds {kind}")
    weights: np.ndarray = (
        table.read([column])[column].cast(pa.float32(), safe=False).to_numpy()
    )  # null becomes nan
    wrong = positions[~((weights[positions] >= 0) & np.isfinite(weights[positions]))]
    if len(wrong):
        row = table.read(["origin", "caption_id", "image_index"]).take(wrong[:1]).to_pylist()[0]
        raise UserError(
            f"{table.path}: image {row['image_index']} of caption {row['caption_id']} (origin {row['origin']}) has "
            f"{column} {weights[wrong[0]]}, and {len(wrong)} images in all have no weight from 0; leave them out with "
            f'where = "{column} >= 0 AND NOT isnan({column})"'
        )
    return weights


def _allowed_positions(table: ImageTable, config: DataConfig) -> np.ndarray:
    """Positions of the usable rows: whatever the filter says, failures and held-out styles never enter."""
    conditions = [f"status = '{OK}'"]
    if config.origin != "any":
        conditions.append(f"origin {'=' if config.origin == 'real' else '!='} '{REAL}'")
    if config.keep is not None:
        if not pa.types.is_boolean(table.field(config.keep).type):
            raise UserError(
                f"{table.path}: keep must name a column of true and false, and {config.keep!r} holds "
                f"{table.field(config.keep).type}"
            )
        conditions.append(f"`{config.keep}` = true")
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
