"""Kill Ray workers, take a node away and kill the driver while it paints; compare the table with the local engine's.

A cluster of three nodes (Ray's own ``cluster_utils``: separate node processes on this machine) paints a tiny
random-weight pipeline. After the first commit a worker is killed every few seconds, one node is taken away without
warning and another one joins later, and the driver is killed once and started again. Every complete table must equal
the local engine's, row for row, byte for byte; a run in which not every kind of fault came in time does not count.

    python bench/ray_faults.py --num-runs 3
    python bench/ray_faults.py --speed       # pictures per second of one and of two workers, without faults
"""

import argparse
import itertools
import multiprocessing
import os
import random
import runpy
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from scaling import can_judge
from stablerep.generation.execute import GenerateConfig, generate
from stablerep.store import CaptionTable, ImageTable, caption_id

HELPERS = Path(__file__).parents[1] / "tests" / "generation"
MEMORY = 100 * 2**20
EVENTS = ("worker", "node", "worker", "driver", "join")
"""What happens in turn; after these a worker dies each time."""
FAULTS = ("worker", "node", "driver")
"""What every run must have survived."""


def prepare(folder: Path, num_captions: int, num_steps: int) -> GenerateConfig:
    """Write the pipeline and the captions, and say how to paint them."""
    runpy.run_path(str(HELPERS / "tiny_pipelines.py"))["pixart"](folder / "pipeline")
    texts = [
        f"a red {letter}{number}" for number, letter in zip(range(num_captions), itertools.cycle("abcdefgh"))
    ]
    CaptionTable.open_or_create(folder / "captions.lance").append(
        {"id": caption_id(text), "text": text, "source": "bench", "group": text} for text in texts
    )
    return GenerateConfig(
        captions=folder / "captions.lance",
        out=folder / "local.lance",
        teacher=str(folder / "pipeline"),
        num_images=8,
        num_inference_steps=num_steps,
        batch_size=4,
        format="png",
        device="cpu",
        commit_seconds=0.5,
    )


def contents(path: Path) -> pa.Table:
    """All rows and columns, in the order of their keys."""
    table = ImageTable.open(path)
    return table.read(table.schema.names).sort_by([("caption_id", "ascending"), ("image_index", "ascending")])


def num_rows(path: Path) -> int:
    """Rows that are committed; 0 where there is no table yet."""
    return len(ImageTable.open(path)) if (path / "_versions").is_dir() else 0


def start(config: GenerateConfig) -> Any:
    """A driver in a process of its own."""
    driver = multiprocessing.get_context("spawn").Process(target=generate, args=(config,))
    driver.start()
    return driver


class Faults:
    """What happens to the cluster, each fault once it is due."""

    def __init__(self, cluster: Any, seconds: float, seed: int) -> None:
        self._cluster = cluster
        self._every = seconds
        self._draw = random.Random(seed)
        self._workers_below = runpy.run_path(str(HELPERS / "ray_cluster.py"))["workers_below"]
        self._nodes = [cluster.add_node(num_cpus=1, object_store_memory=MEMORY) for _ in range(3)]
        self._due: Iterator[str] = itertools.chain(EVENTS, itertools.repeat("worker"))
        self._next = 0.0
        self.happened: Counter[str] = Counter()

    def strike(self, driver: Any) -> None:
        """Let the next fault happen if it is time; the driver is killed here and started again by the caller."""
        if not self._next:
            self._next = time.monotonic()  # the first fault follows the first commit at once
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._every
        fault = next(self._due)
        if fault == "worker":
            workers = self._workers_below(os.getpid())
            if not workers:
                return
            os.kill(self._draw.choice(workers), signal.SIGKILL)
        elif fault == "node":
            self._cluster.remove_node(self._nodes.pop(), allow_graceful=False)
        elif fault == "join":
            self._nodes.append(self._cluster.add_node(num_cpus=1, object_store_memory=MEMORY))
        else:
            driver.kill()
        self.happened[fault] += 1


def disturbed_run(config: GenerateConfig, seconds: float, seed: int) -> Counter[str]:
    """Paint the table while faults happen; returns how many of each did."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": MEMORY, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        faults = Faults(cluster, seconds, seed)
        config = replace(config, engine="ray", address=cluster.address, num_workers=3)
        driver = start(config)
        while True:
            driver.join(0.2)
            if driver.exitcode == 0:
                return faults.happened
            if driver.exitcode is not None:
                if driver.exitcode != -signal.SIGKILL:
                    raise RuntimeError(f"the driver ended with code {driver.exitcode}")
                driver = start(config)
            elif num_rows(config.out):
                faults.strike(driver)
    finally:
        cluster.shutdown()


def measure_speed(config: GenerateConfig) -> float:
    """Pictures per second of two workers over those of one; loading does not count."""
    import ray

    speeds = []
    for num_workers in (1, 2):
        own = {"include_dashboard": False, "object_store_memory": MEMORY, "log_to_driver": False}
        ray.init(address="local", num_cpus=2, **own)
        out = config.out.with_name(f"speed-{num_workers}.lance")
        # All workers are up before the clock starts, as each has answered once.
        summary = generate(replace(config, out=out, engine="ray", num_workers=num_workers))
        ray.shutdown()
        speeds.append(summary.images_per_second)
        print(f"{num_workers} workers: {summary.images_per_second:.2f} pictures/s")
    return speeds[1] / speeds[0]


def main() -> int:
    """Print one line per run; 1 where a table differs or two workers are not 1.8 times as fast as one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-runs", type=int, default=1, help="disturbed runs in a row")
    parser.add_argument("--num-captions", type=int, default=480, help="captions, of 8 pictures each")
    parser.add_argument("--num-steps", type=int, default=40, help="denoising steps: how long a picture takes")
    parser.add_argument("--every", type=float, default=20.0, help="seconds between faults")
    parser.add_argument("--seed", type=int, default=0, help="which workers are killed")
    parser.add_argument("--speed", action="store_true", help="measure two workers against one instead")
    arguments = parser.parse_args()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as name:
        config = prepare(Path(name), arguments.num_captions, arguments.num_steps)
        if arguments.speed:
            if not can_judge():
                return 0
            ratio = measure_speed(config)
            print(
                f"{'PASSED' if ratio >= 1.8 else 'FAILED'}: two workers paint {ratio:.2f} times as fast as one"
            )
            return 0 if ratio >= 1.8 else 1
        generate(config)
        expected = contents(config.out)
        num_equal = 0
        for run in range(arguments.num_runs):
            disturbed = replace(config, out=config.out.with_name(f"run-{run}.lance"))
            begin = time.monotonic()
            happened = disturbed_run(disturbed, arguments.every, arguments.seed + run)
            equal = contents(disturbed.out).equals(expected)
            missing = [fault for fault in FAULTS if not happened[fault]]
            num_equal += equal and not missing
            faults = ", ".join(f"{count} x {fault}" for fault, count in happened.items())
            print(
                f"run {run}: {time.monotonic() - begin:.0f} s, {faults}: {'equal' if equal else 'DIFFERENT'}"
                + (f"; not in time: {', '.join(missing)} (take more captions)" if missing else "")
            )
    passed = num_equal == arguments.num_runs
    print(
        f"{'PASSED' if passed else 'FAILED'}: {num_equal} of {arguments.num_runs} tables equal the local engine's "
        "after every kind of fault"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
