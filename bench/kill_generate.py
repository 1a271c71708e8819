"""Kill ``generate`` at random moments, go on, and compare the table with that of a run that nobody disturbed.

A tiny random-weight PixArt pipeline paints 24 captions x 4 images, one commit per batch. A process is started, killed
(SIGKILL) after a random time and started again until the table is complete; then the next table is begun, until so
many kills have landed. Every complete table must equal the undisturbed one row for row, byte for byte.

    python bench/kill_generate.py --num-kills 20
"""

import argparse
import multiprocessing
import random
import runpy
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from stablerep.generation.execute import GenerateConfig, generate
from stablerep.store import CaptionTable, ImageTable, caption_id

TINY_PIPELINES = Path(__file__).parents[1] / "tests" / "generation" / "tiny_pipelines.py"
NUM_CAPTIONS = 24
# Not Lance, which must not be loaded before a fork.
PRELOAD = ["diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha", "transformers.models.t5.modeling_t5"]


@dataclass
class Verdict:
    """How many rows were there when each kill landed, and how every completed table compares."""

    rows_at_kill: list[int] = field(default_factory=list)
    num_tables: int = 0
    num_equal: int = 0

    @property
    def passed(self) -> bool:
        return self.num_equal == self.num_tables > 0

    def __str__(self) -> str:
        painting = sum(0 < rows < NUM_CAPTIONS * 4 for rows in self.rows_at_kill)
        return (
            f"{'PASSED' if self.passed else 'FAILED'}: {len(self.rows_at_kill)} kills, {painting} of them at a "
            f"half-filled table; {self.num_equal} of {self.num_tables} tables equal the undisturbed one, row for row, "
            "byte for byte"
        )


def prepare(folder: Path) -> GenerateConfig:
    """Write the pipeline and the captions, and say how to paint them."""
    runpy.run_path(str(TINY_PIPELINES))["pixart"](folder / "pipeline")
    texts = [f"{colour} {thing}" for colour in ("a red", "blue", "the small") for thing in "abcdefgh"]
    CaptionTable.open_or_create(folder / "captions.lance").append(
        {"id": caption_id(text), "text": text, "source": "bench", "group": text} for text in texts
    )
    return GenerateConfig(
        captions=folder / "captions.lance",
        out=folder / "undisturbed.lance",
        teacher=str(folder / "pipeline"),
        num_images=4,
        num_inference_steps=4,
        batch_size=4,
        format="png",
        device="cpu",
        commit_seconds=0.0,
    )


def contents(path: Path) -> pa.Table:
    """All rows and columns, in the order of their keys."""
    table = ImageTable.open(path)
    return table.read(table.schema.names).sort_by([("caption_id", "ascending"), ("image_index", "ascending")])


def run(config: GenerateConfig, seconds: float | None = None) -> bool:
    """Paint in a process of its own and kill it after so many seconds; whether it was done by then."""
    context = multiprocessing.get_context("forkserver")  # the child begins with the slow imports done
    context.set_forkserver_preload(PRELOAD)
    child = context.Process(target=generate, args=(config,))
    child.start()
    child.join(seconds)
    if child.exitcode is None:
        child.kill()
        child.join()
        return False
    if child.exitcode != 0:
        raise RuntimeError(f"a run that was not killed ended with code {child.exitcode}")
    return True


def kill_and_compare(config: GenerateConfig, num_kills: int, seed: int) -> Verdict:
    """Paint ``config.out`` undisturbed, then disturb as many runs as it takes."""
    run(replace(config, dry_run=True))  # starts the fork server, which must not count
    begin = time.monotonic()
    run(config)
    duration = time.monotonic() - begin
    expected = contents(config.out)
    assert len(expected) == NUM_CAPTIONS * config.num_images

    moments = random.Random(seed)
    verdict = Verdict()
    while len(verdict.rows_at_kill) < num_kills:
        disturbed = replace(config, out=config.out.with_name(f"disturbed-{verdict.num_tables}.lance"))
        while not run(
            disturbed, moments.uniform(0, duration) if len(verdict.rows_at_kill) < num_kills else None
        ):
            verdict.rows_at_kill.append(len(ImageTable.open(disturbed.out)) if disturbed.out.exists() else 0)
        verdict.num_tables += 1
        verdict.num_equal += contents(disturbed.out).equals(expected)
    return verdict


def main() -> int:
    """Print one line; 1 where a table differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--num-kills", type=int, default=20, help="kills that must land before their process is done"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        verdict = kill_and_compare(prepare(Path(folder)), arguments.num_kills, arguments.seed)
    print(verdict)
    return 0 if verdict.passed else 1


if __name__ == "__main__":
    sys.exit(main())
