"""``stablerep edit``: remove, replace or rebalance concepts of a teacher, and measure what else moved."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from stablerep import runtime
from stablerep.config import differing_fields
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.generation.concepts import ConceptEdit, mentions, read_edits, read_numbers, without
from stablerep.generation.edit_targets import TextSide
from stablerep.generation.edited_folder import RECORD, read_edit, read_record, write_edited, write_record
from stablerep.generation.editor import Editor, EditSettings
from stablerep.generation.folders import (
    check_folder,
    content_hashes,
    find_teacher,
    read_defaults,
    teacher_name,
)
from stablerep.generation.settings import PaintConfig
from stablerep.generation.teacher import load_diffusers_teacher
from stablerep.store import CaptionTable, caption_id, in_style
from stablerep.workflows.edit_audit import audit_edit
from stablerep.workflows.edit_balance import Balance, BalanceConfig, Balancer
from stablerep.workflows.edit_judges import Judge, open_judge
from stablerep.workflows.edit_plan import AuditConfig, AuditPlan, AuditRequest, plan_audit
from stablerep.workflows.edit_scores import EditAudit

_MOST_CONTEXTS = 200

_UNVERIFIED = (
    "nothing has verified this edit: the same command with --judge RUN and --captions paints before and after, and "
    "measures whether the concept is gone and what else moved"
)

_Opener = Callable[[], Judge]


@dataclass(frozen=True, kw_only=True)
class EditConfig:
    """Edit what a teacher paints for some words, in closed form, and save it as a new teacher."""

    teacher: Positional[str] = "icons"
    """A shipped teacher by name, the path of a diffusers folder, or a hub id."""
    out: Path = Path("edited")
    """Folder of the edited teacher; `generate --teacher` takes it."""
    remove: tuple[str, ...] = ()
    """Concepts to remove, such as heart."""
    replace: tuple[str, ...] = ()
    """Concepts to paint as another one, "A=B" each: who asks for A gets B."""
    rebalance: tuple[str, ...] = ()
    """Concepts whose pictures should show attributes in given shares, "doctor: woman=0.5,man=0.5" each; needs a judge
    or alphas."""
    alphas: tuple[str, ...] = ()
    """Strengths of attributes that are known already, "doctor: woman=0.3,man=-0.3" each; nothing is painted then."""
    neutral: str = ""
    """What stands in place of a removed concept; published: nothing."""
    captions: Path | None = None
    """Caption table: captions that name an edited concept are edited with it, others are preserved."""
    where: str | None = None
    """Only captions of that table that match this filter, such as "split = 'train'", in the edit and in its audit."""
    num_preserved: int = 500
    """Captions of the table to preserve, drawn at random."""
    preserve: tuple[str, ...] = ()
    """Further texts to preserve, or text files with one in each line."""
    settings: EditSettings = field(default_factory=EditSettings)
    """How the edit is solved."""
    seed: int = 0
    """Determines which captions are drawn, and the noise of all pictures painted here."""
    judge: Path | None = None
    """What measures the pictures, for a rebalance and the audit: an image-text run (clip, stablerep-plus) or file,
    open_clip:NAME@FILE, or any encoder together with a world; never one that the teacher was trained with."""
    world: Path | None = None
    """Folder of a world: its real pictures say what words look like, for a judge that knows none, and are searched for
    near-copies."""
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    """How the strengths of a rebalance are found."""
    verify: bool = True
    """Audit parent and child with the same captions and seeds wherever a judge is given."""
    verify_captions: Path | None = None
    """Caption table for that audit, where it is not what ``captions`` and ``where`` leave."""
    audit: AuditConfig = field(default_factory=AuditConfig)
    """Sizes of that audit."""
    paint: PaintConfig = field(default_factory=PaintConfig)
    """How parent and child paint, for a rebalance and the audit."""

    def __post_init__(self) -> None:
        if self.num_preserved < 0:
            raise ValueError(f"num_preserved must not be negative, got {self.num_preserved}")

    @property
    def audited_captions(self) -> Path | None:
        """The table that the audit asks from; None without an audit."""
        return (self.verify_captions or self.captions) if self.verify and self.judge is not None else None


@dataclass(frozen=True, kw_only=True)
class EditSummary:
    """What was edited, and what the audit found."""

    path: Path
    """Folder of the edited teacher."""
    edits: tuple[str, ...]
    num_preserved: int
    """Texts that were preserved."""
    alphas: Mapping[str, Mapping[str, float]]
    """Strengths of the attributes, by rebalanced concept."""
    audit: EditAudit | None
    """None where no judge was given, or none was wanted."""

    def show(self, console: Console) -> None:
        """The facts, then the table of the audit."""
        facts = {name: getattr(self, name) for name in ("path", "edits", "num_preserved")}
        console.facts(facts | {f"alphas of {name}": str(values) for name, values in self.alphas.items()})
        if self.audit is not None:
            console.show(self.audit)

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        return plain


def edit(config: EditConfig, *, console: Console = Console(quiet=True)) -> EditSummary:  # noqa: B008
    """Write the edited teacher to ``config.out``, with ``edit.json``, and audit it where a judge is given.

    The same command again goes on where it was stopped: an edit that is there is not made again, and painted pictures
    stay. Raises ``UserError`` for edits that cannot be read or do not fit the teacher, and for a folder that holds
    something else.
    """
    edits = read_edits(config.remove, config.replace, config.rebalance, config.neutral)
    _check(config, edits)
    parent = find_teacher(config.teacher, download=config.paint.download)
    check_folder(parent)
    texts = _texts(config, edits)
    record = _record(config, edits, parent, texts)
    judge = functools.cache(lambda: _open_judge(config, console))
    is_there = _is_there(config.out, record)
    plan = _audit_plan(config, edits, texts, judge)
    if is_there:
        console.say(f"{config.out} holds this edit already")
    else:
        _make(config, edits, parent, (texts, record), judge, console)
    stored = read_record(config.out)
    found: EditAudit | None = None
    if plan is not None:
        found = audit_edit(plan, judge(), console)
        write_record(config.out, stored | {"audit": found.to_json()})
    elif config.verify and "audit" not in stored:
        console.say(_UNVERIFIED)
    return EditSummary(
        path=config.out,
        edits=tuple(f"{one.kind} {one}".rstrip("=") for one in edits),
        num_preserved=len(texts.preserved),
        alphas={row["concept"]: row["alphas"] for row in stored["edits"] if "alphas" in row},
        audit=found,
    )


@dataclass(frozen=True)
class _Texts:
    contexts: dict[str, list[str]]
    preserved: list[str]

    def known(self, templates: Sequence[str]) -> frozenset[str]:
        """Ids of all captions that an edit with these templates is solved for."""
        prompts = (template.replace("{}", concept) for concept in self.contexts for template in templates)
        contexts = (text for part in self.contexts.values() for text in part)
        return frozenset(map(caption_id, (*self.preserved, *contexts, *prompts)))


def _check(config: EditConfig, edits: Sequence[ConceptEdit]) -> None:
    """Raise for what the options alone show to be wrong; what an audit needs, ``plan_audit`` tries before any work."""
    if not edits:
        raise UserError("nothing to edit; give --remove, --replace or --rebalance")
    if config.where is not None and config.captions is None:
        raise UserError("--where filters the caption table, and none is given; give --captions")
    given = dict(map(read_numbers, config.alphas))
    unknown = set(given) - {one.concept for one in edits if one.kind == "rebalance"}
    if unknown:
        raise UserError(f"--alphas name {sorted(unknown)[0]!r}, which is not rebalanced")
    for one in edits:
        strange = set(given.get(one.concept, {})) - set(one.shares)
        if strange:
            raise UserError(
                f"--alphas: {sorted(strange)[0]!r} is no attribute of the rebalance of {one.concept!r}"
            )
    needs_judge = any(one.kind == "rebalance" and one.concept not in given for one in edits)
    is_asked = config.verify and config.verify_captions is not None
    if (needs_judge or is_asked) and config.judge is None:
        raise UserError("a rebalance or an audit needs a judge of the pictures; give --judge RUN")


def _texts(config: EditConfig, edits: Sequence[ConceptEdit]) -> _Texts:
    concepts = [one.concept for one in edits]
    texts: list[str] = []
    if config.captions is not None:
        rows = CaptionTable.open(config.captions).read(["id", "text"], config.where)
        texts = rows.sort_by("id")["text"].to_pylist()
    rng = runtime.numpy_generator("edit captions", config.seed)
    shuffled = [texts[number] for number in rng.permutation(len(texts))]
    drawn = without(shuffled, concepts)[: config.num_preserved]
    contexts, decided = dict[str, list[str]](), list[str]()
    for one in edits:
        naming = [text for text in shuffled if mentions(text, one.concept)]
        free = without(naming, list(one.shares))
        contexts[one.concept] = free[:_MOST_CONTEXTS]
        # Who asks for a woman doctor has chosen: rebalancing doctors is not about that.
        undecided = set(free)
        decided += [text for text in naming if text not in undecided][:_MOST_CONTEXTS]
    return _Texts(contexts, list(dict.fromkeys([*_given(config.preserve), *decided, *drawn])))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a text may be longer than any name
        return False


def _given(preserve: Sequence[str]) -> list[str]:
    """Texts as they are, and the lines of those that are files."""
    texts: list[str] = []
    for one in preserve:
        path = Path(one)
        if _is_file(path):
            try:
                lines = path.read_text(encoding="utf-8-sig").splitlines()
            except UnicodeDecodeError as error:
                raise UserError(f"--preserve {one}: not UTF-8 text (byte {error.start})") from error
            texts += [line.strip() for line in lines if line.strip()]
        elif path.suffix in (".txt", ".csv", ".lance"):
            raise UserError(f"--preserve {one}: there is no such text file")
        else:
            texts.append(one)
    return texts


def _record(config: EditConfig, edits: Sequence[ConceptEdit], parent: Path, texts: _Texts) -> dict[str, Any]:
    """What determines the edited weights; the strengths of a rebalance come to it when they are found."""
    rows = []
    given = dict(map(read_numbers, config.alphas))
    for one in edits:
        row: dict[str, Any] = {"kind": one.kind, "concept": one.concept}
        row |= {"shares": dict(one.shares)} if one.kind == "rebalance" else {"target": one.target}
        if one.concept in given:
            row["alphas"] = given[one.concept]
        rows.append(row)
    all_texts = json.dumps([texts.preserved, texts.contexts], sort_keys=True)
    settings = {**dataclasses.asdict(config.settings), "templates": list(config.settings.templates)}
    if not any(texts.contexts.values()):
        del settings[
            "max_prompts"
        ]  # how many styles captions are asked in: without any it determines nothing
    record: dict[str, Any] = {
        "parent": {"name": teacher_name(config.teacher), "weights": content_hashes(parent)},
        "edits": rows,
        "settings": settings,
        "num_preserved": len(texts.preserved),
        # As the prompts are asked: in these styles, and against this negative prompt.
        "styles": list(read_defaults(parent).styles if config.paint.styles is None else config.paint.styles),
        "negative_prompt": config.paint.negative_prompt,
        "texts": hashlib.sha256(all_texts.encode()).hexdigest()[:12],
    }
    earlier = read_edit(parent)
    if earlier is not None:
        record["parent"]["edit"] = earlier
    return record


def _is_there(out: Path, record: Mapping[str, Any]) -> bool:
    """Whether the folder holds this edit; ``UserError`` where it holds another one."""
    if not (out / RECORD).exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out} exists and is no edited teacher; give another output folder")
        return False
    there = read_edit(out) or {}
    differences = differing_fields(_asked(there), _asked(record))
    if differences:
        raise UserError(f"{out} holds another edit ({'; '.join(differences)}); give another output folder")
    return True


def _asked(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record without what was measured on the way."""
    edits = {
        row["concept"]: {
            name: value
            for name, value in row.items()
            if name != "measured" and not (name == "alphas" and "measured" in row)
        }
        for row in record["edits"]
    }
    return {**record, "edits": edits}


def _make(
    config: EditConfig,
    edits: Sequence[ConceptEdit],
    parent: Path,
    known: tuple[_Texts, dict[str, Any]],
    judge: _Opener,
    console: Console,
) -> None:
    texts, record = known
    # In float32 on the CPU whatever paints, so that an edit is a function of its record.
    exact = dataclasses.replace(config.paint, dtype="float32", device="cpu", compile=False)
    teacher = load_diffusers_teacher(config.teacher, exact)
    side = TextSide(teacher)
    styles = teacher.styles
    preserved = [
        in_style(text, styles[number % len(styles)] if styles else None)
        for number, text in enumerate(texts.preserved)
    ]
    console.say(f"reading {len(preserved)} texts to preserve and the prompts of {len(edits)} edits")
    if not preserved:
        console.say(
            "nothing is preserved, so that the edit may move other concepts as well: give --captions, the table of "
            "what the teacher paints, or texts by --preserve"
        )
    editor = Editor(side, edits, texts.contexts, preserved, config.settings, styles)
    balances = _balances(config, edits, editor, judge, console)
    for row in record["edits"]:
        if row["concept"] in balances:
            row["alphas"] = dict(balances[row["concept"]].alphas)
            shares = balances[row["concept"]].shares
            row["measured"] = {name: dataclasses.asdict(share) for name, share in shares.items()}
    alphas = {row["concept"]: row["alphas"] for row in record["edits"] if "alphas" in row}
    write_edited(parent, config.out, side.component, editor.changes(alphas), record)
    console.say(f"the edited teacher: {config.out}")


def _balances(
    config: EditConfig, edits: Sequence[ConceptEdit], editor: Editor, judge: _Opener, console: Console
) -> dict[str, Balance]:
    given = dict(map(read_numbers, config.alphas))
    wanted = [one for one in edits if one.kind == "rebalance" and one.concept not in given]
    if not wanted:
        return {}
    # Its weights change from round to round, which compiled code, that takes them for constants, would not see.
    changing = dataclasses.replace(config.paint, compile=False)
    painter = load_diffusers_teacher(config.teacher, changing)
    balancer = Balancer(editor, painter, judge(), config.balance, config.seed)
    return balancer.find(wanted, given, console)


def _audit_plan(
    config: EditConfig, edits: Sequence[ConceptEdit], texts: _Texts, judge: _Opener
) -> AuditPlan | None:
    if config.audited_captions is None or config.judge is None:
        return None
    request = AuditRequest(
        parent=config.teacher,
        child=config.out,
        edits=tuple(edits),
        captions=config.audited_captions,
        where=config.where if config.verify_captions is None else None,
        known=texts.known(config.settings.templates),
        judge=config.judge,
        world=config.world,
        paint=config.paint,
        sizes=config.audit,
        prompt=config.balance.prompt,
        seed=config.seed,
    )
    try:
        return plan_audit(request, judge())
    except UserError as error:
        raise UserError(f"the edit cannot be audited: {error}; --no-verify leaves the audit out") from error


def _open_judge(config: EditConfig, console: Console) -> Judge:
    assert config.judge is not None  # see _check
    return open_judge(config.judge, config.world, config.paint, console)
