"""Image tables out to every layout and back: byte-equal, how fast, and with how much memory.

    python bench/round_trip.py --num-images 20000 --megabytes 1024

Each step runs in a process of its own, so that its peak memory is its own. Exits with code 1 where a byte or a column
differs, or a step takes more memory than asked for.
"""

import argparse
import hashlib
import io
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from PIL import Image

from stablerep.interchange.convert import LAYOUTS, ConvertConfig, convert
from stablerep.interchange.tables import CAPTIONS, IMAGES
from stablerep.store import IMAGE_SCHEMA, OK, CaptionTable, caption_id

PER_CAPTION = 10
ORIGIN = "bench-0123abcd"


def main() -> None:
    """Build the tables, then measure every layout."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--num-images", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=256, help="side of the pictures in pixels")
    parser.add_argument("--megabytes", type=int, default=1024, help="the most memory that a step may take")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--no-mark", action="store_true")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="round-trip-"))
    try:
        sys.exit(0 if measure(folder, arguments) else 1)
    finally:
        shutil.rmtree(folder)


def measure(folder: Path, arguments: argparse.Namespace) -> bool:
    """Out and back in every layout; whether all is equal and within the memory."""
    alone(build, folder / "world", arguments.num_images, arguments.size)
    expected, _, _ = alone(digests, folder / "world")
    data = sum(path.stat().st_size for path in (folder / "world").rglob("*") if path.is_file()) / 2**20
    print(
        f"{arguments.num_images:,} pictures of {arguments.size} px, {data:,.0f} MB, mark: {not arguments.no_mark}"
    )
    fine = True
    for layout in arguments.layouts:
        out = ConvertConfig(
            source=folder / "world", out=folder / "set", to=layout, mark=not arguments.no_mark
        )
        back = ConvertConfig(source=folder / "set", out=folder / "back")
        steps = {"out": alone(convert, out), "back": alone(convert, back)}
        equal = alone(digests, folder / "back")[0] == expected
        fine &= equal
        for step, (_, seconds, peak) in steps.items():
            fine &= peak <= arguments.megabytes
            rate = arguments.num_images / seconds
            print(f"{layout:12} {step:5} {seconds:7.1f} s {rate:9,.0f} images/s, peak {peak:6,.0f} MB")
        print(f"{layout:12} every byte and column equal: {equal}")
        shutil.rmtree(folder / "set")
        shutil.rmtree(folder / "back")
    return fine


def alone(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float, float]:
    """Run in a fresh process: result, seconds, and peak memory in MB, what the imports take included."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, function, arguments).result()


def _measured(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, float, float]:
    begin = time.perf_counter()
    result = function(*arguments)
    seconds = time.perf_counter() - begin
    return result, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def build(folder: Path, num_images: int, size: int) -> None:
    """Tables of JPEG pictures of soft noise, each different, with two score columns."""
    texts = [f"a picture of thing number {number}" for number in range(-(-num_images // PER_CAPTION))]
    rows = [{"id": caption_id(t), "text": t, "source": "bench", "group": caption_id(t)} for t in texts]
    CaptionTable.open_or_create(folder / CAPTIONS).append(rows)
    schema = pa.schema([*IMAGE_SCHEMA, pa.field("match", pa.float32()), pa.field("keep", pa.bool_())])

    def batches() -> Any:
        for start in range(0, num_images, 500):
            numbers = range(start, min(start + 500, num_images))
            yield pa.RecordBatch.from_pylist([_row(number, texts, size) for number in numbers], schema=schema)

    lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches()), str(folder / IMAGES))


def _row(number: int, texts: list[str], size: int) -> dict[str, Any]:
    generator = np.random.default_rng(number)
    coarse = generator.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((size, size), Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=95)
    return {
        "origin": ORIGIN,
        "caption_id": caption_id(texts[number // PER_CAPTION]),
        "image_index": number % PER_CAPTION,
        "seed": int(generator.integers(2**62)),
        "image": buffer.getvalue(),
        "width": size,
        "height": size,
        "status": OK,
        "split": "train",
        "match": float(generator.random()),
        "keep": bool(number % 3),
    }


def digests(folder: Path) -> dict[str, str]:
    """Every row of both tables as a digest of all its columns, in one digest over the sorted rows."""
    result = {}
    for name in (IMAGES, CAPTIONS):
        rows = []
        for batch in lance.dataset(str(folder / name)).scanner(batch_size=64).to_batches():
            for row in batch.to_pylist():
                rows.append(hashlib.blake2b(repr(sorted(row.items())).encode(), digest_size=16).digest())
        result[name] = hashlib.blake2b(b"".join(sorted(rows)), digest_size=16).hexdigest()
    return result


if __name__ == "__main__":
    main()
