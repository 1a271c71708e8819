"""``stablerep audit copies``: does a painted picture repeat a real one, or another painted one?"""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from tyro.conf import Positional

from stablerep import runtime
from stablerep.audit.copy_finder import Bank, Matches, find_earlier, find_matches
from stablerep.audit.copy_network import NETWORK, Described, describe, load_network
from stablerep.audit.copy_thresholds import FEWEST, far_above, thresholds
from stablerep.audit.copy_views import EXPLANATIONS, SIDE, Explanation
from stablerep.audit.pair_sheet import save_pairs
from stablerep.audit.record import REFERENCE, AuditResult, Example, audit_path, example, metered, record
from stablerep.audit.rows import Rows, read_rows
from stablerep.audit.verdicts import Kept, with_nulls, write_verdicts
from stablerep.console import Console
from stablerep.copies import at_side
from stablerep.errors import UserError
from stablerep.features import FrozenEncoder, TableImages, decoded

NAME = "copies"
_READ = 512
_NUM_WORST = 24


@dataclass(frozen=True, kw_only=True)
class CopyRules:
    """What counts as a copy, and how it is looked for."""

    false_alarms: float = 0.001
    """Share of genuine pictures that may be flagged."""
    num_calibration: int = 1500
    """Real pictures that set the threshold: searched among those of other groups. Fewer than 500 set none."""
    pasted: bool = True
    """Look for real pictures shrunk on a background too, where a square has edges on all four sides."""
    sscd: Path | None = None
    """TorchScript file of a copy descriptor such as SSCD, which then looks too. TorchScript runs the code that the file
    holds: name only a file that you trust."""
    encoder: str | None = None
    """An encoder (run or name) whose features look too, in place of ``sscd``."""
    exact_up_to: int = 100_000
    """With more real pictures than this, candidates are searched in an approximate index, and with more painted ones
    those of which several are the same."""
    twins: bool = True
    """Look for pictures that repeat another painted one."""
    reject_twins: bool = False
    """Whether a picture that repeats an earlier painted one is rejected too."""

    def __post_init__(self) -> None:
        if not 0 < self.false_alarms < 1:
            raise ValueError(f"false_alarms must be in (0, 1), got {self.false_alarms}")
        if self.num_calibration < 1:
            raise ValueError(f"num_calibration must be positive, got {self.num_calibration}")

    @property
    def explanations(self) -> tuple[Explanation, ...]:
        """What is looked for."""
        return EXPLANATIONS if self.pasted else EXPLANATIONS[:-1]

    @property
    def looked_for(self) -> tuple[Explanation, ...]:
        """The same, and what a network finds where one is named."""
        is_named = self.sscd is not None or self.encoder is not None
        return (*self.explanations, NETWORK) if is_named else self.explanations


@dataclass(frozen=True, kw_only=True)
class CopyAuditConfig(CopyRules):
    """Find the nearest real neighbour of every painted picture; writes copy columns and the keep mask.

    A picture may repeat a real one as it is (also compressed or shrunk), mirrored, recoloured, cropped, or pasted on a
    background. Columns: copy_of, the real picture (origin/caption_id/image_index); copy_score, in powers of ten above
    the alarm threshold; copy_as, how; copy_verdict: exact, near or none; copy_twin, an earlier painted picture that it
    repeats; copies_ok and copies_reason. A picture that cannot be decoded is rejected.
    """

    images: Positional[Path]
    """Table of painted pictures (images.lance)."""
    reference: Path
    """Table of the real pictures that must not be repeated."""
    where: str | None = None
    """Only the painted pictures that match this filter."""
    reference_where: str | None = None
    """Only the real pictures that match this filter, such as split = 'train'."""
    download: bool = False
    """Fetch a model given by its name from the hub if it is not in the local cache yet."""
    seed: int = 0
    """Of the sample that sets the threshold."""
    out: Path | None = None
    """Where to write the findings; audit.json beside the table where not given. The nearest pairs are drawn into
    copies.png beside it."""


@dataclass(frozen=True)
class _Pictures:
    """M pictures that can be decoded, at the side of the search, and a digest of the pixels of each."""

    rows: Rows
    small: Tensor
    digests: list[bytes]
    undecoded: Mapping[int, str]
    """Row of all that were asked for -> why it cannot be decoded."""


@dataclass(frozen=True)
class Verdicts:
    """What is said of each of M painted pictures."""

    score: np.ndarray
    """Powers of ten above the threshold (M,)."""
    index: np.ndarray
    """The nearest real picture (M,)."""
    how: list[str]
    verdict: list[str]
    """exact, near or none."""


@metered(NAME)
def audit_copies(config: CopyAuditConfig, *, console: Console = Console(quiet=True)) -> AuditResult:  # noqa: B008
    """Search, judge, write columns, mask, audit.json and a sheet of the nearest pairs.

    Raises ``UserError`` where a table or filter cannot be used.
    """
    begin = time.monotonic()
    path = audit_path(config.images, config.out)
    every = read_rows(config.images, config.where)
    named = load_network(config.sscd, config.encoder, download=config.download)
    references = _read(read_rows(config.reference, config.reference_where), "real pictures", console)
    painted = _read(every, "painted pictures", console)
    rows, real = painted.rows, references.rows
    bank = Bank.build(torch.split(references.small, _READ), _groups(real), exact_up_to=config.exact_up_to)
    network = None if named is None else _described(named, (rows, real), bank.groups, config, console)
    limits = _calibrate(bank, references.small, network, config, console)
    with console.progress("copies", len(rows), "pictures") as progress:
        matches = find_matches(painted.small, bank, config.explanations, advance=progress.advance)
    if network is not None:
        matches = _beside(matches, network.matches())
    verdicts = _judge(matches, limits, config.looked_for, painted.digests, references.digests)
    twins = _twins(painted.small, limits[0], config.exact_up_to) if config.twins else np.full(len(rows), -1)
    reasons = [_reason(row, verdicts, twins, real, rows, config) for row in range(len(rows))]
    columns = _columns(verdicts, twins, rows, real)
    kept = _write(every, painted, reasons, columns)
    order = np.argsort(-verdicts.score, kind="stable")[:_NUM_WORST]
    sheet = path.with_name("copies.png")
    save_pairs(sheet, [_pair(int(row), rows, real, verdicts) for row in order])
    result = AuditResult(
        audit=NAME,
        images=config.images,
        num_pictures=len(every),
        num_rejected=sum(reason is not None for reason in reasons) + len(painted.undecoded),
        columns=tuple(columns),
        facts={
            REFERENCE: real.table.path,
            "real pictures searched": len(real),
            "cannot be decoded": len(painted.undecoded) or None,
            "real pictures that cannot be decoded": len(references.undecoded) or None,
            "verdicts": {name: verdicts.verdict.count(name) for name in ("exact", "near", "none")},
            "copies by kind": _by_kind(verdicts, config),
            "pictures that repeat a painted one": int((twins >= 0).sum()) if config.twins else None,
            **_of_thresholds(limits, _num_calibration(config, bank), config),
            "nearest pairs": str(sheet),
        },
        worst=tuple(_example(int(row), rows, real, verdicts) for row in order),
        kept=kept,
        seconds=time.monotonic() - begin,
    )
    record(path, result)
    console.say(f"{len(every):,} pictures beside {len(real):,} real ones: {path}, {sheet}")
    return result


def _columns(verdicts: Verdicts, twins: np.ndarray, rows: Rows, real: Rows) -> dict[str, pa.Array]:
    return {
        "copy_score": pa.array(verdicts.score, pa.float32()),
        "copy_of": pa.array([identity(real, int(index)) for index in verdicts.index], pa.string()),
        "copy_as": pa.array(verdicts.how, pa.string()),
        "copy_verdict": pa.array(verdicts.verdict, pa.string()),
        "copy_twin": pa.array(
            [None if twin < 0 else identity(rows, int(twin)) for twin in twins], pa.string()
        ),
    }


def _write(
    every: Rows, painted: _Pictures, reasons: list[str | None], columns: Mapping[str, pa.Array]
) -> Kept:
    """What was found of the pictures that can be decoded, and why the others cannot."""
    left_out = every.some(np.array(list(painted.undecoded), dtype=np.int64))
    return write_verdicts(
        every.table,
        np.concatenate([painted.rows.positions, left_out.positions]),
        NAME,
        [*reasons, *painted.undecoded.values()],
        with_nulls(columns, len(left_out)),
    )


def _of_thresholds(limits: np.ndarray, num_genuine: int, config: CopyAuditConfig) -> dict[str, Any]:
    """The thresholds, and what set them."""
    is_set = num_genuine >= FEWEST
    return {
        "thresholds": {one.name: float(limit) for one, limit in zip(config.looked_for, limits, strict=True)},
        "thresholds set by": f"{num_genuine:,} real pictures"
        if is_set
        else f"nothing: they are built in, as {num_genuine:,} real pictures are fewer than {FEWEST}",
        "false alarms asked for": config.false_alarms if is_set else None,
    }


def identity(rows: Rows, row: int) -> str:
    """origin/caption_id/image_index of a row."""
    return f"{rows.origins[row]}/{rows.captions[row]}/{rows.indices[row]}"


def _read(rows: Rows, what: str, console: Console) -> _Pictures:
    """Those that can be decoded; ``UserError`` where none can."""
    images = TableImages(rows.table, rows.positions)
    parts, digests, undecoded = [], [], {}
    with console.progress(what, len(rows), "pictures") as progress:
        for start in range(0, len(rows), _READ):
            found = dict(enumerate(map(decoded, images[start : start + _READ]), start))
            undecoded.update({row: one for row, one in found.items() if isinstance(one, str)})
            pictures = [one for one in found.values() if not isinstance(one, str)]
            if pictures:
                parts.append(at_side(pictures, SIDE))
                digests += [_digest(picture) for picture in pictures]
            progress.advance(len(found))
    if not parts:
        raise UserError(f"{rows.table.path}: none of the {len(rows):,} {what} can be decoded; give others")
    some = np.array([row for row in range(len(rows)) if row not in undecoded])
    return _Pictures(rows.some(some), torch.cat(parts), digests, undecoded)


def _digest(picture: Tensor) -> bytes:
    content = picture.contiguous().numpy().tobytes()
    return hashlib.blake2b(str(tuple(picture.shape)).encode() + content, digest_size=16).digest()


def _groups(rows: Rows) -> np.ndarray:
    """Groups of pictures as integers; a picture without one is grouped by its caption."""
    named = rows.table.read(["group"])["group"].take(rows.positions).to_pylist()
    names = [
        f"caption {caption}" if group is None else f"group {group}"
        for group, caption in zip(named, rows.captions, strict=True)
    ]
    codes: np.ndarray = np.unique(names, return_inverse=True)[1]
    return codes


def _described(
    network: FrozenEncoder,
    sides: tuple[Rows, Rows],
    groups: np.ndarray,
    config: CopyAuditConfig,
    console: Console,
) -> Described:
    """What the network that is named says of painted and real pictures, and the groups of the latter."""
    painted, real = (describe(network, TableImages(rows.table, rows.positions), console) for rows in sides)
    return Described.build(painted, real, groups, exact_up_to=config.exact_up_to)


def _beside(left: Matches, right: Matches) -> Matches:
    """The explanations of both."""
    return Matches(np.hstack([left.score, right.score]), np.hstack([left.index, right.index]))


def _by_kind(verdicts: Verdicts, config: CopyAuditConfig) -> dict[str, int]:
    pairs = list(zip(verdicts.how, verdicts.verdict, strict=True))
    return {
        one.name: sum(how == one.name and verdict != "none" for how, verdict in pairs)
        for one in config.looked_for
    }


def _calibrate(
    bank: Bank, pictures: Tensor, network: Described | None, config: CopyAuditConfig, console: Console
) -> np.ndarray:
    """The threshold of each explanation, from real pictures searched among those of other groups."""
    order = runtime.numpy_generator("audit copies", config.seed).permutation(len(bank))
    some = np.sort(order[: _num_calibration(config, bank)])
    with console.progress("threshold", len(some), "pictures") as progress:
        genuine = find_matches(
            pictures[some], bank, config.explanations, excluded=bank.groups[some], advance=progress.advance
        )
    if network is not None:
        genuine = _beside(genuine, network.genuine(some))
    limits = thresholds(genuine.score, config.looked_for, config.false_alarms)
    for number in np.flatnonzero(far_above(limits, config.looked_for)):
        explanation = config.looked_for[number]
        console.say(
            f"{config.reference}: to be called {explanation.name} a copy must score "
            f"{limits[number]:.2f}, usual is {explanation.usual_threshold:.2f}, as real pictures of different groups "
            "are that much alike: many copies will be missed; look for pictures that stand there several times"
        )
    return limits


def _num_calibration(config: CopyAuditConfig, bank: Bank) -> int:
    """Real pictures that set thresholds, if they are enough."""
    return min(config.num_calibration, len(bank))


def _judge(
    matches: Matches,
    limits: np.ndarray,
    explanations: tuple[Explanation, ...],
    painted: list[bytes],
    real: list[bytes],
) -> Verdicts:
    above = matches.score - limits
    best = above.argmax(1)
    every = np.arange(len(above))
    score, index = above[every, best], matches.index[every, best]
    how = [explanations[number].name for number in best]
    verdict = ["near" if value > 0 else "none" for value in score]
    first = {digest: row for row, digest in reversed(list(enumerate(real)))}
    for row, digest in enumerate(painted):
        if digest in first:
            index[row], how[row], verdict[row] = first[digest], explanations[0].name, "exact"
            score[row] = max(score[row], 0)  # even of a blank picture, which resembles nothing
    return Verdicts(score, index, how, verdict)


def _twins(pictures: Tensor, limit: float, exact_up_to: int) -> np.ndarray:
    """For each painted picture the earlier one that it repeats as it is, or -1 (M,).

    Only earlier ones are searched: the nearest of several twins may be a later one.
    """
    bank = Bank.build(torch.split(pictures, _READ), np.arange(len(pictures)), exact_up_to=exact_up_to)
    matches = find_earlier(pictures, bank, EXPLANATIONS[0])
    return np.where(matches.score[:, 0] > limit, matches.index[:, 0], -1)


def _reason(
    row: int, verdicts: Verdicts, twins: np.ndarray, real: Rows, rows: Rows, config: CopyAuditConfig
) -> str | None:
    if verdicts.verdict[row] != "none":
        return f"{_kind(row, verdicts)} of {identity(real, int(verdicts.index[row]))}"
    if config.reject_twins and twins[row] >= 0:
        return f"repeats {identity(rows, int(twins[row]))}"
    return None


def _kind(row: int, verdicts: Verdicts) -> str:
    """The verdict in words."""
    if verdicts.verdict[row] == "exact":
        return "exact copy"
    return f"{'near-copy' if verdicts.verdict[row] == 'near' else 'no copy'} ({verdicts.how[row]})"


def _pair(row: int, rows: Rows, real: Rows, verdicts: Verdicts) -> tuple[bytes, bytes, str]:
    (painted,) = rows.table.take_images([rows.positions[row]])
    (original,) = real.table.take_images([real.positions[verdicts.index[row]]])
    return painted, original, f"{verdicts.verdict[row]} {verdicts.score[row]:+.2f} {verdicts.how[row]}"


def _example(row: int, rows: Rows, real: Rows, verdicts: Verdicts) -> Example:
    return example(
        rows,
        row,
        score=float(verdicts.score[row]),
        reason=_kind(row, verdicts),
        of=identity(real, int(verdicts.index[row])),
    )
