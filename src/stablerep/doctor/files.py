"""The files of a table: versions, fragments, and what killed writers left behind."""

import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

from stablerep.doctor.finding import Finding
from stablerep.storage import is_remote, writing
from stablerep.store import CaptionTable, ImageTable

_MANY_VERSIONS = 100
_SMALL_FRAGMENT = 10_000
_MANY_FRAGMENTS = 50
_ROWS_PER_FRAGMENT = 100_000

Table = CaptionTable | ImageTable


def examine_files(table: Table, hours: float) -> Iterator[Finding]:
    """Files that no version names, versions nobody needs any more, and fragments so small that reading suffers."""
    if not is_remote(table.path):
        yield from _orphans(table, hours)
    num_versions = len(table.dataset.versions())
    if num_versions > _MANY_VERSIONS:
        yield Finding(
            path=table.path,
            severity="wasteful",
            what=f"{num_versions} versions are kept",
            remedy="--compact removes the older ones",
        )
    small = sum(fragment.count_rows() < _SMALL_FRAGMENT for fragment in table.dataset.get_fragments())
    if small > _MANY_FRAGMENTS:
        yield Finding(
            path=table.path,
            severity="wasteful",
            what=f"{small} of {len(table.dataset.get_fragments())} fragments have fewer than {_SMALL_FRAGMENT:,} rows",
            remedy="--compact joins them, which makes reading faster",
        )


def _orphans(table: Table, hours: float) -> Iterator[Finding]:
    data = Path(table.path) / "data"
    if not data.is_dir():
        return
    files = _unnamed(table, sorted(path for path in data.iterdir() if path.is_file()))
    limit = time.time() - hours * 3600
    old = [path for path in files if path.stat().st_mtime < limit]
    if old:
        size = sum(path.stat().st_size for path in old)

        def remove() -> str:
            gone = _unnamed(table.reload(), old)
            for path in gone:
                path.unlink(missing_ok=True)
            return f"{len(gone)} files removed"

        yield Finding(
            path=table.path,
            severity="wasteful",
            what=f"{len(old)} files ({size / 1e6:.1f} MB) belong to no version: their writers were killed",
            remedy="--repair removes them",
            repair=remove,
        )
    if len(files) > len(old):
        yield Finding(
            path=table.path,
            severity="note",
            what=f"{len(files) - len(old)} files of the last {hours:g} h belong to no version yet",
            remedy="wait: somebody may be writing",
        )


def _unnamed(table: Table, files: Sequence[Path]) -> list[Path]:
    """Those of the data files that no version needs; older versions are asked only while there are such."""
    left = {path.name: path for path in files}
    for version in sorted((entry["version"] for entry in table.dataset.versions()), reverse=True):
        if not left:
            break
        for fragment in table.dataset.checkout_version(version).get_fragments():
            for file in fragment.data_files():
                left.pop(Path(file.path).name, None)
    return list(left.values())


def compact(table: Table, hours: float) -> str:
    """Join small fragments, then remove the versions older than so many hours; what was done, in words."""
    before = (len(table.dataset.get_fragments()), len(table.dataset.versions()))
    with writing(table.path):
        dataset = table.reload().dataset
        dataset.optimize.compact_files(target_rows_per_fragment=_ROWS_PER_FRAGMENT)
        stats = table.reload().dataset.cleanup_old_versions(
            older_than=timedelta(hours=hours), error_if_tagged_old_versions=False
        )
    after = table.reload().dataset
    return (
        f"{before[0]} fragments joined to {len(after.get_fragments())}, {stats.old_versions} of {before[1]} versions "
        f"and {stats.bytes_removed / 1e6:.1f} MB removed"
    )
