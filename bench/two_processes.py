"""Training in two processes with one thread each beside one process with one thread, on the same global batch.

    python bench/two_processes.py [--captions 32] [--num-steps 12]

StableRep with ViT-S/16 at 224 px through the whole of ``train``: tables, views, gathered loss, averaged gradients. The
rate is that of the steps after the first, which compiles.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from large_batch import image_rows
from scaling import can_judge
from stablerep.store import ImageTable

BAR = 1.7
WARM_UP = 2
"""Steps that do not count."""


def rate(images: Path, out: Path, num_processes: int, options: argparse.Namespace) -> float:
    """Images per second of a training run, over all of its processes."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(num_processes),
    ]
    command += ["--no-python", str(Path(sys.executable).with_name("stablerep")), "train", "stablerep"]
    command += ["--data.images", str(images), "--out", str(out), "--device", "cpu", "--quiet"]
    command += ["--data.captions-per-batch", str(options.captions), "--data.images-per-caption", "2"]
    command += ["--num-steps", str(WARM_UP + options.num_steps), "--log-every", "1", "--save-every", "1000"]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    first, last = lines[WARM_UP - 1], lines[-1]
    return float((last["images_seen"] - first["images_seen"]) / (last["time"] - first["time"]))


def main() -> int:
    """Print both rates; 1 where two processes are not 1.7 times as fast as one."""
    parser = argparse.ArgumentParser(description="two processes of training beside one")
    parser.add_argument("--captions", type=int, default=32, help="in a step, of two images each")
    parser.add_argument("--num-steps", type=int, default=12)
    options = parser.parse_args()
    if not can_judge():
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ImageTable.open_or_create(folder / "images.lance").append(image_rows(4 * options.captions))
        rates = [
            rate(folder / "images.lance", folder / f"run-{number}", number, options) for number in (1, 2)
        ]
    for number, value in enumerate(rates, 1):
        print(f"{number} process(es): {value:.2f} images/s")
    ratio = rates[1] / rates[0]
    print(f"{ratio:.2f}, bar {BAR}: {'reached' if ratio >= BAR else 'MISSED'}")
    return 0 if ratio >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
