"""``stablerep audit copies``: does a painted picture repeat a real one, or another painted one?"""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from tyro.conf import Positional

from stablerep import runtime
from stablerep.audit.copy_finder import Bank, Matches, find_matches
from stablerep.audit.copy_network import NETWORK, describe, load_network, network_matches
from stablerep.audit.copy_thresholds import thresholds
from stablerep.audit.copy_views import EXPLANATIONS, SIDE, Explanation
from stablerep.audit.pair_sheet import save_pairs
from stablerep.audit.record import AuditResult, Example, audit_path, record
from stablerep.audit.rows import Rows, read_rows
from stablerep.audit.verdicts import write_verdicts
from stablerep.console import Console
from stablerep.copies import at_side
from stablerep.decoding import decode_image
from stablerep.features import TableImages

NAME = "copies"
_READ = 512
_NUM_WORST = 24


@dataclass(frozen=True, kw_only=True)
class CopyAuditConfig:
    """Find the nearest real neighbour of every painted picture; writes copy columns and the keep mask.

    A picture may repeat a real one as it is (also compressed or shrunk), mirrored, recoloured, cropped, or pasted on a
    background. Columns: copy_of, the real picture (origin/caption_id/image_index); copy_score, in powers of ten above
    the alarm threshold; copy_as, how; copy_verdict: exact, near or none; copy_twin, an earlier painted picture that it
    repeats; copies_ok and copies_reason.
    """

    images: Positional[Path]
    """Table of painted pictures (images.lance)."""
    reference: Path
    """Table of the real pictures that must not be repeated."""
    where: str | None = None
    """Only the painted pictures that match this filter."""
    reference_where: str | None = None
    """Only the real pictures that match this filter, such as split = 'train'."""
    false_alarms: float = 0.001
    """Share of genuine pictures that may be flagged."""
    num_calibration: int = 1500
    """Real pictures that set the threshold: searched among those of other groups."""
    pasted: bool = True
    """Look for real pictures shrunk on a background too, where a square has edges on all four sides."""
    sscd: Path | None = None
    """TorchScript file of a copy descriptor such as SSCD, which then looks too. TorchScript runs the code that the file
    holds: name only a file that you trust."""
    encoder: str | None = None
    """An encoder (run or name) whose features look too, in place of --sscd."""
    exact_up_to: int = 100_000
    """With more real pictures than this, candidates are searched in an approximate index."""
    twins: bool = True
    """Look for pictures that repeat another painted one."""
    reject_twins: bool = False
    """Whether a picture that repeats an earlier painted one is rejected too."""
    seed: int = 0
    """Of the sample that sets the threshold."""
    out: Path | None = None
    """Where to write the findings; audit.json beside the table where not given. The nearest pairs are drawn into
    copies.png beside it."""

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


@dataclass(frozen=True)
class _Pictures:
    """M pictures at the side of the search, and a digest of the pixels of each."""

    small: Tensor
    digests: list[bytes]


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


def audit_copies(config: CopyAuditConfig, *, console: Console = Console(quiet=True)) -> AuditResult:  # noqa: B008
    """Search, judge, write columns, mask, audit.json and a sheet of the nearest pairs.

    Raises ``UserError`` where a table or filter cannot be used.
    """
    begin = time.monotonic()
    path = audit_path(config.images, config.out)
    rows, real = read_rows(config.images, config.where), read_rows(config.reference, config.reference_where)
    references, painted = _read(real, "real pictures", console), _read(rows, "painted pictures", console)
    groups = _groups(real)
    parts = torch.split(references.small, _READ)
    bank = Bank.build(parts, groups, exact_up_to=config.exact_up_to)
    network = _Network.named(config, rows, real, groups, console)
    limits = _calibrate(bank, references.small, network, config, console)
    with console.progress("copies", len(rows), "pictures") as progress:
        matches = find_matches(painted.small, bank, config.explanations, advance=progress.advance)
    if network is not None:
        matches = _beside(matches, network.matches())
    verdicts = _judge(matches, limits, config.looked_for, painted.digests, references.digests)
    twins = _twins(painted.small, limits[0]) if config.twins else np.full(len(rows), -1)
    reasons = [_reason(row, verdicts, twins, real, rows, config) for row in range(len(rows))]
    columns = {
        "copy_score": pa.array(verdicts.score, pa.float32()),
        "copy_of": pa.array([identity(real, int(index)) for index in verdicts.index], pa.string()),
        "copy_as": pa.array(verdicts.how, pa.string()),
        "copy_verdict": pa.array(verdicts.verdict, pa.string()),
        "copy_twin": pa.array(
            [None if twin < 0 else identity(rows, int(twin)) for twin in twins], pa.string()
        ),
    }
    kept = write_verdicts(rows.table, rows.positions, NAME, reasons, columns)
    order = np.argsort(-verdicts.score, kind="stable")[:_NUM_WORST]
    sheet = path.with_name("copies.png")
    save_pairs(sheet, [_pair(int(row), rows, real, verdicts) for row in order])
    result = AuditResult(
        audit=NAME,
        images=config.images,
        num_pictures=len(rows),
        num_rejected=sum(reason is not None for reason in reasons),
        columns=tuple(columns),
        facts={
            "real pictures searched": len(real),
            "verdicts": {name: verdicts.verdict.count(name) for name in ("exact", "near", "none")},
            "copies by kind": _by_kind(verdicts, config),
            "pictures that repeat a painted one": int((twins >= 0).sum()) if config.twins else None,
            "thresholds": {
                one.name: float(limit) for one, limit in zip(config.looked_for, limits, strict=True)
            },
            "false alarms asked for": config.false_alarms,
            "nearest pairs": str(sheet),
        },
        worst=tuple(_example(int(row), rows, real, verdicts) for row in order),
        kept=kept,
        seconds=time.monotonic() - begin,
    )
    record(path, result)
    console.say(f"{len(rows):,} pictures beside {len(real):,} real ones: {path}, {sheet}")
    return result


def identity(rows: Rows, row: int) -> str:
    """origin/caption_id/image_index of a row."""
    return f"{rows.origins[row]}/{rows.captions[row]}/{rows.indices[row]}"


def _read(rows: Rows, what: str, console: Console) -> _Pictures:
    images = TableImages(rows.table, rows.positions)
    parts, digests = [], []
    with console.progress(what, len(rows), "pictures") as progress:
        for start in range(0, len(rows), _READ):
            pictures = [decode_image(image) for image in images[start : start + _READ]]
            parts.append(at_side(pictures, SIDE))
            digests += [_digest(picture) for picture in pictures]
            progress.advance(len(pictures))
    return _Pictures(torch.cat(parts), digests)


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


@dataclass(frozen=True)
class _Network:
    """Descriptors of painted (M, D) and real pictures (N, D) by the network that is named."""

    painted: Tensor
    real: Tensor
    groups: np.ndarray

    @classmethod
    def named(
        cls, config: CopyAuditConfig, rows: Rows, real: Rows, groups: np.ndarray, console: Console
    ) -> "_Network | None":
        network = load_network(config.sscd, config.encoder)
        if network is None:
            return None
        painted, others = (
            describe(network, TableImages(part.table, part.positions), console) for part in (rows, real)
        )
        return cls(painted, others, groups)

    def matches(self) -> Matches:
        return network_matches(self.painted, self.real, self.groups)

    def genuine(self, some: np.ndarray) -> Matches:
        """Of real pictures among those of other groups."""
        return network_matches(self.real[some], self.real, self.groups, excluded=self.groups[some])


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
    bank: Bank, pictures: Tensor, network: _Network | None, config: CopyAuditConfig, console: Console
) -> np.ndarray:
    """The threshold of each explanation, from real pictures searched among those of other groups."""
    order = runtime.numpy_generator("audit copies", config.seed).permutation(len(bank))
    some = np.sort(order[: config.num_calibration])
    with console.progress("threshold", len(some), "pictures") as progress:
        genuine = find_matches(
            pictures[some], bank, config.explanations, excluded=bank.groups[some], advance=progress.advance
        )
    if network is not None:
        genuine = _beside(genuine, network.genuine(some))
    usual = [explanation.usual_threshold for explanation in config.looked_for]
    return thresholds(genuine.score, usual, config.false_alarms)


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


def _twins(pictures: Tensor, limit: float) -> np.ndarray:
    """For each painted picture an earlier one that it repeats as it is, or -1 (M,)."""
    own = np.arange(len(pictures))
    bank = Bank.build(torch.split(pictures, _READ), own)
    matches = find_matches(pictures, bank, EXPLANATIONS[:1], excluded=own)
    repeats = (matches.score[:, 0] > limit) & (matches.index[:, 0] < own)
    return np.where(repeats, matches.index[:, 0], -1)


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
    return Example(
        origin=str(rows.origins[row]),
        caption_id=str(rows.captions[row]),
        image_index=int(rows.indices[row]),
        text=None,
        score=float(verdicts.score[row]),
        reason=_kind(row, verdicts),
        of=identity(real, int(verdicts.index[row])),
    )
