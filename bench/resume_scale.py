"""Resume over a large image table: how long until it is known what is missing, and what a commit costs there.

The table holds rows without pictures to speak of (32 bytes each) for every image index of its captions but the last
one of every hundredth caption. In a fresh process the table is opened, the rows that are there are read, the missing
ones counted and the first batch planned, as a restarted ``generate`` does; then a few rows are appended.

    python bench/resume_scale.py --num-rows 1000000
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa

from stablerep.generation.plan import num_missing, plan
from stablerep.generation.settings import GenerateConfig
from stablerep.generation.shared_table import DoneKeys
from stablerep.generation.wanted import read_captions
from stablerep.store import CAPTION_SCHEMA, IMAGE_SCHEMA, CaptionTable, ImageTable, caption_id

ORIGIN = "dummy-0123456789ab"
MOST_SECONDS = 20.0
CHUNK = 50_000


def write_tables(folder: Path, num_rows: int, num_images: int) -> GenerateConfig:
    """A caption table and an image table in which a few pictures are missing."""
    captions = CaptionTable.open_or_create(folder / "captions.lance")
    ImageTable.open_or_create(folder / "images.lance")
    ids = [caption_id(f"caption {index}") for index in range(num_rows // num_images)]
    for start in range(0, len(ids), CHUNK):
        chunk = ids[start : start + CHUNK]
        rows = {name: pa.nulls(len(chunk), pa.string()) for name in CAPTION_SCHEMA.names}
        rows |= {"id": pa.array(chunk), "text": pa.array([f"caption {start + i}" for i in range(len(chunk))])}
        rows |= {"source": pa.array(["bench"] * len(chunk)), "group": pa.array(chunk)}
        lance.write_dataset(pa.table(rows).cast(CAPTION_SCHEMA), captions.path, mode="append")
        write_images(folder / "images.lance", chunk, num_images)
    return GenerateConfig(
        captions=folder / "captions.lance", out=folder / "images.lance", num_images=num_images
    )


def write_images(path: Path, ids: list[str], num_images: int) -> None:
    """Rows of these captions as one fragment; of every hundredth caption the last picture is missing."""
    caption = np.repeat(np.arange(len(ids)), num_images)
    index = np.tile(np.arange(num_images, dtype=np.int32), len(ids))
    kept = ~((caption % 100 == 0) & (index == num_images - 1))
    caption, index = caption[kept], index[kept]
    rows = {field.name: pa.nulls(len(caption), field.type) for field in IMAGE_SCHEMA}
    rows |= {"origin": pa.array([ORIGIN] * len(caption)), "caption_id": pa.array(ids).take(caption)}
    rows |= {"image_index": pa.array(index), "image": pa.array([b"x" * 32] * len(caption))}
    rows |= {"status": pa.array(["ok"] * len(caption))}
    lance.write_dataset(pa.table(rows).cast(IMAGE_SCHEMA), str(path), mode="append")


def main() -> int:
    """Print what each step took; 1 where deciding what is missing took longer than 20 s."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-rows", type=int, default=1_000_000, help="rows of the image table")
    parser.add_argument("--num-images", type=int, default=4, help="pictures per caption")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to write; a temporary folder by default"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        config = write_tables(Path(name), arguments.num_rows, arguments.num_images)
        begin = time.monotonic()
        captions = read_captions(config)
        table = ImageTable.open(config.out)
        done = DoneKeys(table, ORIGIN)
        missing = num_missing(captions, config.num_images, done)
        first = next(plan(captions, config.num_images, done, batch_size=64, seed=0))
        seconds = time.monotonic() - begin
        expected = len(captions) * config.num_images - len(table)
        assert missing == expected and len(first) == min(64, missing), (missing, expected, len(first))
        print(f"{len(table):,} rows, {missing:,} missing: known after {seconds:.2f} s")
        rows = [
            {"origin": ORIGIN, "caption_id": item.caption_id, "image_index": item.image_index, "status": "ok"}
            for item in first
        ]
        begin = time.monotonic()
        assert table.append(rows) == len(first)
        new = time.monotonic() - begin
        begin = time.monotonic()
        assert table.append(rows) == 0
        print(
            f"commit of {len(rows)} new rows {new:.2f} s, of rows that are there {time.monotonic() - begin:.2f} s"
        )
    print(
        f"{'PASSED' if seconds < MOST_SECONDS else 'FAILED'}: {seconds:.2f} s of at most {MOST_SECONDS:.0f} s"
    )
    return 0 if seconds < MOST_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
