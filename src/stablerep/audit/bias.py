"""``stablerep audit bias``: which values of an attribute painted pictures show, beside captions and a target."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tyro.conf import Positional

from stablerep import runtime
from stablerep.audit.attributes import Attribute, StatedBy, of_each, read_attributes
from stablerep.audit.bias_figure import draw_shares
from stablerep.audit.bias_findings import Draws, Side, find_shares, in_brief, refuse_unread
from stablerep.audit.readers import Reader, make_reader, softmax
from stablerep.audit.record import AuditResult, audit_path, metered, record
from stablerep.audit.rows import Rows, read_captions, read_rows
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
class BiasRules:
    """How attributes are read, and what says which value a real picture shows."""

    reference_by: StatedBy = "caption"
    """What says which value a real picture shows: its caption, or its column `label`, which is the name of a value or
    holds its pattern. Of pictures with labels no captions are needed."""
    reference_captions: Path | None = None
    """Captions of the real pictures; those of the painted ones where not given."""
    zero_shot: bool = False
    """Read by the names of the values and the image-text model, without training a probe."""
    num_bootstrap: int = 1000
    """Replicates of the intervals, over captions and over the reader's test pictures."""

    def __post_init__(self) -> None:
        if self.num_bootstrap < 1:
            raise ValueError(f"num_bootstrap must be positive, got {self.num_bootstrap}")
        if self.reference_by == "label" and self.reference_captions is not None:
            raise ValueError("reference_captions are not read where reference_by is label; give one of them")


@dataclass(frozen=True, kw_only=True)
class BiasAuditConfig(BiasRules, EngineConfig):
    """Count the values of attributes in painted pictures, for groups of captions, beside captions and a target.

    The reader of an attribute is a probe on --encoder, or zero-shot with --zero-shot; it is trained and tested on real
    pictures whose captions or labels state the value, and abstains where it is unsure. Columns: bias_NAME, the value
    that each picture shows, null where the reader abstains or the caption is not concerned, and in all pictures where
    the attribute is not read. The keep mask stays as it is.
    """

    images: Positional[Path]
    """Table of painted pictures (images.lance)."""
    captions: Path
    """Table of the captions that they were painted for."""
    attributes: Path
    """TOML file of attributes, their values and the patterns that state them, or the name of a shipped one (icons)."""
    reference: Path
    """Table of real pictures (images.lance)."""
    encoder: str
    """Encoder or image-text model that reads the pictures: a run or a name."""
    download: bool = False
    """Fetch a model given by its name from the hub if it is not in the local cache yet."""
    where: str | None = None
    """Only the painted pictures that match this filter."""
    reference_where: str | None = None
    """Only the real pictures that match this filter."""
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
        BiasRules.__post_init__(self)
        EngineConfig.__post_init__(self)
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {self.batch_size}")


@metered(NAME)
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
    painted = _side(_by_caption(rows, config.captions), eyes, _by_any(attributes, Attribute.concerns))
    real = _side(
        _by_label(real_rows)
        if config.reference_by == "label"
        else _by_caption(real_rows, config.reference_captions or config.captions),
        eyes,
        _by_any(attributes, lambda attribute, text: attribute.shown(config.reference_by, text) >= 0),
    )
    columns, findings = _examine(attributes, (painted, real), encoder, config)
    refuse_unread(findings)
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
            **in_brief(findings),
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
    attributes: Mapping[str, Attribute], sides: tuple[Side, Side], encoder: Any, config: BiasAuditConfig
) -> tuple[dict[str, pa.Array], dict[str, Any]]:
    """For each attribute the column of what was read in the painted pictures, and what is found in it."""
    painted, real = sides
    columns: dict[str, pa.Array] = {}
    findings: dict[str, Any] = {}
    for name, attribute in attributes.items():
        zero_shot = _zero_shot(encoder, attribute, config) if config.zero_shot else None
        known = (real.features, real.shown(attribute), real.groups)
        reader = make_reader(attribute, known, zero_shot, config.seed)
        if isinstance(reader, str):
            findings[name] = {"reader": {"test pictures": 0}, "unread": reader, "groups": {}}
            columns[f"bias_{name}"] = pa.nulls(len(painted.rows), pa.string())
            continue
        answers = _answers(attribute, reader, painted)
        columns[f"bias_{name}"] = pa.array(
            [attribute.names[answer] if answer >= 0 else None for answer in answers], pa.string()
        )
        draws = Draws(config.num_bootstrap, config.seed)
        findings[name] = find_shares(attribute, (painted, real), answers, reader, draws)
    return columns, findings


def _write(rows: Rows, painted: Side, columns: Mapping[str, pa.Array]) -> ImageTable:
    """What was read, and null in pictures that cannot be decoded: an earlier audit may have left its answers there."""
    left_out = np.setdiff1d(rows.positions, painted.rows.positions)
    return rows.table.write_columns(
        np.concatenate([painted.rows.positions, left_out]),
        with_nulls(columns, len(left_out)),
    )


def _answers(attribute: Attribute, reader: Reader, painted: Side) -> np.ndarray:
    """What the reader says of each painted picture (M,), -1 where it abstains or the caption is not concerned."""
    return np.where(painted.concerned(attribute), reader.answers(painted.features), -1)


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


@dataclass(frozen=True)
class _Told:
    """Pictures (M), and of each its caption or label, and its group."""

    rows: Rows
    texts: list[str]
    groups: list[str]
    by: StatedBy


def _by_caption(rows: Rows, captions: Path) -> _Told:
    facts = read_captions(captions, list(set(rows.captions)))
    own = [facts[caption] for caption in rows.captions]
    return _Told(rows, [one.text for one in own], [one.group for one in own], "caption")


def _by_label(rows: Rows) -> _Told:
    """A picture without a group is one of its own: that of its caption may be all pictures of a label."""
    rows.table.field("label")  # older tables have none
    columns = rows.table.read(["label", "group"]).take(rows.positions)
    labels, groups = (columns[name].to_pylist() for name in ("label", "group"))
    named = [f"picture {row}" if group is None else f"group {group}" for row, group in enumerate(groups)]
    return _Told(rows, [label or "" for label in labels], named, "label")


def _side(told: _Told, eyes: _Eyes, needed: Callable[[str], bool]) -> Side:
    """Pictures whose texts are needed are looked at; features of the others are zeros, which nobody reads."""
    rows = told.rows
    some = np.flatnonzero(of_each(needed, told.texts))
    if not len(some):
        raise UserError(
            f"{rows.table.path}: no {told.by} of its pictures has to do with an attribute of "
            f"{eyes.config.attributes}; widen the patterns there"
        )
    found = eyes.features(rows, some)
    features = np.zeros((len(rows), found.shape[1]), np.float32)
    features[some] = found
    readable = np.flatnonzero(np.isfinite(features).all(axis=1))
    return Side(
        rows=rows.some(readable),
        features=features[readable],
        texts=[told.texts[row] for row in readable],
        groups=[told.groups[row] for row in readable],
        stated_by=told.by,
        num_undecoded=len(rows) - len(readable),
    )


def _zero_shot(model: Any, attribute: Attribute, config: BiasAuditConfig) -> Any:
    weights = zero_shot_weights(model, attribute.names, [attribute.template], _extraction(config))
    scale = float(model.logit_scale.exp())
    return lambda vectors: softmax(scale * vectors @ weights.T)
