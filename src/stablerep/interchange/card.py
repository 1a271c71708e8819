"""The card of an exported set: what it holds, who painted it, under which licence, how it was edited and audited."""

import collections
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stablerep.interchange.layouts import Layout, Written
from stablerep.interchange.tables import Tables
from stablerep.store import IMAGE_SCHEMA, OK, REAL

_SHOWN_FIRST = ("pipeline", "scheduler", "num_inference_steps", "guidance_scale", "seed", "edit")


def set_card(name: str, layout: str, tables: Tables, how: Layout, written: Written) -> str:
    """README.md of a set, with the header that the Hugging Face hub reads."""
    columns = ["origin", "status", "licence", "split"]
    facts = tables.images.read(columns)
    sections = {
        f"# {name}": _size(tables, facts),
        "## Files": "\n\n".join(filter(None, [how.description, written.note, _mark_note(layout, written)])),
        "## Who painted it": _origins(tables.images.origins(), facts),
        "## Licences": _counts(facts["licence"], "not stated") + ".",
        "## Audits": _audits(tables),
    }
    body = "\n\n".join(f"{heading}\n\n{text}" for heading, text in sections.items())
    is_painted = bool(set(facts["origin"].to_pylist()) - {REAL})
    return f"{_header(layout, is_painted, tables.captions is not None)}\n{body}\n"


def _header(layout: str, is_painted: bool, has_captions: bool) -> str:
    lines = ["---", "tags:", "- stablerep"]
    if is_painted:
        lines.append("- synthetic")
    if layout == "parquet":
        lines += ["configs:", "- config_name: default", "  data_files: data/*.parquet"]
        if has_captions:
            lines += ["- config_name: captions", "  data_files: captions/*.parquet"]
    return "\n".join([*lines, "---"])


def _size(tables: Tables, facts: pa.Table) -> str:
    num_ok = pc.sum(pc.equal(facts["status"], OK)).as_py() or 0
    num_captions = "unknown captions" if tables.captions is None else f"{len(tables.captions):,} captions"
    failed = (
        f" and {len(facts) - num_ok:,} rows without one, whose reason is kept" if num_ok < len(facts) else ""
    )
    return f"{num_ok:,} pictures of {num_captions}{failed}. Splits: {_counts(facts['split'], 'none')}."


def _origins(settings: Mapping[str, Mapping[str, Any]], facts: pa.Table) -> str:
    lines = []
    for origin, count in sorted(collections.Counter(facts["origin"].to_pylist()).items()):
        if origin == REAL:
            lines.append(f"- `{REAL}`: {count:,} pictures that no model painted.")
            continue
        known = settings.get(origin, {})
        names = [name for name in _SHOWN_FIRST if name in known]
        names += sorted(name for name in known if name not in _SHOWN_FIRST)
        said = "; ".join(f"{name} {json.dumps(known[name], ensure_ascii=False)}" for name in names)
        lines.append(f"- `{origin}`: {count:,} painted pictures. {said or 'Its settings are not recorded'}.")
    return "\n".join(lines) or "Nobody: the set is empty."


def _mark_note(layout: str, written: Written) -> str:
    if written.num_marked:
        return (
            f"{written.num_marked:,} painted pictures carry IPTC's digital source type `trainedAlgorithmicMedia` in "
            "their metadata; their pixels are untouched, and `stablerep convert` takes the mark out again to the byte."
        )
    return "" if layout == "parquet" else "The files are byte for byte as they were painted or collected."


def _audits(tables: Tables) -> str:
    """Columns beyond those that every table has: what the audits found, and whether they would keep the picture."""
    names = [name for name in tables.schema.names if name not in IMAGE_SCHEMA.names]
    if not names:
        return "None: no audit has written a column."
    lines = []
    for name in names:
        values = tables.images.read([name])[name]
        known = len(values) - values.null_count
        said = f"- `{name}` ({values.type}): known of {known:,} pictures"
        if pa.types.is_boolean(values.type):
            said += f", true of {pc.sum(values).as_py() or 0:,}"
        elif known and (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
            said += f", mean {pc.mean(values).as_py():.4g}"
        lines.append(f"{said}.")
    return "\n".join(lines)


def _counts(values: pa.ChunkedArray, missing: str) -> str:
    counts = collections.Counter(value or missing for value in values.to_pylist())
    return ", ".join(f"{value} {count:,}" for value, count in counts.most_common(12)) or "none"
