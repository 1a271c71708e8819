"""``stablerep audit bias``: which values of an attribute painted pictures show, beside captions and a target."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tyro.conf import Positional

from stablerep import runtime
from stablerep.audit.attributes import Attribute, of_each, read_attributes
from stablerep.audit.bias_figure import draw_shares
from stablerep.audit.readers import Reader, make_reader, softmax, tested_quality
from stablerep.audit.record import AuditResult, audit_path, record
from stablerep.audit.rows import Rows, read_captions, read_rows
from stablerep.audit.shares import (
    ShareBootstrap,
    Shown,
    amplification,
    around,
    jensen_shannon,
    total_variation,
)
from stablerep.audit.verdicts import renew_mask, with_nulls
from stablerep.cluster import EngineConfig
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.features import Extraction, TableImages, cached, extract_decodable
from stablerep.match import decodable_vectors, zero_shot_weights
from stablerep.models.encoder import load_encoder
from stablerep.models.joint import load_image_text
from stablerep.run import write_text
from stablerep.store import ImageTable

NAME = "bias"


@dataclass(frozen=True, kw_only=True)
class BiasAuditConfig(EngineConfig):
    """Count the values of attributes in painted pictures, for groups of captions, beside captions and a target.

    The reader of an attribute is a probe on --encoder, or zero-shot with --zero-shot; it is trained and tested on real
    pictures whose captions state the value, and abstains where it is unsure. Columns: bias_NAME, the value that each
    picture shows, null where the reader abstains or the caption is not concerned, and in all pictures where the
    attribute is not read. The keep mask stays as it is.
    """

    images: Positional[Path]
    """Table of painted pictures (images.lance)."""
    captions: Path
    """Table of the captions that they were painted for."""
    attributes: Path
    """TOML file that names the attributes, their values and the patterns that state them."""
    reference: Path
    """Table of real pictures (images.lance)."""
    reference_captions: Path | None = None
    """Captions of the real pictures; ``captions`` where not given."""
    encoder: str
    """Encoder or image-text model that reads the pictures: a run or a name."""
    download: bool = False
    """Fetch a model given by its name from the hub if it is not in the local cache yet."""
    zero_shot: bool = False
    """Read by the names of the values and the image-text model, without training a probe."""
    where: str | None = None
    """Only the painted pictures that match this filter."""
    reference_where: str | None = None
    """Only the real pictures that match this filter."""
    num_bootstrap: int = 1000
    """Replicates of the intervals, over captions and over the reader's test pictures."""
    batch_size: int = 256
    """Pictures per forward pass."""
    precision: runtime.Precision = "auto"
    """Number format of the forward pass; auto takes bfloat16 where it is faster."""
    device: str = "auto"
    """Where the encoder runs: auto, cpu, cuda, mps."""
    seed: int = 0
    """Of halves and replicates."""
    out: Path | None = None
    """Where to write the findings; audit.json beside the table where not given. All numbers (bias.json) and a figure
    (bias.png) lie beside it, and features of pictures, cached by content, in features/."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.num_bootstrap, self.batch_size) < 1:
            raise ValueError("num_bootstrap and batch_size must be positive")


@dataclass(frozen=True)
class _Side:
    """Painted or real pictures that can be decoded: features (M, D), and what is known of their captions."""

    rows: Rows
    features: np.ndarray
    texts: list[str]
    groups: list[str]
    num_undecoded: int


def audit_bias(config: BiasAuditConfig, *, console: Console = Console(quiet=True)) -> AuditResult:  # noqa: B008
    """Read, count, compare; write columns, audit.json and a figure.

    An attribute that the encoder does not see, or too few real pictures state, is said to be unread, and so is a group
    without pictures. Raises ``UserError`` where none is read, a file cannot be used, and where no picture is concerned.
    """
    begin = time.monotonic()
    path = audit_path(config.images, config.out)
    attributes = read_attributes(config.attributes)
    rows = read_rows(config.images, config.where)
    real_rows = read_rows(config.reference, config.reference_where)
    encoder = _load(config)
    eyes = _Eyes(encoder, config, console)
    painted = _side(rows, config.captions, eyes, _by_any(attributes, Attribute.concerns))
    real = _side(
        real_rows, config.reference_captions or config.captions, eyes, _by_any(attributes, Attribute.teaches)
    )
    columns, findings = _examine(attributes, (painted, real), encoder, config)
    _refuse_unread(findings)
    kept = renew_mask(_write(rows, painted, columns))
    figure = path.with_name("bias.png")
    draw_shares(figure, findings)
    details = path.with_name("bias.json")
    write_text(details, json.dumps(findings, indent=2) + "\n")
    result = AuditResult(
        audit=NAME,
        images=config.images,
        num_pictures=len(rows),
        num_rejected=0,
        columns=tuple(columns),
        facts={
            **_in_brief(findings),
            "cannot be decoded": painted.num_undecoded or None,
            "real pictures that cannot be decoded": real.num_undecoded or None,
            "figure": str(figure),
            "all numbers": str(details),
        },
        worst=(),
        kept=kept,
        seconds=time.monotonic() - begin,
    )
    record(path, result)
    console.say(f"{len(attributes)} attributes of {len(rows):,} pictures: {path}, {figure}")
    return result


def _examine(
    attributes: Mapping[str, Attribute], sides: tuple[_Side, _Side], encoder: Any, config: BiasAuditConfig
) -> tuple[dict[str, pa.Array], dict[str, Any]]:
    """For each attribute the column of what was read in the painted pictures, and what is found in it."""
    painted, real = sides
    columns: dict[str, pa.Array] = {}
    findings: dict[str, Any] = {}
    for name, attribute in attributes.items():
        zero_shot = _zero_shot(encoder, attribute, config) if config.zero_shot else None
        reader = make_reader(attribute, (real.features, real.texts, real.groups), zero_shot, config.seed)
        if isinstance(reader, str):
            findings[name] = {"reader": {"test pictures": 0}, "unread": reader, "groups": {}}
            columns[f"bias_{name}"] = pa.nulls(len(painted.rows), pa.string())
            continue
        answers = _answers(attribute, reader, painted)
        columns[f"bias_{name}"] = pa.array(
            [attribute.names[answer] if answer >= 0 else None for answer in answers], pa.string()
        )
        findings[name] = _finding(attribute, (painted, real), answers, (reader, config))
    return columns, findings


def _write(rows: Rows, painted: _Side, columns: Mapping[str, pa.Array]) -> ImageTable:
    """What was read, and null in pictures that cannot be decoded: an earlier audit may have left its answers there."""
    left_out = np.setdiff1d(rows.positions, painted.rows.positions)
    return rows.table.write_columns(
        np.concatenate([painted.rows.positions, left_out]),
        with_nulls(columns, len(left_out)),
    )


def _answers(attribute: Attribute, reader: Reader, painted: _Side) -> np.ndarray:
    """What the reader says of each painted picture (M,), -1 where it abstains or the caption is not concerned."""
    concerned = np.array(of_each(attribute.concerns, painted.texts))
    return np.where(concerned, reader.answers(painted.features), -1)


def _finding(
    attribute: Attribute,
    sides: tuple[_Side, _Side],
    answers: np.ndarray,
    by: tuple[Reader, BiasAuditConfig],
) -> dict[str, Any]:
    """All that is said of an attribute that a reader was fitted for."""
    quality = tested_quality(by[0], attribute)
    if np.isfinite(by[0].level):
        return {"reader": quality, "unread": None, **_groups(attribute, sides, answers, by)}
    why = (
        f"at no confidence is the reader right in {attribute.accuracy:.0%} of its answers; lower accuracy in the "
        "attributes file, or give an encoder that sees it"
    )
    return {"reader": quality, "unread": why, "groups": {}}


def _load(config: BiasAuditConfig) -> Any:
    device = _extraction(config).own_device()
    load = load_image_text if config.zero_shot else load_encoder
    return load(config.encoder, device, download=config.download)


def _extraction(config: BiasAuditConfig) -> Extraction:
    cache = audit_path(config.images, config.out).parent / "features"
    return Extraction(
        batch_size=config.batch_size,
        precision=config.precision,
        cache=cache,
        engine=config,
        device=config.device,
    )


@dataclass(frozen=True)
class _Eyes:
    """An encoder at work."""

    encoder: Any
    config: BiasAuditConfig
    console: Console

    def features(self, rows: Rows, some: np.ndarray) -> np.ndarray:
        """Of some pictures (M, D), NaN where one cannot be decoded; audit match may have left them in the cache."""
        how, images = _extraction(self.config), TableImages(rows.table, rows.positions[some])
        if self.config.zero_shot:
            return decodable_vectors(self.encoder, images, how, console=self.console)[0]
        whole = cached(self.encoder, TableImages(rows.table, rows.positions), how)
        if whole is None:
            return extract_decodable(self.encoder, images, how, console=self.console)[0]
        found: np.ndarray = whole[some]
        return found


def _by_any(
    attributes: Mapping[str, Attribute], needs: Callable[[Attribute, str], bool]
) -> Callable[[str], bool]:
    """Whether some attribute needs a caption."""
    return lambda text: any(needs(attribute, text) for attribute in attributes.values())


def _side(rows: Rows, captions: Path, eyes: _Eyes, needed: Callable[[str], bool]) -> _Side:
    """Pictures whose captions are needed are looked at; features of the others are zeros, which nobody reads."""
    facts = read_captions(captions, list(set(rows.captions)))
    texts = [facts[caption].text for caption in rows.captions]
    some = np.flatnonzero(of_each(needed, texts))
    if not len(some):
        raise UserError(
            f"{rows.table.path}: no caption of its pictures has to do with an attribute of {eyes.config.attributes}; "
            "widen the patterns there"
        )
    found = eyes.features(rows, some)
    features = np.zeros((len(rows), found.shape[1]), np.float32)
    features[some] = found
    readable = np.flatnonzero(np.isfinite(features).all(axis=1))
    return _Side(
        rows=rows.some(readable),
        features=features[readable],
        texts=[texts[row] for row in readable],
        groups=[facts[caption].group for caption in rows.captions[readable]],
        num_undecoded=len(rows) - len(readable),
    )


def _zero_shot(model: Any, attribute: Attribute, config: BiasAuditConfig) -> Any:
    weights = zero_shot_weights(model, attribute.names, [attribute.template], _extraction(config))
    scale = float(model.logit_scale.exp())
    return lambda vectors: softmax(scale * vectors @ weights.T)


def _target(attribute: Attribute, real: _Side, members: np.ndarray) -> np.ndarray | None:
    """The shares (C,) that are wanted, or those that captions of a group's real pictures (M,) state, if any does."""
    if attribute.target:
        return np.array([attribute.target[value] for value in attribute.names])
    concerned = members & np.array(of_each(attribute.concerns, real.texts))
    stated = np.array(of_each(attribute.stated, real.texts))[concerned]
    return _counted(stated, len(attribute.values)) if (stated >= 0).any() else None


def _counted(stated: np.ndarray, num_values: int) -> np.ndarray:
    """Shares (C,) of what captions state, those that state nothing left out."""
    counts = np.bincount(stated[stated >= 0], minlength=num_values)
    shares: np.ndarray = counts / counts.sum()
    return shares


def _refuse_unread(findings: Mapping[str, Any]) -> None:
    if any(finding["groups"] for finding in findings.values()):
        return
    name, finding = next(iter(findings.items()))
    why = (
        finding["unread"] or "no painted picture belongs to a caption of any group; widen the patterns there"
    )
    raise UserError(f"attribute {name}: {why}")


def _groups(
    attribute: Attribute,
    sides: tuple[_Side, _Side],
    answers: np.ndarray,
    by: tuple[Reader, BiasAuditConfig],
) -> dict[str, Any]:
    """Shares of each group of captions: in the captions, in the pictures, and as the reader answers."""
    painted, real = sides
    concerned = np.array(of_each(attribute.concerns, painted.texts))
    shown = Shown(answers, painted.rows.captions, np.array(of_each(attribute.stated, painted.texts)))
    of_real = attribute.members(real.texts)
    found: dict[str, Any] = {}
    empty = []
    for group, members in attribute.members(painted.texts).items():
        own = np.flatnonzero(concerned & np.array(members))
        if len(own):
            target = _target(attribute, real, np.array(of_real[group]))
            found[group] = _group(attribute, shown[own], target, by)
        else:
            empty.append(group)
    return {"groups": found, "groups without pictures": empty}


def _group(
    attribute: Attribute, shown: Shown, target: np.ndarray | None, by: tuple[Reader, BiasAuditConfig]
) -> dict[str, Any]:
    reader, config = by
    num_values = len(attribute.values)

    def drawn(some: Shown) -> ShareBootstrap:
        return ShareBootstrap(some, reader.tested, num_values, num=config.num_bootstrap, seed=config.seed)

    def named(shares: np.ndarray | None) -> dict[str, float] | None:
        return None if shares is None else dict(zip(attribute.names, shares.tolist(), strict=True))

    bootstrap = drawn(shown)
    stating = np.flatnonzero(shown.stated >= 0)  # captions are compared with their own pictures, not with all
    asked = drawn(shown[stating]) if len(stating) else None
    given = shown.answers[shown.answers >= 0]
    said = _counted(given, num_values) if len(given) else None
    return {
        "pictures": len(shown.answers),
        "pictures whose captions state a value": len(stating),
        "abstained": float((shown.answers < 0).mean()),
        "shares": {value: asdict(bootstrap.share(number)) for number, value in enumerate(attribute.names)},
        "target": named(target),
        **_apart(bootstrap, target),
        "amplification": _chain(bootstrap, asked, said),
        "captions": named(asked.stated if asked else None),
        "shares where captions state a value": named(asked.value if asked else None),
        "answers": named(said),
    }


def _apart(bootstrap: ShareBootstrap, target: np.ndarray | None) -> dict[str, Any]:
    """How far the shares are from the target, where there is one."""
    if target is None:
        return {"total variation": None, "jensen_shannon": None}
    apart = np.array([total_variation(one, target) for one in bootstrap.replicates])
    return {
        "total variation": asdict(around(total_variation(bootstrap.value, target), apart)),
        "jensen_shannon": jensen_shannon(bootstrap.value, target),
    }


def _chain(
    bootstrap: ShareBootstrap, asked: ShareBootstrap | None, said: np.ndarray | None
) -> dict[str, Any]:
    """How much each step of the chain adds to the leading value."""
    steps: dict[str, Any] = {}
    if asked is not None:
        steps["captions to pictures"] = asdict(asked.amplification())
    if said is not None:
        steps["pictures to answers"] = amplification(bootstrap.value, said)
    return steps


def _in_brief(findings: Mapping[str, Any]) -> dict[str, str]:
    """One line for the terminal per attribute and group."""
    lines = {}
    for name, finding in findings.items():
        if finding["unread"] is not None:
            lines[name] = f"not read: {finding['unread']}"
        for group, found in finding["groups"].items():
            target = found["target"]
            shares = ", ".join(
                f"{value} {100 * one['value']:.0f} [{100 * one['low']:.0f}, {100 * one['high']:.0f}] %"
                + ("" if target is None else f" (target {100 * target[value]:.0f})")
                for value, one in found["shares"].items()
            )
            missing = "" if target is not None else "; no target: no real picture of the group states a value"
            lines[f"{name} of {group}"] = f"{shares}; {100 * found['abstained']:.0f} % abstained{missing}"
        for group in finding.get("groups without pictures", []):
            lines[f"{name} of {group}"] = "not read: no painted picture belongs to a caption of this group"
    return lines
