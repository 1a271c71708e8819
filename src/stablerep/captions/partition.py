"""Captions on their way into the table: in memory while they are few, beyond that in files by the hash of their text.

Equal captions have equal hashes and meet in one file, so that duplicates are found one file after the other: the memory
that this takes does not grow with the number of captions.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from stablerep.store import CAPTION_SCHEMA

ROWS_IN_MEMORY = 250_000
NUM_PARTITIONS = 256


class Partitions:
    """Rows of captions, to be put in one after the other and read back in parts that share no caption.

    Use as a context; leaving it removes the files. Up to ``ROWS_IN_MEMORY`` rows come back as one part in the order in
    which they were put in; more come back by their hashes. Of equal captions the one put in first comes first.
    """

    def __init__(self, beside: Path) -> None:
        self._beside = beside
        self._rows: list[dict[str, str]] = []
        self._folder: Path | None = None
        self._counts = np.zeros(NUM_PARTITIONS, dtype=np.int64)
        self._files: dict[int, pa.ipc.RecordBatchStreamWriter] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._close()  # on a full disk it fails
        finally:
            if self._folder is not None:
                shutil.rmtree(self._folder)

    def put(self, rows: Sequence[dict[str, str]]) -> None:
        """Add rows with the columns of the caption table."""
        self._rows += rows
        if len(self._rows) > ROWS_IN_MEMORY:
            self._spill()

    def parts(self) -> Iterator[pa.Table]:
        """Every row once; a part has about ``ROWS_IN_MEMORY`` rows, or those of one file where that holds more."""
        if self._folder is None:
            if self._rows:
                yield pa.Table.from_pylist(self._rows, schema=CAPTION_SCHEMA)
            return
        self._spill()
        self._close()
        waiting: list[int] = []
        for number in np.flatnonzero(self._counts).tolist():
            if waiting and self._counts[waiting].sum() + self._counts[number] > ROWS_IN_MEMORY:
                yield self._read(waiting)
                waiting = []
            waiting.append(number)
        if waiting:
            yield self._read(waiting)

    def _spill(self) -> None:
        """Move the rows in memory into the files."""
        if not self._rows:
            return
        table = pa.Table.from_pylist(self._rows, schema=CAPTION_SCHEMA)
        numbers = np.array([int(row["id"][:2], 16) for row in self._rows])
        self._rows = []
        order = np.argsort(numbers, kind="stable")  # equal captions stay in their order
        table = table.take(order)
        counts = np.bincount(numbers, minlength=NUM_PARTITIONS)
        starts = np.cumsum(counts) - counts
        for number in np.flatnonzero(counts).tolist():
            part = table.slice(int(starts[number]), int(counts[number]))
            self._file(number).write_table(part)
        self._counts += counts

    def _file(self, number: int) -> "pa.ipc.RecordBatchStreamWriter":
        if self._folder is None:
            # Not in the system's temporary folder, which may be in memory.
            home = self._beside if self._beside.is_dir() else None
            self._folder = Path(tempfile.mkdtemp(prefix=".captions-", dir=home))
        if number not in self._files:
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            path = self._folder / f"{number}.arrow"
            self._files[number] = pa.ipc.new_stream(str(path), CAPTION_SCHEMA, options=options)
        return self._files[number]

    def _read(self, numbers: Sequence[int]) -> pa.Table:
        assert self._folder is not None
        tables = []
        for number in numbers:
            with pa.OSFile(str(self._folder / f"{number}.arrow")) as file, pa.ipc.open_stream(file) as reader:
                tables.append(reader.read_all())
        return pa.concat_tables(tables)

    def _close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files = {}
