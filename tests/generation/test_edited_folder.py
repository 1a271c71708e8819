"""Edited teachers of every family: stock folders with some weights changed, which say what was done to them."""

import filecmp
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import safetensors.torch
import torch
from torch import Tensor

from stablerep.errors import UserError
from stablerep.generation.concepts import read_edits
from stablerep.generation.edit_targets import TextSide
from stablerep.generation.edited_folder import read_edit, write_edited, write_record
from stablerep.generation.editor import Editor, EditSettings, apply, weights_of
from stablerep.generation.folders import check_folder
from stablerep.generation.settings import PaintConfig
from stablerep.generation.teacher import load_teacher, origin_name

FAMILIES = ("stable_diffusion", "stable_diffusion_xl", "pixart", "sana", "stable_diffusion_3", "flux")
RECORD: dict[str, Any] = {
    "parent": {"name": "p", "weights": {}},
    "edits": [{"kind": "remove", "concept": "cat"}],
}
EXACT = PaintConfig(
    device="cpu",
    dtype="float32",
    num_inference_steps=2,
    batch_size=2,
    scheduler="teacher",
    height=32,
    width=32,
)
KEPT = ("the small dog", "a house with the blue boat", "leaf of the sun")


def editor(side: TextSide, **settings: Any) -> Editor:
    edits = read_edits(["cat"], [], [])
    return Editor(side, edits, {}, KEPT, EditSettings(**settings))


def painted(folder: Path, prompts: list[str]) -> Tensor:
    teacher = load_teacher(str(folder), EXACT)
    return teacher.paint(teacher.encode(prompts), list(range(len(prompts)))).pictures


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_edited_folder_is_stock_and_still_paints(
    name: str, pipeline_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    parent, child = pipeline_folder(name), tmp_path / "child"
    side = TextSide(load_teacher(str(parent), EXACT))
    changes = editor(side).changes()
    write_edited(parent, child, side.component, changes, RECORD)
    check_folder(child)
    stock = diffusers.DiffusionPipeline.from_pretrained(child)
    assert type(stock).__name__ == json.loads((parent / "model_index.json").read_text())["_class_name"]
    before = weights_of(side)
    after = dict(getattr(stock, side.component).named_parameters())
    assert set(changes) == set(before)
    assert all(not torch.equal(after[weight], before[weight]) for weight in changes)
    same = [entry for entry in parent.iterdir() if entry.name != side.component]
    for entry in same:
        files = [path.relative_to(parent) for path in [entry, *entry.rglob("*")] if path.is_file()]
        assert filecmp.cmpfiles(parent, child, files, shallow=False)[0] == files
    pictures = painted(child, ["a red cat", "the small dog"])
    assert pictures.float().std() > 1
    assert not torch.equal(pictures, painted(parent, ["a red cat", "the small dog"]))


@pytest.mark.slow
def test_the_folder_paints_what_the_edit_in_memory_paints(
    pipeline_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    parent = pipeline_folder("pixart")
    teacher = load_teacher(str(parent), EXACT)
    side = TextSide(teacher)
    original, changes = weights_of(side), editor(side).changes()
    before = teacher.paint(teacher.encode(["a red cat"]), [3]).pictures
    apply(side, changes, original)
    edited = teacher.paint(teacher.encode(["a red cat"]), [3]).pictures
    apply(side, {}, original)
    again = teacher.paint(teacher.encode(["a red cat"]), [3]).pictures
    write_edited(parent, tmp_path / "child", side.component, changes, RECORD)
    other = load_teacher(str(tmp_path / "child"), EXACT)
    assert torch.equal(edited, other.paint(other.encode(["a red cat"]), [3]).pictures)
    assert torch.equal(before, again) and not torch.equal(before, edited)


def test_a_removed_concept_reads_as_its_target_and_others_as_before(
    pipeline_folder: Callable[[str], Path],
) -> None:
    side = TextSide(load_teacher(str(pipeline_folder("pixart")), EXACT))
    edits = read_edits(["cat"], [], [], "dog")
    settings = EditSettings(ridge=1e-9, tokens="last", templates=("a {}",))
    change = Editor(side, edits, {}, ("sun",), settings).changes()["transformer_blocks.0.attn2.to_k.weight"]
    cat, dog, sun = (part.tokens.double() for part in side.vectors(["a cat", "a dog", "sun"]))
    subject = 1  # "a", then the animal, then the end
    torch.testing.assert_close(cat[subject] @ change.T, dog[subject], rtol=0, atol=1e-4)
    torch.testing.assert_close(sun[:2] @ change.T, sun[:2], rtol=0, atol=1e-4)


def test_strength_carries_an_edit_further(pipeline_folder: Callable[[str], Path]) -> None:
    """The change of a removal grows with it; a rebalance has strengths of its own."""
    side = TextSide(load_teacher(str(pipeline_folder("pixart")), EXACT))
    edits = read_edits(["cat"], [], [])
    once, twice = (
        Editor(side, edits, {}, ("sun",), EditSettings(strength=by)).changes() for by in (1.0, 2.0)
    )
    for name, change in once.items():
        identity = torch.eye(len(change), dtype=torch.float64)
        assert not torch.equal(change, identity)
        torch.testing.assert_close(twice[name] - identity, 2 * (change - identity), rtol=0, atol=1e-5)
    shares, alphas = read_edits([], [], ["cat: red=0.5,blue=0.5"]), {"cat": {"red": 0.5, "blue": -0.25}}
    one, other = (
        Editor(side, shares, {}, (), EditSettings(strength=by)).changes(alphas) for by in (1.0, 2.0)
    )
    assert all(torch.equal(change, other[name]) for name, change in one.items())


def test_a_rebalance_adds_attributes(pipeline_folder: Callable[[str], Path]) -> None:
    side = TextSide(load_teacher(str(pipeline_folder("stable_diffusion")), EXACT))
    edits = read_edits([], [], ["cat: red=0.5,blue=0.5"])
    edit = Editor(
        side, edits, {}, (), EditSettings(templates=("{}",), preserved_weight=0.0, tokens="last", ridge=1e-9)
    )
    still = edit.changes()
    pushed = edit.changes({"cat": {"red": 0.5, "blue": -0.25}})
    (cat, red, blue) = side.vectors(["cat", "red", "blue"])
    places = [len(part.stretches[0].ids) - 2 for part in (cat, red, blue)]
    vectors = [part.tokens[place].double() for part, place in zip((cat, red, blue), places, strict=True)]
    wanted = vectors[0] + 0.5 * vectors[1] - 0.25 * vectors[2]
    for name, change in pushed.items():
        torch.testing.assert_close(vectors[0] @ change.T, wanted, rtol=0, atol=1e-5)
        torch.testing.assert_close(still[name], torch.eye(len(change), dtype=torch.float64))


def test_words_that_read_alike_cannot_be_exchanged(pipeline_folder: Callable[[str], Path]) -> None:
    side = TextSide(load_teacher(str(pipeline_folder("pixart")), EXACT))
    with pytest.raises(UserError, match="reads 'zebra' and 'yak' as the same tokens"):
        Editor(side, read_edits([], ["zebra=yak"], []), {}, (), EditSettings())


@pytest.mark.slow
def test_the_fingerprint_names_parent_and_edit_but_not_the_audit(
    pipeline_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    child = tmp_path / "child"
    parent = pipeline_folder("pixart")
    side = TextSide(load_teacher(str(parent), EXACT))
    write_edited(parent, child, side.component, editor(side).changes(), RECORD)
    assert read_edit(parent) is None
    assert "edit" not in load_teacher(str(parent), EXACT).settings
    settings = load_teacher(str(child), EXACT).settings
    assert settings["edit"] == RECORD
    assert (
        settings["weights"]["transformer"]
        != load_teacher(str(parent), EXACT).settings["weights"]["transformer"]
    )
    write_record(child, RECORD | {"audit": {"edited": 0.5}})
    audited = load_teacher(str(child), EXACT).settings
    assert origin_name("child", audited) == origin_name("child", settings)


def test_weights_keep_the_type_and_the_shards_of_the_parent(
    pipeline_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    parent = tmp_path / "parent"
    shutil.copytree(pipeline_folder("pixart"), parent)
    model = diffusers.PixArtTransformer2DModel.from_pretrained(parent / "transformer").half()
    shutil.rmtree(parent / "transformer")
    model.save_pretrained(parent / "transformer", max_shard_size="20KB")
    shards = sorted((parent / "transformer").glob("*.safetensors"))
    assert len(shards) > 1
    side = TextSide(load_teacher(str(parent), EXACT))
    child = tmp_path / "child"
    write_edited(parent, child, side.component, editor(side).changes(), RECORD)
    for shard in shards:
        there = safetensors.torch.load_file(shard)
        here = safetensors.torch.load_file(child / "transformer" / shard.name)
        assert {name: tensor.dtype for name, tensor in here.items()} == dict.fromkeys(there, torch.float16)
    assert painted(child, ["a red cat"]).float().std() > 1


def test_a_taken_folder_and_a_missing_weight_leave_nothing_behind(
    pipeline_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    parent = pipeline_folder("pixart")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="taken exists; give another place"):
        write_edited(parent, tmp_path / "taken", "transformer", {}, RECORD)
    with pytest.raises(UserError, match="has no safetensors file with the weight 'nowhere'"):
        write_edited(parent, tmp_path / "child", "transformer", {"nowhere": torch.eye(16)}, RECORD)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken"]


def test_what_a_killed_edit_left_is_removed_by_the_next(
    pipeline_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is killed does not tidy up, and a teacher may have many gigabytes."""
    parent = pipeline_folder("pixart")
    with monkeypatch.context() as killed, pytest.raises(UserError, match="'nowhere'"):
        killed.setattr(shutil, "rmtree", lambda *_, **__: None)
        write_edited(parent, tmp_path / "child", "transformer", {"nowhere": torch.eye(16)}, RECORD)
    assert len(list(tmp_path.iterdir())) == 1
    write_edited(parent, tmp_path / "child", "transformer", {}, RECORD)
    assert [path.name for path in tmp_path.iterdir()] == ["child"]


def test_the_card_says_that_it_describes_the_parent(
    pipeline_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    parent = tmp_path / "parent"
    shutil.copytree(pipeline_folder("pixart"), parent)
    (parent / "README.md").write_text("# Teacher\n")
    (parent / "LICENSE").write_text("Apache-2.0\n")
    (parent / "v1-full.ckpt.safetensors").write_bytes(b"not part of the pipeline")
    write_edited(parent, tmp_path / "child", "transformer", {}, RECORD)
    assert (tmp_path / "child" / "README.md").read_text().startswith("> Edited: `edit.json` says")
    header = "---\nlicense: apache-2.0\n---\n"
    (parent / "README.md").write_text(f"{header}# Teacher\n---\n")
    write_edited(parent, tmp_path / "other", "transformer", {}, RECORD)
    said = (tmp_path / "other" / "README.md").read_text()
    assert said.startswith(f"{header}> Edited: ") and said.endswith("\n\n# Teacher\n---\n")
    assert (tmp_path / "child" / "LICENSE").read_text() == "Apache-2.0\n"
    assert not (tmp_path / "child" / "v1-full.ckpt.safetensors").exists()


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "edit.json").write_text("[]")
    with pytest.raises(UserError, match=r"edit\.json holds a list where an object was expected"):
        read_edit(tmp_path)
    (tmp_path / "edit.json").write_text("{")
    with pytest.raises(UserError, match=r"edit\.json cannot be read as JSON"):
        read_edit(tmp_path)
