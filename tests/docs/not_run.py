"""Command lines of the documentation that no test runs, and why: only what cannot run on one machine without a network.

A line stands here as it stands in its page. One that is gone from its page has no place here: test_docs_blocks.py
compares.
"""

from collections.abc import Mapping

_SETUP = "is what CI begins with, and what all tests stand on"
_WHOLE = "runs all tests, and so itself"
_QUICKSTART = "takes six minutes; docs/index.md has the same in small, which is run"
_STEP = "compiles and trains ViT-S/16 at 224 px: `make bench`"
_MINUTES = "starts two processes or a cluster and measures them against each other, for minutes: `make bench`"
_KILLS = "starts and kills 20 processes, for minutes: `make bench`; see tests/generation/test_interrupted.py"

NOT_RUN: Mapping[tuple[str, str], str] = {
    (
        "README.md",
        "make quickstart    # learn to see from painted pictures, end to end, on a CPU",
    ): _QUICKSTART,
    ("README.md", "make test          # run the test suite"): _WHOLE,
    ("docs/index.md", "make setup"): _SETUP,
    ("docs/index.md", "make quickstart"): _QUICKSTART,
    ("docs/guides/gallery.md", "pip install '.[gallery]'"): "asks a package registry",
    (
        "docs/guides/interchange.md",
        "stablerep evaluate timm:vit_base_patch16_224.mae --world icons --out scores-mae --download",
    ): "fetches 350 MB of weights from the hub; tests/models/test_foreign.py loads such files by name",
    (
        "docs/guides/interchange.md",
        "stablerep export runs/stablerep-plus --to onnx --out exported-onnx          # pip install '.[onnx]'",
    ): "traces both towers, for a quarter of a minute; tests/models/test_export.py runs what comes out",
    ("docs/guides/scale.md", "ray up docs/examples/ray-cluster.yaml"): "rents machines",
    ("docs/performance.md", "python bench/train_step.py"): _STEP,
    ("docs/performance.md", "python bench/train_step.py --captions 8 --rounds 3"): _STEP,
    (
        "docs/performance.md",
        "python bench/loss.py --ranks 2",
    ): "starts two processes for each way; tests/learning/test_contrastive.py compares two with one",
    ("docs/performance.md", "python bench/two_processes.py"): _MINUTES,
    (
        "docs/performance.md",
        "python bench/ray_faults.py --speed --num-captions 120 --num-steps 160",
    ): _MINUTES,
    (
        "docs/performance.md",
        "python bench/loader.py",
    ): "starts twelve processes one after the other: `make bench`",
    ("docs/results.md", "python bench/kill_generate.py"): _KILLS,
    ("docs/results.md", "python bench/kill_train.py stablerep"): _KILLS,
    ("docs/results.md", "python bench/ray_faults.py --num-runs 10"): _MINUTES,
}
"""(page, line) to the reason."""
