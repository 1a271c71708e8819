"""The two tables, captions and images, as Lance data sets: append once, read by identity, never rewrite.

Rows are unique by primary key. Lance detects two commits that insert the same key, so that any number of processes may
append to one table and no row is ever there twice.
"""

import contextlib
import hashlib
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Self, TypeVar

import lance
import numpy as np
import pyarrow as pa
from lance.commit import CommitConflictError

from stablerep.errors import UserError
from stablerep.row_keys import all_present, first_of_each_key, literal
from stablerep.storage import (
    filtering,
    first_line,
    is_panic,
    is_remote,
    is_table,
    location,
    reading,
    refuse_credentials,
    refuse_files,
    writing,
)

REAL = "real"
OK = "ok"

Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)

_KEY = {b"lance-schema:unenforced-primary-key": b"true"}
_NOT_THERE = "was not found"
_FIRST_WRITTEN = ("_transactions", "_versions", "data")

CAPTION_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False, metadata=_KEY),
        pa.field("text", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("concept", pa.string()),
        pa.field("template", pa.string()),
        pa.field("split", pa.string()),
        pa.field("label", pa.string()),
        pa.field("seed", pa.int64()),
    ]
)

IMAGE_SCHEMA = pa.schema(
    [
        pa.field("origin", pa.string(), nullable=False, metadata=_KEY),
        pa.field("caption_id", pa.string(), nullable=False, metadata=_KEY),
        pa.field("image_index", pa.int32(), nullable=False, metadata=_KEY),
        pa.field("seed", pa.int64()),
        pa.field("image", pa.binary()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("style", pa.string()),
        pa.field("split", pa.string()),
        pa.field("group", pa.string()),
        pa.field("label", pa.string()),
        pa.field("licence", pa.string()),
    ]
)


def normalise_text(text: str) -> str:
    """The text that identifies a caption: Unicode NFC, white space collapsed, ends trimmed; case is kept."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def caption_id(text: str) -> str:
    """Identity of a caption: 128 bits of the hash of its normalised text, as 32 hexadecimal digits."""
    return hashlib.blake2b(normalise_text(text).encode(), digest_size=16).hexdigest()


def encodable(text: str) -> bool:
    """Whether a text can be written as UTF-8, as a table must."""
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate: undecodable bytes, or an escape such as "\ud800" in JSON
        return False
    return True


def in_style(text: str, style: str | None) -> str:
    """The prompt that asks for a text in a style: the caption, a comma, the style."""
    return text if style is None else f"{text}, {style}"


class _Table:
    """A Lance data set pinned to the version at which it was opened."""

    schema: pa.Schema
    noun: str
    made_of_files = ""
    """How a user who has files gets such a table."""

    def __init__(self, dataset: lance.LanceDataset, path: str) -> None:
        self.dataset = dataset
        self.path = path

    @classmethod
    def exists(cls, path: str | Path) -> bool:
        """Whether anything lies at the path; ``open`` says whether it is such a table."""
        if not is_remote(path):
            return Path(path).exists()
        try:
            _open(location(path))
        except (ValueError, OSError) as error:
            if _NOT_THERE in str(error):
                return False
            raise UserError(f"{location(path)} cannot be reached ({first_line(error)})") from error
        return True

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open an existing table; ``UserError`` where there is none or it is of the other kind."""
        path = location(path)
        try:
            dataset = _open(path)
        except (ValueError, OSError) as error:
            why = cls._why_not(path, error)
            raise UserError(f"{path}: no {cls.noun} table could be opened there ({why})") from error
        # A nullable column that an older table has not reads as nulls until rows that may need it are appended.
        needed = [field.name for field in cls.schema if not field.nullable]
        missing = [name for name in needed if name not in dataset.schema.names]
        if missing:
            raise UserError(
                f"{path} is not a table of {cls.noun}s: it has no column {', '.join(missing)}; give one of {cls.noun}s"
            )
        return cls(dataset, str(path))

    @classmethod
    def _why_not(cls, path: str, error: Exception) -> str:
        if is_table(Path(path)):
            return first_line(error)
        if not Path(path).exists():
            return "there is nothing at this path"
        kind = "folder without a table" if Path(path).is_dir() else "file, and a table is a folder"
        return f"it is a {kind}{cls.made_of_files}"

    @classmethod
    def open_or_create(cls, path: str | Path) -> Self:
        """Open the table, or create it empty."""
        path = location(path)
        refuse_credentials(path)
        if not is_remote(path) and _holds_something_else(Path(path)):
            raise UserError(f"{path} exists and is not a table of {cls.noun}s; give another path")
        try:
            refuse_files(path)
            lance.write_dataset(cls.schema.empty_table(), path, mode="create")
        except (ValueError, OSError) as error:
            if "already exists" not in str(error):
                raise UserError(f"cannot create the {cls.noun} table {path}: {first_line(error)}") from error
        return cls.open(path)

    def __len__(self) -> int:
        with reading(self.path):
            return int(self.dataset.count_rows())

    @property
    def version(self) -> int:
        """The version that this object reads."""
        return int(self.dataset.version)

    def reload(self) -> Self:
        """The same table at its newest version."""
        return self.open(self.path)

    def field(self, name: str) -> pa.Field:
        """Name and type of a column; ``UserError`` that lists the columns where it is none of them."""
        if name not in self.dataset.schema.names:
            raise UserError(
                f"{self.path} has no column {name!r}; its columns are {', '.join(self.dataset.schema.names)}"
            )
        return self.dataset.schema.field(name)

    def read(self, columns: Sequence[str], where: str | None = None) -> pa.Table:
        """Read whole columns of the rows that match a Lance filter such as ``split = 'train' AND status = 'ok'``.

        Raises ``UserError`` for a filter that is not valid.
        """
        with filtering(self.path, where):
            return self._filled(self.dataset.to_table(columns=self._stored(columns), filter=where), columns)

    def scan(self, columns: Sequence[str] | None = None, **options: Any) -> Iterator[pa.RecordBatch]:
        """Stream columns (all where not given) in batches; ``options`` are those of Lance's scanner."""
        with reading(self.path):
            batches = self.dataset.scanner(columns=self._stored(columns), **options).to_batches()
            yield from (self._filled(batch, columns) for batch in batches)

    def take(self, positions: Sequence[int] | np.ndarray, columns: Sequence[str] | None = None) -> pa.Table:
        """Columns (all where not given) of the rows at these positions of this version, in the order asked."""
        with reading(self.path):
            rows = [int(position) for position in positions]
            return self._filled(self.dataset.take(rows, columns=self._stored(columns)), columns)

    def _stored(self, columns: Sequence[str] | None) -> list[str] | None:
        """Of these columns those that are there; a key where none is, which tells how many rows there are."""
        lacking = set(self.schema.names) - set(self.dataset.schema.names)
        there = [name for name in columns or () if name not in lacking]
        return None if columns is None else there or self.schema.names[:1]

    def _filled(self, rows: Rows, columns: Sequence[str] | None) -> Rows:
        """The rows with nulls for a nullable column that an older table, or one made by hand, has not."""
        for name in columns or ():
            if name not in rows.schema.names:
                field = self.schema.field(name)
                rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
        return rows

    def notes(self, prefix: str) -> dict[str, Any]:
        """What was noted in the newest version of the table under names with this prefix, which is cut off."""
        return _noted(lance.dataset(self.path), prefix)

    def note(self, name: str, value: Any) -> None:
        """Keep a value, anything that JSON can say, in the table under a name."""
        with writing(self.path):
            lance.dataset(self.path).update_config({name: json.dumps(value, sort_keys=True)})

    def append(self, rows: pa.Table | Iterable[Mapping[str, Any]]) -> int:
        """Insert the rows whose key is not there yet in one atomic commit; say how many were new.

        Of rows with one key the first wins. Where nothing is new there is no commit, and the version stays.
        """
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), schema=self.schema)
        keys = [field.name for field in self.schema if (field.metadata or {}) == _KEY]
        table = first_of_each_key(table.cast(self.schema), keys)
        dataset = lance.dataset(self.path)
        with reading(self.path):
            if all_present(dataset, table, keys):
                return 0
        if [field for field in self.schema if field.name not in dataset.schema.names]:
            _add_columns(self.path, list(self.schema))
            dataset = lance.dataset(self.path)
        merge = dataset.merge_insert(keys).when_not_matched_insert_all()
        # Six writers on two cores made one of them wait 11 s; the default gives up after 30 s and loses its rows.
        merge = merge.conflict_retries(1000).retry_timeout(timedelta(minutes=10))
        with writing(self.path):
            return int(merge.execute(table)["num_inserted_rows"])

    def positions(self, where: str) -> np.ndarray:
        """Positions of the rows that match a Lance filter, ascending, valid for this version only.

        Raises ``UserError`` for a filter that is not valid.
        """
        with filtering(self.path, where):
            matching = self.dataset.to_table(columns=[], filter=where, with_row_id=True)["_rowid"].to_numpy()
            every = self.dataset.to_table(columns=[], with_row_id=True)["_rowid"].to_numpy()
        return np.flatnonzero(np.isin(every, matching))

    def write_columns(self, positions: Sequence[int] | np.ndarray, columns: Mapping[str, pa.Array]) -> Self:
        """Put one value per column into the rows at these positions of this version; the table at its newest version.

        New columns are added, with null in all other rows; no image is rewritten, and rows that others append
        meanwhile stay. Raises ``UserError`` for a column that every table has, one that is there with another type, a
        number of values that is not the number of positions, and a table that was compacted since this version.
        """
        rows = np.asarray(positions, dtype=np.int64)
        fields = [pa.field(name, values.type) for name, values in columns.items()]
        for field in fields:
            self._refuse(field, len(columns[field.name]), len(rows))
        with writing(self.path):
            _add_columns(self.path, fields)
            if len(rows):
                every = self.dataset.to_table(columns=[], with_row_id=True)["_rowid"].to_numpy()
                _update_rows(self.path, every[rows], pa.table(dict(columns)))
        return self.reload()

    def _refuse(self, field: pa.Field, num_values: int, num_rows: int) -> None:
        """Raise where a column must not be written."""
        newest = lance.dataset(self.path).schema
        if field.name in self.schema.names:
            raise UserError(
                f"{self.path}: column {field.name!r} belongs to every {self.noun} table; write another"
            )
        if field.name in newest.names and newest.field(field.name).type != field.type:
            raise UserError(
                f"{self.path}: column {field.name!r} is there as {newest.field(field.name).type} and cannot take "
                f"{field.type}"
            )
        if num_values != num_rows:
            raise UserError(f"column {field.name!r}: {num_values} values for {num_rows} rows")


class CaptionTable(_Table):
    """Captions: one row per distinct normalised text."""

    schema = CAPTION_SCHEMA
    noun = "caption"
    made_of_files = "; `stablerep captions import` makes one of a file of texts"


class ImageTable(_Table):
    """Images, real and painted: one row per (origin, caption id, image index); a failure is a row with its reason."""

    schema = IMAGE_SCHEMA
    noun = "image"
    made_of_files = "; `stablerep convert` makes one of files of pictures"

    def origins(self) -> dict[str, dict[str, Any]]:
        """What is known of each painted origin: its name -> the settings that its fingerprint covers."""
        return _noted(self.dataset, "origin.")

    def register_origin(self, origin: str, settings: Mapping[str, Any]) -> None:
        """Record the settings of a painted origin in the table itself."""
        self.note(f"origin.{origin}", settings)

    def register_first_origin(self, origin: str, settings: Mapping[str, Any]) -> None:
        """The same where the table has no painted origin yet, else nothing.

        Of several that find none at the same moment one registers; for the others it is a ``UserError``.
        """
        dataset = lance.dataset(self.path)
        if _noted(dataset, "origin."):
            return
        settled = {f"origin.{origin}": json.dumps(settings, sort_keys=True), "first_origin": origin}
        with writing(self.path):
            dataset.update_config(settled)  # a conflict, as both write the second name

    def keys(self, origin: str) -> set[tuple[str, int]]:
        """The (caption id, image index) of every row of an origin, failures included, read at the newest version."""
        rows = self.reload().read(["caption_id", "image_index"], f"origin = {literal(origin)}")
        return set(zip(rows["caption_id"].to_pylist(), rows["image_index"].to_pylist(), strict=True))

    def take_images(self, positions: Sequence[int] | np.ndarray) -> list[bytes]:
        """Encoded bytes of the rows at these positions of this version, in the order asked."""
        images: list[bytes] = self.take(positions, ["image"])["image"].to_pylist()
        return images


def _open(path: str) -> lance.LanceDataset:
    refuse_credentials(path)
    refuse_files(path)
    try:
        return lance.dataset(path)
    except BaseException as error:
        if not is_panic(error):
            raise
        raise OSError(f"damaged: {first_line(error)}") from error


def _add_columns(path: str, fields: Sequence[pa.Field]) -> None:
    """Add empty columns to the newest version of a table; what others commit meanwhile is kept."""
    while new := [field for field in fields if field.name not in lance.dataset(path).schema.names]:
        with contextlib.suppress(CommitConflictError):  # somebody appended: try again on top of that
            lance.dataset(path).add_columns(pa.schema(new))


def _update_rows(path: str, row_ids: np.ndarray, values: pa.Table) -> None:
    """Put values into existing columns of some rows in one commit, which writes the files of these columns alone."""
    dataset = lance.dataset(path)
    fragments = {fragment.fragment_id: fragment for fragment in dataset.get_fragments()}
    fragment_of = row_ids >> np.uint64(32)  # a row id is its address: fragment, then offset
    if gone := set(np.unique(fragment_of).tolist()) - set(fragments):
        raise UserError(
            f"{path} was compacted while its columns were computed (fragments {sorted(gone)} are gone); run again"
        )
    updated, modified = [], []
    for number in np.unique(fragment_of):
        rows = np.flatnonzero(fragment_of == number)
        part = values.take(rows).add_column(0, "_rowid", pa.array(row_ids[rows], pa.uint64()))
        metadata, modified = fragments[int(number)].update_columns(part)
        updated.append(metadata)
    operation = lance.LanceOperation.Update(
        updated_fragments=updated, fields_modified=modified, update_mode="rewrite_columns"
    )
    try:
        lance.LanceDataset.commit(dataset, operation, read_version=dataset.version)
    except CommitConflictError:  # somebody changed the same fragments: again, on top of that
        _update_rows(path, row_ids, values)


def _holds_something_else(path: Path) -> bool:
    """Whether the path is taken: not by a table, nor by one whose creation just began or was killed."""
    if not path.is_dir():
        return path.exists()
    begun = all(entry.name in _FIRST_WRITTEN for entry in path.iterdir())
    return not begun and not (path / "_versions").is_dir()


def _noted(dataset: lance.LanceDataset, prefix: str) -> dict[str, Any]:
    """What was noted under names with this prefix, which is cut off."""
    config: Mapping[str, str] = dataset.config()
    found = {key: value for key, value in config.items() if key.startswith(prefix)}
    return {key.removeprefix(prefix): json.loads(value) for key, value in found.items()}
