"""``stablerep audit all``: every audit of a table of pictures, one after the other, into one table and one file."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import tyro

from stablerep import runtime
from stablerep.audit.bias import BiasAuditConfig, BiasRules, audit_bias
from stablerep.audit.captions import FILE as CAPTIONS_FILE
from stablerep.audit.captions import CaptionAuditConfig, audit_captions, judge_images
from stablerep.audit.copies import CopyAuditConfig, CopyRules, audit_copies
from stablerep.audit.match import MatchAuditConfig, MatchRules, audit_match
from stablerep.audit.quality import QualityConfig, QualityRules, audit_quality
from stablerep.audit.record import AuditResult, Example, audit_path, share_of
from stablerep.audit.rows import read_captions
from stablerep.audit.verdicts import Kept, renew_mask
from stablerep.cluster import EngineConfig, engine_fields
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.store import CaptionTable, ImageTable

_NUM_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class AuditAllConfig(EngineConfig):
    """Run every audit that has what it needs, renew the keep mask, and write audit.json with the worst examples.

    Each audit writes its own columns and verdicts; `stablerep audit NAME --help` names them.
    """

    images: tyro.conf.Positional[Path]
    """Table of pictures (images.lance)."""
    captions: Path
    """Table of the captions that they were painted for."""
    encoder: str | None = None
    """Of audit match: an image-text run or a model of open_clip, as `audit match` takes it; left out without it."""
    download: bool = False
    """Fetch a model given by its name from the hub if it is not in the local cache yet."""
    protected: Path | None = None
    """Of audit captions: text file of names that must not occur."""
    where: str | None = None
    """Only the pictures that match this filter, in every audit."""
    reference: Path | None = None
    """Of audit copies and bias: table of real pictures; both are left out without it."""
    reference_where: str | None = None
    """Which of them, such as "split = 'train'"."""
    attributes: Path | None = None
    """Of audit bias: TOML file of attributes, or the name of a shipped one (icons); left out without it."""
    only: tuple[str, ...] = ()
    """Only these audits; all where not given."""
    match: MatchRules = field(default_factory=MatchRules)
    """What audit match rejects."""
    quality: QualityRules = field(default_factory=QualityRules)
    """What audit quality rejects, and the real pictures that it compares with."""
    copies: CopyRules = field(default_factory=CopyRules)
    """What audit copies looks for."""
    bias: BiasRules = field(default_factory=BiasRules)
    """How audit bias reads attributes."""
    batch_size: int = 256
    """Pictures per forward pass."""
    precision: runtime.Precision = "auto"
    """Number format of the forward pass."""
    device: str = "auto"
    """Where encoders run: auto, cpu, cuda, mps."""
    out: Path | None = None
    """Where to write the findings; audit.json beside the table where not given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {self.batch_size}")
        unknown = [name for name in self.only if name not in AUDITS]
        if unknown:
            raise ValueError(f"only names no audit {unknown[0]!r}; there are: {', '.join(AUDITS)}")


def _match(config: AuditAllConfig, console: Console) -> AuditResult | str:
    if config.encoder is None:
        return "no encoder was given (--encoder)"
    settings = MatchAuditConfig(
        images=config.images,
        captions=config.captions,
        encoder=config.encoder,
        download=config.download,
        where=config.where,
        rules=config.match,
        batch_size=config.batch_size,
        precision=config.precision,
        device=config.device,
        out=config.out,
        **engine_fields(config),
    )
    return audit_match(settings, console=console)


def _quality(config: AuditAllConfig, console: Console) -> AuditResult | str:
    settings = QualityConfig(
        images=config.images,
        where=config.where,
        rules=config.quality,
        out=config.out,
        **engine_fields(config),
    )
    return audit_quality(settings, console=console)


def _captions(config: AuditAllConfig, console: Console) -> AuditResult | str:
    found = None if config.out is None else config.out.with_name(CAPTIONS_FILE)
    settings = CaptionAuditConfig(captions=config.captions, protected=config.protected, out=found)
    audit_captions(settings, console=console)
    return judge_images(config.images, config.captions, config.out, where=config.where, console=console)


def _copies(config: AuditAllConfig, console: Console) -> AuditResult | str:
    if config.reference is None:
        return "no real pictures were given (--reference)"
    settings = CopyAuditConfig(
        images=config.images,
        reference=config.reference,
        where=config.where,
        reference_where=config.reference_where,
        download=config.download,
        out=config.out,
        **vars(config.copies),
    )
    return audit_copies(settings, console=console)


def _bias(config: AuditAllConfig, console: Console) -> AuditResult | str:
    if config.attributes is None:
        return "no attributes were given (--attributes)"
    if config.encoder is None or config.reference is None:
        return "it needs an encoder and real pictures (--encoder, --reference)"
    settings = BiasAuditConfig(
        images=config.images,
        captions=config.captions,
        attributes=config.attributes,
        reference=config.reference,
        where=config.where,
        reference_where=config.reference_where,
        encoder=config.encoder,
        download=config.download,
        batch_size=config.batch_size,
        precision=config.precision,
        device=config.device,
        out=config.out,
        **vars(config.bias),
        **engine_fields(config),
    )
    return audit_bias(settings, console=console)


AUDITS: dict[str, Callable[[AuditAllConfig, Console], AuditResult | str]] = {
    "captions": _captions,
    "quality": _quality,
    "match": _match,
    "copies": _copies,
    "bias": _bias,
}
"""Every audit by name: what it found, or the reason why it was left out."""


@dataclass(frozen=True, kw_only=True)
class AuditSummary:
    """What all audits found in a table of pictures."""

    images: Path
    path: Path
    """The file with everything that was found."""
    results: tuple[AuditResult, ...]
    skipped: Mapping[str, str]
    """Audit -> why it was left out."""
    failed: Mapping[str, str]
    """Audit -> why it could not be done."""
    kept: Kept
    seconds: float
    texts: Mapping[str, str]
    """The captions of the worst pictures, and of those beside them, by id, as far as the table has them."""

    HEADER: ClassVar[tuple[str, ...]] = ("audit", "judged", "rejected", "pictures/s")

    @property
    def complaint(self) -> str | None:
        """What could not be done, where something could not: the command line says it last, and its exit code is 2."""
        return (
            f"audit {', '.join(self.failed)} failed; the others are done: {self.path}"
            if self.failed
            else None
        )

    def rows(self) -> list[list[str]]:
        """One row per audit, then the mask."""
        rows = [
            [
                result.audit,
                f"{result.num_pictures:,}",
                share_of(result.num_rejected, result.num_pictures),
                f"{result.num_pictures / max(result.seconds, 1e-9):,.0f}",
            ]
            for result in self.results
        ]
        total = self.kept.num_kept + self.kept.num_rejected
        return [*rows, ["all together", f"{total:,}", share_of(self.kept.num_rejected, total), ""]]

    def show(self, console: Console) -> None:
        """The table, and the worst examples of each audit."""
        console.table("", self.HEADER, self.rows())
        for name, reason in self.skipped.items():
            console.say(f"audit {name} was left out: {reason}")
        for name, reason in self.failed.items():
            console.complain(f"audit {name} failed: {reason}")
        for result in self.results:
            worst = [one for one in result.worst if one.reason][:_NUM_SHOWN]
            if worst:
                console.facts({f"worst by {result.audit}": [self._described(one) for one in worst]})

    def _described(self, one: Example) -> str:
        text = one.text or self.texts.get(one.caption_id, one.caption_id)
        beside = "" if one.of is None else f", beside “{self.texts.get(one.captions[-1], one.of)}”"
        return f"“{text}”, image {one.image_index}: {one.reason}{beside}"

    def to_json(self) -> dict[str, Any]:
        """Plain values: the part of each audit as in audit.json, by name."""
        return {
            "images": str(self.images),
            "path": str(self.path),
            "audits": {result.audit: result.to_json() for result in self.results},
            "skipped": dict(self.skipped),
            "failed": dict(self.failed),
            "keep": asdict(self.kept),
            "seconds": self.seconds,
        }


def audit_all(config: AuditAllConfig, *, console: Console = Console(quiet=True)) -> AuditSummary:  # noqa: B008
    """Run the audits one after the other; each writes its columns, its verdicts and its part of audit.json.

    An audit that cannot be done does not keep the others from being done; the summary names it. Raises ``UserError``
    where no audit could be done, and, before any begins, where there is no table of captions.
    """
    begin = time.monotonic()
    path = audit_path(config.images, config.out)
    CaptionTable.open(config.captions)  # a wrong path is said now, not after hours
    results: list[AuditResult] = []
    skipped, failed = {}, {}
    for name in config.only or AUDITS:
        try:
            found = AUDITS[name](config, console)
        except UserError as error:
            failed[name] = str(error)
            continue
        if isinstance(found, str):
            skipped[name] = found
        else:
            results.append(found)
    if not results:
        why = "; ".join(f"{name}: {reason}" for name, reason in {**failed, **skipped}.items())
        raise UserError(f"no audit ran: {why}")
    return _summary(config, path, results, (skipped, failed), begin)


def _summary(
    config: AuditAllConfig,
    path: Path,
    results: Sequence[AuditResult],
    undone: tuple[Mapping[str, str], Mapping[str, str]],
    begin: float,
) -> AuditSummary:
    skipped, failed = undone
    captions = read_captions(config.captions, ())
    shown = {one for result in results for worst in result.worst for one in worst.captions} & captions.keys()
    return AuditSummary(
        images=config.images,
        path=path,
        results=tuple(results),
        skipped=skipped,
        failed=failed,
        kept=renew_mask(ImageTable.open(config.images)),
        seconds=time.monotonic() - begin,
        texts={one: captions[one].text for one in sorted(shown)},
    )
