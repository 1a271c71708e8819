"""The command that edits a teacher, whole: real tables, a painter and a judge with random weights."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import pytest

from generation import tiny_pipelines
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.evaluation.near_copies import NearCopyConfig
from stablerep.features import untrained_encoder
from stablerep.generation.editor import EditSettings
from stablerep.generation.execute import generate
from stablerep.generation.settings import GenerateConfig, PaintConfig
from stablerep.models.encoder import EncoderConfig, save_encoder
from stablerep.store import ImageTable
from stablerep.workflows.edit import EditConfig, EditSummary, edit
from stablerep.workflows.edit_balance import BalanceConfig
from stablerep.workflows.edit_plan import AuditConfig
from workflows import tiny_drawings

TINY = EncoderConfig(
    architecture="vit_tiny_patch16_224", image_size=16, patch_size=8, width=32, depth=1, num_heads=2
)
PAINT = PaintConfig(
    device="cpu", dtype="float32", num_inference_steps=1, batch_size=8, scheduler="teacher", styles=()
)
SIZES = AuditConfig(
    num_images=3,
    num_edited=2,
    num_preserved=4,
    num_distractors=3,
    num_bootstrap=50,
    copies=NearCopyConfig(num_pictures=6, num_planted=4, num_shown=2),
)


pytestmark = pytest.mark.usefixtures("one_thread")


def write_project(folder: Path) -> Path:
    """A folder with a world, a teacher and a judge."""
    tiny_drawings.write_world(folder / "world")
    tiny_pipelines.pixart(folder / "teacher")
    save_encoder(untrained_encoder(TINY), folder / "judge" / "encoder")
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("edit"))


@pytest.fixture
def config(project: Path, tmp_path: Path) -> Callable[..., EditConfig]:
    def make(**changes: Any) -> EditConfig:
        captions = project / "world" / "captions.lance"
        settings = {
            "teacher": str(project / "teacher"),
            "out": tmp_path / "edited",
            "captions": captions,
            "paint": PAINT,
            "audit": SIZES,
        }
        return EditConfig(**settings | changes)

    return make


@pytest.fixture(scope="module")
def audited(project: Path) -> tuple[EditConfig, EditSummary]:
    """A removal and a replacement with their audit."""
    config = EditConfig(
        teacher=str(project / "teacher"),
        out=project / "edited",
        remove=("cat",),
        replace=("dog=boat",),
        captions=project / "world" / "captions.lance",
        judge=project / "judge",
        world=project / "world",
        paint=PAINT,
        audit=SIZES,
    )
    return config, edit(config)


@pytest.mark.slow
def test_parent_and_child_paint_the_same_captions_with_the_same_seeds(
    audited: tuple[EditConfig, EditSummary],
) -> None:
    config, summary = audited
    assert summary.audit is not None
    tables = [ImageTable.open(config.out / "audit" / f"{name}.lance") for name in ("before", "after")]
    asked = [table.read(["caption_id", "image_index", "seed"]).to_pylist() for table in tables]
    keyed = [sorted(map(tuple, (row.values() for row in rows))) for rows in asked]
    assert keyed[0] == keyed[1] and len(keyed[0]) == (2 * 2 + 4) * 3
    origins = [next(iter(table.origins().items())) for table in tables]
    assert (origins[0][0], origins[1][0]) == summary.audit.origins
    assert "edit" not in origins[0][1]
    edits = origins[1][1]["edit"]["edits"]
    assert edits == [
        {"kind": "remove", "concept": "cat", "target": ""},
        {"kind": "replace", "concept": "dog", "target": "boat"},
    ]
    assert (config.out / "before-after.png").stat().st_size > 1000


def test_the_parent_paints_the_targets_with_the_same_seeds(audited: tuple[EditConfig, EditSummary]) -> None:
    config, summary = audited
    assert summary.audit is not None
    for one in summary.audit.edited:
        assert one.control is not None and one.control.num_pictures == one.num_pictures == 6
        assert 0 <= one.unasked.low <= one.unasked.value <= one.unasked.high <= 1
    before, target = (
        ImageTable.open(config.out / "audit" / f"{name}.lance").read(columns).to_pylist()
        for columns in [["caption_id", "image_index", "seed", "image"]]
        for name in ("before", "target")
    )
    pairs = {(row["caption_id"], row["image_index"]): row for row in before}
    assert len(target) == 2 * 2 * 3
    for row in target:
        same = pairs[row["caption_id"], row["image_index"]]
        assert row["seed"] == same["seed"] and row["image"] != same["image"]
    (settings,) = ImageTable.open(config.out / "audit" / "target.lance").origins().values()
    assert settings["asked"] == "targets of an edit"
    names = [row[0] for row in summary.audit.rows()]
    assert "cat: named where its target is asked, %" in names and "dog: named in others unasked, %" in names


def test_what_was_measured_is_in_the_folder(audited: tuple[EditConfig, EditSummary]) -> None:
    config, summary = audited
    record = json.loads((config.out / "edit.json").read_text())
    assert summary.audit is not None and record["audit"] == summary.audit.to_json()
    cat, dog = summary.audit.edited
    assert (cat.concept, cat.num_pictures, cat.as_target_before) == ("cat", 6, None)
    assert all("cat" in caption for caption in cat.captions)
    assert dog.as_target_after is not None
    assert summary.audit.num_classes == 3 + 4 + 3  # cat, dog, boat; preserved; distractors
    assert summary.audit.preserved.num_captions == 4 and summary.audit.preserved.num_pictures == 12
    assert (summary.audit.num_edited_known, summary.audit.num_preserved_known) == (4, 4)  # 500 are preserved
    known = [
        row for row in summary.audit.rows() if row[0].startswith("captions that the edit was solved for")
    ]
    assert [row[0].split(": ")[1] for row in known] == ["4 edited, 4 others"]
    assert summary.audit.moved_edited.pixels > 0
    lone = dataclasses.replace(summary.audit.moved_preserved, pixel_ratio=None, feature_ratio=None)
    unknown = dataclasses.replace(summary.audit, moved_preserved=lone).rows()
    assert [row[0].split(":")[0] for row in unknown if row[3] == "not known"] == ["others"] * 2
    assert summary.audit.near_copies is not None
    assert 0 <= summary.audit.near_copies.after.value <= 1
    assert any("named as its target" in row[0] for row in summary.audit.rows())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("are_cats", "what"),
    [(True, "no pair of pictures is left of 'cat'"), (False, "captions that should stay")],
)
def test_an_audit_without_a_pair_of_a_concept_or_of_others_says_so(
    audited: tuple[EditConfig, EditSummary], tmp_path: Path, are_cats: bool, what: str
) -> None:
    config, summary = audited
    assert summary.audit is not None
    out = shutil.copytree(config.out, tmp_path / config.out.name)
    named = {caption: one.concept for one in summary.audit.edited for caption in one.captions}
    ids = [
        row["id"]
        for row in tiny_drawings.captions()
        if named.get(row["text"]) == ("cat" if are_cats else None)
    ]
    painted = lance.dataset(out / "audit" / "after.lance")
    painted.update({"status": "'failed'"}, where=f"caption_id IN ({str(ids)[1:-1]})")
    with pytest.raises(UserError, match=what):
        edit(dataclasses.replace(config, out=out))


def test_captions_that_name_an_edited_concept_are_not_among_those_that_stay(
    audited: tuple[EditConfig, EditSummary],
) -> None:
    config, _ = audited
    painted = ImageTable.open(config.out / "audit" / "before.lance").read(["caption_id"])
    texts = {row["id"]: row["text"] for row in tiny_drawings.captions()}
    named = sorted({texts[caption].split()[-1] for caption in painted["caption_id"].to_pylist()})
    assert {"cat", "dog"} < set(named) and "boat" not in named


@pytest.mark.slow
def test_the_same_command_again_paints_and_changes_nothing(
    audited: tuple[EditConfig, EditSummary], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, summary = audited
    before = (config.out / "edit.json").read_bytes()
    monkeypatch.setattr("stablerep.workflows.edit.write_edited", None)  # called, it would raise
    assert edit(config) == summary
    assert (config.out / "edit.json").read_bytes() == before
    with pytest.raises(UserError, match=r"holds another edit \(edits.*give another output folder"):
        edit(dataclasses.replace(config, remove=("sun",)))


def test_the_edited_teacher_is_a_teacher(audited: tuple[EditConfig, EditSummary], tmp_path: Path) -> None:
    config, _ = audited
    assert config.captions is not None
    shared = {name.name: getattr(PAINT, name.name) for name in dataclasses.fields(PaintConfig)}
    asked = GenerateConfig(
        **shared,
        captions=config.captions,
        out=tmp_path / "i.lance",
        teacher=str(config.out),
        limit=1,
        num_images=1,
    )
    assert generate(asked).painted == 1


def test_an_edit_without_an_audit_needs_no_judge_and_says_so(
    config: Callable[..., EditConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept.txt").write_text("the house\n\nround and red\n")
    preserve = ("sun", str(tmp_path / "kept.txt"))
    summary = edit(config(remove=("cat",), captions=None, preserve=preserve), console=Console())
    assert (summary.num_preserved, summary.audit) == (3, None)
    assert not (summary.path / "audit").exists()
    assert "nothing has verified this edit: the same command with --judge RUN" in capsys.readouterr().err


def test_texts_to_preserve_may_be_long_and_their_files_must_be_text(
    config: Callable[..., EditConfig], tmp_path: Path
) -> None:
    (tmp_path / "kept.txt").write_bytes("the caf\xe9\n".encode("latin-1"))
    asked = config(remove=("cat",), captions=None, preserve=(str(tmp_path / "kept.txt"),))
    with pytest.raises(UserError, match=r"^--preserve .*kept\.txt: not UTF-8 text \(byte 7\)$"):
        edit(asked)
    assert not asked.out.exists()
    (tmp_path / "kept.txt").write_text("a red house\n", encoding="utf-8-sig")  # as some editors save it
    assert edit(dataclasses.replace(asked, preserve=(*asked.preserve, "long " * 60))).num_preserved == 2


@pytest.mark.slow
def test_an_edit_is_a_function_of_its_record(config: Callable[..., EditConfig], tmp_path: Path) -> None:
    weights = [
        (edit(config(remove=("cat",), out=tmp_path / name)).path / "transformer").glob("*.safetensors")
        for name in ("one", "two")
    ]
    assert len({path.read_bytes() for part in weights for path in part}) == 1


@pytest.mark.slow
def test_edits_of_an_edited_teacher_name_both(config: Callable[..., EditConfig], tmp_path: Path) -> None:
    edit(config(remove=("cat",), out=tmp_path / "first"))
    second = edit(config(teacher=str(tmp_path / "first"), remove=("dog",), out=tmp_path / "second"))
    record = json.loads((second.path / "edit.json").read_text())
    assert record["parent"]["name"] == "first"
    assert record["parent"]["edit"]["edits"][0]["concept"] == "cat"


@pytest.mark.slow
def test_a_rebalance_paints_and_keeps_the_best_strengths(
    config: Callable[..., EditConfig], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    balance = BalanceConfig(num_images=8, rounds=2, tolerance=0.0)
    asked = config(
        rebalance=("sun: red=0.5,blue=0.5",),
        judge=project / "judge",
        world=project / "world",
        balance=balance,
        verify=False,
    )
    summary = edit(asked, console=Console())
    said = capsys.readouterr().err
    assert "sun: the judge leads the search untested" in said and "nothing has verified" not in said
    assert summary.audit is None
    strengths = summary.alphas["sun"]
    assert set(strengths) == {"red", "blue"} and sum(strengths.values()) == pytest.approx(0)
    row = json.loads((summary.path / "edit.json").read_text())["edits"][0]
    assert sum(share["value"] for share in row["measured"].values()) == pytest.approx(1)
    assert edit(asked) == summary  # found strengths are no difference
    audit = edit(dataclasses.replace(asked, verify=True)).audit
    assert audit is not None
    (sun,) = audit.edited
    assert sun.control is None
    assert (sun.captions, sun.wanted) == (("a sun",), {"red": 0.5, "blue": 0.5})
    assert sum(share.value for share in sun.shares_after.values()) == pytest.approx(1)
    assert any(row[0] == "sun: red, %" and row[3] == "wanted 50" for row in audit.rows())


def test_a_judge_that_cannot_tell_the_attributes_apart_leads_no_search(
    config: Callable[..., EditConfig], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stablerep.workflows.edit_balance.mean_accuracy", lambda _: 0.5)
    there = {"judge": project / "judge", "world": project / "world"}
    asked = config(rebalance=("drawing: cat=0.5,dog=0.5",), verify=False, **there)
    with pytest.raises(UserError, match=r"names only 50% of held-out real pictures of cat and dog rightly"):
        edit(asked)
    assert not asked.out.exists()


def test_known_strengths_need_no_judge(config: Callable[..., EditConfig]) -> None:
    known = {"rebalance": ("sun: red=0.5,blue=0.5",), "alphas": ("sun: red=0.4,blue=-0.4",)}
    summary = edit(config(**known))
    assert summary.alphas == {"sun": {"red": 0.4, "blue": -0.4}}
    with pytest.raises(UserError, match="holds another edit"):
        edit(config(**known | {"alphas": ("sun: red=0.5,blue=-0.5",)}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "nothing to edit"),
        ({"remove": ("cat",), "verify_captions": Path("c.lance")}, "needs a judge"),
        ({"rebalance": ("sun: red=0.5,blue=0.5",)}, "needs a judge"),
        ({"remove": ("cat",), "alphas": ("sun: red=1,blue=-1",)}, "'sun', which is not rebalanced"),
        ({"rebalance": ("sun: red=0.5,blue=0.5",), "alphas": ("sun: red=1,green=-1",)}, "'green'"),
        ({"remove": ("cat",), "preserve": ("nowhere.txt",)}, "there is no such text file"),
        ({"remove": ("cat",), "where": "nonsense = 1"}, "the filter 'nonsense = 1' is not valid"),
        ({"remove": ("cat",), "where": "id = 'a'", "captions": None}, "--where filters the caption"),
        ({"remove": ("zebra",), "neutral": "yak"}, "as the same tokens"),
        ({"remove": ("cat",), "teacher": "nowhere"}, "unknown teacher 'nowhere'"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(
    config: Callable[..., EditConfig], changes: dict[str, Any], reason: str
) -> None:
    asked = config(**changes)
    with pytest.raises(UserError, match=reason):
        edit(asked)
    assert not asked.out.exists()


def test_a_folder_of_something_else_is_refused_before_any_work(config: Callable[..., EditConfig]) -> None:
    asked = config(remove=("cat",))
    asked.out.mkdir()
    (asked.out / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and is no edited teacher"):
        edit(asked)
    assert [path.name for path in asked.out.iterdir()] == ["note.txt"]


def test_an_audit_without_fitting_captions_says_so(config: Callable[..., EditConfig], project: Path) -> None:
    there = {"remove": ("cat",), "judge": project / "judge", "world": project / "world"}
    for sizes, reason in (
        ({"where": "label = 'sun'"}, "no caption that can be judged names 'cat'"),
        ({"edited_where": "label != 'cat'"}, "no caption that can be judged names 'cat'"),
        ({"edited_where": "label is"}, "the filter 'label is' is not valid"),
        ({"where": "label = 'cat'"}, "no caption is left that should stay"),
    ):
        asked = config(audit=dataclasses.replace(SIZES, **sizes), **there)
        with pytest.raises(UserError, match=reason):
            edit(asked)
        assert not asked.out.exists()


def test_styles_of_captions_are_no_difference_where_there_are_none(config: Callable[..., EditConfig]) -> None:
    plain = config(remove=("cat",), captions=None)
    edit(plain)
    other = dataclasses.replace(plain, settings=EditSettings(max_prompts=5))
    assert edit(other).path == plain.out
    captioned = config(remove=("cat",), out=plain.out.with_name("captioned"))
    edit(captioned)
    with pytest.raises(UserError, match="max_prompts: 600 there, 5 asked"):
        edit(dataclasses.replace(captioned, settings=other.settings))


def test_what_an_audit_needs_is_looked_up_before_anything_is_made(
    config: Callable[..., EditConfig], project: Path, tmp_path: Path
) -> None:
    there = {"judge": project / "judge", "world": project / "world"}
    own = shutil.copytree(project / "world", tmp_path / "own")
    (own / "world.json").unlink()
    known = {"rebalance": ("sun: red=0.5,pink=0.5",), "alphas": ("sun: red=0.4,pink=-0.4",)}
    for changes, reason in (
        ({"replace": ("cat=unicorn",)}, "no real picture of 'unicorn'.*--no-verify leaves the audit out"),
        (known, "no real picture of 'pink'"),
        (
            {"remove": ("cat",), "world": own},
            r"holds no world.*--audit\.no-search-copies leaves the search out",
        ),
    ):
        asked = config(**there | changes)
        with pytest.raises(UserError, match=reason):
            edit(asked)
        assert not asked.out.exists()
