"""Kill ``train`` at random moments, go on, and compare the run with one that nobody disturbed.

A tiny model learns from 36 pictures of 12 captions for 40 steps, with a checkpoint after every fifth. A process is
started, killed (SIGKILL) while it starts or a random time after one of the next twelve steps, and started again, until
the run is finished; then the next run is begun, until so many kills have landed. Of every finished run the weights,
the state of the optimiser, the log and what was exported must equal those of the undisturbed one, bit by bit.

    python bench/kill_train.py stablerep --num-kills 20
"""

import argparse
import json
import multiprocessing
import random
import runpy
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from stablerep.learning.methods import METHODS, train
from stablerep.learning.trainer import TrainConfig
from stablerep.run import Run

TINY_TRAINING = Path(__file__).parents[1] / "tests" / "learning" / "tiny_training.py"
NUM_STEPS = 40
PRELOAD = [  # nothing that imports Lance, which is not fork-safe
    "stablerep.models.encoder",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha",
    "transformers.models.t5.modeling_t5",
    "open_clip",
    "torch.utils.tensorboard",
]
CLOCK = (
    "time",
    "images_per_second",
    "model_flops_per_second",
    "share_of_matmul_rate",
    "share_of_time_waiting",
)


@dataclass
class Verdict:
    """How many steps were logged when each kill landed, and how every finished run compares."""

    method: str
    steps_at_kill: list[int] = field(default_factory=list)
    num_runs: int = 0
    num_equal: int = 0

    @property
    def passed(self) -> bool:
        return self.num_equal == self.num_runs > 0

    def __str__(self) -> str:
        training = sum(0 < steps < NUM_STEPS for steps in self.steps_at_kill)
        return (
            f"{'PASSED' if self.passed else 'FAILED'}: {self.method}, {len(self.steps_at_kill)} kills, {training} of "
            f"them between the first step and the last; {self.num_equal} of {self.num_runs} runs equal the undisturbed "
            "one in weights, optimiser, log and export, bit by bit"
        )


def prepare(method: str, folder: Path) -> TrainConfig:
    """Write the tables, and say how to train on them."""
    torch.set_num_threads(1)
    tiny = runpy.run_path(str(TINY_TRAINING))
    config: TrainConfig = tiny["train_config"](
        method, tiny["write_world"](folder), folder / "undisturbed", num_steps=NUM_STEPS, save_every=5
    )
    return config


def contents(path: Path) -> dict[str, bytes]:
    """What a finished run must have in common with another of the same settings."""
    state = torch.load(path / "checkpoint.pt", weights_only=True)
    found = {f"checkpoint.{name}": value for name, value in _leaves(state)}
    log = [
        {name: value for name, value in record.items() if name not in CLOCK}
        for record in Run.open(path).metrics()
    ]
    found["log"] = json.dumps(log).encode()
    products = [folder for folder in path.iterdir() if folder.is_dir() and folder.name != "tensorboard"]
    for file in (file for folder in products for file in folder.rglob("*") if file.is_file()):
        found[str(file.relative_to(path))] = file.read_bytes()
    return found


def _leaves(tree: Any, prefix: str = "") -> list[tuple[str, bytes]]:
    """The tensors and numbers of nested containers as bytes, each under its path."""
    if isinstance(tree, Mapping):
        return [leaf for name, value in tree.items() for leaf in _leaves(value, f"{prefix}.{name}")]
    if isinstance(tree, list | tuple):
        return [leaf for number, value in enumerate(tree) for leaf in _leaves(value, f"{prefix}.{number}")]
    if isinstance(tree, torch.Tensor):
        return [(prefix, f"{tree.dtype}{tuple(tree.shape)}".encode() + tree.contiguous().numpy().tobytes())]
    return [(prefix, repr(tree).encode())]


def run(config: TrainConfig, method: str, moment: tuple[int, float] | None = None) -> bool:
    """Train in a process of its own, and kill it so many seconds after a step; whether it was done by then."""
    # The child begins with everything slow imported, and nothing opened.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    child = context.Process(target=_train_on_one_thread, args=(method, config))
    child.start()
    if moment is not None:
        step, seconds = moment
        while child.exitcode is None and steps_logged(config.out) < step:
            child.join(0.002)
        child.join(seconds)
        if child.exitcode is None:
            child.kill()
            child.join()
            return False
    child.join()
    if child.exitcode != 0:
        raise RuntimeError(f"a run that was not killed ended with code {child.exitcode}")
    return True


def _train_on_one_thread(method: str, config: TrainConfig) -> None:
    torch.set_num_threads(1)
    train(method, config)


def steps_logged(path: Path) -> int:
    """The last step in the log of a run that may just have begun."""
    records = Run(path).metrics()
    return int(records[-1]["step"]) if records else 0


def draw_moment(moments: random.Random, done: int) -> tuple[int, float]:
    """A step to wait for and seconds to wait on: while the process starts, or after one of the next twelve steps."""
    if moments.random() < 0.25:
        return done, moments.uniform(0, 0.5)
    return min(done + moments.randint(1, 12), NUM_STEPS), moments.uniform(0, 0.02)


def kill_and_compare(config: TrainConfig, method: str, num_kills: int, seed: int) -> Verdict:
    """Train ``config.out`` undisturbed, then disturb as many runs as it takes."""
    run(config, method)
    expected = contents(config.out)
    moments = random.Random(seed)
    verdict = Verdict(method)
    while len(verdict.steps_at_kill) < num_kills:
        disturbed = replace(config, out=config.out.with_name(f"disturbed-{verdict.num_runs}"))
        while (done := steps_logged(disturbed.out)) < NUM_STEPS and len(verdict.steps_at_kill) < num_kills:
            if not run(disturbed, method, draw_moment(moments, done)):
                verdict.steps_at_kill.append(steps_logged(disturbed.out))
        run(disturbed, method)
        verdict.num_runs += 1
        verdict.num_equal += contents(disturbed.out) == expected
    return verdict


def main() -> int:
    """Print one line; 1 where a run differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("method", choices=list(METHODS), nargs="?", default="stablerep")
    parser.add_argument(
        "--num-kills", type=int, default=20, help="kills that must land before their process is done"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = prepare(arguments.method, Path(folder))
        verdict = kill_and_compare(config, arguments.method, arguments.num_kills, arguments.seed)
    print(verdict)
    return 0 if verdict.passed else 1


if __name__ == "__main__":
    sys.exit(main())
