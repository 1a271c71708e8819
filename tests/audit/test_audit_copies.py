"""Copies planted among real icons are found, named and judged; what is no copy is left alone."""

import dataclasses
import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from stablerep.audit.copies import CopyAuditConfig, audit_copies
from stablerep.audit.copy_alignment import Pairs, blurred, difference, on_grid
from stablerep.audit.copy_index import CopyIndex
from stablerep.audit.copy_network import Described, network_matches
from stablerep.audit.copy_search import exact_neighbours
from stablerep.audit.copy_thresholds import tail_threshold
from stablerep.captions.icons import icons_material
from stablerep.errors import UserError
from stablerep.store import OK, ImageTable


def encoded(picture: Image.Image, kind: str = "PNG", **how: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **how)
    return buffer.getvalue()


def row(origin: str, index: int, image: bytes, group: str | None = None) -> dict[str, object]:
    return {"origin": origin, "caption_id": "c", "image_index": index, "image": image, "width": 64, "height": 64,
            "status": OK, "group": group}  # fmt: skip


def pasted(picture: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    ground = Image.fromarray(noise).resize((96, 96), Image.Resampling.BICUBIC)
    ground.paste(picture.resize((72, 72), Image.Resampling.BICUBIC), (9, 14))
    return ground


def cropped(picture: Image.Image) -> Image.Image:
    return picture.resize((64, 64), Image.Resampling.BICUBIC, box=(2, 4, 59, 61))


def recoloured(picture: Image.Image) -> Image.Image:
    """The hue turned by a ninth of its circle, and less red and blue."""
    hsv = np.array(picture.convert("HSV"))
    hsv[..., 0] += 28
    turned = np.array(Image.fromarray(hsv, "HSV").convert("RGB"))
    return Image.fromarray((turned * np.array([0.7, 1.0, 0.85])).astype(np.uint8))


PLANTED = {
    "exact": encoded,
    "jpeg": lambda picture: encoded(picture, "JPEG", quality=30),
    "half": lambda picture: encoded(picture.resize((32, 32), Image.Resampling.BILINEAR)),
    "mirrored": lambda picture: encoded(ImageOps.mirror(picture)),
    "recoloured": lambda picture: encoded(recoloured(picture)),
    "cropped": lambda picture: encoded(cropped(picture)),
    "pasted": lambda picture: encoded(pasted(picture)),
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real: 150 training drawings by one hand. Painted: a copy of each kind, 40 drawings of other groups, a twin."""
    folder = tmp_path_factory.mktemp("copies")
    pictures = [picture for picture in icons_material().pictures if picture.style == "noto"]
    train = [picture for picture in pictures if picture.split == "train"][::8][:150]
    others = [picture for picture in pictures if picture.split == "test"][::13][:40]
    ImageTable.open_or_create(folder / "real.lance").append(
        [row("real", number, encoded(one.draw()), one.group) for number, one in enumerate(train)]
    )
    painted = [make(train[20 + number].draw()) for number, make in enumerate(PLANTED.values())]
    painted += [encoded(other.draw()) for other in others]
    painted.append(encoded(others[5].draw(), "JPEG", quality=60))
    ImageTable.open_or_create(folder / "images.lance").append(
        [row("painter", number, image) for number, image in enumerate(painted)]
    )
    return folder


@pytest.mark.slow
def test_planted_copies_are_found_and_named(tables: Path) -> None:
    config = CopyAuditConfig(
        images=tables / "images.lance", reference=tables / "real.lance", num_calibration=20
    )
    result = audit_copies(config)
    columns = [
        "copy_score",
        "copy_of",
        "copy_as",
        "copy_verdict",
        "copy_twin",
        "copies_ok",
        "copies_reason",
        "keep",
    ]
    found = ImageTable.open(config.images).read(columns).to_pylist()
    planted, genuine = found[: len(PLANTED)], found[len(PLANTED) :]
    assert [one["copy_of"] for one in planted] == [f"real/c/{20 + number}" for number in range(len(PLANTED))]
    assert [one["copy_verdict"] for one in planted] == ["exact"] + ["near"] * 6
    assert [one["copy_as"] for one in planted][3:] == ["mirrored", "recoloured", "cropped", "pasted"]
    assert not any(one["copies_ok"] or one["keep"] for one in planted)
    assert planted[3]["copies_reason"] == "near-copy (mirrored) of real/c/23"
    assert sum(not one["copies_ok"] for one in genuine) <= 1
    assert genuine[-1]["copy_twin"] == f"painter/c/{len(PLANTED) + 5}"
    assert sum(one["copy_twin"] is not None for one in found) == 1
    said = json.loads((tables / "audit.json").read_text())["audits"]["copies"]
    assert said["num_rejected"] == result.num_rejected >= 7
    assert said["facts"]["verdicts"]["exact"] == 1
    assert said["facts"]["false alarms asked for"] is None, "20 pictures set no threshold"
    assert said["facts"]["thresholds set by"].startswith("nothing: they are built in, as 20 real pictures")
    with Image.open(tables / "copies.png") as sheet:
        assert sheet.width > 900


@pytest.mark.slow
def test_twins_are_rejected_where_asked(tables: Path, tmp_path: Path) -> None:
    config = CopyAuditConfig(
        images=tables / "images.lance",
        reference=tables / "real.lance",
        num_calibration=1,
        pasted=False,
        reject_twins=True,
        where="image_index >= 40",
        out=tmp_path / "audit.json",
    )
    assert audit_copies(config).num_rejected == 0  # the picture that the twin repeats is not among them
    config = CopyAuditConfig(**{**config.__dict__, "where": "image_index in (12, 47)"})
    assert audit_copies(config).num_rejected == 1


def test_exact_neighbours_are_those_of_the_whole_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(37, 5, 16, generator=generator)
    references = torch.randn(20_011, 16, generator=generator)
    barred = torch.rand(37, len(references), generator=generator) < 0.1
    found = exact_neighbours(queries, references, 6, excluded=lambda rows: barred[rows])
    every = torch.einsum("qvd,nd->qvn", queries, references)
    best, view = every.max(1)
    expected = best.masked_fill(barred, -torch.inf).topk(6, dim=1)
    assert torch.equal(found.index, expected.indices)
    assert torch.allclose(found.similarity, expected.values, atol=1e-5)
    assert torch.equal(found.view, view.gather(1, found.index))


def test_a_threshold_is_the_quantile_of_an_exponential_tail_and_ignores_a_few_twins() -> None:
    rng = np.random.default_rng(0)
    scores = rng.exponential(0.2, 20_000)
    limit = tail_threshold(scores, 1e-4)
    assert limit == pytest.approx(0.2 * np.log(1e4), rel=0.1)
    scores[:10] = 4.0
    assert tail_threshold(scores, 1e-4) == pytest.approx(limit, rel=0.1)
    assert tail_threshold(scores[:100], 1e-4) is None
    assert tail_threshold(scores, 0.1) == pytest.approx(0.2 * np.log(10), rel=0.05), "no tail is needed"
    with pytest.raises(ValueError, match="rate"):
        tail_threshold(scores, 0.0)


@pytest.mark.parametrize(
    ("draw", "beyond", "least", "most"),
    [
        (np.random.Generator.standard_exponential, lambda score: math.exp(-score), 1.0, 2.0),
        (np.random.Generator.standard_normal, lambda score: math.erfc(score / math.sqrt(2)) / 2, 0.0, 1.0),
        (lambda rng, num: rng.pareto(10, num), lambda score: (1 + score) ** -10, 1.0, 3.5),
    ],
    ids=["exponential", "normal", "heavier"],
)
def test_alarms_are_about_as_frequent_as_was_asked(
    draw: Callable[[np.random.Generator, int], np.ndarray],
    beyond: Callable[[float], float],
    least: float,
    most: float,
) -> None:
    """One in 5,000, as of each of five explanations, from many samples of 1,500 genuine pictures."""
    rng, rate = np.random.default_rng(0), 0.0002
    found = [tail_threshold(draw(rng, 1500), rate) for _ in range(400)]
    rates = [beyond(limit) for limit in found if limit is not None]
    assert len(rates) == len(found) and least < np.mean(rates) / rate < most


def test_pictures_that_resemble_nothing_are_no_tail() -> None:
    """Three in a hundred score above nothing; where fewer than one in a hundred do, they may be twins."""
    scores = np.zeros(1500)
    scores[:45] = np.random.default_rng(0).exponential(0.2, 45)
    assert tail_threshold(scores, 0.0002) == pytest.approx(0.2 * np.log(0.03 / 0.0002), rel=0.3)
    scores[5:], scores[:5] = 0, 1.5
    assert tail_threshold(scores, 0.0002) is None
    assert tail_threshold(scores, 0.01, least=0.55) == 0.55


def test_the_index_finds_what_the_exact_search_finds() -> None:
    generator = torch.Generator().manual_seed(0)
    references = torch.nn.functional.normalize(torch.randn(3000, 64, generator=generator), dim=1)
    queries = references[:400, None] + 0.06 * torch.randn(400, 3, 64, generator=generator)
    queries = torch.nn.functional.normalize(queries, dim=2)
    exact = exact_neighbours(queries, references, 4)
    index = CopyIndex.build(references)
    found = index.neighbours(queries, 4)
    assert sum(map(len, index.members)) == 3000
    assert (found.index[:, 0] == exact.index[:, 0]).float().mean() >= 0.99
    hit = found.index[:, 0] == exact.index[:, 0]
    assert torch.equal(found.view[hit, 0], exact.view[hit, 0])
    assert all(len(set(row)) == 4 for row in found.index.tolist())


@pytest.mark.parametrize("num", [1, 2])
def test_an_index_may_hold_very_few(num: int) -> None:
    references = torch.eye(4)[:num]
    found = CopyIndex.build(references).neighbours(references[:, None], 8)
    assert found.index[:, 0].tolist() == list(range(num))


class _Means(torch.nn.Module):
    """A copy descriptor of a kind: the mean colours of 6 x 6 cells."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images, 6).flatten(1)


@pytest.mark.slow
def test_a_named_torchscript_file_looks_too_and_anything_else_is_refused(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[int] = []
    build = CopyIndex.build

    def counted(references: torch.Tensor) -> CopyIndex:
        built.append(references.shape[1])
        return build(references)

    monkeypatch.setattr(CopyIndex, "build", counted)
    file = tmp_path / "sscd.torchscript.pt"
    torch.jit.script(_Means()).save(str(file))
    config = CopyAuditConfig(
        images=tables / "images.lance",
        reference=tables / "real.lance",
        reference_where="image_index < 60",
        where="image_index < 12",
        num_calibration=1,
        pasted=False,
        twins=False,
        sscd=file,
        out=tmp_path / "audit.json",
    )
    thresholds = audit_copies(config).facts["thresholds"]
    assert list(thresholds)[-1] == "by the network" and thresholds["by the network"] == 0.35
    assert built == []
    audit_copies(dataclasses.replace(config, exact_up_to=20))
    assert built[-1] == 3 * 36, "the descriptors of the network, after those of the thumbnails"
    file.write_bytes(b"not a network")
    monkeypatch.setattr("stablerep.audit.copies._read", None)  # no picture is read before
    with pytest.raises(UserError, match="no TorchScript file"):
        audit_copies(config)


def test_a_network_of_the_hub_is_fetched_only_where_that_was_asked(
    tables: Path, tmp_path: Path, fetched: list[bool]
) -> None:
    for download, remedy in ((False, "add --download to fetch it"), (True, "check the connection")):
        config = CopyAuditConfig(
            images=tables / "images.lance",
            reference=tables / "real.lance",
            reference_where="image_index < 9",
            where="image_index < 3",
            encoder="timm:vit_tiny_patch16_224.augreg_in21k",
            download=download,
            out=tmp_path / "audit.json",
        )
        with pytest.raises(UserError, match=remedy):
            audit_copies(config)
    assert fetched == [False, True]


def test_scores_of_a_network_are_normalised_by_strangers() -> None:
    generator = torch.Generator().manual_seed(0)
    real = torch.nn.functional.normalize(torch.randn(60, 16, generator=generator), dim=1)
    groups = np.arange(60) // 2
    painted = real[[3]]
    found = network_matches(painted, real, groups)
    cosines = (painted @ real.T)[0].numpy()
    strangers = np.sort(cosines[groups != 1])[::-1][:8]
    assert found.index.tolist() == [[3]]
    assert found.score[0, 0] == pytest.approx(1 - strangers.mean(), abs=1e-5)
    without = network_matches(painted, real, groups, excluded=np.array([1]))
    assert groups[without.index[0, 0]] != 1


def test_a_network_finds_in_an_index_what_it_finds_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    real = torch.nn.functional.normalize(torch.randn(3000, 64, generator=generator), dim=1)
    painted = real[:400] + 0.06 * torch.randn(400, 64, generator=generator)
    painted = torch.nn.functional.normalize(painted, dim=1)
    exact = Described.build(painted, real, np.arange(3000), exact_up_to=3000)
    indexed = Described.build(painted, real, np.arange(3000), exact_up_to=2999)
    assert exact.index is None and indexed.index is not None
    left, right = exact.matches(), indexed.matches()
    assert (left.index == right.index).mean() >= 0.99
    assert np.median(np.abs(left.score - right.score)) < 0.05
    some = np.arange(20)
    np.testing.assert_array_equal(exact.genuine(some).index, indexed.genuine(some).index)


def test_no_map_of_colours_hides_a_figure() -> None:
    """Black and white could both become white while red stays red: what is there must also be predicted back."""
    sign = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    sign[:, 1:, 8:56, 8:16] = 30
    figure = sign.clone()
    figure[:, :, 24:48, 32:44] = 0
    placements = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    for painted, real in ((figure, sign), (sign, figure)):
        pairs = Pairs(blurred(painted), on_grid(real).float() / 255, placements, False)
        assert difference(pairs, is_recoloured=True)[0] > 0.5
    same = Pairs(blurred(figure), on_grid(figure.flip(1)).float() / 255, placements, False)
    assert difference(same, is_recoloured=True)[0] < 0.05
