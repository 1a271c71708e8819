"""Copies that were planted are found among real drawings, and what is no copy is flagged as rarely as was asked."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from stablerep.captions.icons import icons_material
from stablerep.copies import DISTORTIONS, CopySearch, alarm_threshold, distorted, nearest, to_side
from stablerep.decoding import decode_image

SEARCH = CopySearch()
STYLES = ("noto", "twemoji", "clipart")


def encoded(picture: object) -> bytes:
    import io

    buffer = io.BytesIO()
    picture.draw().save(buffer, "PNG")  # type: ignore[attr-defined]
    return buffer.getvalue()


@pytest.fixture(scope="module")
def icons() -> tuple[list[bytes], list[bytes]]:
    """Real training drawings and validation drawings, every tenth."""
    pictures = [picture for picture in icons_material().pictures if picture.style in STYLES]
    train = [picture for picture in pictures if picture.split == "train"][::20]
    validation = [picture for picture in pictures if picture.split == "validation"][::10]
    return [encoded(picture) for picture in train], [encoded(picture) for picture in validation]


@pytest.mark.slow
def test_planted_copies_are_found_among_real_icons(icons: tuple[list[bytes], list[bytes]]) -> None:
    train, validation = icons
    references = to_side(train, SEARCH.side)
    threshold = alarm_threshold(
        nearest(to_side(validation, SEARCH.side), references, SEARCH).similarity, 0.01
    )
    rows = np.arange(0, len(train), 8)
    for name in DISTORTIONS:
        copies = to_side([distorted(train[row], name) for row in rows], SEARCH.side)
        found = nearest(copies, references, SEARCH)
        assert (found.index == rows).mean() > 0.9, name
        assert (found.similarity > threshold).mean() > 0.9, name


def test_correlation_is_that_of_the_shared_window() -> None:
    """The best over all shifts and mirroring, computed plainly in float64 on what the module blurs."""
    from stablerep import copies

    rng = np.random.default_rng(0)
    search = CopySearch(side=24, reach=3, cells=8, num_candidates=50, blur=0.8)
    queries, references = (
        torch.from_numpy(rng.integers(0, 256, (count, 3, 24, 24), dtype=np.uint8)) for count in (4, 9)
    )
    references[2] = torch.roll(queries[1].flip(-1), (2, -3), (1, 2))
    found = nearest(queries, references, search)
    here, there = (
        copies._blurred(part.float() / 255, search.blur).double().numpy() for part in (queries, references)
    )
    best = np.full((4, 9), -1.0)
    for dy in range(-3, 4):
        for dx in range(-3, 4):
            ours = slice(max(0, -dy), 24 - max(0, dy)), slice(max(0, -dx), 24 - max(0, dx))
            theirs = slice(max(0, dy), 24 + min(0, dy)), slice(max(0, dx), 24 + min(0, dx))
            for hand in (here, here[..., ::-1]):
                a, b = hand[:, :, *ours], there[:, :, *theirs]
                a, b = (part - part.mean((2, 3), keepdims=True) for part in (a, b))
                norms = np.sqrt((a**2).sum((1, 2, 3)))[:, None] * np.sqrt((b**2).sum((1, 2, 3)))
                best = np.maximum(best, np.einsum("qcij,ncij->qn", a, b) / norms)
    assert found.similarity == pytest.approx(best.max(1), abs=1e-4)
    assert (found.index == best.argmax(1)).all()
    assert found.index[1] == 2 and found.similarity[1] > 0.9


def test_blank_pictures_resemble_nothing() -> None:
    blank = torch.full((2, 3, 64, 64), 255, dtype=torch.uint8)
    noise = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (3, 3, 64, 64), dtype=np.uint8))
    found = nearest(
        torch.cat([blank, noise[:1]]), torch.cat([noise, blank]), replace(SEARCH, num_candidates=20)
    )
    assert np.abs(found.similarity[:2]).max() < 0.1
    assert found.similarity[2] > 0.99 and found.index[2] == 0


def test_threshold_flags_at_most_the_rate() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    for rate in (0.0, 0.01, 0.5):
        assert (values > alarm_threshold(values, rate)).mean() == pytest.approx(rate, abs=1e-9)
    assert (np.ones(50) > alarm_threshold(np.ones(50), 0.1)).sum() == 0
    with pytest.raises(ValueError, match="rate"):
        alarm_threshold(values, 1.0)


@pytest.mark.slow
def test_distortions_do_what_they_say(icons: tuple[list[bytes], list[bytes]]) -> None:
    image = icons[0][0]
    plain = decode_image(image)
    assert decode_image(distorted(image, "half size")).shape == (3, 32, 32)
    assert torch.equal(decode_image(distorted(image, "mirrored")), plain.flip(-1))
    shifted = decode_image(distorted(image, "shifted by 5 of 64 pixels"))
    assert torch.equal(shifted[:, 5:, 5:], plain[:, :-5, :-5])
    assert not torch.equal(decode_image(distorted(image, "JPEG of quality 30")), plain)
