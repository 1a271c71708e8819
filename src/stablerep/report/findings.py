"""What was found, in one sentence, from the numbers: no claim that an interval does not carry."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from stablerep.evaluation.benchmarks import HELD_OUT_STYLE
from stablerep.evaluation.scores import UNTRAINED, Record
from stablerep.report.pictures import Painting
from stablerep.report.reading import Project, RunFolder
from stablerep.report.scores import (
    PROTOCOLS,
    Measured,
    how_measured,
    in_percent,
    key_of,
    main_records,
    percent,
)
from stablerep.report.settings import grouped

_OWN_METHODS = ("stablerep", "stablerep-plus")
_UNSEEN = {
    "test captions, held-out style": "On subjects it never saw, drawn by a hand it never saw",
    "seen captions, held-out style": "On known subjects drawn by a hand it never saw",
}
_NAMES = {UNTRAINED: "an untrained network"}
_WITHOUT_TEST = re.compile(r"\bsplit\s*(?:=\s*'train'|(?:<>|!=)\s*'test')")
_UNDOES_IT = re.compile(r"\bor\b|\bnot\b(?!\s+in\b)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The headline and the sentences that qualify it."""

    headline: str
    remarks: tuple[str, ...] = ()


def find(project: Project, paintings: Sequence[Painting], measured: Sequence[Measured]) -> Findings:
    """The headline about the first StableRep run that was measured, else the first run, else what was painted."""
    subject = subject_of(project, measured)
    records = [] if subject is None else main_records(subject)
    own = next((record for record in records if record.kind == "run"), None)
    if subject is None or own is None:
        return Findings(headline=_without_scores(project, paintings))
    others = [record for record in records if record is not own]
    run = next((run for run in project.runs if run.path == subject.folder), None)
    compared = ", ".join(
        f"{_NAMES.get(record.encoder, record.encoder)} {in_percent(record.mean_per_class.value)}"
        for record in others
    )
    headline = f"{_where(own, run)}, the encoder names {in_percent(own.mean_per_class.value)} correctly"
    return Findings(
        headline=f"{headline}; {compared}." if compared else f"{headline}.",
        remarks=(_measure(own), *_differences(others), *_other_runs(measured, records)),
    )


def subject_of(project: Project, measured: Sequence[Measured]) -> Measured | None:
    """The scores that the headline speaks about."""
    own = {run.path for run in project.runs if run.kind in _OWN_METHODS}
    scored = [scores for scores in measured if main_records(scores)]
    return next((scores for scores in scored if scores.folder in own), scored[0] if scored else None)


def _without_scores(project: Project, paintings: Sequence[Painting]) -> str:
    pictures = sum(painting.num_painted for painting in paintings)
    captions = len({identity for painting in paintings for identity in painting.caption_ids})
    if pictures:
        painted = f"{grouped(pictures)} pictures were painted for {grouped(captions)} captions"
        return f"{painted}; no encoder has been measured yet."
    if project.runs:
        return "No encoder has been measured yet."
    return "There are no painted pictures and no runs here yet."


def _where(record: Record, run: RunFolder | None) -> str:
    if record.test in _UNSEEN and run is not None and _never_saw_the_test(run):
        return _UNSEEN[record.test]
    return f"On {record.benchmark} ({record.test})"


def _never_saw_the_test(run: RunFolder) -> bool:
    """Whether the settings of a run leave out the held-out style, and captions of the test."""
    data = run.config.get("data", {})
    where = data.get("where") or ""
    left_out = _WITHOUT_TEST.search(where) is not None and _UNDOES_IT.search(where) is None
    return left_out and (data.get("origin") == "painted" or HELD_OUT_STYLE in data.get("exclude_styles", ()))


def _measure(own: Record) -> str:
    score = own.mean_per_class
    return (
        f"Measured by {how_measured(PROTOCOLS.get(own.protocol, own.protocol))}, as the mean over "
        f"{own.num_classes} classes of {grouped(own.num_pictures)} real pictures; the 95\u00a0% interval "
        f"is {percent(score.low)} to {in_percent(score.high)}. Guessing gives {in_percent(own.chance_mean_per_class)}."
    )


def _differences(others: Sequence[Record]) -> list[str]:
    clear, unclear, behind = [], [], []
    for record in others:
        if record.ahead is None:
            continue
        name = _NAMES.get(record.encoder, record.encoder)
        low, high = sorted((abs(record.ahead.low), abs(record.ahead.high)))
        if record.ahead.low > 0:
            clear.append(
                f"{name} by {percent(record.ahead.value)} points ({percent(low)} to {percent(high)})"
            )
        elif record.ahead.high < 0:
            behind.append(
                f"{name} by {percent(-record.ahead.value)} points ({percent(low)} to {percent(high)})"
            )
        else:
            unclear.append(name)
    sentences = []
    if clear:
        sentences.append(f"It is ahead of {_listed(clear)}.")
    if behind:
        sentences.append(f"It is behind {_listed(behind)}.")
    if unclear:
        sentences.append(
            f"Between it and {_listed(unclear)} no difference is shown: the interval includes zero."
        )
    return [" ".join(sentences)] if sentences else []


def _other_runs(measured: Sequence[Measured], records: Sequence[Record]) -> list[str]:
    """Runs that were measured in the same test on their own; no difference is claimed, as none was computed."""
    known = {record.fingerprint for record in records}
    others = [
        f"{record.encoder} {in_percent(record.mean_per_class.value)}"
        for scores in measured
        for record in scores.records
        if record.kind == "run" and record.fingerprint not in known and key_of(record) == key_of(records[0])
    ]
    return [f"Other runs in the same test: {_listed(others)}."] if others else []


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
