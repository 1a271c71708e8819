"""Shares, abstention and amplification on cases whose answer is known."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from painted_table import image_row, write_captions, write_images
from PIL import Image

from stablerep.audit.bias import BiasAuditConfig, audit_bias
from stablerep.audit.everything import AuditAllConfig, audit_all
from stablerep.audit.shares import (
    Checked,
    ShareBootstrap,
    Shown,
    abstention_level,
    amplification,
    confusion,
    jensen_shannon,
    total_variation,
    true_shares,
)
from stablerep.errors import UserError
from stablerep.features import TableImages, extract, untrained_encoder
from stablerep.models.encoder import EncoderConfig, load_encoder, save_encoder
from stablerep.runtime import numpy_generator
from stablerep.store import ImageTable

TINY = EncoderConfig(
    architecture="vit_tiny_patch16_224", image_size=16, patch_size=8, width=32, depth=1, num_heads=2
)
COLOURS = {"red": (200, 60, 60), "blue": (60, 60, 200)}
ATTRIBUTES = """
[attributes.paint]
within = 'wall'
[attributes.paint.values]
red = '\\bred\\b'
blue = '\\bblue\\b'
[attributes.paint.target]
red = 0.5
blue = 0.5
[attributes.paint.groups]
houses = 'house'
barns = 'barn'
"""


def wall(colour: str, seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).normal(0, 40, (16, 16, 3))
    return Image.fromarray(np.clip(COLOURS[colour] + noise, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Houses are painted 80 to 20 in red where captions ask half and half; barns are all as asked."""
    folder = tmp_path_factory.mktemp("bias")
    real = [f"a {colour} wall, number {number}" for colour in COLOURS for number in range(30)]
    houses = [f"a {'red' if n % 2 else 'blue'} wall of house {n}" for n in range(50)]
    barns = [f"a {'red' if n % 2 else 'blue'} wall of barn {n}" for n in range(20)]
    write_captions(folder / "captions.lance", [*real, *houses, *barns, "a cat"])
    write_images(
        folder / "real.lance",
        [image_row(text, 0, wall(text.split()[1], 1000 + n), origin="real") for n, text in enumerate(real)],
    )
    painted = [
        image_row(text, k, wall("blue" if n % 5 == 0 else "red", 100 * k + n))
        for n, text in enumerate(houses)
        for k in range(2)
    ]
    painted += [image_row(text, 0, wall(text.split()[1], 5000 + n)) for n, text in enumerate(barns)]
    painted.append(image_row("a cat", 0, wall("red", 9999)))
    write_images(folder / "images.lance", painted)
    (folder / "attributes.toml").write_text(ATTRIBUTES)
    save_encoder(untrained_encoder(TINY, 0), folder / "run" / "encoder")
    return folder


def asked(folder: Path, **more: object) -> BiasAuditConfig:
    settings = {
        "images": folder / "images.lance",
        "captions": folder / "captions.lance",
        "attributes": folder / "attributes.toml",
        "reference": folder / "real.lance",
        "encoder": str(folder / "run"),
        "num_bootstrap": 200,
    }
    return BiasAuditConfig(**{**settings, **more})  # type: ignore[arg-type]


@pytest.mark.slow
def test_planted_shares_and_amplification_are_recovered(folder: Path) -> None:
    result = audit_bias(asked(folder))
    found = json.loads((folder / "bias.json").read_text())["paint"]
    houses, barns = found["groups"]["houses"], found["groups"]["barns"]
    red = houses["shares"]["red"]
    assert red["low"] <= 0.8 <= red["high"] and red["high"] - red["low"] < 0.35
    assert barns["shares"]["red"]["low"] <= 0.5 <= barns["shares"]["red"]["high"]
    grown = houses["amplification"]["captions to pictures"]
    assert grown["low"] > 0
    answered = houses["amplification"]["pictures to answers"]
    assert answered["low"] <= answered["value"] <= answered["high"]
    assert abs(grown["value"]) == pytest.approx(abs(red["value"] - 0.5))
    assert houses["total variation"]["value"] == pytest.approx(abs(red["value"] - 0.5))
    assert houses["total variation by chance"] < houses["total variation"]["value"]
    assert barns["total variation"]["value"] < barns["total variation by chance"] < 0.4
    assert "points from the target, by chance up to" in result.facts["paint of houses"]
    assert found["reader"]["accuracy of answers"] >= 0.9
    column = ImageTable.open(folder / "images.lance").read(["bias_paint"])["bias_paint"].to_pylist()
    assert column[-1] is None  # the cat is not concerned
    assert set(column[:100]) <= {"red", "blue", None}
    assert result.columns == ("bias_paint",)
    with Image.open(folder / "bias.png") as figure:
        assert figure.width > 300


@pytest.mark.slow
def test_features_of_all_pictures_that_another_audit_left_are_taken(folder: Path, tmp_path: Path) -> None:
    encoder, table = load_encoder(str(folder / "run")), ImageTable.open(folder / "images.lance")
    extract(encoder, TableImages(table, range(len(table))), cache=tmp_path / "features")
    audit_bias(asked(folder, out=tmp_path / "audit.json", precision="float32"))
    assert len(list((tmp_path / "features").iterdir())) == 2, "those, and those of the real pictures"
    own = tmp_path / "own"
    own.mkdir()
    audit_bias(asked(folder, out=own / "audit.json", precision="float32"))
    assert json.loads((tmp_path / "bias.json").read_text()) == json.loads((own / "bias.json").read_text())


def test_replicates_are_those_of_captions_and_test_groups_drawn_one_by_one() -> None:
    rng = np.random.default_rng(0)
    answers, captions = rng.integers(-1, 2, 90), np.repeat(np.arange(30), 3).astype(str)
    stated = np.repeat(rng.integers(0, 2, 30), 3)
    truth, said, groups = np.arange(40) % 2, rng.integers(-1, 2, 40), np.repeat(np.arange(10), 4).astype(str)
    found = ShareBootstrap(Shown(answers, captions, stated), Checked(truth, said, groups), 2, num=5, seed=3)
    again = numpy_generator("bias", 3)

    def drawn(names: np.ndarray) -> np.ndarray:
        rows_of = [np.flatnonzero(names == name) for name in np.unique(names)]
        return np.concatenate([rows_of[part] for part in again.integers(len(rows_of), size=len(rows_of))])

    replicates = zip(found.replicates, found.stated_replicates, found.answered_replicates, strict=True)
    for replicate, of_captions, of_answers in replicates:
        rows, test = drawn(captions), drawn(groups)
        expected = true_shares(answers[rows], confusion(truth[test], said[test], 2))
        np.testing.assert_allclose(replicate, expected, atol=1e-9)
        np.testing.assert_allclose(of_captions, np.bincount(stated[rows], minlength=2) / len(rows))
        said_of_them = answers[rows][answers[rows] >= 0]
        np.testing.assert_allclose(of_answers, np.bincount(said_of_them, minlength=2) / len(said_of_them))


def test_pictures_that_show_what_their_captions_state_are_not_amplified_in_any_draw() -> None:
    """Which captions are drawn moves both shares alike, so the interval is as narrow as the reader is sure."""
    rng = np.random.default_rng(0)
    stated = (rng.random(60) < 0.4).astype(int)
    test = np.arange(2000) % 2
    sharp = Checked(test, test, np.arange(2000))
    found = ShareBootstrap(Shown(stated, np.arange(60), stated), sharp, 2, num=200, seed=0)
    grown = found.amplification()
    assert abs(grown.value) < 0.01 and grown.high - grown.low < 0.01
    assert found.share(0).high - found.share(0).low > 0.2


def test_a_reader_that_was_checked_on_few_subjects_is_less_sure() -> None:
    """It errs in all pictures of three of ten subjects that show value 0: elsewhere that may be two or four of ten."""
    subject = np.repeat(np.arange(20), 10)
    truth = subject % 2
    said = np.where(np.isin(subject, [2, 8, 14]), 1, truth)
    shown = Shown((np.arange(400) % 10 >= 3).astype(int), np.arange(400), np.full(400, -1))
    width = {}
    for name, groups in {"each picture": np.arange(200), "subjects": subject}.items():
        share = ShareBootstrap(shown, Checked(truth, said, groups), 2, num=300, seed=0).share(0)
        assert share.value == pytest.approx(0.3 / 0.7, abs=0.01)
        width[name] = share.high - share.low
    assert width["subjects"] > 1.5 * width["each picture"]


@pytest.mark.slow
def test_a_group_is_held_against_its_own_real_pictures_and_an_empty_one_is_said_to_be_unread(
    folder: Path, tmp_path: Path
) -> None:
    """Real walls are of houses (three in four red) or of barns (all blue); nobody painted a mill, nobody saw a shed."""
    names = {"house": ["red", "red", "red", "blue"], "barn": ["blue"] * 4}
    texts = [f"a {colour} wall of {kind} r{n}{k}" for kind, all_ in names.items() for n in range(8) for k, colour in
             enumerate(all_)]  # fmt: skip
    sheds = [f"a red wall of shed {number}" for number in range(5)]
    captions = write_captions(tmp_path / "captions.lance", texts)
    real = [image_row(t, 0, wall(t.split()[1], 77 + n), origin="real") for n, t in enumerate(texts)]
    real.append(image_row(texts[0], 1, b"no picture", origin="real"))
    write_images(tmp_path / "real.lance", real)
    write_captions(captions, sheds)
    rows = [image_row(text, 1, wall("red", 9 + number)) for number, text in enumerate([*texts, *sheds])]
    rows.append(image_row(texts[1], 2, b"no picture"))
    painted = write_images(tmp_path / "images.lance", rows)
    stale = {"bias_paint": pa.array(["red"] * len(rows)), "bias_scarce": pa.array(["barn"] * len(rows))}
    painted.write_columns(range(len(rows)), stale)
    groups = ATTRIBUTES.replace("[attributes.paint.target]\nred = 0.5\nblue = 0.5\n", "")
    more = "mills = 'mill'\nsheds = 'shed'\n"
    scarce = "[attributes.scarce.values]\nhouse = 'house r00'\nbarn = 'barn r00'\n"
    (tmp_path / "attributes.toml").write_text(groups + more + scarce)
    result = audit_bias(
        asked(
            folder,
            images=tmp_path / "images.lance",
            captions=captions,
            reference=tmp_path / "real.lance",
            attributes=tmp_path / "attributes.toml",
        )
    )
    found = json.loads((tmp_path / "bias.json").read_text())
    paint = found["paint"]
    assert paint["groups"]["houses"]["target"] == {"red": 0.75, "blue": 0.25}
    assert paint["groups"]["barns"]["target"] == {"red": 0.0, "blue": 1.0}
    assert paint["groups"]["sheds"]["target"] is None
    assert paint["groups"]["sheds"]["total variation"] is None
    assert paint["groups"]["sheds"]["total variation by chance"] is None
    assert paint["groups without pictures"] == ["mills"] and "mills" not in paint["groups"]
    assert paint["groups"]["houses"]["total variation"]["value"] < 0.5
    assert paint["groups"]["barns"]["total variation"]["value"] > 0.7
    said = result.facts
    assert "not read: no painted picture" in said["paint of mills"] and "no target" in said["paint of sheds"]
    assert "not read: real pictures of" in said["scarce"] and found["scarce"]["groups"] == {}
    assert said["cannot be decoded"] == 1 and said["real pictures that cannot be decoded"] == 1
    assert result.num_pictures == len(rows) and result.columns == ("bias_paint", "bias_scarce")
    columns = painted.reload().read(["bias_paint", "bias_scarce"]).to_pydict()
    assert set(columns["bias_scarce"]) == {None}, "nothing of an earlier audit is left where none is read now"
    assert columns["bias_paint"][-1] is None and {"red", "blue"} <= set(columns["bias_paint"])
    (tmp_path / "attributes.toml").write_text(scarce)
    with pytest.raises(UserError, match="attribute scarce: real pictures of"):
        audit_bias(asked(folder, images=tmp_path / "images.lance", captions=captions,
                         reference=tmp_path / "real.lance", attributes=tmp_path / "attributes.toml"))  # fmt: skip


def test_captions_are_compared_with_their_own_pictures_where_others_state_nothing(
    folder: Path, tmp_path: Path
) -> None:
    """Every fifth house states a colour, half of them red; all of these are painted blue, the others red."""
    some = ATTRIBUTES.replace("'\\bred\\b'", "'\\bred wall(, number| of house \\d*5$)'").replace(
        "'\\bblue\\b'", "'\\bblue wall(, number| of house \\d*0$)'"
    )
    (tmp_path / "attributes.toml").write_text(some)
    audit_bias(asked(folder, attributes=tmp_path / "attributes.toml", out=tmp_path / "audit.json"))
    houses = json.loads((tmp_path / "bias.json").read_text())["paint"]["groups"]["houses"]
    assert houses["pictures"] == 100 and houses["pictures whose captions state a value"] == 20
    assert houses["captions"] == {"red": 0.5, "blue": 0.5}
    assert houses["shares where captions state a value"]["blue"] > 0.85
    assert houses["shares"]["red"]["low"] <= 0.8 <= houses["shares"]["red"]["high"]
    assert houses["amplification"]["captions to pictures"]["value"] < -0.35


@pytest.mark.slow
def test_adjusted_shares_undo_the_errors_of_the_reader_where_raw_ones_do_not() -> None:
    rng = np.random.default_rng(0)

    def read(truth: np.ndarray) -> np.ndarray:
        """Right in 80 % of what is 0 and 70 % of what is 1; a tenth is left open."""
        right = rng.random(len(truth)) < np.where(truth == 0, 0.8, 0.7)
        return np.where(rng.random(len(truth)) < 0.1, -1, np.where(right, truth, 1 - truth))

    test = np.arange(800) % 2
    said = read(test)
    inside = 0
    for trial in range(20):
        truth = (rng.random(400) < 0.2).astype(int)
        answers = read(truth)
        shown = Shown(answers, np.arange(400), np.full(400, -1))
        estimate = ShareBootstrap(shown, Checked(test, said, np.arange(800)), 2, num=200, seed=trial).share(0)
        inside += estimate.low <= 0.8 <= estimate.high
        assert (answers[answers >= 0] == 0).mean() < 0.79
    assert inside >= 17
    sharp = confusion(test, test, 2)
    assert true_shares(np.array([0, 0, 0, 1]), sharp)[0] == pytest.approx(0.75, abs=0.01)


@pytest.mark.slow
def test_a_painter_without_bias_is_further_from_its_target_than_chance_in_5_of_100_cases() -> None:
    """30 captions of four pictures, which agree in half of the captions; the reader errs in a tenth of its answers."""
    rng, target, captions = np.random.default_rng(0), np.array([0.7, 0.3]), np.arange(30).repeat(4)
    test, further, levels = np.arange(400) % 2, 0, []

    def read(truth: np.ndarray) -> np.ndarray:
        return np.where(rng.random(len(truth)) < 0.1, 1 - truth, truth)

    for trial in range(60):
        drawn = (rng.random(120) < 0.3).astype(int)
        truth = np.where(captions % 2 == 0, drawn[captions], drawn)
        shown = Shown(read(truth), captions, np.full(120, -1))
        found = ShareBootstrap(shown, Checked(test, read(test), np.arange(400)), 2, num=100, seed=trial)
        levels.append(found.apart_by_chance(target))
        further += total_variation(found.value, target) > levels[-1]
    assert 0 < further <= 8
    independent = 1.96 * np.sqrt(0.7 * 0.3 / 120) / 0.8
    assert 1.2 * independent < np.mean(levels) < 2 * independent


def test_ten_pictures_of_one_value_do_not_show_that_one_in_ten_is_missing() -> None:
    test = np.arange(400) % 2
    shown = Shown(np.zeros(10, int), np.arange(10), np.full(10, -1))
    found = ShareBootstrap(shown, Checked(test, test, np.arange(400)), 2, num=200, seed=0)
    rare, half = np.array([0.9, 0.1]), np.array([0.5, 0.5])
    assert total_variation(found.value, rare) < found.apart_by_chance(rare)
    assert total_variation(found.value, half) > found.apart_by_chance(half)


def test_what_is_answered_is_as_accurate_as_was_asked() -> None:
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.5, 1, 4000)
    correct = rng.random(4000) < confidence
    level = abstention_level(confidence, correct, 0.9)
    fresh = rng.uniform(0.5, 1, 4000)
    right = rng.random(4000) < fresh
    assert 0.89 <= right[fresh >= level].mean() <= 0.95
    assert right.mean() < 0.8
    assert abstention_level(confidence, correct, 0.999) == float("inf")


def test_answers_of_equal_confidence_are_given_together() -> None:
    """Zero-shot confidences end at one: that the first of them are right says nothing of the others."""
    assert abstention_level(np.ones(100), np.arange(100) < 50, 0.9) == float("inf")
    confidence = np.repeat([0.9, 1.0], [100, 60])
    correct = np.concatenate([np.arange(100) < 80, np.ones(60, bool)])
    assert abstention_level(confidence, correct, 0.9) == 1.0


@pytest.mark.parametrize(
    ("num_captions", "num_each", "answer", "expected"),
    [
        (10, 1, 0, (0.025**0.1, 1)),
        (10, 30, 0, (0.025**0.1, 1)),
        (10, 1, 1, (0, 1 - 0.025**0.1)),
        (1, 30, 0, (0, 1)),
        (30, 1, -1, (0, 1)),
    ],
)
def test_where_none_or_all_show_a_value_its_interval_is_as_wide_as_captions_are_few(
    num_captions: int, num_each: int, answer: int, expected: tuple[float, float]
) -> None:
    """One caption, and pictures of which all are left open, say nothing."""
    test = np.arange(400) % 2
    said = np.where(np.arange(400) % 9 == 0, -1, np.where(np.arange(400) % 10 < 2, 1 - test, test))
    captions = np.arange(num_captions).repeat(num_each)
    shown = Shown(np.full(len(captions), answer), captions, np.full(len(captions), -1))
    share = ShareBootstrap(shown, Checked(test, said, np.arange(400)), 2, num=50, seed=0).share(0)
    assert (share.low, share.high) == pytest.approx(expected, abs=0.002)


@pytest.mark.parametrize("audit", ["bias", "zero-shot", "all"])
def test_a_model_of_the_hub_is_fetched_only_where_that_was_asked(
    audit: str, folder: Path, tmp_path: Path, fetched: list[bool]
) -> None:
    def run(download: bool) -> None:
        name = "timm:vit_tiny_patch16_224.augreg_in21k"
        model = "open_clip:ViT-B-16/laion2b_s34b_b88k" if audit == "zero-shot" else name
        config = asked(folder, encoder=model, zero_shot=audit == "zero-shot", download=download)
        if audit == "all":
            names = ("images", "captions", "reference", "attributes", "encoder", "download")
            same = {name: getattr(config, name) for name in names}
            audit_all(AuditAllConfig(**same, only=("bias",), out=tmp_path / "audit.json"))
        else:
            audit_bias(config)

    with pytest.raises(UserError, match="not in the hub's cache; add --download to fetch it"):
        run(download=False)
    with pytest.raises(UserError, match="not in the hub's cache; check the connection"):
        run(download=True)
    assert fetched == [False, True]


def test_distances_and_amplification_of_known_shares() -> None:
    left, right = np.array([0.8, 0.2]), np.array([0.5, 0.5])
    assert total_variation(left, right) == pytest.approx(0.3)
    assert jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(1)
    assert jensen_shannon(left, left) == pytest.approx(0)
    assert amplification(np.array([0.6, 0.4]), left) == pytest.approx(0.2)
