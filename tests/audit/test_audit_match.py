"""`audit match`: wrong pictures are found, levels are calibrated, and the rules keep what they say."""

import json
from pathlib import Path

import numpy as np
import pytest
from painted_table import ORIGIN, columns, image_row, write_captions, write_images
from tiny_world import PAIRS, TEXTS, picture

from stablerep.audit.levels import Asked, Pool, centred, levels, ranks, related, shuffled
from stablerep.audit.match import MatchAuditConfig, MatchRules, audit_match
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


def test_levels_of_shuffled_captions_are_what_they_say(world: Path, clip: Path, painted: Path) -> None:
    result = audit_match(config(world, clip, painted))
    control = result.facts["the same with shuffled captions"]
    for level in (0.5, 0.9, 0.95):
        assert control[f"{100 * level:g} %"] == pytest.approx(1 - level, abs=0.08)
    assert result.facts["mean level (AUROC against shuffled captions)"] > 0.85


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


def test_the_best_of_each_caption_are_kept(world: Path, clip: Path, painted: Path) -> None:
    audit_match(config(world, clip, painted, rules=MatchRules(keep_best=2)))
    rows = columns(painted, "caption_id", "match", "match_rank", "keep")
    for identity in {caption for caption, *_ in rows}:
        own = sorted((row for row in rows if row[0] == identity), key=lambda row: -row[1])
        assert [row[2] for row in own] == list(range(PER_CAPTION))
        assert [row[3] for row in own] == [True, True] + [False] * (PER_CAPTION - 2)


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


def test_a_second_run_computes_no_vectors_and_changes_nothing(world: Path, clip: Path, painted: Path) -> None:
    audit_match(config(world, clip, painted))
    before = columns(painted, "match", "match_level", "keep")
    [cached] = (painted.parent / "features").iterdir()
    written = cached.stat().st_mtime_ns
    audit_match(config(world, clip, painted))
    assert columns(painted, "match", "match_level", "keep") == before
    assert cached.stat().st_mtime_ns == written and len(list((painted.parent / "features").iterdir())) == 1


def test_what_cannot_be_matched_is_a_sentence(world: Path, clip: Path, painted: Path, tmp_path: Path) -> None:
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


def random_case(num_pictures: int, num_captions: int) -> tuple[np.ndarray, Asked, Pool]:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(num_captions, 8)).astype(np.float32)
    own = rng.integers(0, num_captions, num_pictures)
    groups = np.arange(num_captions) // 2
    concepts = np.arange(num_captions) % 7 + 100
    pictures = vectors[own] + 2 * rng.normal(size=(num_pictures, 8)).astype(np.float32)
    return pictures, Asked(vectors[own], groups[own], concepts[own]), Pool(vectors, groups, concepts)


def test_levels_equal_the_plain_count() -> None:
    pictures, asked, pool = random_case(40, 30)
    found = levels(pictures, asked, pool)
    for row in range(40):
        others = [
            p
            for p in range(30)
            if pool.groups[p] != asked.groups[row] and pool.concepts[p] != asked.concepts[row]
        ]
        mine = pictures[row] @ asked.vectors[row]
        worse = [pictures[row] @ pool.vectors[p] < mine for p in others]
        assert found[row] == pytest.approx(np.mean(worse), abs=1e-6)


def test_a_caption_that_fits_everything_wins_nothing_by_it() -> None:
    """One caption is near every picture: its cosine is higher, its level is not."""
    rng = np.random.default_rng(1)
    common = np.zeros(16, dtype=np.float32)
    common[0] = 5
    pictures = rng.normal(size=(200, 16)).astype(np.float32) + common
    captions = rng.normal(size=(50, 16)).astype(np.float32)
    captions[0] += common
    pool = Pool(captions, np.arange(50), np.arange(50))
    hub = Asked(np.tile(captions[0], (200, 1)), np.zeros(200), np.zeros(200))
    assert levels(pictures, hub, pool).mean() > 0.95
    assert levels(centred(pictures), hub, pool).mean() == pytest.approx(0.5, abs=0.1)


def test_shuffled_captions_are_of_other_things() -> None:
    pictures, asked, pool = random_case(60, 30)
    wrong = shuffled(asked, pool, np.random.default_rng(0))
    assert not (wrong.groups == asked.groups).any() and not (wrong.concepts == asked.concepts).any()
    assert len(np.unique(wrong.vectors, axis=0)) > 15
    assert related(asked, pool).shape == (60, 30)
    assert len(levels(pictures, wrong, pool)) == 60


def test_equal_similarities_count_half_and_nothing_to_compare_is_nan() -> None:
    pictures = np.zeros((2, 4), dtype=np.float32)
    pool = Pool(np.eye(4, dtype=np.float32), np.arange(4), np.arange(4))
    asked = Asked(np.eye(4, dtype=np.float32)[:2], np.array([0, 1]), np.array([0, 1]))
    assert levels(pictures, asked, pool).tolist() == [0.5, 0.5]
    alone = Pool(np.eye(1, 4, dtype=np.float32), np.array([0]), np.array([0]))
    assert np.isnan(levels(pictures[:1], asked[slice(0, 1)], alone)).all()


def test_ranks_are_within_the_caption() -> None:
    match = np.array([0.1, 0.9, 0.5, 0.5, 0.7])
    assert ranks(match, [np.array([0, 1, 2]), np.array([3, 4])]).tolist() == [2, 0, 1, 1, 0]


def test_the_world_has_enough_captions() -> None:
    assert len(PAIRS) == len(set(TEXTS)) == 30
