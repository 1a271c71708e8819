"""Learning, evaluation and the gallery read tables in an object store as they read those of a disk."""

from pathlib import Path

import pytest

from evaluation.tiny_icons import TINY, real_rows
from evaluation.tiny_icons import write_tables as write_icons
from gallery.small_gallery import open_small
from learning.tiny_training import (
    NUM_CAPTIONS,
    World,
    caption_rows,
    image_row,
    train_config,
    weights,
    write_captions,
    write_images,
)
from stablerep.errors import UserError
from stablerep.evaluation.benchmarks import BenchmarkData, load_benchmark
from stablerep.evaluation.protocols import EvaluateConfig, evaluate
from stablerep.features import untrained_encoder
from stablerep.gallery.pairs import Place
from stablerep.gallery.session import Wish
from stablerep.learning.methods import train
from stablerep.models.encoder import save_encoder
from stablerep.store import ImageTable

pytestmark = pytest.mark.usefixtures("server")


def written(folder: Path) -> World:
    """Twelve captions of two pictures each, for learners that need no painter."""
    rows = [image_row(number, index) for number in range(NUM_CAPTIONS) for index in range(2)]
    return World(
        captions=write_captions(folder / "captions.lance", caption_rows()),
        images=write_images(folder / "images.lance", rows),
        autoencoder=folder / "none",
        painter=folder / "none",
    )


@pytest.mark.slow
def test_learners_train_alike_on_tables_there_and_here(tmp_path: Path) -> None:
    worlds = written(tmp_path), written(Path("s3://bucket/learning"))
    for method in ("stablerep", "clip"):
        runs = [
            train(method, train_config(method, world, tmp_path / f"{method}-{number}", num_steps=2)).run
            for number, world in enumerate(worlds)
        ]
        first, second = (weights(Path(run)) for run in runs)
        assert first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


@pytest.mark.slow
def test_benchmarks_lie_there_too(tmp_path: Path) -> None:
    world = write_icons(Path("s3://bucket/icons"), real_rows())
    here = load_benchmark("icons", BenchmarkData(world=write_icons(tmp_path / "icons", real_rows())))
    there = load_benchmark("icons", BenchmarkData(world=world))
    assert there.classes == here.classes and there.tests.keys() == here.tests.keys()
    save_encoder(untrained_encoder(TINY, 0), tmp_path / "run" / "encoder")
    config = EvaluateConfig(run=tmp_path / "run", world=world, benchmarks=("icons",), protocols=("knn",))
    scores = evaluate(config)
    assert scores.records and not scores.skipped
    assert (tmp_path / "run" / "scores.json").exists()


@pytest.mark.slow
def test_the_gallery_shows_and_marks_a_table_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a file of this machine: say where with --cache"):
        open_small(Path("s3://bucket/refused"))
    gallery = open_small(Path("s3://bucket/gallery"), cache=tmp_path / "cache")
    assert len(gallery.find(Wish(text="blue"))[0]) == 5
    gallery.mark([Place(0, 3)], "reject")
    marks = ImageTable.open("s3://bucket/gallery/images.lance").read(["gallery_mark"])["gallery_mark"]
    assert marks.to_pylist().count("reject") == 1
    assert gallery.num_marked() == {"reject": 1}
