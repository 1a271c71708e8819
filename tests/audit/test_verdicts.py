"""Verdicts stand side by side, and the mask follows from all of them, whoever ran last."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from painted_table import image_row, write_images

from stablerep.audit.record import AuditResult, audit_path, record
from stablerep.audit.verdicts import Kept, audits_of, combine, renew_mask, verdict_columns, write_verdicts
from stablerep.errors import UserError
from stablerep.run import write_text
from stablerep.store import ImageTable


@pytest.fixture
def table(tmp_path: Path) -> ImageTable:
    rows = [image_row("a", index, b"picture") for index in range(3)]
    return write_images(
        tmp_path / "images.lance", [*rows, image_row("b", 0, None, status="failed", reason="blank")]
    )


def mask(table: ImageTable) -> list[tuple[bool | None, str | None]]:
    rows = table.reload().read(["keep", "keep_reason"]).to_pylist()
    return [(row["keep"], row["keep_reason"]) for row in rows]


def test_an_audit_that_runs_again_replaces_its_own_verdicts_and_no_others(table: ImageTable) -> None:
    first = write_verdicts(
        table, np.arange(3), "match", [None, "far off", None], {"match": pa.array([0.9, 0.1, 0.8])}
    )
    assert first == Kept(num_kept=2, num_rejected=1, num_unknown=1, rejected_by={"match": 1})
    table = table.reload()
    second = write_verdicts(table, np.arange(2), "quality", ["blurred", "noisy"], {})
    assert second.rejected_by == {"match": 1, "quality": 2}
    assert mask(table) == [
        (False, "quality: blurred"),
        (False, "match: far off; quality: noisy"),
        (True, None),
        (None, None),
    ]
    write_verdicts(
        table.reload(), np.arange(3), "match", [None, None, "no"], {"match": pa.array([0.9, 0.7, 0.2])}
    )
    assert mask(table) == [
        (False, "quality: blurred"),
        (False, "quality: noisy"),
        (False, "match: no"),
        (None, None),
    ]
    assert audits_of(table.reload()) == ["match", "quality"]
    assert table.reload().read(["match"])["match"].to_pylist() == [0.9, 0.7, 0.2, None]


def test_rows_that_come_later_are_not_judged(table: ImageTable) -> None:
    write_verdicts(table, np.arange(3), "match", [None] * 3, {})
    table.reload().append([image_row("c", 0, b"new")])
    kept = renew_mask(table)
    assert (kept.num_kept, kept.num_unknown) == (3, 2)
    assert mask(table)[-1] == (None, None)


def test_a_verdict_that_is_taken_back_leaves_no_mask(table: ImageTable) -> None:
    write_verdicts(table, np.arange(2), "mine", ["ugly", None], {})
    none = {"mine_ok": pa.nulls(2, pa.bool_()), "mine_reason": pa.nulls(2, pa.string())}
    kept = renew_mask(table.reload().write_columns([0, 1], none))
    assert (kept.num_rejected, kept.num_unknown) == (0, 4)
    assert mask(table) == [(None, None)] * 4


def test_where_no_audit_has_judged_every_picture_is_unknown(table: ImageTable) -> None:
    kept = renew_mask(table)
    assert kept == Kept(num_kept=0, num_rejected=0, num_unknown=4, rejected_by={})
    assert mask(table) == [(None, None)] * 4


def test_a_mask_is_made_again_where_verdicts_change_meanwhile(
    table: ImageTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another audit commits its verdicts after ours were read and before the mask is written."""
    write_verdicts(table, np.arange(3), "match", [None] * 3, {})
    original, calls = ImageTable.write_columns, []

    def interrupted(self: ImageTable, *arguments: object) -> ImageTable:
        if not calls:
            calls.append(True)
            original(table.reload(), np.arange(1), verdict_columns("quality", ["blurred"]))
        return original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ImageTable, "write_columns", interrupted)
    assert renew_mask(table).num_rejected == 1
    assert mask(table)[0] == (False, "quality: blurred")


def test_no_verdict_speaks_neither_for_nor_against() -> None:
    def verdict(*fine: bool | None) -> pa.Table:
        return pa.table({"ok": pa.array(fine, pa.bool_()), "reason": pa.array(["x"] * len(fine))})

    keep, why = combine({"a": verdict(None, None, True, False), "b": verdict(None, True, None, True)}, 4)
    assert keep.to_pylist() == [None, True, True, False]
    assert why.to_pylist() == [None, None, None, "a: x"]


def test_a_verdict_of_ones_own_counts(table: ImageTable) -> None:
    mine = {"mine_ok": pa.array([False, True]), "mine_reason": pa.array(["ugly", None])}
    table = table.write_columns([0, 1], {**mine, "lonely_ok": pa.array([False, False])})
    kept = write_verdicts(table, np.arange(3), "quality", [None] * 3, {})
    assert kept.rejected_by == {"mine": 1, "quality": 0}, "without a column of reasons it is no verdict"
    assert mask(table)[:3] == [(False, "mine: ugly"), (True, None), (True, None)]


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_reasons_of_ones_own_may_be_any_text_of_arrow(table: ImageTable, kind: pa.DataType) -> None:
    """pandas and polars write large strings, and categories."""
    mine = {"mine_ok": pa.array([False, False, True]), "mine_reason": pa.array(["ugly", None, None], kind)}
    assert renew_mask(table.write_columns([0, 1, 2], mine)).num_rejected == 2
    assert mask(table)[:3] == [(False, "mine: ugly"), (False, "mine: rejected"), (True, None)]


def result(images: Path, audit: str, num_rejected: int) -> AuditResult:
    kept = Kept(num_kept=1, num_rejected=num_rejected, num_unknown=0, rejected_by={audit: num_rejected})
    return AuditResult(audit=audit, images=images, num_pictures=9, num_rejected=num_rejected, columns=("x",),
                       facts={"limit": 0.5, "none": None, "empty": {}, "no": 0}, worst=(), kept=kept,
                       seconds=1.0)  # fmt: skip


def test_findings_of_several_audits_share_a_file(tmp_path: Path) -> None:
    images = tmp_path / "images.lance"
    path = audit_path(images, None)
    for audit, num_rejected in (("match", 3), ("quality", 2), ("match", 1)):
        record(path, result(images, audit, num_rejected))
    content = json.loads(path.read_text())
    assert {name: found["num_rejected"] for name, found in content["audits"].items()} == {
        "match": 1,
        "quality": 2,
    }
    assert content["keep"]["num_rejected"] == 1
    with pytest.raises(UserError, match=r"other.lance: no image table"):
        audit_path(tmp_path / "other.lance", None)
    write_images(tmp_path / "other.lance", [image_row("a", 0, b"picture")])
    with pytest.raises(UserError, match=r"audit.json holds the audits of images.lance, not of other.lance"):
        audit_path(tmp_path / "other.lance", None)
    path.write_text("[]")
    with pytest.raises(UserError, match=r"audit.json does not hold audits"):
        audit_path(images, None)


def test_audits_that_end_at_once_keep_each_others_findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, path = tmp_path / "images.lance", tmp_path / "audit.json"
    record(path, result(images, "match", 1))

    def written(*arguments: Any) -> None:
        time.sleep(0.1)
        write_text(*arguments)

    monkeypatch.setattr("stablerep.audit.record.write_text", written)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: record(path, result(images, name, 1)), ("quality", "copies")))
    assert set(json.loads(path.read_text())["audits"]) == {"match", "quality", "copies"}


def test_a_result_is_a_table_without_empty_lines(tmp_path: Path) -> None:
    rows = dict(result(tmp_path / "images.lance", "match", 3).rows())
    assert rows["match: rejected"] == "3 (33.3 %)"
    assert rows["match: limit"] == "0.5"
    assert "match: none" not in rows and "match: empty" not in rows and rows["match: no"] == "0"
    assert rows["rejected by any audit"] == "3 (75.0 %)"
