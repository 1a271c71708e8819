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
import torch
from numpy.typing import NDArray
from torch import Tensor

from stablerep import runtime
from stablerep.config import FREE
from stablerep.errors import UserError
from stablerep.learning.index import ImageIndex, ImageRef
from stablerep.learning.method import Batch
from stablerep.learning.mixing import draw_images
from stablerep.learning.pictures import Picture, Pictures, decoded_bytes
from stablerep.learning.texts import wordings
from stablerep.learning.usable import Origin, allowed_positions, read_weights
from stablerep.learning.views import ViewConfig, apply_parameters, draw_parameters
from stablerep.store import ImageTable, in_style

Tokenize = Callable[[Sequence[str]], Tensor]

_COUNTS = ("captions_per_batch", "images_per_caption", "crops_per_image")
_MEGABYTE = 2**20
DIGEST_VERSION = 2
"""Raised where a digest of the same data comes out otherwise."""
_MOST_AHEAD = 1024 * _MEGABYTE


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the training images come from and how many views of them make a batch."""

    images: tuple[Path, ...] = field(metadata=FREE)
    """Image tables; the images of one caption are gathered over all of them."""
    mix: tuple[float, ...] | None = None
    """How often an image comes from each table, as a ratio such as 1 3; where not given, all images of a caption
    are equally likely. Where a caption has no image left in a table, the others take its place."""
    captions: Path | None = field(default=None, metadata=FREE)
    """Caption table, for methods that read text."""
    other_wordings: bool = False
    """Methods that read text also read captions on which they do not train, where these say the same thing (same
    concept, group, split and label): for tables in which only one of several wordings has pictures."""
    style_probability: float = 0.0
    """Share of the captions to which the style of their images is joined where it is known, as painters are asked for
    it; the images of a caption in a batch are then of one style."""
    origin: Origin = "any"
    """Painted pictures, real ones, or both."""
    where: str | None = None
    """A further filter on the image rows, such as "split = 'train'"."""
    keep: str | None = None
    """A column of true and false, such as the mask of an audit: rows where it is not true are left out."""
    num_real: int | None = None
    """Only the first so many real images of each caption, by image index, of those that pass the filters."""
    num_painted: int | None = None
    """Only the first so many painted images of each caption and painter, likewise."""
    weight: str | None = None
    """A column of numbers from 0: a picture's share in the targets of its positives; for painters, in the mean loss."""
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
    num_threads: int | None = field(default=None, metadata=FREE)
    """Threads that prepare batches ahead of the training step; where not given, all that a process may use beside a
    GPU, and one where the step itself needs the processor."""
    cache_megabytes: int = field(default=512, metadata=FREE)
    """Tables whose decoded pictures fit into this much memory are decoded once and stay there; 0 for none."""

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("images must name at least one image table")
        for name in (*_COUNTS, "num_captions", "num_real", "num_painted", "num_threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
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


class ViewSource:
    """Batches of views, addressed by step. The same step is the same batch on any machine, after any resume."""

    def __init__(self, config: DataConfig, *, seed: int, tokenize: Tokenize | None = None) -> None:
        self.config = config
        self.seed = seed
        self._tokenize = tokenize
        self._tables = [ImageTable.open(path) for path in config.images]
        self._positions = [self._allowed(table) for table in self._tables]
        every = ImageIndex.read(self._tables, self._positions, config.num_real, config.num_painted)
        self._index = self._choose(every)
        self.caption_ids = self._index.captions
        self._weights = [
            read_weights(table, positions, config.weight)
            for table, positions in zip(self._tables, self._positions, strict=True)
            if config.weight is not None
        ]
        self._stays = self._choose_tables_that_stay()
        self._decoded: dict[ImageRef, Tensor] = {}
        self._order = functools.lru_cache(maxsize=2)(self._permutation)
        self._turns = self._take_turns() if config.one_per_group else None
        self._texts = self._wordings() if tokenize else {}
        if config.captions_per_batch % runtime.world_size():
            raise UserError(
                f"captions_per_batch {config.captions_per_batch} cannot be shared equally by {runtime.world_size()} "
                "processes; choose a multiple"
            )
        if self._num_turns < config.captions_per_batch:
            counted = "groups of captions" if config.one_per_group else "captions"
            raise UserError(
                f"{', '.join(map(str, config.images))}: {self._num_turns} {counted} have usable images, fewer "
                f"than one batch of {config.captions_per_batch}; lower captions_per_batch (--data.captions-per-batch), "
                "raise num_captions or widen the filter"
            )

    @property
    def _num_turns(self) -> int:
        return len(self.caption_ids) if self._turns is None else len(self._turns)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass over the captions (or groups); the rest waits for the next permutation."""
        return self._num_turns // self.config.captions_per_batch

    @property
    def num_images(self) -> int:
        """Images that training may draw."""
        return int(self._index.starts[-1])

    @property
    def images_by_table(self) -> list[int]:
        """How many of them each table holds."""
        numbers = np.bincount(self._index.table, minlength=len(self._tables))
        return [int(number) for number in numbers]

    @functools.cached_property
    def share_that_counts(self) -> float:
        """Share of the views that are not the repetition of another because a caption has too few images.

        An expectation, where an epoch shows one caption of every group, or images of one style.
        """
        wanted = self.config.images_per_caption
        drawn = self._index.expected(wanted, by_style=self._is_of_one_style) / wanted
        if self._turns is None:
            return float(drawn.mean())
        return float(np.mean([drawn[members].mean() for members in self._turns]))

    def num_with_several(self, what: Literal["caption", "label"]) -> int:
        """How many captions, or labels, have at least two images that may be drawn."""
        if what == "caption":
            return self._index.num_with_several(by_style=self._is_of_one_style)
        return self._index.num_values_with_several(what)

    def batch(self, step: int) -> Batch:
        """The batch of this step (0, 1, ...), this rank's part of it; shapes as in ``method.Batch``."""
        config = self.config
        epoch, index = divmod(step, self.steps_per_epoch)
        num_local = config.captions_per_batch // runtime.world_size()
        start = index * config.captions_per_batch + runtime.rank() * num_local
        rows = self._order(epoch)[start : start + num_local].tolist()
        captions = [self.caption_ids[row] for row in rows]
        drawn = [self._draw(row, epoch) for row in rows]
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
            said = [
                self._text(caption, images[0].style, epoch)
                for caption, (images, _) in zip(captions, drawn, strict=True)
            ]
            batch["tokens"] = self._tokenize([text for text, _ in said])
            batch["thing_id"] = torch.tensor([identity_of(first) for _, first in said])
        return batch

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of the steps ``start .. stop - 1``, prepared ahead by threads.

        As many lie ready as keep the threads busy, but no more than a gigabyte of views, and at least one.
        """
        steps = iter(range(start, stop))
        num_threads = self.config.num_threads or runtime.spare_threads()
        ahead = max(1, min(num_threads + 1, _MOST_AHEAD // self._batch_bytes()))
        # The threads share the processor with one another and with training, so each computes alone.
        with ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
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
        index = self._index
        digest = hashlib.blake2b(index.digest(), digest_size=16)
        for number, weights in enumerate(self._weights):
            digest.update(weights[index.position[index.table == number]].tobytes())
        if self.config.mix is not None:  # shares belong to tables by their order
            digest.update(index.table.tobytes())
        for caption in self.caption_ids if self._tokenize else ():
            digest.update("\x1f".join(self._texts[caption]).encode())
        if self._tokenize:  # another vocabulary shows in the first texts
            texts = [text for caption in self.caption_ids[:1000] for text in self._texts[caption]]
            digest.update(self._tokenize(texts).numpy().tobytes())
        return f"{DIGEST_VERSION}:{digest.hexdigest()}"

    def _allowed(self, table: ImageTable) -> np.ndarray:
        config = self.config
        found = allowed_positions(
            table,
            origin=config.origin,
            where=config.where,
            keep=config.keep,
            exclude_styles=config.exclude_styles,
        )
        if not len(found) and len(self._tables) > 1:
            raise UserError(
                f"{table.path}: no image passes the filters (origin {config.origin}, where {config.where!r}, keep "
                f"{config.keep!r}, exclude_styles {list(config.exclude_styles)}), so that the table would add nothing; "
                "leave it out or widen them"
            )
        return found

    def _choose(self, every: ImageIndex) -> ImageIndex:
        """Caption ids are hashes, so their order is random but the same for every size: n captions contain n/2."""
        num = self.config.num_captions
        if num is not None and num > len(every.captions):
            raise UserError(
                f"{', '.join(map(str, self.config.images))}: {len(every.captions)} captions have usable images, and "
                f"num_captions asks for {num}; lower it (--data.num-captions) or widen the filter"
            )
        return every.first(num)

    def _take_turns(self) -> list[list[int]]:
        """Rows of the captions of each group, of which an epoch shows one."""
        groups, turns = self._index.words["group"], dict[str, list[int]]()
        for row, (caption, start) in enumerate(
            zip(self.caption_ids, self._index.starts.tolist(), strict=False)
        ):
            turns.setdefault(groups[start] or caption, []).append(row)
        return list(turns.values())

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        """Rows of the captions that an epoch shows, in their order."""
        order = runtime.numpy_generator(self.seed, "order", epoch).permutation(self._num_turns)
        if self._turns is None:
            return order
        member = runtime.numpy_generator(self.seed, "member", epoch).random(len(self._turns))
        return np.array([self._turns[turn][int(member[turn] * len(self._turns[turn]))] for turn in order])

    def _choose_tables_that_stay(self) -> list[bool]:
        """Which tables are small enough, taken in their order, to be decoded only once."""
        left = self.config.cache_megabytes * _MEGABYTE
        stays = []
        for table, positions in zip(self._tables, self._positions, strict=True):
            size = decoded_bytes(table, positions)
            stays.append(size is not None and size <= left)
            left -= size if size is not None and size <= left else 0
        return stays

    def _draw(self, row: int, epoch: int) -> tuple[list[ImageRef], list[bool]]:
        refs, wanted = self._index.images_of(row), self.config.images_per_caption
        if self._is_of_one_style:
            refs = self._of_one_style(refs, epoch)
        generator = runtime.numpy_generator(self.seed, "draw", epoch, refs[0].caption)
        sources = np.array([ref.table for ref in refs])
        chosen = [refs[index] for index in draw_images(sources, wanted, self.config.mix, generator)]
        missing = wanted - len(chosen)
        return chosen + [chosen[0]] * missing, [True] * len(chosen) + [False] * missing

    @property
    def _is_of_one_style(self) -> bool:
        """Whether the images of a caption in a batch must share a style, as the text says it of all of them."""
        return bool(self._tokenize and self.config.style_probability and self.config.images_per_caption > 1)

    def _of_one_style(self, refs: Sequence[ImageRef], epoch: int) -> list[ImageRef]:
        """The images in the style of one of them: the text that names it is then true of all."""
        generator = runtime.numpy_generator(self.seed, "style", epoch, refs[0].caption)
        style = refs[int(generator.integers(len(refs)))].style
        return [ref for ref in refs if ref.style == style]

    def _load(self, refs: Sequence[ImageRef]) -> Pictures:
        images: dict[ImageRef, Tensor | Picture] = {
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

    def _wordings(self) -> dict[str, list[str]]:
        if self.config.captions is None:
            raise UserError(
                "this method reads text: give the caption table, such as --data.captions captions.lance"
            )
        return wordings(self.config.captions, self.caption_ids, others=self.config.other_wordings)

    def _text(self, caption: str, style: str | None, epoch: int) -> tuple[str, str]:
        """What is said of the images of a caption, and the first of its wordings, by which the thing is told."""
        texts = self._texts[caption]
        generator = runtime.numpy_generator(self.seed, "text", epoch, caption)
        text = texts[int(generator.integers(len(texts)))]
        if style is None or generator.random() >= self.config.style_probability:
            return text, texts[0]
        return in_style(text, style), in_style(texts[0], style)


def _place(table: ImageTable, ref: ImageRef) -> str:
    return f"{table.path}: image {ref.image_index} of caption {ref.caption} (origin {ref.origin})"
