"""Import many captions, plan their pictures, and say how long it took and how much memory at most.

Captions are made up from a few word lists, a tenth of them twice, and written as a text file and a WebDataset
archive; both are imported in a process of its own, whose peak resident memory is read from the system. A second process
reads the table as ``generate`` does and walks through the whole plan.

    python bench/captions_scale.py --num 1000000
"""

import argparse
import io
import multiprocessing
import random
import resource
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT = 2 * 2**30
SUBJECTS = ["apple", "dog", "house", "old boat", "bicycle", "mountain", "man in a hat", "group of children"]
PLACES = ["on a table", "in the snow", "beside the river", "under a bridge", "in a small kitchen", "at night"]


def write_captions(folder: Path, num: int) -> list[Path]:
    """A text file with nine tenths of the captions and an archive with the last tenth, which repeats earlier ones."""
    draw = random.Random(0)
    text, shard = folder / "captions.txt", folder / "captions.tar"
    repeated: list[str] = []
    with text.open("w") as file:
        for index in range(num - num // 10):
            caption = f"a {draw.choice(SUBJECTS)} {draw.choice(PLACES)}, number {index}"
            file.write(f"{caption}\n")
            if index % 9 == 0 and len(repeated) < num // 10:
                repeated.append(caption)
    with tarfile.open(shard, "w") as archive:
        for index in range(num // 10):
            content = repeated[index % len(repeated)].encode()
            member = tarfile.TarInfo(f"{index:09}.txt")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return [text, shard]


def import_all(files: list[Path], out: Path) -> dict[str, Any]:
    """Import the files; what was read and new."""
    from stablerep.captions.sources import ImportConfig, import_captions

    summary = import_captions(ImportConfig(files=tuple(files), out=out))
    return {"read": summary.read, "new": summary.new, "scripts": summary.scripts}


def plan_all(captions: Path) -> dict[str, Any]:
    """Plan one picture per caption; how many there are."""
    from stablerep.generation.plan import plan
    from stablerep.generation.settings import GenerateConfig
    from stablerep.generation.wanted import read_captions

    wanted = read_captions(GenerateConfig(captions=captions))
    planned = sum(len(batch) for batch in plan(wanted, 1, frozenset(), batch_size=64, seed=0))
    return {"planned": planned}


def _measured(pipe: Any, work: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> None:
    begin = time.monotonic()
    result = work(*arguments)
    seconds = time.monotonic() - begin
    pipe.send((result, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def measured(work: Callable[..., dict[str, Any]], *arguments: Any) -> tuple[dict[str, Any], float, int]:
    """What the work returned, its seconds, and the peak memory of a fresh process that did nothing else."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_measured, args=(there, work, arguments))
    process.start()
    there.close()
    result: tuple[dict[str, Any], float, int] = here.recv()
    process.join()
    return result


def main() -> int:
    """Print one line per stage; 1 where one needs 2 GiB or more."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num", type=int, default=1_000_000, help="captions to import")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to write; a temporary folder by default"
    )
    arguments = parser.parse_args()
    worst = 0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        files = write_captions(folder, arguments.num)
        table = folder / "captions.lance"
        stages: list[tuple[str, Callable[..., dict[str, Any]], tuple[Any, ...]]] = [
            ("import", import_all, (files, table)),
            ("plan", plan_all, (table,)),
        ]
        for stage, work, given in stages:
            result, seconds, peak = measured(work, *given)
            worst = max(worst, peak)
            print(f"{stage}: {result}; {seconds:.1f} s, peak {peak / 2**20:,.0f} MiB")
    print(
        f"{'PASSED' if worst < LIMIT else 'FAILED'}: at most {worst / 2**20:,.0f} MiB of {LIMIT / 2**20:,.0f} MiB"
    )
    return 0 if worst < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
