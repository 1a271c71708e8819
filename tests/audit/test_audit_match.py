"""`audit match`: wrong pictures are found, levels are calibrated, and the rules keep what they say."""

import json
from pathlib import Path

import numpy as np
import pytest
from painted_table import ORIGIN, columns, image_row, write_captions, write_images
from tiny_world import PAIRS, TEXTS, picture

from stablerep.audit.levels import (
    CaptionVectors,
    levels,
    mean_picture,
    ranks,
    related,
    shuffled,
    wanted_level,
)
from stablerep.audit.match import MatchAuditConfig, MatchRules, audit_match
from stablerep.audit.rows import first_pictures
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.store import ImageTable, caption_id

PER_CAPTION = 6


def swapped_table(path: Path, share: float) -> np.ndarray:
    """Paintings, of which a share shows what another caption asked for; which ones, in the order of the rows."""
    rng = np.random.default_rng(3)
    wrong = rng.random(len(TEXTS) * PER_CAPTION) < share
    rows = []
    for place, is_wrong in enumerate(wrong):
        number, index = divmod(place, PER_CAPTION)
        shown = (number + int(rng.integers(1, len(TEXTS)))) % len(TEXTS) if is_wrong else number
        style = "in ink" if index % 2 else None
        rows.append(image_row(TEXTS[number], index, picture(shown, 100 + place), style=style))
    write_images(path, rows)
    return wrong


@pytest.fixture
def painted(tmp_path: Path) -> Path:
    swapped_table(tmp_path / "images.lance", 0.1)
    return tmp_path / "images.lance"


def config(world: Path, clip: Path, images: Path, **more: object) -> MatchAuditConfig:
    settings = {"precision": "float32", "device": "cpu", **more}
    return MatchAuditConfig(images=images, captions=world / "captions.lance", encoder=str(clip), **settings)  # type: ignore[arg-type]


# -- the command -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_nine_of_ten_wrong_pictures_are_found_at_five_per_cent_false_alarms(
    world: Path, clip: Path, tmp_path: Path
) -> None:
    wrong = swapped_table(tmp_path / "images.lance", 0.1)
    audit_match(config(world, clip, tmp_path / "images.lance"))
    level = np.array(
        ImageTable.open(tmp_path / "images.lance").read(["match_level"])["match_level"].to_pylist()
    )
    threshold = np.quantile(level[~wrong], 0.05)
    assert wrong.sum() > 10
    assert (level[wrong] < threshold).mean() >= 0.9


@pytest.mark.slow
def test_levels_of_shuffled_captions_are_what_they_say(world: Path, clip: Path, painted: Path) -> None:
    result = audit_match(config(world, clip, painted))
    control = result.facts["the same with shuffled captions"]
    for level in (0.5, 0.9, 0.95):
        assert control[f"{100 * level:g} %"] == pytest.approx(1 - level, abs=0.08)
    assert result.facts["mean level (AUROC against shuffled captions)"] > 0.85


@pytest.mark.slow
def test_columns_verdicts_and_findings_agree(world: Path, clip: Path, painted: Path) -> None:
    result = audit_match(config(world, clip, painted, rules=MatchRules(min_level=0.9)))
    rows = columns(
        painted, "match", "match_level", "match_rank", "match_ok", "match_reason", "keep", "keep_reason"
    )
    assert all(-1 <= match <= 1 for match, *_ in rows)
    for _, level, _, fine, reason, keep, why in rows:
        assert fine == (level >= np.float32(0.9)) == keep == (reason is None)
        assert why == (f"match: {reason}" if reason else None)
    assert result.num_rejected == sum(not row[3] for row in rows) > 0
    assert result.kept.num_kept == len(rows) - result.num_rejected
    stored = json.loads((painted.parent / "audit.json").read_text())
    worst = stored["audits"]["match"]["worst"]
    assert [one["score"] for one in worst] == sorted(one["score"] for one in worst)
    assert worst[0]["text"] in TEXTS and worst[0]["origin"] == ORIGIN
    assert stored["keep"]["num_rejected"] == result.num_rejected


@pytest.mark.slow
def test_the_best_of_each_caption_are_kept(world: Path, clip: Path, painted: Path) -> None:
    audit_match(config(world, clip, painted, rules=MatchRules(keep_best=2)))
    rows = columns(painted, "caption_id", "match", "match_rank", "keep")
    for identity in {caption for caption, *_ in rows}:
        own = sorted((row for row in rows if row[0] == identity), key=lambda row: -row[1])
        assert [row[2] for row in own] == list(range(PER_CAPTION))
        assert [row[3] for row in own] == [True, True] + [False] * (PER_CAPTION - 2)


@pytest.mark.slow
def test_real_pictures_set_the_level(world: Path, clip: Path, tmp_path: Path) -> None:
    """At 5 % false alarms on real pictures that the encoder has not seen, most wrong pictures are rejected."""
    wrong = swapped_table(tmp_path / "images.lance", 0.2)
    fresh = [image_row(text, 0, picture(number, 900), origin="real") for number, text in enumerate(TEXTS)]
    write_images(tmp_path / "real.lance", fresh)
    rules = MatchRules(reference=tmp_path / "real.lance", false_alarms=0.05)
    result = audit_match(config(world, clip, tmp_path / "images.lance", rules=rules))
    fine = np.array(ImageTable.open(tmp_path / "images.lance").read(["match_ok"])["match_ok"].to_pylist())
    assert (~fine[wrong]).mean() > 0.7 and (~fine[~wrong]).mean() < 0.3
    assert 0.5 < result.facts["level wanted"] <= 1
    with pytest.raises(ValueError, match="min_level and reference both set the level"):
        MatchRules(reference=tmp_path / "real.lance", min_level=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("num_captions", [len(TEXTS), 5])
def test_the_level_of_a_picture_does_not_depend_on_what_is_audited_with_it(
    world: Path, clip: Path, tmp_path: Path, num_captions: int
) -> None:
    """One picture alone, all of one caption, and the table: with 5 captions there is no mean to take off."""
    path = tmp_path / "images.lance"
    swapped_table(path, 0.1)
    if num_captions < len(TEXTS):
        rows = [image_row(text, k, picture(n, k)) for n, text in enumerate(TEXTS[:5]) for k in range(3)]
        path = tmp_path / "few.lance"
        write_images(path, rows)
    result = audit_match(config(world, clip, path, out=tmp_path / "audit.json"))
    behind = num_captions if num_captions >= 20 else 0
    assert result.facts["pictures behind the mean that is taken off"] == {ORIGIN: behind}
    together = columns(path, "caption_id", "image_index", "match_level")
    ids = sorted({caption for caption, *_ in together})
    for where in (
        f"caption_id = '{ids[0]}' AND image_index = 1",
        f"caption_id = '{ids[-1]}'",
        "image_index = 1",
    ):
        audit_match(config(world, clip, path, where=where, out=tmp_path / "audit.json"))
        again = columns(path, "caption_id", "image_index", "match_level")
        assert [row[:2] for row in again] == [row[:2] for row in together]
        np.testing.assert_allclose([row[2] for row in again], [row[2] for row in together], atol=1e-6)
    assert not {level for *_, level in together} <= {0.5}


@pytest.mark.slow
def test_real_pictures_are_measured_as_the_painted_ones_are(
    world: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same pictures as reference, of which one is looked at, set the level that this one has."""
    path = tmp_path / "images.lance"
    swapped_table(path, 0.1)
    one = f"caption_id = '{caption_id(TEXTS[3])}' AND image_index = 2"
    rules = MatchRules(reference=path, reference_where=one)
    found = audit_match(config(world, clip, path, rules=rules), console=Console())
    wanted = found.facts["level wanted"]
    [level] = ImageTable.open(path).read(["match_level"], one)["match_level"].to_pylist()
    assert wanted == pytest.approx(level, abs=1e-6)
    assert "1 real pictures are few" in capsys.readouterr().err


@pytest.mark.slow
def test_a_picture_that_cannot_be_decoded_is_rejected_and_the_others_are_judged(
    world: Path, clip: Path, painted: Path
) -> None:
    audit_match(config(world, clip, painted))
    before = columns(painted, "match", "match_level", "match_rank", "match_reason")
    broken = [
        image_row(TEXTS[0], 90, b"no picture", width=16, height=16),
        image_row(TEXTS[0], 91, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", width=16, height=16),
        image_row(TEXTS[0], 92, None),
    ]
    write_images(painted, broken)
    for _ in range(2):  # from the encoder, then from the cache
        result = audit_match(config(world, clip, painted))
        assert result.facts["cannot be decoded"] == 3
        found = columns(painted, "match", "match_level", "match_rank", "match_reason", "image_index")
        assert [row[:4] for row in found if row[4] < 90] == before
        for *scores, reason, _ in (row for row in found if row[4] >= 90):
            assert scores == [None] * 3 and reason.startswith("cannot be decoded")
    json.loads((painted.parent / "audit.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.slow
def test_pictures_of_the_mean_that_cannot_be_decoded_do_not_keep_others_from_being_judged(
    world: Path, clip: Path, tmp_path: Path
) -> None:
    """The first picture of every caption is broken; the second ones are audited."""
    rows = [image_row(text, 0, b"no picture") for text in TEXTS]
    rows += [image_row(text, 1, picture(number, 100)) for number, text in enumerate(TEXTS)]
    write_images(tmp_path / "images.lance", rows)
    result = audit_match(config(world, clip, tmp_path / "images.lance", where="image_index = 1"))
    assert result.facts["pictures behind the mean that is taken off"] == {ORIGIN: 0}
    assert result.num_pictures == len(TEXTS) and result.facts["cannot be decoded"] is None


@pytest.mark.slow
def test_captions_of_the_same_label_are_not_held_against_a_picture_where_asked(
    world: Path, clip: Path, tmp_path: Path
) -> None:
    """The label is the colour of the ground: a wrong disc is no mismatch then, a wrong ground still is."""
    captions = tmp_path / "captions.lance"
    for (_, ground), text in zip(PAIRS, TEXTS, strict=True):
        write_captions(captions, [text], label=ground)
    shown = {("red", "green"): ("blue", "green"), ("yellow", "white"): ("yellow", "black")}
    rows = [
        image_row(text, 0, picture(PAIRS.index(shown.get(pair, pair)), 70))
        for pair, text in zip(PAIRS, TEXTS, strict=True)
    ]
    write_images(tmp_path / "images.lance", rows)
    found = {}
    for across in (False, True):
        rules = MatchRules(across_labels=across, min_level=0.0)
        settings = {"images": tmp_path / "images.lance", "captions": captions, "encoder": str(clip)}
        audit_match(MatchAuditConfig(**settings, rules=rules, precision="float32", device="cpu"))  # type: ignore[arg-type]
        found[across] = dict(columns(tmp_path / "images.lance", "caption_id", "match_level"))
    disc, ground = (caption_id(TEXTS[PAIRS.index(pair)]) for pair in shown)
    assert found[True][disc] > found[False][disc] + 0.05
    assert found[True][ground] < 0.7
    with pytest.raises(UserError, match="no caption has a label"):
        audit_match(config(world, clip, tmp_path / "images.lance", rules=MatchRules(across_labels=True)))


def test_the_first_pictures_of_captions_are_the_same_however_many_follow(tmp_path: Path) -> None:
    def rows(origin: str, indices: range) -> list[dict[str, object]]:
        return [
            image_row(text, index, b"", origin=origin, status="failed" if index == 0 else "ok")
            for text in "abcdef"
            for index in indices
        ]

    table = write_images(tmp_path / "images.lance", [*rows("x", range(2, 0, -1)), *rows("y", range(1, 2))])
    before = first_pictures(table, 4)
    assert {origin: len(positions) for origin, positions in before.items()} == {"x": 4, "y": 4}
    names = table.read(["origin", "caption_id", "image_index"])
    chosen = names.take(np.concatenate([before["x"], before["y"]])).to_pylist()
    some = sorted(map(caption_id, "abcdef"))[:4]
    assert [tuple(row.values()) for row in chosen] == [(o, one, 1) for o in "xy" for one in some]
    more = write_images(tmp_path / "images.lance", [*rows("x", range(3, 5)), *rows("x", range(1))])
    after = first_pictures(more, 4)
    same = more.read(["origin", "caption_id", "image_index"])
    assert same.take(np.concatenate([after["x"], after["y"]])).to_pylist() == chosen


@pytest.mark.slow
def test_a_second_run_computes_no_vectors_and_changes_nothing(world: Path, clip: Path, painted: Path) -> None:
    audit_match(config(world, clip, painted))
    before = columns(painted, "match", "match_level", "keep")
    [cached] = (painted.parent / "features").iterdir()
    written = cached.stat().st_mtime_ns
    audit_match(config(world, clip, painted))
    assert columns(painted, "match", "match_level", "keep") == before
    assert cached.stat().st_mtime_ns == written and len(list((painted.parent / "features").iterdir())) == 1


@pytest.mark.slow
def test_what_cannot_be_matched_is_a_sentence(
    world: Path, clip: Path, painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_captions(tmp_path / "other.lance", TEXTS[:25])
    with pytest.raises(UserError, match=rf"has no caption \w+ \({len(TEXTS) - 25} such\)"):
        audit_match(MatchAuditConfig(images=painted, captions=other, encoder=str(clip)))
    few = write_captions(tmp_path / "few.lance", TEXTS[:5])
    where = f"caption_id = '{caption_id(TEXTS[0])}'"
    with pytest.raises(UserError, match="only 5 captions of different concepts"):
        audit_match(MatchAuditConfig(images=painted, captions=few, encoder=str(clip), where=where))
    same = write_captions(tmp_path / "same.lance", TEXTS[:1])
    write_captions(same, [f"more {number}" for number in range(30)], group=f"group of {TEXTS[0]}")
    with pytest.raises(UserError, match="all captions are of one group"):
        audit_match(MatchAuditConfig(images=painted, captions=same, encoder=str(clip), where=where))
    with pytest.raises(UserError, match=r"no encoder .* the folder has no encoder.json"):
        audit_match(
            MatchAuditConfig(images=painted, captions=world / "captions.lance", encoder=str(tmp_path))
        )
    monkeypatch.setattr("stablerep.audit.match.Matching.of", None)  # no picture is looked at before
    with pytest.raises(UserError, match="nowhere"):
        rules = MatchRules(reference=tmp_path / "nowhere.lance")
        audit_match(config(world, clip, painted, rules=rules))
    assert "match" not in ImageTable.open(painted).dataset.schema.names


@pytest.mark.parametrize("rules", [{"min_level": 1.5}, {"keep_best": 0}, {"num_shuffled": 3}])
def test_impossible_rules_are_refused(rules: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(rules))):
        MatchRules(**rules)  # type: ignore[arg-type]


def test_without_a_rule_the_level_is_095() -> None:
    assert MatchRules().level == 0.95
    assert MatchRules(keep_best=3).level is None
    assert MatchRules(keep_best=3, min_level=0.5).level == 0.5


# -- the arithmetic ----------------------------------------------------------------------------------


def random_case(num_pictures: int, num_captions: int) -> tuple[np.ndarray, CaptionVectors, CaptionVectors]:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(num_captions, 8)).astype(np.float32)
    own = rng.integers(0, num_captions, num_pictures)
    subjects = np.stack([np.arange(num_captions) // 2, np.arange(num_captions) % 7 + 100], axis=1)
    pictures = vectors[own] + 2 * rng.normal(size=(num_pictures, 8)).astype(np.float32)
    pool = CaptionVectors(vectors, subjects)
    return pictures, pool[own], pool


def test_levels_equal_the_plain_count() -> None:
    pictures, asked, pool = random_case(40, 30)
    found = levels(pictures, asked, pool)
    for row in range(40):
        others = [p for p in range(30) if (pool.subjects[p] != asked.subjects[row]).all()]
        mine = pictures[row] @ asked.vectors[row]
        worse = [pictures[row] @ pool.vectors[p] < mine for p in others]
        assert found[row] == pytest.approx(np.mean(worse), abs=1e-6)


def test_where_labels_are_few_wrong_captions_pass_more_rarely_than_the_level_says() -> None:
    """All captions of the right label fit better than a wrong one, to an encoder that tells the labels apart."""
    rng, passing = np.random.default_rng(0), {}
    for num_labels in (5, 500):
        label = np.arange(1000) % num_labels
        vectors = np.eye(num_labels)[label] + rng.normal(0, 0.02, (1000, num_labels))
        captions = CaptionVectors(vectors, label[:, None])
        control = levels(vectors, shuffled(captions, captions, rng), captions)
        passing[num_labels] = (control >= 0.95).mean()
    assert passing[5] == 0 and passing[500] == pytest.approx(0.05, abs=0.015)


def test_a_caption_that_fits_everything_wins_nothing_by_it() -> None:
    """One caption is near every picture: its cosine is higher, its level is not."""
    rng = np.random.default_rng(1)
    common = np.zeros(16, dtype=np.float32)
    common[0] = 5
    pictures = rng.normal(size=(200, 16)).astype(np.float32) + common
    captions = rng.normal(size=(50, 16)).astype(np.float32)
    captions[0] += common
    pool = CaptionVectors(captions, np.arange(50)[:, None])
    hub = pool[np.zeros(200, dtype=int)]
    assert levels(pictures, hub, pool).mean() > 0.95
    assert levels(pictures - mean_picture(pictures), hub, pool).mean() == pytest.approx(0.5, abs=0.1)


def test_the_mean_of_few_pictures_is_not_taken() -> None:
    pictures = np.random.default_rng(0).normal(size=(21, 3))
    pictures[4] = np.nan
    np.testing.assert_allclose(mean_picture(pictures), np.nanmean(pictures, axis=0))
    assert not mean_picture(pictures[:20]).any()


def test_shuffled_captions_are_of_other_things() -> None:
    pictures, asked, pool = random_case(60, 30)
    wrong = shuffled(asked, pool, np.random.default_rng(0))
    assert not (wrong.subjects == asked.subjects).any()
    assert len(np.unique(wrong.vectors, axis=0)) > 15
    assert related(asked, pool).shape == (60, 30)
    assert len(levels(pictures, wrong, pool)) == 60


def test_equal_similarities_count_half_and_nothing_to_compare_is_nan() -> None:
    pictures = np.zeros((2, 4), dtype=np.float32)
    pool = CaptionVectors(np.eye(4, dtype=np.float32), np.arange(4)[:, None])
    assert levels(pictures, pool[slice(0, 2)], pool).tolist() == [0.5, 0.5]
    alone = pool[slice(0, 1)]
    assert np.isnan(levels(pictures[:1], alone, alone)).all()


@pytest.mark.parametrize(("num", "missed"), [(9, 1 / 10), (19, 0.05), (30, 0.05)])
def test_a_further_real_picture_misses_the_level_as_often_as_is_asked(num: int, missed: float) -> None:
    """Of uniform levels the share below one is that level."""
    drawn = np.random.default_rng(0).random((2000, num + 1))
    drawn[:, 0] = np.nan  # cannot be decoded
    assert np.mean([wanted_level(one, 0.05) for one in drawn]) == pytest.approx(missed, rel=0.05)


def test_ranks_are_within_the_caption() -> None:
    match = np.array([0.1, 0.9, 0.5, 0.5, 0.7])
    assert ranks(match, [np.array([0, 1, 2]), np.array([3, 4])]).tolist() == [2, 0, 1, 1, 0]


def test_the_world_has_enough_captions() -> None:
    assert len(PAIRS) == len(set(TEXTS)) == 30
