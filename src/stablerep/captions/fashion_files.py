"""The four files of Fashion-MNIST: found, checked and read."""

import gzip
import hashlib
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stablerep.errors import UserError

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
HOME_FOLDER = Path("~/.cache/stablerep/fashion-mnist")
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_IMAGES_MAGIC, _LABELS_MAGIC = 2051, 2049  # unsigned bytes in three dimensions, in one
_NUM_CLASSES = 10

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class FashionFiles:
    """Images (N, 28, 28) and labels (N,) of the official splits; ``digest`` covers the uncompressed files."""

    train_images: Bytes
    train_labels: Bytes
    test_images: Bytes
    test_labels: Bytes
    digest: str

    def part(self, split: str) -> tuple[Bytes, Bytes]:
        """Images and labels of ``train`` or ``test``."""
        return {
            "train": (self.train_images, self.train_labels),
            "test": (self.test_images, self.test_labels),
        }[split]


def read_fashion_files(folder: Path | None = None) -> FashionFiles:
    """Read from ``folder``, else from the user's cache, else from the Debian package dataset-fashion-mnist.

    Raises ``UserError`` with the way to get them where the files are absent, and where one is damaged.
    """
    paths = _find([HOME_FOLDER.expanduser(), DEBIAN_FOLDER] if folder is None else [folder])
    contents = [_content(path) for path in paths]
    train_images, test_images = (_images(contents[i], paths[i]) for i in (0, 2))
    train_labels, test_labels = (_labels(contents[i], paths[i]) for i in (1, 3))
    if (len(train_images), len(test_images)) != (len(train_labels), len(test_labels)):
        raise UserError(f"{paths[0].parent}: pictures and labels are not equally many; get the files again")
    if len(np.unique(train_labels)) != _NUM_CLASSES:
        raise UserError(f"{paths[1]} lacks some of the {_NUM_CLASSES} classes; get the files again")
    return FashionFiles(
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        digest=hashlib.blake2b(b"".join(contents), digest_size=16).hexdigest(),
    )


def _find(folders: list[Path]) -> list[Path]:
    """The four files, in the order of ``FILES``, in the first folder that has them all."""
    for folder in folders:
        choices = [
            [path for path in (folder / f"{name}.gz", folder / name) if path.is_file()] for name in FILES
        ]
        if all(choices):
            return [paths[0] for paths in choices]
    raise UserError(
        f"Fashion-MNIST is not in {' or '.join(map(str, folders))}; install it with "
        f"`apt-get install dataset-fashion-mnist`, or put {', '.join(FILES)} (each plain or .gz) into "
        f"{HOME_FOLDER} or into a folder given as --source"
    )


def _content(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is damaged ({error}); get it again") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _images(content: bytes, path: Path) -> Bytes:
    magic, count, height, width = _header(content, 4, path)
    if magic != _IMAGES_MAGIC or (height, width) != (28, 28) or len(content) != 16 + count * height * width:
        raise UserError(f"{path} is damaged: not {count} pictures of 28 x 28 bytes; get it again")
    return np.frombuffer(content, np.uint8, offset=16).reshape(count, height, width)


def _labels(content: bytes, path: Path) -> Bytes:
    magic, count = _header(content, 2, path)
    labels = np.frombuffer(content, np.uint8, offset=8)
    if magic != _LABELS_MAGIC or len(labels) != count or labels.max(initial=0) >= _NUM_CLASSES:
        raise UserError(f"{path} is damaged: not {count} labels from 0 to {_NUM_CLASSES - 1}; get it again")
    return labels


def _header(content: bytes, num_fields: int, path: Path) -> tuple[int, ...]:
    if len(content) < 4 * num_fields:
        raise UserError(f"{path} is damaged: it ends within its header; get it again")
    return struct.unpack_from(f">{num_fields}I", content)
