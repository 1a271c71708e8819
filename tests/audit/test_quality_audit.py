"""`audit quality` on a table of good pictures and pictures with known defects."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from painted_table import columns, image_row, write_images
from pictures_with_defects import blurred, compressed, enlarged, noisy, png, scene
from PIL import Image

from stablerep.audit import quality
from stablerep.audit.measured import MEASURES, Measured
from stablerep.audit.quality import QualityConfig, QualityRules, audit_quality, reference_limits
from stablerep.audit.rows import read_rows
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.features import TableImages
from stablerep.store import REAL, ImageTable

DEFECTS = {
    "blurred": blurred(2.5),
    "noisy": noisy(25),
    "blocks of compression": compressed(6),
    "less detail than pixels": enlarged(16),
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real pictures at twice the size, which the audit shrinks to that of the painted ones."""
    path = tmp_path_factory.mktemp("real") / "real.lance"
    rows = [image_row(f"real {seed}", 0, scene(1000 + seed, 128), origin=REAL) for seed in range(100)]
    write_images(path, rows)
    return path


@pytest.fixture
def painted(tmp_path: Path) -> Path:
    """Caption a: two good pictures, a repeated and a blank one; b: one of each defect; c: no picture at all."""
    good = [scene(seed) for seed in range(2)]
    rows = [
        image_row("a", index, picture)
        for index, picture in enumerate([*good, good[0], Image.new("RGB", (64, 64))])
    ]
    rows += [
        image_row("b", index, change(scene(10 + index))) for index, change in enumerate(DEFECTS.values())
    ]
    rows.append(image_row("c", 0, b"no picture", width=64, height=64))
    rows.append(image_row("c", 1, None, status="failed", reason="withheld"))
    path = tmp_path / "images.lance"
    write_images(path, rows)
    return path


def reasons(path: Path) -> dict[tuple[str, int], str | None]:
    """What speaks against each picture, by the caption's place and the image index."""
    from stablerep.store import caption_id

    name_of = {caption_id(name): name for name in "abc"}
    found = columns(path, "caption_id", "image_index", "quality_ok", "quality_reason")
    for _, _, fine, reason in found:
        assert fine == (reason is None) or fine is None
    return {(name_of[caption], index): reason for caption, index, _, reason in found}


def test_without_a_reference_only_what_is_no_picture_is_rejected(painted: Path) -> None:
    result = audit_quality(QualityConfig(images=painted))
    found = {key: reason for key, reason in reasons(painted).items() if reason}
    assert found.pop(("c", 0)).startswith("cannot be decoded")
    assert found == {("a", 2): "repeats image 0 of its caption", ("a", 3): "blank"}
    assert (result.num_pictures, result.num_rejected) == (9, 3)
    assert result.kept.num_unknown == 1, "the failed painting has no verdict"


def test_defects_are_found_by_comparison_with_real_pictures(painted: Path, reference: Path) -> None:
    rules = QualityRules(reference=reference, most_rejected=1)
    result = audit_quality(QualityConfig(images=painted, rules=rules))
    found = reasons(painted)
    assert found["a", 0] is None and found["a", 1] is None
    for index, words in enumerate(DEFECTS):
        assert words in (found["b", index] or ""), (words, found["b", index])
    assert result.facts["reference pictures rejected"] <= 0.1
    stored = json.loads((painted.parent / "audit.json").read_text())["audits"]["quality"]
    assert stored["facts"]["limits"].keys() == {
        "spread",
        "clipped",
        "noise",
        "blur",
        "blockiness",
        "resolution",
    }
    assert {(one["caption_id"], one["image_index"]) for one in stored["worst"]} and len(stored["worst"]) == 7


def test_what_all_pictures_of_a_painter_have_rejects_none(tmp_path: Path, reference: Path) -> None:
    """Every picture is blurred, one is compressed too: the blur is reported, the blocks are a reason."""
    rows = [image_row("a", index, blurred(2)(scene(index))) for index in range(9)]
    rows.append(image_row("a", 9, compressed(4)(blurred(2)(scene(9)))))
    write_images(tmp_path / "images.lance", rows)
    result = audit_quality(
        QualityConfig(images=tmp_path / "images.lance", rules=QualityRules(reference=reference))
    )
    assert result.facts["beyond the limit"]["blur"] >= 0.9
    assert "blur" in result.facts["not rejected for, as it is the painter's"]
    found = [reason for (reason,) in columns(tmp_path / "images.lance", "quality_reason")]
    assert "blocks of compression" in (found[9] or "")
    assert not any("blurred" in (reason or "") for reason in found) and result.num_rejected <= 3


def test_a_limit_of_nothing_says_of_no_picture_how_far_beyond_it_lies(tmp_path: Path) -> None:
    """No real picture is clipped or noisy; all else that is bad here is said to be the painter's."""

    def sign(side: int) -> Image.Image:
        picture = Image.new("RGB", (64, 64), (90, 110, 130))
        picture.paste((170, 150, 60), (20, 20, 20 + side, 20 + side))
        return picture

    real = [image_row(f"real {side}", 0, sign(side), origin=REAL) for side in range(9, 30)]
    write_images(tmp_path / "real.lance", real)
    bad = [Image.new("RGB", (64, 64), "grey"), compressed(5)(noisy(9)(sign(20)))]
    write_images(tmp_path / "images.lance", [image_row("a", number, one) for number, one in enumerate(bad)])
    rules = QualityRules(reference=tmp_path / "real.lance", most_rejected=0)
    result = audit_quality(QualityConfig(images=tmp_path / "images.lance", rules=rules))
    left_out = result.facts["not rejected for, as it is the painter's"]
    applied = {name: limit for name, limit in result.facts["limits"].items() if name not in left_out}
    assert applied == {"clipped": 0, "noise": 0}
    [worst] = result.worst
    assert (worst.reason, worst.score) == ("blank", None)


def test_diversity_is_that_of_the_caption(painted: Path) -> None:
    audit_quality(QualityConfig(images=painted))
    found = columns(painted, "caption_id", "image_index", "quality_diversity", "quality_nearest")
    diversity: dict[str, set[float]] = {}
    for caption, _, value, _ in found:
        diversity.setdefault(caption, set()).add(value)
    assert all(len(values) == 1 for values in diversity.values())
    assert [value for *_, value in found].count(0.0) == 1, "the repeated picture"
    assert {None} in diversity.values(), "a caption with one picture has none"


def test_the_diversity_of_real_pictures_stands_beside_that_of_painted_ones(tmp_path: Path) -> None:
    """A painter that paints one scene in different noise, beside real pictures of different scenes."""
    painted = [image_row(name, k, noisy(3 + k)(scene(n))) for n, name in enumerate("abc") for k in range(3)]
    real = [
        image_row(name, k, scene(100 * k + n), origin=REAL)
        for n, name in enumerate("abcdef")
        for k in range(4)
    ]
    write_images(tmp_path / "images.lance", painted)
    write_images(tmp_path / "real.lance", real)
    rules = QualityRules(reference=tmp_path / "real.lance", num_reference=10)
    facts = audit_quality(QualityConfig(images=tmp_path / "images.lance", rules=rules)).facts
    assert facts["median diversity of real pictures"] > 20 > 2 * facts["medians"]["diversity"]
    alone = audit_quality(QualityConfig(images=tmp_path / "images.lance")).facts
    assert alone["median diversity of real pictures"] is None


@pytest.mark.parametrize(("num_reference", "of_each"), [(16, [8, 8]), (38, None), (99, [12] * 4)])
def test_limits_come_from_many_captions_however_many_pictures_each_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_reference: int, of_each: list[int] | None
) -> None:
    """Four captions of twelve pictures: eight of each first, then any others."""
    rows = [image_row(f"c{n}", k, scene(100 * n + k, 32), origin=REAL) for n in range(4) for k in range(12)]
    write_images(tmp_path / "real.lance", rows)
    judged, measure, seen = read_rows(tmp_path / "real.lance", None), quality.measure, []

    def spy(images: TableImages, *more: Any, **named: Any) -> Measured:
        seen.append(images.positions)
        return measure(images, *more, **named)

    monkeypatch.setattr(quality, "measure", spy)
    rules = QualityRules(reference=tmp_path / "real.lance", num_reference=num_reference)
    reference_limits(rules, judged, Console(quiet=True))
    [positions] = seen
    assert len(np.unique(positions)) == len(positions) == min(num_reference, len(rows))
    counts = np.unique(judged.captions[positions], return_counts=True)[1].tolist()
    assert counts == of_each if of_each else len(counts) == 4 and min(counts) >= 8


@pytest.mark.parametrize(("num", "expected"), [(60, 6 / 61), (199, 0.03), (250, 0.03)])
def test_as_many_other_real_pictures_lie_beyond_the_limits_as_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    num: int,
    expected: float,
) -> None:
    """Whatever is measured is uniform between 0 and 1, so that the share beyond a limit is known."""
    rows = [image_row(f"c{number}", 0, b"not looked at", origin=REAL) for number in range(num)]
    write_images(tmp_path / "real.lance", rows)
    judged, rng = read_rows(tmp_path / "real.lance", None), np.random.default_rng(0)

    def measure(images: TableImages, *_: Any, **__: Any) -> Measured:
        values = {name: rng.random(len(images)) for name in MEASURES}
        return Measured(values, np.zeros((len(images), 768), np.uint8), {})

    monkeypatch.setattr(quality, "measure", measure)
    beyond = []
    for _ in range(25):
        limits = reference_limits(QualityRules(reference=tmp_path / "real.lance"), judged, Console())
        beyond += [
            limit if MEASURES[name].bad == "low" else 1 - limit for name, limit in limits.by_name.items()
        ]
        assert limits.expected == pytest.approx(expected)
    assert np.mean(beyond) == pytest.approx(expected / len(MEASURES), rel=0.25)
    said = capsys.readouterr().err
    assert ("60 real pictures are few" in said and "give at least 199" in said) == (num == 60)


def test_the_columns_are_those_of_the_measures(painted: Path) -> None:
    result = audit_quality(QualityConfig(images=painted, where="image_index = 0"))
    names = ["quality_spread", "quality_clipped", "quality_noise", "quality_blur", "quality_blockiness"]
    names += ["quality_resolution", "quality_diversity", "quality_nearest"]
    assert list(result.columns) == names
    blur = [value for (value,) in columns(painted, "quality_blur")]
    assert sum(value is not None for value in blur) == 2, (
        "only image 0 of a and b was judged and can be decoded"
    )


def test_a_second_time_gives_the_same_table(painted: Path, reference: Path) -> None:
    config = QualityConfig(images=painted, rules=QualityRules(reference=reference, num_reference=40))
    audit_quality(config)
    table = ImageTable.open(painted)
    names = table.dataset.schema.names
    first = table.read(names).to_pylist()
    audit_quality(config)
    assert table.reload().read(names).to_pylist() == first


def test_what_cannot_be_audited_is_a_sentence(
    tmp_path: Path, painted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="no picture matches"):
        audit_quality(QualityConfig(images=painted, where="image_index = 77"))
    with pytest.raises(UserError, match="the filter 'imag = 1' is not valid"):
        audit_quality(QualityConfig(images=painted, where="imag = 1"))
    with pytest.raises(UserError, match="no image table"):
        audit_quality(QualityConfig(images=tmp_path / "absent.lance"))
    write_images(tmp_path / "damaged.lance", [image_row("c", 0, b"no picture", origin=REAL)])
    with pytest.raises(UserError, match=r"damaged.lance: none of the 1 real pictures can be decoded"):
        audit_quality(QualityConfig(images=painted, rules=QualityRules(reference=tmp_path / "damaged.lance")))
    monkeypatch.setattr(quality, "measure", None)  # no picture is looked at before
    with pytest.raises(UserError, match="nowhere"):
        audit_quality(QualityConfig(images=painted, rules=QualityRules(reference=tmp_path / "nowhere.lance")))
    with pytest.raises(ValueError, match="false_alarms"):
        QualityRules(false_alarms=0)
    assert not (tmp_path / "audit.json").exists()


def test_pictures_of_several_sizes_are_measured(tmp_path: Path) -> None:
    rows = [
        image_row("a", index, png(scene(index, side)), width=side, height=side)
        for index, side in enumerate((64, 32, 48))
    ]
    write_images(tmp_path / "images.lance", rows)
    audit_quality(QualityConfig(images=tmp_path / "images.lance"))
    found = np.array([value for (value,) in columns(tmp_path / "images.lance", "quality_resolution")])
    assert (found > 0.75 * np.array([64, 32, 48])).all() and (found <= [64, 32, 48]).all()
