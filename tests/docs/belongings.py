"""What a reader of the documentation has at hand: captions, pictures, weights and data under the names of the pages."""

import io
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pages import ROOT, Line
from PIL import Image
from reader import SHIM, Reader

from captions import tiny_language_model
from captions.test_fashion import write_files
from generation import tiny_pipelines
from models import official_files
from stablerep.store import ImageTable

ICONS = ROOT / "src" / "stablerep" / "data" / "icons.parquet"
LABELS = ["food-fruit", "heart"]
TEXTS = ("a red apple", "an old boat on a lake", "a blue cat", "a small dog", "the sun", "a round leaf")
CLASSES = tuple(
    f"a {colour} {thing}"
    for colour in ("red", "blue", "small")
    for thing in ["cat", "dog", "sun", "leaf", "boat"]
)
CLASSES += tuple(
    f"a round {thing}" for thing in ("house", "apple", "lighthouse", "squirrel", "train", "moon", "cup")
)
STABLE_DIFFUSION = (
    "path/to/stable-diffusion", "path/to/stable-diffusion-v1-5", "OWNER/NAME",
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
)  # fmt: skip
"""Folders, some of them under the names of the hub; a folder of that name is taken before the hub is asked."""
RUNS = (
    "stablerep train stablerep-plus --recipe icons --data.images images.lance --out runs/stablerep-plus",
    "stablerep train simclr --recipe icons --data.images icons/images.lance --out runs/simclr-real",
    "stablerep train clip --recipe icons --data.images icons/images.lance --out runs/clip",
    "stablerep train supervised --recipe icons --data.images icons/images.lance --out runs/judge",
    "stablerep train autoencoder --recipe teacher-icons --out runs/autoencoder",
    "stablerep train text-to-image --recipe teacher-icons --out runs/painter",
    "stablerep world fashion --out fashion",
)
"""What pages other than the start page have made, or tell to make elsewhere."""

PEOPLE = (
    "stablerep world icons --out icons",
    *(
        f"stablerep generate icons/captions.lance --where \"text LIKE '%{word}%'\" --out images.lance"
        for word in ("health worker", " cat", "apple")
    ),
)
"""What a reader has who counts what pictures of people, animals and food show."""


def prepare(folder: Path) -> Path:
    """What commands are made small with: drawings of two labels, small data, a painter with random weights."""
    few = pq.read_table(ICONS, filters=[("label", "in", LABELS)])
    pq.write_table(few, folder / "few.parquet")
    write_files(folder / "fashion-mnist", num_train=300, num_test=60)
    tiny_pipelines.pixart(folder / "teacher")
    return folder


def people(folder: Path, material: Path) -> Path:
    """The same with drawings that state what the attributes of the guide ask for: people in all skins, and animals."""
    for other in material.iterdir():
        if other.is_dir():
            (folder / other.name).symlink_to(other)
    rows = pq.read_table(ICONS, filters=[("label", "in", [*LABELS, "person-role", "animal-mammal"])])
    few = pc.or_(
        pc.is_in(rows["label"], pa.array(LABELS)), pc.is_in(rows["style"], pa.array(["noto", "clipart"]))
    )
    pq.write_table(rows.filter(few), folder / "few.parquet")
    return folder


def before_the_first_page(folder: Path) -> None:
    """A clone of the repository with its environment, and files of the reader's own."""
    for name in ("docs", "bench", "experiments", "tests"):
        (folder / name).symlink_to(ROOT / name)
    shim = folder / ".venv" / "bin" / "stablerep"
    shim.parent.mkdir(parents=True)
    shim.write_text(SHIM)
    shim.chmod(0o755)
    (folder / "IMAGES").symlink_to("images.lance")
    (folder / "captions.txt").write_text("\n".join(TEXTS))
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    (folder / "names.txt").write_text("# brands\nSpider-Man\n")
    urls = (f"https://example.org/{number}.jpg" for number in range(len(TEXTS)))
    (folder / "cc12m.tsv").write_text(
        "".join(f"{url}\t{text}\n" for url, text in zip(urls, TEXTS, strict=True))
    )
    _photographs(folder / "shards")
    (folder / "parts").mkdir()
    (folder / "parts" / "one.csv").write_text("caption,page\na red apple,1\na blue cat,2\n")
    (folder / "pictures").mkdir()
    for number, name in enumerate(("pictures/a.png", "pictures/b.png", "a.png", "b.png", "photo.jpg")):
        _picture(folder / name, number)


def _photographs(folder: Path) -> None:
    """A WebDataset of photographs with captions, as it is published: one of each, and one without a caption."""
    folder.mkdir()
    with tarfile.open(folder / "00000.tar", "w") as archive:
        for number, text in enumerate((*TEXTS, *CLASSES, "")):
            noise = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
            encoded = io.BytesIO()
            Image.fromarray(noise).save(encoded, "JPEG")
            for kind, content in (("jpg", encoded.getvalue()), ("txt", text.encode())):
                member = tarfile.TarInfo(f"{number:05}.{kind}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def _picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (40 * (number % 7), 90, 120)).save(path)


def after_the_first_page(reader: Reader) -> None:
    """What the start page has left, weights and data of others, and further runs."""
    folder = reader.folder
    shutil.copytree(folder / "icons" / "captions.lance", folder / "captions.lance")
    for number, name in enumerate(STABLE_DIFFUSION):
        if number == 0:
            tiny_pipelines.stable_diffusion(folder / name)
        else:
            shutil.copytree(folder / STABLE_DIFFUSION[0], folder / name)
    tiny_language_model.save(folder / "path" / "to" / "language-model")
    for name in ("stablerep_cc12m.pth", "cc12m_3x.pth"):
        official_files.checkpoint(folder / name, official_files.visual())
    _public_data(folder)
    for line in RUNS:
        reader.type(Line(ROOT / "README.md", line))
    shutil.copytree(folder / "runs" / "clip", folder / "runs" / "clip-real")
    table = ImageTable.open(folder / "images.lance")
    marks = ["keep" if row % 2 else None for row in range(len(table))]
    table.write_columns(np.arange(len(table)), {"gallery_mark": pa.array(marks, pa.string())})
    shutil.copytree(folder / "runs" / "painter", reader.material / "painter")


def _public_data(folder: Path) -> None:
    """Class folders, and public data sets in their own layouts."""
    for root, parts in (("my-pictures", ("train", "test")), ("imagenet", ("train", "val"))):
        for number, part in enumerate(parts):
            for place in range(24):
                _picture(folder / root / part / ("cat", "dog")[place % 2] / f"{place}.png", place + number)
    batches = folder / "data" / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    labels = list(range(10)) * 2
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        noise = np.random.default_rng(len(name)).integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        (batches / name).write_bytes(pickle.dumps({"data": noise, "labels": labels}))
    (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    dtd = folder / "data" / "dtd" / "dtd"
    (dtd / "labels").mkdir(parents=True)
    for part in ("train", "val", "test"):
        files = [
            f"{texture}/{texture}_{part}{place}.jpg" for texture in ("banded", "dotted") for place in range(4)
        ]
        for number, file in enumerate(files):
            _picture(dtd / "images" / file, number)
        (dtd / "labels" / f"{part}1.txt").write_text("\n".join(files))
    pets = folder / "data" / "oxford-iiit-pet"
    (pets / "annotations").mkdir(parents=True)
    names = [(breed, f"{breed}_{place}") for breed in ("Abyssinian", "beagle") for place in range(8)]
    for number, (_, name) in enumerate(names):
        _picture(pets / "images" / f"{name}.jpg", number)
    for part, kept in (("trainval", names[:6] + names[8:14]), ("test", names[6:8] + names[14:])):
        rows = [f"{name} {1 + (breed == 'beagle')} 1 1" for breed, name in kept]
        (pets / "annotations" / f"{part}.txt").write_text("\n".join(rows) + "\n")
