"""The paper's eleven data sets, and any other classification data set of torchvision, with their official splits.

Nothing is downloaded unless it is asked for.
"""

import functools
import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stablerep.errors import UserError
from stablerep.evaluation.pictures import items_of, picture_files
from stablerep.evaluation.splits import Benchmark, BenchmarkData, MissingDataError, Split
from stablerep.probes.metrics import Metric
from stablerep.runtime import seed_for

TORCHVISION = "torchvision:"
_HELD_OUT = 0.2
_PER_CLASS = 30
_UNKNOWN_VALUE = "Unknown value"  # how torchvision begins to refuse a split
_CLASS_FOLDERS = "put the pictures into class folders and name them with --benchmarks folder --folder"
_GIVEN = ("root", "train", "split", "loader")  # arguments of torchvision's classes that are filled in here


def torchvision_by_name(name: str, data: BenchmarkData) -> Benchmark:
    """The data set of torchvision that ``torchvision:CLASS`` names, with the splits that its class knows.

    Where it has no split `test`, `val` tests. Without a split of its own 60 / 20 / 20 % of each class train, choose and
    test. Raises ``MissingDataError`` where the pictures are not there or its splits have other names, and ``UserError``
    for a class that torchvision does not have, one that needs more than a folder and a split, and one that does not say
    one class per picture.
    """
    import torchvision.datasets

    wanted = name.removeprefix(TORCHVISION)
    if wanted not in torchvision.datasets.__all__:
        raise UserError(f"torchvision has no data set {wanted!r}; name one of its classes, such as EuroSAT")
    parameters = _parameters(wanted)
    needed = [key for key, one in parameters.items() if one.default is one.empty and key not in _GIVEN]
    if "root" not in parameters or needed:
        why = f"also needs {', '.join(needed)}" if needed else "does not read a folder"
        raise UserError(f"benchmark {name}: {wanted} {why}, which no option can give; {_CLASS_FOLDERS}")
    if "train" in parameters:
        return _from_splits(name, wanted, ({"train": True}, None, {"train": False}), "top1", data)
    if "split" not in parameters:
        return _shared_out(name, _open(name, wanted, {}, data), "top1")
    try:
        return _from_splits(name, wanted, ({"split": "train"}, None, {"split": "test"}), "top1", data)
    except _UnknownSplitError:
        return _from_splits(name, wanted, ({"split": "train"}, None, {"split": "val"}), "top1", data)


class _UnknownSplitError(MissingDataError):
    """A class of torchvision has no split of this name."""


def _parameters(wanted: str) -> Mapping[str, inspect.Parameter]:
    """The named arguments of a class of torchvision."""
    import torchvision.datasets

    every = inspect.signature(getattr(torchvision.datasets, wanted)).parameters
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: parameter for name, parameter in every.items() if parameter.kind not in free}


def _from_splits(
    name: str,
    wanted: str,
    splits: tuple[Mapping[str, Any], Mapping[str, Any] | None, Mapping[str, Any]],
    metric: Metric,
    data: BenchmarkData,
) -> Benchmark:
    """Official train, validation and test; without a validation split a fifth of each training class, by hash."""
    test, train, validation = (  # the test first: which split that is may have to be tried
        None if options is None else _open(name, wanted, options, data)
        for options in (splits[2], splits[0], splits[1])
    )
    classes = _classes(train)
    if validation is None:
        labels = _labels(train)
        held, rest = held_out(labels, _HELD_OUT, name)
        parts = (_split(name, train, rest), _split(name, train, held))
    else:
        parts = (_split(name, train), _split(name, validation))
    tested = "official validation" if splits[2] == {"split": "val"} else "official test"
    return Benchmark(
        name, classes, *parts, {tested: _split(name, test)}, metric, tuple(map(in_words, classes))
    )


def _shared_out(name: str, dataset: Any, metric: Metric) -> Benchmark:
    labels = _labels(dataset)
    test, rest = held_out(labels, _HELD_OUT, f"{name} test")
    validation, train = (rest[part] for part in held_out(labels[rest], 0.25, name))
    classes = _classes(dataset)
    return Benchmark(
        name,
        classes,
        _split(name, dataset, train),
        _split(name, dataset, validation),
        {"a fifth of each class": _split(name, dataset, test)},
        metric,
        tuple(map(in_words, classes)),
    )


def held_out(labels: np.ndarray, share: float | int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Places of a share (or, where it is whole, so many) of each class, drawn without replacement, and the others."""
    taken: list[int] = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        drawn = np.random.default_rng(seed_for("held out", name, int(label))).permutation(rows)
        taken += drawn[: share if isinstance(share, int) else round(len(rows) * share)].tolist()
    chosen = np.array(sorted(taken), dtype=np.int64)
    return chosen, np.setdiff1d(np.arange(len(labels)), chosen)


def _open(name: str, wanted: str, options: Mapping[str, Any], data: BenchmarkData) -> Any:
    """A data set whose pictures stay paths where torchvision lets them; ``MissingDataError`` where it is not there."""
    import torchvision.datasets

    known = _parameters(wanted)
    if data.datasets is None:
        raise MissingDataError(
            f"benchmark {name}: no folder was given; name that of {wanted} with --datasets"
        )
    more: dict[str, Any] = {"loader": Path} if "loader" in known else {}
    if "download" in known:
        more["download"] = data.download  # some classes fetch unless they are told not to
    try:
        return getattr(torchvision.datasets, wanted)(data.datasets, **options, **more)
    except (RuntimeError, OSError, ValueError) as error:
        if _UNKNOWN_VALUE in str(error):
            raise _UnknownSplitError(
                f"benchmark {name}: {wanted}: {_first_line(error).rstrip('.')}; {_CLASS_FOLDERS}"
            ) from error
        fetch = "the same command with --download fetches it, or " if "download" in known else ""
        raise MissingDataError(
            f"benchmark {name}: {data.datasets} does not hold {wanted} ({_first_line(error)}); {fetch}copy it there"
        ) from error


def _split(name: str, dataset: Any, rows: Sequence[int] | np.ndarray | None = None) -> Split:
    places = list(range(len(dataset))) if rows is None else [int(row) for row in rows]
    labels = _labels(dataset)[places]
    return Split(items_of(dataset, places), labels, [f"{name} {place}" for place in places])


def _labels(dataset: Any) -> np.ndarray:
    """Class numbers (M,), from the list that the data set holds, else item by item."""
    try:
        for attribute in ("targets", "_labels", "labels", "y"):
            held = getattr(dataset, attribute, None)
            if held is not None and len(held) == len(dataset):
                return np.array([int(label) for label in held], dtype=np.int64)
        return np.array([int(dataset[place][1]) for place in range(len(dataset))], dtype=np.int64)
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        raise UserError(
            f"{type(dataset).__name__} of torchvision does not give every picture one class ({_first_line(error)}); "
            "name a data set that does, such as EuroSAT"
        ) from error


def _classes(dataset: Any) -> tuple[str, ...]:
    named = getattr(dataset, "classes", None) or getattr(dataset, "categories", None)
    if named is None:
        named = [str(label) for label in range(int(_labels(dataset).max()) + 1)]
    # ImageNet gives every class a tuple of synonyms, and two classes are cranes.
    names = [", ".join(name) if isinstance(name, tuple) else str(name) for name in named]
    count = Counter(names)
    return tuple(name if count[name] == 1 else f"{name} ({label})" for label, name in enumerate(names))


def in_words(name: str) -> str:
    """``n02_great-white_shark`` as a sentence would say it: without underscores."""
    return " ".join(name.replace("_", " ").replace("/", " ").split())


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _caltech101(data: BenchmarkData) -> Benchmark:
    """30 pictures of each class, drawn without replacement; a fifth of them choose, the rest of the class tests."""
    dataset = _open("caltech101", "Caltech101", {}, data)
    labels = _labels(dataset)
    paths = [
        Path(dataset.root) / "101_ObjectCategories" / dataset.categories[label] / f"image_{number:04d}.jpg"
        for label, number in zip(labels, dataset.index, strict=True)
    ]
    known, test = held_out(labels, _PER_CLASS, "caltech101 training")
    validation, train = (known[part] for part in held_out(labels[known], _HELD_OUT, "caltech101"))
    classes = tuple(dataset.categories)

    def split(rows: np.ndarray) -> Split:
        return Split(
            picture_files([paths[row] for row in rows]), labels[rows], [f"caltech101 {row}" for row in rows]
        )

    tests = {"what 30 of each class leave": split(test)}
    names = tuple(map(in_words, classes))
    return Benchmark("caltech101", classes, split(train), split(validation), tests, "mean_per_class", names)


def _sun397(data: BenchmarkData) -> Benchmark:
    """The first official partition, whose two lists torchvision does not fetch; a fifth of training chooses."""
    dataset = _open("sun397", "SUN397", {}, data)
    assert data.datasets is not None
    folder = data.datasets / "SUN397"
    lists = [folder / "Training_01.txt", folder / "Testing_01.txt"]
    missing = [path for path in lists if not path.is_file()]
    if missing:
        raise MissingDataError(
            f"benchmark sun397: {missing[0]} is missing; put Training_01.txt and Testing_01.txt of the official "
            "Partitions.zip there"
        )
    number = {f"/{name[0]}/{name}": label for label, name in enumerate(dataset.classes)}
    parts = []
    for path in lists:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        labels = np.array([number[line.rsplit("/", 1)[0]] for line in lines], dtype=np.int64)
        parts.append(([folder / line.lstrip("/") for line in lines], labels))
    (known, labels), (tested, named) = parts
    validation, train = held_out(labels, _HELD_OUT, "sun397")

    def split(paths: Sequence[Path], of: np.ndarray) -> Split:
        return Split(picture_files(paths), of, [str(path) for path in paths])

    classes = tuple(dataset.classes)
    return Benchmark(
        "sun397",
        classes,
        split([known[row] for row in train], labels[train]),
        split([known[row] for row in validation], labels[validation]),
        {"official test 1": split(tested, named)},
        "top1",
        tuple(map(in_words, classes)),
    )


VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def _voc2007(data: BenchmarkData) -> Benchmark:
    """Pictures with several of twenty classes; a class shown only by difficult objects is not counted."""
    train, validation, test = (
        _voc_split(_open("voc2007", "VOCDetection", {"year": "2007", "image_set": part}, data))
        for part in ("train", "val", "test")
    )
    return Benchmark("voc2007", VOC_CLASSES, train, validation, {"official test": test}, "map11")


def _voc_split(dataset: Any) -> Split:
    labels = np.zeros((len(dataset), len(VOC_CLASSES)), dtype=np.int64)
    for row in range(len(dataset)):
        objects = dataset.parse_voc_xml(_xml(dataset.annotations[row]))["annotation"]["object"]
        for shown in objects:
            column = VOC_CLASSES.index(shown["name"])
            if shown["difficult"] == "0":
                labels[row, column] = 1
            elif labels[row, column] == 0:
                labels[row, column] = -1
    paths = [Path(path) for path in dataset.images]
    return Split(picture_files(paths), labels, [path.stem for path in paths])


def _xml(path: str) -> Any:
    from xml.etree import ElementTree

    return ElementTree.parse(path).getroot()


def _official(
    name: str,
    wanted: str,
    metric: Metric,
    splits: Literal["train", "train/val/test", "train/test", "trainval/test"],
) -> Callable[[BenchmarkData], Benchmark]:
    if splits == "train":
        options: tuple[Mapping[str, Any], Mapping[str, Any] | None, Mapping[str, Any]]
        options = ({"train": True}, None, {"train": False})
    else:
        parts = [{"split": part} for part in splits.split("/")]
        options = (parts[0], parts[1] if len(parts) == 3 else None, parts[-1])
    return functools.partial(_from_splits, name, wanted, options, metric)


PUBLIC: Mapping[str, Callable[[BenchmarkData], Benchmark]] = {
    "aircraft": _official("aircraft", "FGVCAircraft", "mean_per_class", "train/val/test"),
    "cars": _official("cars", "StanfordCars", "top1", "train/test"),
    "dtd": _official("dtd", "DTD", "top1", "train/val/test"),
    "flowers": _official("flowers", "Flowers102", "mean_per_class", "train/val/test"),
    "pets": _official("pets", "OxfordIIITPet", "mean_per_class", "trainval/test"),
    "sun397": _sun397,
    "caltech101": _caltech101,
    "food101": _official("food101", "Food101", "top1", "train/test"),
    "voc2007": _voc2007,
    "cifar10": _official("cifar10", "CIFAR10", "top1", "train"),
    "cifar100": _official("cifar100", "CIFAR100", "top1", "train"),
}
"""The eleven data sets of the paper's transfer table, each with the metric that is published for it."""

SEVERAL = frozenset({"voc2007"})
"""Those whose pictures may have several classes; a precision is measured there, and no accuracy."""
