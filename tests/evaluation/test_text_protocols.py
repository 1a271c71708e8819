"""Protocols that need a text tower: zero-shot, retrieval, composition."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_icons import COLOURS
from tiny_joint import aligned_model, joint_run, random_model

from stablerep.evaluation.benchmarks import BenchmarkData, MissingDataError
from stablerep.evaluation.captioned import CAPTIONED
from stablerep.evaluation.composition import PAIRS, preferred, read_aro, swapped_attribute, swapped_relation
from stablerep.evaluation.protocols import EvaluateConfig, evaluate
from stablerep.evaluation.retrieval import by_chance, first_ranks
from stablerep.evaluation.scores import Scores
from stablerep.evaluation.zero_shot import ZeroShotConfig


def scored(run: Path, world: Path, *protocols: str, **more: object) -> Scores:
    return evaluate(
        EvaluateConfig(
            run=run,
            world=world,
            protocols=protocols,
            num_bootstrap=50,
            precision="float32",
            device="cpu",
            **more,
        )
    )


def test_zero_shot_names_what_the_model_was_made_to_know(world: Path, tmp_path: Path) -> None:
    run = joint_run(tmp_path / "aligned", aligned_model())
    scores = scored(run, world, "zero-shot", zero_shot=ZeroShotConfig(templates=("a {}",)))
    assert {record.encoder for record in scores.records} == {"aligned"}
    for record in scores.records:
        assert record.top1.value > 0.9
        assert record.chosen_on == "nothing"
        assert record.validation_accuracy is None
        assert record.settings == {"templates": ["a {}"], "resize": "squash"}
    assert Scores.read(run).records == scores.records


def test_an_encoder_without_texts_is_skipped_with_a_sentence(
    world: Path, make_run: Callable[[str, int], Path]
) -> None:
    run = make_run("plain", 1)
    scores = scored(run, world, "knn", "retrieval", baselines=False)
    assert {record.protocol for record in scores.records} == {"knn"}
    assert "holds no image-text model" in scores.skipped["icons: retrieval: plain"]


def test_retrieval_of_a_random_model_is_chance_and_its_parts_are_stated(world: Path, tmp_path: Path) -> None:
    scores = scored(joint_run(tmp_path / "random", random_model()), world, "retrieval")
    (found,) = scores.measurements
    assert found.protocol == "retrieval"
    assert found.settings == {"at": [1, 5, 10], "resize": "squash"}
    assert found.sizes == {"num_pictures": 36, "num_texts": 9}  # 9 test concepts, one caption each
    assert found.metrics["image to text R@1"].low <= found.chance["image to text R@1"] + 0.15
    assert found.chance["image to text R@1"] == pytest.approx(1 / 9)
    assert found.metrics["image to text R@10"].value == 1  # nine texts in all
    assert Scores.read(tmp_path / "random").measurements == scores.measurements


def test_ranks_as_counted_by_hand() -> None:
    queries = np.array([[1.0, 0.0], [0.0, 1.0]])
    candidates = np.array([[0.9, 0.1], [1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    ranks, positives = first_ranks(queries, candidates, np.array(["a", "b"]), np.array(["a", "c", "b", "b"]))
    assert ranks.tolist() == [1, 0]
    assert positives.tolist() == [1, 2]
    alone, none = first_ranks(queries[:1], candidates, np.array(["z"]), np.array(["a", "c", "b", "b"]))
    assert (alone.tolist(), none.tolist()) == ([4], [0])
    tied, _ = first_ranks(queries[:1], candidates[[1, 1]], np.array(["a"]), np.array(["a", "c"]))
    assert tied.tolist() == [1]


@pytest.mark.slow
def test_recall_equals_torchmetrics() -> None:
    retrieval = pytest.importorskip("torchmetrics.retrieval")
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    queries, candidates = rng.normal(size=(30, 8)), rng.normal(size=(50, 8))
    of_queries, of_candidates = rng.integers(0, 12, 30), np.arange(50) % 12
    ranks, _ = first_ranks(queries, candidates, of_queries, of_candidates)
    metric = retrieval.RetrievalHitRate(top_k=5)
    metric.update(
        torch.from_numpy(queries @ candidates.T).flatten(),
        torch.from_numpy(of_queries[:, None] == of_candidates[None]).flatten(),
        torch.arange(30).repeat_interleave(50),
    )
    assert float((ranks < 5).mean()) == pytest.approx(float(metric.compute()))


def test_chance_of_retrieval() -> None:
    assert by_chance(np.array([1]), 10, 1) == pytest.approx(0.1)
    assert by_chance(np.array([2]), 4, 2) == pytest.approx(1 - (2 / 4) * (1 / 3))
    assert by_chance(np.array([3]), 4, 2) == 1


@pytest.mark.parametrize(
    ("caption", "swapped"),
    [
        ("a red ball and a blue box", "a blue ball and a red box"),
        ("a woman with dark skin tone", None),
        ("a vertically lined coat", None),
        ("a lemon wedge", "none"),
        ("a small picture of a lemon", "none"),
        ("a black and white cow", "none"),
        ("a picture of a left shoe", "a picture of a right shoe"),
    ],
)
def test_attributes_change_places_or_give_way(caption: str, swapped: str | None) -> None:
    found = swapped_attribute(caption)
    if swapped == "none":
        assert found is None
        return
    assert found is not None
    assert found[0] != caption
    assert swapped is None or found[0] == swapped
    assert swapped_attribute(caption) == found
    if "skin tone" in caption:
        assert found[0].endswith("skin tone")


def test_relations_change_sides_and_keep_the_frame() -> None:
    assert swapped_relation("a cat on a chair") == ("a chair on a cat", "on")
    assert swapped_relation("a picture of a man in a suit, work") == (
        "a picture of a suit in a man, work",
        "in",
    )
    assert swapped_relation("a lemon") is None
    assert swapped_relation("a man with dark skin tone") is None


def test_preference_counts_equals_half() -> None:
    assert preferred(np.array([0.2, 0.0, -1.0])).tolist() == [1, 0.5, 0]


def aro(folder: Path) -> Path:
    images = folder / "aro" / "images"
    images.mkdir(parents=True)
    rows = []
    for place, (label, colour) in enumerate(COLOURS.items()):
        Image.new("RGB", (40, 30), colour).save(images / f"{place}.png")
        box = {"bbox_x": 0, "bbox_y": 0, "bbox_w": 16, "bbox_h": 16}
        other = next(name for name in COLOURS if name != label)
        texts = {"true_caption": f"a {label}", "false_caption": f"a {other}"}
        rows.append({"image_path": f"{place}.png", **box, **texts, "relation_name": "is"})
    (folder / "aro" / "visual_genome_relation.json").write_text(json.dumps(rows))
    return folder


def test_aro_files_give_their_boxes_and_their_captions(world: Path, tmp_path: Path) -> None:
    data = BenchmarkData(datasets=aro(tmp_path))
    (pairs,) = read_aro(data)
    assert (pairs.test, len(pairs.images), pairs.true[0]) == ("relation", 3, "a apple")
    run = joint_run(tmp_path / "aligned", aligned_model())
    scores = scored(run, world, "composition", benchmarks=("aro",), datasets=tmp_path)
    (found,) = scores.measurements
    assert (
        found.metrics["accuracy"].value == found.metrics["accuracy"].high == 1 > found.metrics["accuracy"].low
    )
    assert found.metrics["accuracy with a wrong picture"].value < 1
    assert found.chance["accuracy"] == 0.5


def test_missing_texts_and_files_are_said(tmp_path: Path, world: Path) -> None:
    with pytest.raises(MissingDataError, match="--datasets"):
        read_aro(BenchmarkData())
    with pytest.raises(MissingDataError, match="holds neither"):
        read_aro(BenchmarkData(datasets=tmp_path))
    with pytest.raises(MissingDataError, match=r"captions\.lance is missing"):
        CAPTIONED["icons"](BenchmarkData(world=tmp_path))
    with pytest.raises(MissingDataError, match="no caption has an attribute"):
        PAIRS["icons"](BenchmarkData(world=world))
