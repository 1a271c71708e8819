"""Captions in WebDataset archives: tar files whose members ``KEY.txt`` and ``KEY.json`` go with a picture ``KEY.jpg``.

Members are read where they lie and nothing is ever unpacked, so that names such as ``../x`` and links lead nowhere.
"""

import itertools
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stablerep.captions.entries import MAX_LINE_BYTES, SAMPLE, Columns, Entry, entry_of
from stablerep.errors import UserError

TEXT_MEMBER = "txt"
_READ = (TEXT_MEMBER, "json")


@dataclass(kw_only=True)
class _Sample:
    number: int  # counts from 1
    key: str
    members: dict[str, bytes] = field(default_factory=dict)
    fault: str | None = None


def tar_columns(path: Path) -> Mapping[str, bool]:
    """What may hold the caption: the text member, and the fields of the JSON member; name -> is it text."""
    columns: dict[str, bool] = {}
    for sample in itertools.islice(_samples(path), SAMPLE):
        if TEXT_MEMBER in sample.members:
            columns[TEXT_MEMBER] = True
        for name, value in _fields(sample)[0].items():
            columns[name] = columns.get(name, False) or isinstance(value, str)
    return columns


def tar_entries(path: Path, columns: Columns) -> Iterator[Entry]:
    """One entry per sample; its ``line`` is the number of the sample."""
    for sample in _samples(path):
        if sample.fault is not None:
            yield Entry(line=sample.number, fault=sample.fault)
            continue
        fields: dict[str, Any] = {}
        if columns.caption != TEXT_MEMBER or columns.group is not None:
            fields, fault = _fields(sample)
            if fault is not None:
                yield Entry(line=sample.number, fault=fault)
                continue
        if TEXT_MEMBER in sample.members:
            fields[TEXT_MEMBER] = sample.members[TEXT_MEMBER].decode("utf-8-sig", "surrogateescape")
        if columns.caption not in fields:
            what = "member .txt" if columns.caption == TEXT_MEMBER else f"field {columns.caption!r}"
            yield Entry(line=sample.number, fault=f"no {what}")
        else:
            group = fields.get(columns.group) if columns.group else None
            yield entry_of(sample.number, fields[str(columns.caption)], group)


def _fields(sample: _Sample) -> tuple[dict[str, Any], str | None]:
    """The JSON member as an object, and what is wrong with it; a sample without one has no fields."""
    if "json" not in sample.members:
        return {}, None
    try:
        record = json.loads(sample.members["json"])
    except (ValueError, RecursionError) as error:
        return {}, f"member .json is not JSON ({error})"
    return (record, None) if isinstance(record, dict) else ({}, "member .json is not a JSON object")


def _samples(path: Path) -> Iterator[_Sample]:
    """The samples one after the other: members that follow one another and share what stands before the first dot."""
    sample: _Sample | None = None
    number = 0
    for archive, member in _members(path):
        folder, _, name = member.name.rpartition("/")
        stem, _, extension = name.partition(".")
        key = f"{folder}/{stem}"
        if sample is None or key != sample.key:
            if sample is not None:
                yield sample
            number += 1
            sample = _Sample(number=number, key=key)
        if extension.lower() not in _READ:
            continue
        if member.size > MAX_LINE_BYTES:
            sample.fault = f"member .{extension} is larger than {MAX_LINE_BYTES:,} bytes"
        else:
            sample.members[extension.lower()] = _content(path, archive, member)
    if sample is not None:
        yield sample


def _content(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    try:
        file = archive.extractfile(member)
        assert file is not None  # it is a file
        return file.read()
    except tarfile.TarError as error:
        raise UserError(
            f"{path}: member {member.name} cannot be read ({error}); copy the archive again"
        ) from error


def _members(path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The files in an archive; raises ``UserError`` where it is damaged or cut off."""
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isreg():
                    yield archive, member
                archive.members = []  # type: ignore[attr-defined]  # which tarfile would keep, and a large archive has millions
            end = archive.offset
    except (tarfile.TarError, EOFError, OverflowError, ValueError) as error:
        raise UserError(f"{path}: not readable as an uncompressed tar file ({error})") from error
    with path.open("rb") as file:
        file.seek(end)
        if any(file.read(tarfile.BLOCKSIZE)):  # tarfile takes a broken header for the end
            raise UserError(f"{path}: damaged at byte {end}: neither a member nor the end of a tar file")
