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
from stablerep.audit.readers import Reader, make_reader, softmax
from stablerep.audit.record import AuditResult, audit_path, record
from stablerep.audit.rows import Rows, read_captions, read_rows
from stablerep.audit.shares import ShareBootstrap, amplification, around, jensen_shannon, total_variation
from stablerep.audit.verdicts import renew_mask
from stablerep.cluster import EngineConfig
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.features import Extraction, TableImages, cached, extract_with
from stablerep.match import image_vectors, zero_shot_weights
from stablerep.models.encoder import load_encoder
from stablerep.models.joint import load_image_text
from stablerep.run import write_text

NAME = "bias"


@dataclass(frozen=True, kw_only=True)
class BiasAuditConfig(EngineConfig):
    """Count the values of attributes in painted pictures, for groups of captions, beside captions and a target.

    The reader of an attribute is a probe on --encoder, or zero-shot with --zero-shot; it is trained and tested on real
    pictures whose captions state the value, and abstains where it is unsure. Columns: bias_NAME, the value that each
    picture shows, null where the reader abstains or the caption is not concerned. The keep mask stays as it is.
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
    """Painted or real pictures: features (M, D), the captions' texts and ids."""

    features: np.ndarray
    texts: list[str]
    captions: np.ndarray
    groups: list[str]


def audit_bias(config: BiasAuditConfig, *, console: Console = Console(quiet=True)) -> AuditResult:  # noqa: B008
    """Read, count, compare; write columns, audit.json and a figure.

    An attribute that the encoder does not see is said to be unread. Raises ``UserError`` where none is read, a file
    cannot be used, and where too few real or painted pictures are concerned.
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
    columns: dict[str, pa.Array] = {}
    findings: dict[str, Any] = {}
    for name, attribute in attributes.items():
        zero_shot = _zero_shot(encoder, attribute, config) if config.zero_shot else None
        reader = make_reader(
            name, attribute, (real.features, real.texts, real.groups), zero_shot, config.seed
        )
        answers = reader.answers(painted.features)
        concerned = np.array(of_each(attribute.concerns, painted.texts))
        columns[f"bias_{name}"] = pa.array(
            [
                attribute.names[answer] if ours and answer >= 0 else None
                for answer, ours in zip(answers, concerned, strict=True)
            ],
            pa.string(),
        )
        findings[name] = {"reader": _quality(reader, attribute), "groups": {}}
        if np.isfinite(reader.level):
            target = _target(name, attribute, real)
            findings[name]["groups"] = _groups(
                name, attribute, painted, (answers, concerned), (reader, target, config)
            )
    _refuse_unread(findings)
    kept = renew_mask(rows.table.write_columns(rows.positions, columns))
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
        facts={**_in_brief(findings), "figure": str(figure), "all numbers": str(details)},
        worst=(),
        kept=kept,
        seconds=time.monotonic() - begin,
    )
    record(path, result)
    console.say(f"{len(attributes)} attributes of {len(rows):,} pictures: {path}, {figure}")
    return result


def _load(config: BiasAuditConfig) -> Any:
    device = _extraction(config).own_device()
    return (
        load_image_text(config.encoder, device) if config.zero_shot else load_encoder(config.encoder, device)
    )


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
        """Of some pictures (M, D); audit match, which looks at all, may have left them in the cache."""
        how, images = _extraction(self.config), TableImages(rows.table, rows.positions[some])
        if self.config.zero_shot:
            return image_vectors(self.encoder, images, how, console=self.console)
        whole = cached(self.encoder, TableImages(rows.table, rows.positions), how)
        return extract_with(self.encoder, images, how, console=self.console) if whole is None else whole[some]


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
    return _Side(
        features=features,
        texts=texts,
        captions=rows.captions,
        groups=[facts[caption].group for caption in rows.captions],
    )


def _zero_shot(model: Any, attribute: Attribute, config: BiasAuditConfig) -> Any:
    weights = zero_shot_weights(model, attribute.names, [attribute.template], _extraction(config))
    scale = float(model.logit_scale.exp())
    return lambda vectors: softmax(scale * vectors @ weights.T)


def _target(name: str, attribute: Attribute, real: _Side) -> np.ndarray:
    if attribute.target:
        return np.array([attribute.target[value] for value in attribute.names])
    concerned = np.array(of_each(attribute.concerns, real.texts))
    stated = np.array(of_each(attribute.stated, real.texts))[concerned]
    if not (stated >= 0).any():
        raise UserError(f"attribute {name}: no caption of a real picture states a value; give a target")
    return _counted(stated, len(attribute.values))


def _counted(stated: np.ndarray, num_values: int) -> np.ndarray:
    """Shares (C,) of what captions state, those that state nothing left out."""
    counts = np.bincount(stated[stated >= 0], minlength=num_values)
    shares: np.ndarray = counts / counts.sum()
    return shares


def _quality(reader: Reader, attribute: Attribute) -> dict[str, Any]:
    """How the reader does on real test pictures, by value, abstentions apart."""
    answered = reader.said >= 0
    right = reader.said == reader.truth
    by_value = {}
    for number, value in enumerate(attribute.names):
        own = answered & (reader.truth == number)
        by_value[value] = float(right[own].mean()) if own.any() else None
    known = [share for share in by_value.values() if share is not None]
    return {
        "test pictures": len(reader.truth),
        "answered": float(answered.mean()),
        "accuracy of answers": float(right[answered].mean()) if answered.any() else None,
        "accuracy wanted": attribute.accuracy,
        "accuracy by value": by_value,
        "worst value": min(known, default=None),
        "gap between values": max(known) - min(known) if known else None,
    }


def _refuse_unread(findings: Mapping[str, Any]) -> None:
    if any(finding["groups"] for finding in findings.values()):
        return
    name, finding = next(iter(findings.items()))
    raise UserError(
        f"attribute {name}: at no confidence is the reader right in {finding['reader']['accuracy wanted']:.0%} of its "
        "answers; lower accuracy in the attributes file, or give an encoder that sees it"
    )


def _groups(
    name: str,
    attribute: Attribute,
    painted: _Side,
    read: tuple[np.ndarray, np.ndarray],
    against: tuple[Reader, np.ndarray, BiasAuditConfig],
) -> dict[str, Any]:
    """Shares of each group of captions: in the captions, in the pictures, and as the reader answers."""
    answers, concerned = read
    reader, target, config = against
    num_values = len(attribute.values)

    def drawn(rows: np.ndarray) -> ShareBootstrap:
        test = (reader.truth, reader.said)
        return ShareBootstrap(
            answers[rows],
            painted.captions[rows],
            test,
            num_values,
            num=config.num_bootstrap,
            seed=config.seed,
        )

    def named(shares: np.ndarray | None) -> dict[str, float] | None:
        return None if shares is None else dict(zip(attribute.names, shares.tolist(), strict=True))

    found: dict[str, Any] = {}
    says = np.array(of_each(attribute.stated, painted.texts))
    for group, members in attribute.members(painted.texts).items():
        own = np.flatnonzero(concerned & np.array(members))
        if not len(own):
            raise UserError(f"attribute {name}: no painted picture belongs to a caption of group {group!r}")
        bootstrap = drawn(own)
        stated = says[own]
        stating = own[stated >= 0]  # captions are compared with their own pictures, not with all
        asked = (_counted(stated, num_values), drawn(stating)) if len(stating) else None
        given = answers[own][answers[own] >= 0]
        said = _counted(given, num_values) if len(given) else None
        found[group] = {
            "pictures": len(own),
            "pictures whose captions state a value": len(stating),
            "abstained": float((answers[own] < 0).mean()),
            "shares": {
                value: asdict(bootstrap.share(number)) for number, value in enumerate(attribute.names)
            },
            "target": named(target),
            **_chain(bootstrap, asked, target, said),
            "captions": named(asked[0] if asked else None),
            "shares where captions state a value": named(asked[1].value if asked else None),
            "answers": named(said),
        }
    return found


def _chain(
    bootstrap: ShareBootstrap,
    asked: tuple[np.ndarray, ShareBootstrap] | None,
    target: np.ndarray,
    said: np.ndarray | None,
) -> dict[str, Any]:
    """Divergence from the target, and how much each step of the chain adds to the leading value."""
    value, replicates = bootstrap.value, bootstrap.replicates
    steps: dict[str, Any] = {}
    if asked is not None:
        captions, pictures = asked
        grown = np.array([amplification(captions, one) for one in pictures.replicates])
        steps["captions to pictures"] = asdict(around(amplification(captions, pictures.value), grown))
    if said is not None:
        steps["pictures to answers"] = amplification(value, said)
    apart = np.array([total_variation(one, target) for one in replicates])
    return {
        "total variation": asdict(around(total_variation(value, target), apart)),
        "jensen_shannon": jensen_shannon(value, target),
        "amplification": steps,
    }


def _in_brief(findings: Mapping[str, Any]) -> dict[str, str]:
    """One line for the terminal per attribute and group."""
    lines = {}
    for name, finding in findings.items():
        if not finding["groups"]:
            lines[name] = "not read: the reader is right too seldom, at any confidence"
        for group, found in finding["groups"].items():
            shares = ", ".join(
                f"{value} {100 * one['value']:.0f} [{100 * one['low']:.0f}, {100 * one['high']:.0f}] % "
                f"(target {100 * found['target'][value]:.0f})"
                for value, one in found["shares"].items()
            )
            lines[f"{name} of {group}"] = f"{shares}; {100 * found['abstained']:.0f} % abstained"
    return lines
