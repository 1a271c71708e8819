"""Benchmarks from the user's own files, and from torchvision's classes in small copies of their layouts."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_icons import real_rows, write_tables

from stablerep.decoding import decode_image
from stablerep.errors import UserError
from stablerep.evaluation.benchmarks import BENCHMARKS, BenchmarkData, MissingDataError, load_benchmark
from stablerep.evaluation.protocols import EvaluateConfig, evaluate
from stablerep.evaluation.public import PUBLIC, SEVERAL, VOC_CLASSES, held_out


def picture(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), colour).save(path)
    return path


def test_class_folders_with_three_parts(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        for name in ("cat", "dog"):
            picture(tmp_path / part / name / "deep" / "one.png")
            picture(tmp_path / part / name / "two.JPG")
    picture(tmp_path / "test" / "cow" / "one.png")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no picture")
    benchmark = load_benchmark("folder", BenchmarkData(folder=tmp_path))
    assert benchmark.classes == ("cat", "dog")
    assert [len(benchmark.train), len(benchmark.validation)] == [4, 4]
    test = benchmark.tests["test"]
    assert test.labels.tolist() == [0, 0, 1, 1]
    assert test.num_left_out == 1
    assert benchmark.train.images[0] == (tmp_path / "train" / "cat" / "deep" / "one.png").read_bytes()


def test_class_folders_as_imagenet_has_them(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for number in range(20):
            picture(tmp_path / "train" / name / f"{number}.png")
        picture(tmp_path / "val" / name / "0.png")
    benchmark = load_benchmark("folder", BenchmarkData(folder=tmp_path))
    assert [len(benchmark.train), len(benchmark.validation)] == [36, 4]
    assert list(benchmark.tests) == ["val"]
    assert not set(benchmark.train.groups) & set(benchmark.validation.groups)


def test_a_table_is_split_as_it_says(tmp_path: Path, world: Path) -> None:
    benchmark = load_benchmark("table", BenchmarkData(table=world / "images.lance"))
    assert [len(benchmark.train), len(benchmark.validation), len(benchmark.tests["test"])] == [84, 24, 36]
    rows = [row for row in real_rows() if row["split"] != "validation"]
    table = write_tables(tmp_path / "other", rows) / "images.lance"
    other = load_benchmark("table", BenchmarkData(table=table))
    assert len(other.train) + len(other.validation) == 84
    assert not set(other.train.groups) & set(other.validation.groups)
    assert set(benchmark.train.attributes["style"]) == {"noto", "twemoji", "clipart", "fluent"}


def cifar(folder: Path) -> None:
    root = folder / "cifar-10-batches-py"
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]:
        content = {
            "data": rng.integers(0, 256, (20, 3072), dtype=np.uint8),
            "labels": [number % 10 for number in range(20)],
        }
        (root / name).write_bytes(pickle.dumps(content))
    (root / "batches.meta").write_bytes(
        pickle.dumps({"label_names": [f"class_{number}" for number in range(10)]})
    )


def test_cifar_has_its_official_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of torchvision's class everything is real but the checksums, which no small copy can have."""
    import torchvision.datasets.cifar as module

    cifar(tmp_path)
    monkeypatch.setattr(module, "check_integrity", lambda path, _: Path(path).is_file())
    for name in ("cifar10", "torchvision:CIFAR10"):
        benchmark = load_benchmark(name, BenchmarkData(datasets=tmp_path))
        assert [len(benchmark.train), len(benchmark.validation)] == [80, 20]
        assert list(benchmark.tests) == ["official test"]
        assert benchmark.names[3] == "class 3"
        assert (benchmark.metric, len(benchmark.tests["official test"])) == ("top1", 20)
        assert decode_image(benchmark.train.images[0]).shape == (3, 32, 32)
        assert np.bincount(benchmark.validation.labels).tolist() == [2] * 10


def test_dtd_keeps_its_files_and_its_three_splits(tmp_path: Path) -> None:
    root = tmp_path / "dtd" / "dtd"
    for part in ("train", "val", "test"):
        names = []
        for texture in ("banded", "dotted"):
            file = f"{texture}/{texture}_{part}.jpg"
            picture(root / "images" / file)
            names.append(file)
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / f"{part}1.txt").write_text("\n".join(names))
    benchmark = load_benchmark("dtd", BenchmarkData(datasets=tmp_path))
    assert benchmark.classes == ("banded", "dotted")
    assert benchmark.train.images[1] == (root / "images" / "dotted" / "dotted_train.jpg").read_bytes()
    assert [len(benchmark.validation), len(benchmark.tests["official test"])] == [2, 2]


def test_sun397_reads_the_official_lists(tmp_path: Path) -> None:
    root = tmp_path / "SUN397"
    places = ("abbey", "bar", "cafe")
    for place in places:
        for number in range(5):
            picture(root / place[0] / place / f"sun_{number}.jpg")
    (root / "ClassName.txt").write_text("\n".join(f"/{place[0]}/{place}" for place in places))
    data = BenchmarkData(datasets=tmp_path)
    with pytest.raises(MissingDataError, match=r"Training_01\.txt is missing"):
        load_benchmark("sun397", data)
    for name, numbers in (("Training_01.txt", range(5)), ("Testing_01.txt", range(4, 5))):
        lines = [f"/{place[0]}/{place}/sun_{number}.jpg" for place in places for number in numbers]
        (root / name).write_text("\n".join(lines))
    benchmark = load_benchmark("sun397", data)
    assert [len(benchmark.train), len(benchmark.validation)] == [12, 3]
    assert benchmark.tests["official test 1"].labels.tolist() == [0, 1, 2]


def test_caltech_draws_30_of_each_class_without_replacement(tmp_path: Path) -> None:
    root = tmp_path / "caltech101" / "101_ObjectCategories"
    for name in ("ant", "bonsai"):
        for number in range(1, 41):
            picture(root / name / f"image_{number:04d}.jpg")
    (tmp_path / "caltech101" / "Annotations").mkdir()
    (root / "BACKGROUND_Google").mkdir()
    benchmark = load_benchmark("caltech101", BenchmarkData(datasets=tmp_path))
    known = [*benchmark.train.groups, *benchmark.validation.groups]
    assert len(set(known)) == len(known) == 60
    assert np.bincount(benchmark.train.labels).tolist() == [24, 24]
    (test,) = benchmark.tests.values()
    assert len(test) == 20
    assert not set(test.groups) & set(known)


def test_voc_counts_no_class_that_only_difficult_objects_show(tmp_path: Path) -> None:
    root = tmp_path / "VOCdevkit" / "VOC2007"
    for part in ("train", "val", "test"):
        stem = f"0{part}"
        picture(root / "JPEGImages" / f"{stem}.jpg")
        objects = [("cat", 0), ("dog", 1), ("cat", 1)]
        shown = "".join(
            f"<object><name>{name}</name><difficult>{hard}</difficult></object>" for name, hard in objects
        )
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{shown}</annotation>")
        lists = root / "ImageSets" / "Main"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{part}.txt").write_text(stem)
    benchmark = load_benchmark("voc2007", BenchmarkData(datasets=tmp_path))
    assert benchmark.several and benchmark.name in SEVERAL
    labels = benchmark.tests["official test"].labels[0]
    assert (labels[VOC_CLASSES.index("cat")], labels[VOC_CLASSES.index("dog")]) == (1, -1)
    assert labels.sum() == 0
    assert benchmark.several


def test_fairface_lists_give_target_and_groups(tmp_path: Path) -> None:
    root = tmp_path / "fairface"
    for part in ("train", "val"):
        lines = ["file,age,gender,race,service_test"]
        for number in range(20):
            picture(root / part / f"{number}.jpg")
            gender, race = ("Male", "Female")[number % 2], ("Black", "White")[number // 2 % 2]
            lines.append(f"{part}/{number}.jpg,20-29,{gender},{race},True")
        (root / f"fairface_label_{part}.csv").write_text("\n".join(lines))
    benchmark = load_benchmark("fairface-gender", BenchmarkData(datasets=tmp_path))
    assert benchmark.classes == ("Female", "Male")
    test = benchmark.tests["official validation"]
    assert set(test.attributes) == {"age", "race"}
    assert test.attributes["race"][:3].tolist() == ["Black", "Black", "White"]
    assert [len(benchmark.train), len(benchmark.validation)] == [18, 2]


@pytest.mark.parametrize("name", [*PUBLIC, "folder", "table", "fairface-race", "torchvision:EuroSAT"])
def test_nothing_is_downloaded_unless_asked(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="--"):
        load_benchmark(name, BenchmarkData())
    with pytest.raises(MissingDataError):
        load_benchmark(name, BenchmarkData(datasets=tmp_path, folder=tmp_path, table=tmp_path / "none"))
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_names_are_known_or_refused(tmp_path: Path) -> None:
    assert len(PUBLIC) == 11
    assert set(PUBLIC) < set(BENCHMARKS)
    assert EvaluateConfig(run=tmp_path, benchmarks=("torchvision:EuroSAT",)).benchmarks
    with pytest.raises(UserError, match="no data set 'Nothing'"):
        load_benchmark("torchvision:Nothing", BenchmarkData(datasets=tmp_path))


def test_imagenet_of_torchvision_is_tested_on_val(tmp_path: Path) -> None:
    """Its class knows no split `test`, gives every class several names, and fetches nothing."""
    data = BenchmarkData(datasets=tmp_path)
    with pytest.raises(MissingDataError, match=r"does not hold ImageNet .*; copy it there$") as caught:
        load_benchmark("torchvision:ImageNet", data)
    assert "--download" not in str(caught.value)
    names = {"n1": ("crane",), "n2": ("crane",), "n3": ("tench", "Tinca tinca")}
    torch.save((names, ["n1"]), tmp_path / "meta.bin")
    for folder in names:
        for number in range(5):
            picture(tmp_path / "train" / folder / f"{number}.JPEG")
        picture(tmp_path / "val" / folder / "0.JPEG")
    benchmark = load_benchmark("torchvision:ImageNet", data)
    assert benchmark.classes == ("crane (0)", "crane (1)", "tench, Tinca tinca")
    assert [len(benchmark.train), len(benchmark.validation)] == [12, 3]
    assert benchmark.tests["official validation"].labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("CocoDetection", "CocoDetection also needs annFile, which no option can give"),
        ("FakeData", "FakeData does not read a folder"),
    ],
)
def test_classes_that_no_folder_and_split_describe_are_refused(
    wanted: str, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        load_benchmark(f"torchvision:{wanted}", BenchmarkData(datasets=tmp_path))


def test_a_class_whose_splits_have_other_names_is_skipped(
    world: Path, make_run: Callable[[str, int], Path], tmp_path: Path
) -> None:
    config = EvaluateConfig(
        run=make_run("mine", 3),
        world=world,
        datasets=tmp_path,
        benchmarks=("torchvision:EMNIST", "icons"),
        protocols=("knn",),
        baselines=False,
        num_bootstrap=5,
        precision="float32",
        device="cpu",
    )
    scores = evaluate(config)
    assert {record.benchmark for record in scores.records} == {"icons"}
    sentence = scores.skipped["torchvision:EMNIST"]
    assert "EMNIST: Unknown value 'val' for argument split" in sentence
    assert sentence.endswith(
        "; put the pictures into class folders and name them with --benchmarks folder --folder"
    )


def test_training_pictures_under_another_name_are_missing_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Places365 has them: `val` is there, and training is called `train-standard`."""
    import torchvision.datasets
    from torchvision.datasets.utils import verify_str_arg

    class Places365:
        def __init__(self, root: Path, split: str = "train-standard") -> None:
            verify_str_arg(split, "split", ("train-standard", "val"))
            self.root = root

    monkeypatch.setattr(torchvision.datasets, "Places365", Places365)
    with pytest.raises(MissingDataError, match=r"Places365: Unknown value 'train' .*--benchmarks folder"):
        load_benchmark("torchvision:Places365", BenchmarkData(datasets=tmp_path))


def test_items_without_one_class_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "Kitti" / "raw" / "training"
    for number in range(2):
        picture(root / "image_2" / f"{number}.png")
        (root / "label_2").mkdir(exist_ok=True)
        (root / "label_2" / f"{number}.txt").write_text("Car 0 0 0 1 1 2 2 0 0 0 0 0 0 0\n")
    picture(tmp_path / "Kitti" / "raw" / "testing" / "image_2" / "0.png")
    with pytest.raises(UserError, match="Kitti of torchvision does not give every picture one class"):
        load_benchmark("torchvision:Kitti", BenchmarkData(datasets=tmp_path))


def test_a_class_that_fetches_by_itself_is_told_not_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import SEMEION

    monkeypatch.setattr(SEMEION, "download", lambda _: pytest.fail("it fetches"))
    with pytest.raises(MissingDataError, match="the same command with --download fetches it"):
        load_benchmark("torchvision:SEMEION", BenchmarkData(datasets=tmp_path))


def test_shares_are_drawn_class_by_class() -> None:
    labels = np.repeat([0, 1], [10, 30])
    held, rest = held_out(labels, 0.2, "x")
    assert np.bincount(labels[held]).tolist() == [2, 6]
    assert sorted([*held, *rest]) == list(range(40))
    assert held_out(labels, 3, "x")[0].tolist() != held_out(labels, 3, "y")[0].tolist()
