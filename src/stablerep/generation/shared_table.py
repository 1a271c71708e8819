"""One image table, several workers: what is there already, whose settings it holds, and a thread that stores."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self, cast

from stablerep.config import differing_fields
from stablerep.errors import UserError
from stablerep.generation.pictures import Encoded, Painted, encode_painted
from stablerep.generation.plan import Key, PlanItem
from stablerep.generation.settings import GenerateConfig
from stablerep.generation.teacher import origin_name
from stablerep.row_keys import literal
from stablerep.store import OK, ImageTable


class Facts(Protocol):
    """What image rows copy from their captions."""

    def __getitem__(self, caption_id: str, /) -> Mapping[str, Any]:
        """The columns that the image rows of a caption copy."""


_NOTHING_LOST = "; it holds no row yet, so that nothing is lost with it unless a process paints there"
_MOST_ROWS = 2048
_MOST_WAITING = 4


def refuse_other_settings(table: ImageTable, settings: Mapping[str, Any]) -> str | None:
    """Name of the painted origin that the table holds, None where it holds none.

    Raises ``UserError``, naming the fields, where that origin was painted with other settings.
    """
    table = table.reload()
    known = table.origins()
    if not known:
        return None
    origin = min(known)  # of a table brought in from elsewhere, which may hold several
    differences = differing_fields(known[origin], settings)
    if differences:
        raise UserError(
            f"{table.path} holds pictures painted with other settings ({'; '.join(differences)}); "
            "give another output table, or the same settings to go on" + ("" if len(table) else _NOTHING_LOST)
        )
    return origin


def claim(table: ImageTable, teacher_name: str, settings: Mapping[str, Any]) -> str:
    """The table's painted origin, registered now where there is none yet; ``UserError`` as above."""
    if refuse_other_settings(table, settings) is None:
        try:
            table.register_first_origin(origin_name(teacher_name, settings), settings)
        except (OSError, UserError):  # another did at the same moment, or this was no conflict
            if not table.reload().origins():
                raise
    origin = refuse_other_settings(table, settings)
    assert origin is not None
    return origin


class DoneKeys:
    """The (caption id, image index) pairs of an origin: those in the table, whoever wrote them, and those added."""

    def __init__(self, table: ImageTable, origin: str) -> None:
        self._table = table
        self._where = f"origin = {literal(origin)}"
        self._fragments: set[int] = set()
        # Caption id -> one bit per image index: ten pictures of a caption take no more memory than one.
        self._indices: dict[str, int] = {}
        self._read()

    def __contains__(self, key: object) -> bool:
        caption, image_index = cast(Key, key)
        return bool(self._indices.get(caption, 0) >> image_index & 1)

    def __len__(self) -> int:
        return sum(map(int.bit_count, self._indices.values()))

    def add(self, keys: Iterable[Key]) -> None:
        """Count pictures as done before they are in the table."""
        indices = self._indices
        for caption, image_index in keys:
            indices[caption] = indices.get(caption, 0) | 1 << image_index

    def refresh(self) -> None:
        """Take in what was committed since; without news this asks only for the newest version number."""
        if self._table.dataset.latest_version != self._table.version:
            self._table = self._table.reload()
            self._read()

    def _read(self) -> None:
        """Read the rows of new fragments only: the cost follows what is new, not what is there."""
        fragments = self._table.dataset.get_fragments()
        new = [fragment for fragment in fragments if fragment.fragment_id not in self._fragments]
        if not new:
            return
        for batch in self._table.scan(["caption_id", "image_index"], filter=self._where, fragments=new):
            self.add(zip(batch["caption_id"].to_pylist(), batch["image_index"].to_pylist(), strict=True))
        self._fragments.update(fragment.fragment_id for fragment in new)


@dataclass
class Tally:
    """What one worker stored."""

    painted: int = 0
    """Pictures that it added."""
    failures: Counter[str] = field(default_factory=Counter)
    """Rows without a picture that it added, by reason."""
    lost: int = 0
    """Rows that another worker had committed before."""

    def in_words(self) -> str:
        """How many have failed, nothing where none has."""
        return f"{self.failures.total():,} failed" if self.failures else ""

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.painted + other.painted, self.failures + other.failures, self.lost + other.lost)


class Writer:
    """Encodes and commits in a thread beside the painting. Use as a context; leaving it commits what is finished."""

    def __init__(self, table: ImageTable, origin: str, facts: Facts, config: GenerateConfig) -> None:
        self._table = table
        self._origin = origin
        self._facts = facts
        self._config = config
        self._rows: list[dict[str, Any]] = []
        self._last_commit = time.monotonic()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._waiting: list[Future[None]] = []
        self.tally = Tally()

    def put(self, items: Sequence[PlanItem], painted: Painted) -> None:
        """Hand over a painted batch; waits where the thread is several batches behind, and raises what it raised."""
        self._submit(items, lambda: encode_painted(painted, self._config), painted.reasons)

    def put_encoded(
        self, items: Sequence[PlanItem], pictures: Sequence[Encoded | None], reasons: Sequence[str | None]
    ) -> None:
        """As ``put``, with pictures that a worker elsewhere has encoded."""
        self._submit(items, lambda: pictures, reasons)

    def _submit(
        self,
        items: Sequence[PlanItem],
        encode: Callable[[], Sequence[Encoded | None]],
        reasons: Sequence[str | None],
    ) -> None:
        self._waiting.append(self._thread.submit(self._store, items, encode, reasons))
        while self._waiting and (self._waiting[0].done() or len(self._waiting) > _MOST_WAITING):
            self._waiting.pop(0).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            for future in self._waiting:
                future.result()
            self._thread.submit(self._commit).result()
        finally:
            self._thread.shutdown()

    def _store(
        self,
        items: Sequence[PlanItem],
        encode: Callable[[], Sequence[Encoded | None]],
        reasons: Sequence[str | None],
    ) -> None:
        self._rows += map(self._row, items, encode(), reasons)
        waited = time.monotonic() - self._last_commit
        if len(self._rows) >= _MOST_ROWS or waited >= self._config.commit_seconds:
            self._commit()

    def _row(self, item: PlanItem, picture: Encoded | None, reason: str | None) -> dict[str, Any]:
        row: dict[str, Any] = {
            "origin": self._origin,
            "caption_id": item.caption_id,
            "image_index": item.image_index,
            "seed": item.seed,
            "style": item.style,
            "status": OK if reason is None else "failed",
            "reason": reason,
            **self._facts[item.caption_id],
        }
        if picture is not None:
            row |= {"image": picture.data, "width": picture.width, "height": picture.height}
        return row

    def _commit(self) -> None:
        by_reason: dict[str | None, list[dict[str, Any]]] = {}
        for row in self._rows:
            by_reason.setdefault(row["reason"], []).append(row)
        # One commit per reason, nearly always one in all: so the counts are exact even where others add the same rows.
        for reason, rows in by_reason.items():
            inserted = self._table.append(rows)
            self.tally.lost += len(rows) - inserted
            if reason is None:
                self.tally.painted += inserted
            else:
                self.tally.failures[reason] += inserted
        self._rows = []
        self._last_commit = time.monotonic()
