"""Augmented views a second, beside the plain way: PIL, torchvision's transforms and torch's DataLoader.

    python bench/loader.py [--captions 48] [--threads 2] [--seconds 6]

Both ways make six views a caption from the same pictures: 224 px views of JPEGs stored at 512 and at 256 px, and 48 px
views of 64 px PNGs. The pictures are the embedded drawings over coloured gradients with noise; ours lie in a table, the
plain way's are files. The plain way runs with 0, 1 and 2 workers and blurs by PIL, which is faster than by torchvision.
Each way runs in a process of its own with one torch thread. Printed are images a second of wall time (the best of three
windows), CPU milliseconds an image where all work is in one process, and ours as a multiple of the best plain way. From
512 px ours should be twice as fast as that, and from tables stored at 256 px four times as fast as plain from 512 px;
the exit code is 1 where a bar is missed.
"""

import argparse
import io
import itertools
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import transforms

from stablerep.learning.data import DataConfig, ViewSource
from stablerep.learning.views import ViewConfig, in_unit_range
from stablerep.store import OK, ImageTable, caption_id

VIEWS = 6  # of each caption, one of each of its pictures
ENDLESS = 10**9
BARS = {512: 2.0, 256: 4.0}
"""By the size that ours reads: at least so many times the best plain way from 512 px, by wall time."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """Pictures of one stored size, and the views made of them."""

    stored: int
    view: int
    format: str
    captions_per_batch: int

    @property
    def name(self) -> str:
        return f"{self.view} px views of {self.stored} px {self.format}"

    @property
    def images_per_batch(self) -> int:
        return self.captions_per_batch * VIEWS


CASES = (
    Case(stored=512, view=224, format="JPEG", captions_per_batch=16),
    Case(stored=256, view=224, format="JPEG", captions_per_batch=16),
    Case(stored=64, view=48, format="PNG", captions_per_batch=43),
)


@dataclass(frozen=True)
class Speed:
    """Images a second of wall time, and CPU milliseconds an image of this process."""

    rate: float
    milliseconds: float

    def __str__(self) -> str:
        return f"{self.rate:8.0f} images/s"


@dataclass(frozen=True)
class Rates:
    """Images a second of wall time: ours, and the best of the plain ways."""

    ours: float
    plain: float


# -- pictures ----------------------------------------------------------------------------------------


def drawings(num: int) -> Iterator[Image.Image]:
    """Embedded drawings, transparent where nothing is drawn."""
    path = files("stablerep") / "data" / "icons.parquet"
    with path.open("rb") as file:
        column = pq.read_table(file, columns=["image"])["image"]
    for row in range(0, len(column), len(column) // num):
        yield Image.open(io.BytesIO(column[row].as_py())).convert("RGBA")


def scene(drawing: Image.Image, number: int) -> Image.Image:
    """The drawing, large, over a gradient with a little noise: 512 x 512."""
    rng = np.random.default_rng(number)
    corners = Image.fromarray(rng.integers(0, 256, (2, 2, 3), dtype=np.uint8))
    gradient = np.asarray(corners.resize((512, 512), Image.Resampling.BILINEAR), dtype=np.float32)
    noisy = (gradient + rng.normal(0, 4, gradient.shape)).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(noisy).convert("RGBA")
    side = int(rng.integers(256, 480))
    large = drawing.resize((side, side), Image.Resampling.BICUBIC)
    picture.alpha_composite(large, dest=tuple(rng.integers(0, 512 - side, 2).tolist()))
    return picture.convert("RGB")


def write_pictures(folder: Path, num_captions: int) -> None:
    """For each case a folder of files and a table of the same bytes."""
    num_pictures = num_captions * VIEWS
    rows: dict[Case, list[dict[str, object]]] = {case: [] for case in CASES}
    for number, drawing in enumerate(itertools.islice(drawings(num_pictures), num_pictures)):
        large = scene(drawing, number)
        for case in CASES:
            buffer = io.BytesIO()
            small = large.resize((case.stored, case.stored), Image.Resampling.BICUBIC)
            small.save(buffer, case.format, **({"quality": 90} if case.format == "JPEG" else {}))
            path = folder / str(case.stored) / f"{number}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(buffer.getvalue())
            identity = {"origin": "bench", "caption_id": caption_id(str(number // VIEWS))}
            size = {"width": case.stored, "height": case.stored, "image": buffer.getvalue()}
            rows[case].append({**identity, **size, "image_index": number % VIEWS, "status": OK})
    for case in CASES:
        ImageTable.open_or_create(folder / f"{case.stored}.lance").append(rows[case])


# -- the two ways ------------------------------------------------------------------------------------


class Blur:
    """PIL's blur, as the published code has it."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


class Files(Dataset[Tensor]):
    """Image files and the published augmentation."""

    def __init__(self, folder: Path, size: int) -> None:
        self.paths = sorted(folder.iterdir())
        self.augment = transforms.Compose(
            [
                transforms.RandomResizedCrop(size, (0.08, 1)),
                transforms.RandomHorizontalFlip(),
                transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
                transforms.RandomGrayscale(0.2),
                transforms.RandomApply([Blur()], 0.5),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.paths[index]) as image:
            view: Tensor = self.augment(image.convert("RGB"))
        return view


class Endless(Sampler[int]):
    """Every file again and again, in random order."""

    def __init__(self, num_files: int) -> None:
        self.num_files = num_files

    def __iter__(self) -> Iterator[int]:
        while True:
            yield from torch.randperm(self.num_files).tolist()


def plain(case: Case, folder: Path, workers: int) -> Generator[Tensor, None, None]:
    """Batches of views (M, 3, S, S)."""
    data = Files(folder / str(case.stored), case.view)
    yield from DataLoader(data, case.images_per_batch, sampler=Endless(len(data)), num_workers=workers)


def ours(case: Case, folder: Path, threads: int) -> Generator[Tensor, None, None]:
    """The same from the table, M = N * V; only the small pictures stay decoded in memory, as in a real run."""
    config = DataConfig(
        images=(folder / f"{case.stored}.lance",),
        captions_per_batch=case.captions_per_batch,
        images_per_caption=VIEWS,
        view=ViewConfig(image_size=case.view),
        num_threads=threads,
        cache_megabytes=512 if case.stored == 64 else 0,
    )
    for batch in ViewSource(config, seed=0).batches(0, ENDLESS):
        yield in_unit_range(batch["image"].flatten(0, 1))


WAYS = {"plain": plain, "ours": ours}


def measure(way: str, case: Case, folder: Path, workers: int, seconds: float) -> Speed:
    """The best of three windows, after a first batch; called in a fresh process."""
    torch.set_num_threads(1)
    batches = WAYS[way](case, folder, workers)
    next(batches)
    rate, milliseconds = 0.0, float("inf")
    for _ in range(3):
        begin, cpu, num_images = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - begin < seconds / 3:
            num_images += len(next(batches))
        rate = max(rate, num_images / (time.perf_counter() - begin))
        milliseconds = min(milliseconds, 1e3 * (time.process_time() - cpu) / num_images)
    batches.close()
    return Speed(rate, milliseconds)


def in_a_process(*arguments: object) -> Speed:
    """``measure`` alone in a process, in which a worker of the plain way may have children of its own."""
    receiver, sender = multiprocessing.get_context("spawn").Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_send, args=(sender, *arguments))
    process.start()
    sender.close()
    speed: Speed = receiver.recv()
    process.join()
    return speed


def _send(sender: Connection, *arguments: object) -> None:
    sender.send(measure(*arguments))  # type: ignore[arg-type]
    sender.close()


def main() -> int:
    """Write the pictures, measure both ways, compare; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description="augmented views a second, ours and the plain way")
    parser.add_argument("--captions", type=int, default=48, help="of six pictures each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    rates: dict[int, Rates] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder, options.captions)
        for case in CASES:
            rates[case.stored] = compare(case, folder, options)
    return 0 if report(rates) else 1


def compare(case: Case, folder: Path, options: argparse.Namespace) -> Rates:
    """Measure and print both ways of one case."""
    print(case.name, flush=True)
    alone = []
    for workers in range(3):
        alone.append(in_a_process("plain", case, folder, workers, options.seconds))
        cpu = f"  {alone[0].milliseconds:6.2f} CPU ms each" if workers == 0 else ""
        print(f"  plain, {workers} workers  {alone[-1]}{cpu}", flush=True)
    found = in_a_process("ours", case, folder, options.threads, options.seconds)
    best = max(speed.rate for speed in alone)
    print(f"  ours, {options.threads} threads   {found}  {found.milliseconds:6.2f} CPU ms each")
    print(
        f"  ours is {found.rate / best:.1f} times the best plain way by wall time, and "
        f"{alone[0].milliseconds / found.milliseconds:.1f} times the plain way without workers by CPU time",
        flush=True,
    )
    return Rates(found.rate, best)


def report(rates: Mapping[int, Rates]) -> bool:
    """Print ours beside the best plain way from 512 px; whether all bars are reached. By stored size."""
    found = {stored: rates[stored].ours / rates[512].plain for stored in BARS}
    for stored, bar in BARS.items():
        verdict = "reached" if found[stored] >= bar else "MISSED"
        print(
            f"ours from {stored} px to the best plain way from 512 px {found[stored]:5.2f}, bar {bar}: {verdict}"
        )
    return all(found[stored] >= bar for stored, bar in BARS.items())


if __name__ == "__main__":
    sys.exit(main())
