"""Synthesised captions: functions of their number, restartable, counted, and traceable to class, template and seed."""

import random
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import lance
import pytest
import tiny_language_model

from stablerep.captions import synthesis
from stablerep.captions.language_model import SamplingConfig
from stablerep.captions.phrases import Mixture, Words, draw_subject, first_line, model_prompt, with_article
from stablerep.captions.synthesis import SynthesizeConfig, synthesize
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.runtime import seed_for
from stablerep.store import CAPTION_SCHEMA, CaptionTable

CLASSES = ["apple", "golden retriever", "fire engine", "oboe"]


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    path = tmp_path / "classes.txt"
    path.write_text("\n".join(["apple", "", " golden  retriever ", "fire engine", "oboe", "apple"]))
    return path


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_language_model.save(tmp_path_factory.mktemp("model"))


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = CaptionTable.open(path).read(CAPTION_SCHEMA.names).to_pylist()
    return sorted(found, key=lambda row: row["id"])


def test_rows_say_class_template_and_seed(classes: Path, tmp_path: Path) -> None:
    summary = synthesize(SynthesizeConfig(classes=classes, num=200, out=tmp_path / "c.lance", seed=7))
    found = rows(tmp_path / "c.lance")
    assert summary.drawn == 200 == summary.distinct + summary.duplicates + summary.empty
    assert len(found) == summary.distinct == summary.new > 150 and summary.empty == 0
    seeds = {seed_for(7, "caption", number) for number in range(200)}
    for row in found:
        assert row["concept"] in CLASSES and row["concept"] in row["text"]
        assert re.fullmatch(r"(class|background|relation)-\d", row["template"])
        assert row["seed"] in seeds and row["source"] == summary.source
        assert row["source"].startswith("synthesis-templates-")
    notes = CaptionTable.open(tmp_path / "c.lance").notes("synthesis.")[summary.source]
    assert notes["done"] == 200 and notes["settings"]["num_classes"] == 4


def test_the_mixture_sets_how_often_each_kind_comes(classes: Path, tmp_path: Path) -> None:
    mixture = Mixture(class_only=0, background=3, relation=1)
    config = SynthesizeConfig(classes=classes, num=2000, out=tmp_path / "c.lance", mixture=mixture)
    kinds = synthesize(config).kinds
    assert set(kinds) == {"background", "relation"}
    assert abs(kinds["background"] - 1500) < 4 * (2000 * 0.75 * 0.25) ** 0.5
    published = Mixture()
    assert (published.class_only, published.background, published.relation) == (0.44, 0.45, 0.11)
    with pytest.raises(ValueError, match="mixture"):
        Mixture(class_only=0, background=0, relation=0)


def test_balanced_classes_come_equally_often(classes: Path, tmp_path: Path) -> None:
    drawn = synthesize(SynthesizeConfig(classes=classes, num=400, out=tmp_path / "a.lance"))
    assert drawn.fewest < drawn.most
    even = synthesize(SynthesizeConfig(classes=classes, num=400, out=tmp_path / "b.lance", balanced=True))
    assert even.fewest == even.most == 100


def test_a_relation_holds_between_different_classes() -> None:
    words = Words(classes=("apple", "dog", "cat"))
    subjects = [
        draw_subject(random.Random(seed), words, Mixture(class_only=0, background=0)) for seed in range(99)
    ]
    assert sum(subject.concept == subject.other for subject in subjects) < 20
    assert Counter(subject.concept for subject in subjects).keys() == {"apple", "dog", "cat"}


def test_more_captions_add_to_those_that_are_there(classes: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.lance", tmp_path / "parts.lance"
    expected = synthesize(SynthesizeConfig(classes=classes, num=2500, out=whole))
    for num in (1, 700, 700, 2500):
        summary = synthesize(SynthesizeConfig(classes=classes, num=num, out=parts))
        assert summary.drawn == num
    assert rows(parts) == rows(whole)
    counts = [(s.drawn, s.distinct, s.duplicates) for s in (summary, expected)]
    assert counts[0] == counts[1]
    again = synthesize(SynthesizeConfig(classes=classes, num=2500, out=parts))
    assert (again.new, again.drawn, again.kinds) == (0, 2500, {})


def test_fewer_captions_than_were_drawn_before_draw_none(
    classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "c.lance"
    first = synthesize(SynthesizeConfig(classes=classes, num=2500, out=out))
    version, notes = CaptionTable.open(out).version, CaptionTable.open(out).notes("synthesis.")
    for num in (2499, 2100, 1):
        again = synthesize(SynthesizeConfig(classes=classes, num=num, out=out), console=Console())
        assert (again.new, again.kinds, again.fewest, again.most) == (0, {}, 0, 0)
        counts = (again.drawn, again.distinct, again.duplicates, again.empty)
        assert counts == (first.drawn, first.distinct, first.duplicates, first.empty)
    assert "-" not in capsys.readouterr().err.replace(str(out), ""), "no number is negative"
    assert CaptionTable.open(out).version == version, "what was drawn is still known"
    assert CaptionTable.open(out).notes("synthesis.") == notes


class KilledError(Exception):
    """Stands for the end of a process."""


@pytest.mark.slow
@pytest.mark.parametrize("place", ["append", "note"])
def test_a_killed_run_goes_on_to_the_same_table(
    classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    whole, killed = tmp_path / "whole.lance", tmp_path / "killed.lance"
    expected = synthesize(SynthesizeConfig(classes=classes, num=4000, out=whole))
    config = SynthesizeConfig(classes=classes, num=4000, out=killed, commit_seconds=0)
    genuine, calls = getattr(CaptionTable, place), []

    def dying(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KilledError
        return genuine(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(CaptionTable, place, dying)
        with pytest.raises(KilledError):
            synthesize(config)
    assert 0 < len(rows(killed)) < len(rows(whole))
    summary = synthesize(config)
    assert rows(killed) == rows(whole)
    assert (summary.drawn, summary.distinct, summary.duplicates) == (
        expected.drawn,
        expected.distinct,
        expected.duplicates,
    )


def test_other_settings_are_another_source(classes: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.lance"
    first = synthesize(SynthesizeConfig(classes=classes, num=100, out=out))
    second = synthesize(SynthesizeConfig(classes=classes, num=100, out=out, seed=1))
    assert first.source != second.source and second.new > 50
    places = tmp_path / "places.txt"
    places.write_text("on the moon\n")
    third = synthesize(
        SynthesizeConfig(
            classes=classes,
            num=50,
            out=out,
            backgrounds=places,
            relations=places,
            mixture=Mixture(class_only=0),
        )
    )
    own = [row["text"] for row in rows(out) if row["source"] == third.source]
    assert own and all("on the moon" in text for text in own)


@pytest.mark.slow
def test_a_language_model_writes_from_examples(classes: Path, tmp_path: Path, language_model: Path) -> None:
    sampling = SamplingConfig(batch_size=4, max_tokens=6)
    config = SynthesizeConfig(
        classes=classes, num=22, out=tmp_path / "whole.lance", model=str(language_model), sampling=sampling
    )
    summary = synthesize(config)
    assert summary.drawn == 22 == summary.distinct + summary.duplicates + summary.empty
    assert summary.distinct > 0
    found = rows(config.out)
    assert all(row["template"].endswith("-model") and row["concept"] in CLASSES for row in found)
    parts = SynthesizeConfig(
        classes=classes, num=9, out=tmp_path / "parts.lance", model=str(language_model), sampling=sampling
    )
    synthesize(parts)
    rest = synthesize(SynthesizeConfig(**{**vars(parts), "num": 22}))
    assert rows(parts.out) == found and (rest.drawn, rest.empty) == (summary.drawn, summary.empty)


def test_prompts_show_examples_of_the_same_kind() -> None:
    words = Words(classes=("oboe",), backgrounds=("in fog",))
    subject = draw_subject(random.Random(0), words, Mixture(class_only=0, relation=0))
    prompt = model_prompt(random.Random(0), subject, 2).splitlines()
    assert prompt[-1] == "oboe, in fog =>" and len(prompt) == 4
    assert all(re.fullmatch(r".+, .+ => .+", line) for line in prompt[1:3])
    assert first_line(' "a cat"\nnext => more') == "a cat" and first_line(" \n ") == ""
    assert (with_article("apple"), with_article("dog")) == ("an apple", "a dog")


def test_unusable_lists_and_models_are_mistakes(classes: Path, tmp_path: Path, language_model: Path) -> None:
    out = tmp_path / "c.lance"
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary.txt"
    empty.write_text("\n \n")
    binary.write_bytes(b"\xff\xfe\x00")
    for path, complaint in (
        (tmp_path / "none.txt", "cannot be read"),
        (empty, "no entries"),
        (binary, "not UTF-8"),
    ):
        with pytest.raises(UserError, match=complaint):
            synthesize(SynthesizeConfig(classes=path, out=out))
    with pytest.raises(UserError, match="no causal language model in safetensors"):
        synthesize(SynthesizeConfig(classes=classes, out=out, model=str(tmp_path)))
    torn = tmp_path / "torn"
    shutil.copytree(language_model, torn)
    weights = torn / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(
        UserError, match=r"no causal language model in safetensors could be opened from .*torn"
    ):
        synthesize(SynthesizeConfig(classes=classes, out=out, model=str(torn)))
    assert not out.exists()


def test_a_table_from_before_seeds_were_kept_takes_synthesised_captions(
    classes: Path, tmp_path: Path
) -> None:
    path = tmp_path / "old.lance"
    old = CAPTION_SCHEMA.remove(CAPTION_SCHEMA.get_field_index("seed"))
    lance.write_dataset(old.empty_table(), str(path))
    assert CaptionTable.open(path).version == 1
    summary = synthesize(SynthesizeConfig(classes=classes, num=10, out=path))
    assert len(rows(path)) == summary.distinct and all(row["seed"] is not None for row in rows(path))


def test_a_million_are_streamed(classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more rows are held than a commit takes, however many captions are asked for."""
    monkeypatch.setattr(synthesis, "_MOST_ROWS", 1000)
    held: list[int] = []
    genuine = CaptionTable.append

    def watched(table: CaptionTable, rows: Any) -> int:
        held.append(len(rows))
        return genuine(table, rows)

    monkeypatch.setattr(CaptionTable, "append", watched)
    synthesize(SynthesizeConfig(classes=classes, num=5000, out=tmp_path / "c.lance"))
    assert len(held) >= 5 and max(held) < 2000
