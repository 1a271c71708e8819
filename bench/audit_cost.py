"""What audits cost beside painting: processor time per picture of each audit, and of the teacher that paints.

    python bench/audit_cost.py --world icons --encoder runs/clip-real --attributes icons \\
        --num-captions 64 --num-images 4 [--images a-copy-of/images.lance]

The teacher paints the first captions of the world's training split, then every audit runs once on what it painted, or
on a larger table of its pictures, where what is done once (loading the encoder, measuring the reference, thresholds,
commits) weighs less; reading, decoding and writing the columns count. All audits together should cost at most a
quarter of the painting. Both are measured in CPU seconds of the process, so that others on the machine disturb little;
wall time stands beside. On a GPU only wall time says something.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from stablerep.audit.everything import AUDITS, AuditAllConfig
from stablerep.audit.quality import QualityRules
from stablerep.console import Console
from stablerep.generation.execute import GenerateConfig, generate
from stablerep.run import write_text

LARGEST_SHARE = 0.25
Result = TypeVar("Result")


@dataclass(frozen=True)
class Cost:
    """Seconds per picture."""

    cpu: float
    wall: float


def timed(work: Callable[[], Result]) -> tuple[Result, float, float]:
    """What it returns, CPU seconds of all threads, and wall seconds."""
    begin, begin_cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.process_time() - begin_cpu, time.perf_counter() - begin


def paint(options: argparse.Namespace, folder: Path) -> tuple[Path, Cost]:
    """The table of paintings, and what a picture cost: loading, which a run of one caption pays too, is left out."""

    def run(limit: int) -> None:
        config = GenerateConfig(
            captions=options.world / "captions.lance",
            out=folder / "images.lance",
            teacher=options.teacher,
            num_images=options.num_images,
            limit=limit,
            where="split = 'train' AND template = 'primary'",
            device=options.device,
        )
        generate(config, console=Console(quiet=True))

    _, first_cpu, first = timed(lambda: run(1))
    _, cpu, wall = timed(lambda: run(options.num_captions))
    others = options.num_images * (options.num_captions - 1)
    return folder / "images.lance", Cost((cpu - first_cpu) / others, (wall - first) / others)


def audit(options: argparse.Namespace, images: Path, folder: Path) -> dict[str, Cost]:
    """What a picture costs each audit; an audit that has nothing to work with is left out."""
    real = options.world / "images.lance"
    config = AuditAllConfig(
        images=images,
        captions=options.world / "captions.lance",
        encoder=options.encoder,
        quality=QualityRules(reference=real, num_reference=500),
        reference=real,
        reference_where="split = 'train'",
        attributes=options.attributes,
        device=options.device,
        out=folder / "audit.json",
    )
    costs = {}
    for name, run in AUDITS.items():
        found, cpu, wall = timed(lambda run=run: run(config, Console(quiet=True)))  # type: ignore[misc]
        if isinstance(found, str):
            print(f"{name} was left out: {found}")
        else:
            costs[name] = Cost(cpu / found.num_pictures, wall / found.num_pictures)
    return costs


def main() -> int:
    """Measure, print, save; 1 where the bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--world", type=Path, required=True, help="folder with captions.lance and images.lance"
    )
    parser.add_argument("--teacher", default="icons")
    parser.add_argument(
        "--images", type=Path, help="a copy of a painted table, in place of painting: columns are added"
    )
    parser.add_argument("--encoder", help="image-text run of audit match, which reads attributes too")
    parser.add_argument(
        "--attributes", type=Path, help="attributes file of audit bias, by path or shipped name"
    )
    parser.add_argument("--num-captions", type=int, default=64)
    parser.add_argument("--num-images", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("audit-cost.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        images, painting = paint(options, Path(name))
        costs = audit(options, options.images or images, Path(name))
    together = Cost(sum(one.cpu for one in costs.values()), sum(one.wall for one in costs.values()))
    for what, cost in {"painting": painting, **costs, "all audits": together}.items():
        print(
            f"{what:10} {1000 * cost.cpu:8.2f} ms of CPU   {100 * cost.cpu / painting.cpu:6.1f} %"
            f"   {1000 * cost.wall:8.2f} ms   {100 * cost.wall / painting.wall:6.1f} % of the painting"
        )
    share = together.cpu / painting.cpu
    measured: dict[str, Any] = {
        "painting": asdict(painting),
        "audits": {what: asdict(cost) for what, cost in costs.items()},
        "share": share,
    }
    asked = {key: str(value) for key, value in vars(options).items()}
    write_text(options.out, json.dumps({"asked": asked, "seconds per picture": measured}, indent=2) + "\n")
    return 0 if report(share) else 1


def report(share: float) -> bool:
    """Print whether the bar is kept."""
    passed = share <= LARGEST_SHARE
    verdict = "PASSED" if passed else "FAILED"
    print(f"{verdict}: audits take {share:.1%} of the CPU time of painting (bar {LARGEST_SHARE:.0%})")
    return passed


if __name__ == "__main__":
    sys.exit(main())
