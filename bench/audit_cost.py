"""What audits cost beside painting: pictures per second of each audit, and of the teacher that paints.

    python bench/audit_cost.py --world icons --encoder runs/clip-real --num-captions 64 --num-images 4

The teacher paints the first captions of the world's training split, then every audit runs once on what it painted, or
on a larger table of its pictures, where what is done once (loading the encoder, measuring the reference, commits)
weighs less; reading, decoding and writing the columns count. All audits together should cost at most a quarter of the
painting.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from stablerep.audit.everything import AUDITS, AuditAllConfig
from stablerep.audit.quality import QualityRules
from stablerep.console import Console
from stablerep.generation.execute import GenerateConfig, generate
from stablerep.run import write_text

LARGEST_SHARE = 0.25


def paint(options: argparse.Namespace, folder: Path) -> tuple[Path, float]:
    """The table of paintings, and the seconds that painting took per picture."""
    config = GenerateConfig(
        captions=options.world / "captions.lance",
        out=folder / "images.lance",
        teacher=options.teacher,
        num_images=options.num_images,
        limit=options.num_captions,
        where="split = 'train' AND template = 'primary'",
        device=options.device,
    )
    return config.out, 1 / generate(config, console=Console()).images_per_second


def audit(options: argparse.Namespace, images: Path, folder: Path) -> dict[str, float]:
    """Seconds per picture of each audit; what has nothing to work with is left out."""
    config = AuditAllConfig(
        images=images,
        captions=options.world / "captions.lance",
        encoder=options.encoder,
        quality=QualityRules(reference=options.world / "images.lance", num_reference=500),
        device=options.device,
        out=folder / "audit.json",
    )
    seconds = {}
    for name, run in AUDITS.items():
        found = run(config, Console(quiet=True))
        if isinstance(found, str):
            print(f"{name} was left out: {found}")
        else:
            seconds[name] = found.seconds / found.num_pictures
    return seconds


def main() -> None:
    """Measure, print, save."""
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
    parser.add_argument("--encoder", help="image-text run of audit match")
    parser.add_argument("--num-captions", type=int, default=64)
    parser.add_argument("--num-images", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("audit-cost.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        images, painting = paint(options, Path(name))
        seconds = audit(options, options.images or images, Path(name))
    together = sum(seconds.values())
    print(f"{'painting':10} {1 / painting:10.1f} pictures/s")
    for audited, each in seconds.items():
        print(
            f"{audited:10} {1 / each:10.1f} pictures/s   {100 * each / painting:5.1f} % of the painting time"
        )
    verdict = "within" if together <= LARGEST_SHARE * painting else "MORE THAN"
    print(
        f"all audits {1 / together:10.1f} pictures/s   {100 * together / painting:5.1f} %: {verdict} a quarter"
    )
    measured: dict[str, Any] = {"painting": painting, "audits": seconds, "share": together / painting}
    asked = {key: str(value) for key, value in vars(options).items()}
    write_text(options.out, json.dumps({"asked": asked, "seconds per picture": measured}, indent=2) + "\n")


if __name__ == "__main__":
    main()
