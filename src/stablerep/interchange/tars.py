"""WebDataset archives: one sample per caption with its K pictures.

``KEY.0.jpg``, ``KEY.1.jpg``, ... the pictures, ``KEY.txt`` the caption, ``KEY.json`` all columns; KEY is its id.
Members are read one after the other in memory and never unpacked to disk.
"""

import base64
import io
import json
import math
import tarfile
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from stablerep.errors import UserError
from stablerep.interchange.layouts import (
    IMAGE_SUFFIXES,
    Advance,
    Options,
    Written,
    digest,
    marked,
    refuse_part,
    restored,
    safe_name,
)
from stablerep.interchange.tables import (
    CAPTION_FILE,
    FoundCaptions,
    Incoming,
    Tables,
    extension,
    picture_columns,
    read_manifest,
    rows_in_batches,
)
from stablerep.store import IMAGE_SCHEMA, REAL, encodable

MAX_MEMBER_BYTES = 2**28
_TEXTS = ("caption", "text", "prompt")

Sample = dict[str, bytes]
"""The members of one sample by the part of their names behind the key."""


class WebDataset:
    """``images-000000.tar``, ``images-000001.tar``, ..."""

    description = (
        'WebDataset archives (`webdataset.WebDataset("FOLDER/images-{000000..LAST}.tar")`), one sample per caption: '
        "its pictures `0.jpg`, `1.jpg`, ..., its `txt`, and a `json` with every column of every picture. "
        f"`{CAPTION_FILE}` holds the captions."
    )

    def caption_file(self, folder: Path) -> Path:
        """Beside the rest."""
        return folder / CAPTION_FILE

    def write(self, tables: Tables, folder: Path, options: Options, advance: Advance) -> Written:
        """Write the samples in the order of their keys, which is random but fixed."""
        _refuse_types(tables.schema)
        archives = _Archives(folder, options.shard_bytes)
        num_marked = 0
        try:
            for rows, caption in tables.by_caption():
                num_marked += _write_sample(rows, caption, archives, options)
                advance(len(rows))
        finally:
            archives.close()
        return Written(num_marked=num_marked)

    def read(self, source: Path, options: Options) -> Incoming:
        """A set of this program's by its ``json`` members; of others a caption and pictures from each sample."""
        archives = [source] if source.is_file() else sorted(source.rglob("*.tar"))
        manifest = read_manifest(source)
        if manifest is None:
            found = FoundCaptions(source)
            rows = (row for sample in samples(archives) for row in _foreign(*sample, options, found))
            return Incoming(images=rows_in_batches(rows, IMAGE_SCHEMA), found=found)
        schema = manifest["image_schema"]
        own = (row for sample in samples(archives) for row in _own(*sample, schema))
        return Incoming(
            schema=schema,
            images=rows_in_batches(own, schema),
            caption_file=source / CAPTION_FILE,
            origins=manifest["origins"],
        )


def samples(archives: list[Path]) -> Iterator[tuple[str, str, Sample]]:
    """(archive, key, members) of every sample of archives; one sample is held at a time.

    Raises ``UserError`` that names the archive, and the member before which it breaks, for one that is damaged, and for
    members that are no files, too large, or whose names lead out of a folder.
    """
    for archive in archives:
        key, sample = "", Sample()
        for name, content in _members(archive):
            stem, _, part = name.rpartition("/")[2].partition(".")
            this = f"{name.rpartition('/')[0]}/{stem}"
            if this != key and sample:
                yield str(archive), key.rpartition("/")[2], sample
                sample = Sample()
            if part in sample:
                raise UserError(
                    f"{archive} holds two members {name}; a sample's members have different names"
                )
            key = this
            sample[part] = content
        if sample:
            yield str(archive), key.rpartition("/")[2], sample


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    last = "its beginning"
    try:
        with tarfile.open(archive, "r|*") as tar:
            for member in tar:
                if member.isdir():
                    continue
                _refuse_member(archive, member)
                file = tar.extractfile(member)
                content = file.read() if file else b""
                if len(content) != member.size:
                    raise UserError(f"{archive} is damaged: member {member.name} is cut short; copy it again")
                last = f"member {member.name}"
                _forget(tar)
                yield member.name, content
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(
            f"{archive} is damaged after {last} ({error or 'it is cut short'}); copy it again"
        ) from error


def _refuse_member(archive: Path, member: tarfile.TarInfo) -> None:
    if not member.isfile():
        raise UserError(f"{archive}: member {member.name} is a link or a device; only files are read")
    if member.name.startswith("/") or ".." in member.name.split("/"):
        raise UserError(f"{archive}: member {member.name!r} leads out of the archive; it was not read")
    if member.size > MAX_MEMBER_BYTES:
        raise UserError(
            f"{archive}: member {member.name} has {member.size:,} bytes; at most {MAX_MEMBER_BYTES:,} are read"
        )


# -- writing ----------------------------------------------------------------------------------------


class _Archives:
    """Archives one after the other, each begun where the last one is full; equal content gives equal bytes."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._count = 0
        self._open: tarfile.TarFile | None = None

    def add(self, members: Mapping[str, bytes]) -> None:
        """Append the members of one sample to the same archive."""
        if self._open is not None and self._open.offset > self._max_bytes:
            self.close()
        if self._open is None:
            path = self._folder / f"images-{self._count:06}.tar"
            self._open = tarfile.open(path, "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115 - outlives this call
            self._count += 1
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            self._open.addfile(member, io.BytesIO(content))
        _forget(self._open)

    def close(self) -> None:
        """Finish the archive that is open."""
        if self._open is not None:
            self._open.close()
            self._open = None


def _forget(tar: tarfile.TarFile) -> None:
    """Let go of the headers of past members, which tarfile keeps: they would fill the memory."""
    tar.members = []  # type: ignore[attr-defined]


def _write_sample(
    rows: pa.Table, caption: dict[str, Any] | None, archives: _Archives, options: Options
) -> int:
    key = safe_name(rows["caption_id"][0].as_py()).replace(".", "-")
    members: dict[str, bytes] = {}
    described = []
    num_marked = 0
    for row in rows.to_pylist():
        image = row.pop("image")
        said = {name: _to_json(value) for name, value in row.items()}
        if image is not None:
            leaving = marked(image, row["origin"], options)
            said["file"] = f"{len(members)}.{extension(image)}"
            said["is_marked"] = leaving is not image
            said["digest"] = digest(image)
            num_marked += leaving is not image
            members[f"{key}.{said['file']}"] = leaving
        described.append(said)
    if caption is not None:
        members[f"{key}.txt"] = caption["text"].encode()
        caption = {name: _to_json(value) for name, value in caption.items()}
    content = {"caption": caption, "images": described}
    members[f"{key}.json"] = json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    archives.add(members)
    return num_marked


def _refuse_types(schema: pa.Schema) -> None:
    for field in schema:
        kind = field.type
        while pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind):
            kind = kind.value_type
        plain = (
            pa.types.is_boolean,
            pa.types.is_integer,
            pa.types.is_floating,
            pa.types.is_string,
            pa.types.is_binary,
            _is_time,
        )
        if not any(is_plain(kind) for is_plain in plain):
            raise UserError(
                f"column {field.name!r} ({field.type}) has no form in JSON; convert to parquet instead"
            )


def _is_time(kind: pa.DataType) -> bool:
    """Whether these are points in time that Python can say; it knows no nanoseconds."""
    return bool(pa.types.is_timestamp(kind) and kind.unit != "ns")


def _to_json(value: Any) -> Any:
    """A value as JSON says it: bytes in base 64, times as ISO 8601 writes them, and numbers that are none as words."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, list):
        return [_to_json(item) for item in value]
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def _from_json(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if isinstance(value, list):
        return [_from_json(item, kind.value_type) for item in value]
    if pa.types.is_binary(kind):
        return base64.b64decode(value)
    if pa.types.is_timestamp(kind):
        return datetime.fromisoformat(value)
    return float(value) if pa.types.is_floating(kind) else value


# -- reading ----------------------------------------------------------------------------------------


def _own(archive: str, key: str, sample: Sample, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    described = _json(archive, key, sample)
    if not isinstance(described.get("images"), list):
        raise UserError(f"{archive}: sample {key} has no list of images in its json; export the set again")
    for row in described["images"]:
        try:
            image = sample[row["file"]] if row.get("file") else None
            if image is not None:
                image = restored(
                    image, row["is_marked"], row["digest"], f"{archive}: member {row['file']} of {key}"
                )
            read = {field.name: _from_json(row.get(field.name), field.type) for field in schema}
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"{archive}: the json of sample {key} does not fit its pictures ({error})"
            ) from error
        yield read | {"image": image}


def _foreign(
    archive: str, key: str, sample: Sample, options: Options, found: FoundCaptions
) -> Iterator[dict[str, Any]]:
    described = _described(sample)
    images = described.get("images")
    if isinstance(images, list) and images and isinstance(images[0], dict):
        refuse_part(archive, images[0], options)
    label = _text(sample["cls"]) if "cls" in sample else None
    text = (_text(sample["txt"]) if "txt" in sample else _caption(described)) or label
    pictures = sorted((part for part in sample if f".{part}".lower().endswith(IMAGE_SUFFIXES)), key=_natural)
    if not text:
        reason = "no caption (no txt, no caption or text in its json, no cls)"
        found.set_aside(archive, f"sample {key}", reason)
        return
    if not encodable(text + (label or "")):
        found.set_aside(archive, f"sample {key}", "its caption or label is not valid UTF-8")
        return
    if not pictures:
        found.set_aside(archive, f"sample {key}", f"no picture ({', '.join(IMAGE_SUFFIXES)})")
    for part in pictures:
        identity = found.add(text, options.origin or REAL, label=label)
        yield identity | {"label": label} | picture_columns(sample[part])


def _described(sample: Sample) -> dict[str, Any]:
    """The json of a foreign sample; empty where there is none, or none that can be read."""
    try:
        said = json.loads(sample.get("json", b"{}"))
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _caption(described: Mapping[str, Any]) -> str | None:
    texts = (described[name].strip() for name in _TEXTS if isinstance(described.get(name), str))
    return next(filter(None, texts), None)


def _text(content: bytes) -> str:
    """A member as text; bytes that are not UTF-8 become lone surrogates, at which ``encodable`` takes offence."""
    return content.decode("utf-8-sig", "surrogateescape").strip()


def _json(archive: str, key: str, sample: Sample) -> dict[str, Any]:
    try:
        value = json.loads(sample["json"])
    except (KeyError, ValueError) as error:
        raise UserError(f"{archive}: the json of sample {key} is missing or damaged ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{archive}: the json of sample {key} is no object but {type(value).__name__}")
    return value


def _natural(part: str) -> tuple[int, str]:
    number = part.partition(".")[0]
    return (int(number) if number.isdigit() else 0, part)
