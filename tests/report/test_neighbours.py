"""Neighbours: a painted picture that equals the query comes first, and what cannot be shown is said."""

import base64
from pathlib import Path

import numpy as np
import pytest
from report_project import CAPTIONS, write_paintings, write_run, write_world

from stablerep.console import Console
from stablerep.features import extract
from stablerep.models.encoder import load_encoder
from stablerep.report.neighbours import NeighbourConfig, Neighbours, find_neighbours
from stablerep.report.reading import Project, open_project

QUIET = Console(quiet=True)


def search(project: Project, **settings: int) -> Neighbours:
    return find_neighbours(project, project.runs[0], NeighbourConfig(device="cpu", **settings), 0, QUIET)


@pytest.fixture(scope="module")
def searchable(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("neighbours")
    write_world(folder / "world")
    write_paintings(folder / "images.lance")
    write_run(folder / "runs" / "a")
    return open_project((folder,), None, None, None)


def test_an_equal_picture_is_the_nearest(searchable: Project) -> None:
    found = search(searchable)
    assert [query.caption for query in found.queries] != list(CAPTIONS)  # in the order of their hashes
    assert sorted(query.caption for query in found.queries) == sorted(CAPTIONS)
    for query in found.queries:
        # the test picture of each caption is pixel for pixel the painted one with image index 1
        assert query.nearest[0].caption == query.caption
        assert query.nearest[0].picture.source == query.picture.source
        assert query.nearest[0].similarity == pytest.approx(1.0, abs=1e-5)
        similarities = [neighbour.similarity for neighbour in query.nearest]
        assert similarities == sorted(similarities, reverse=True)
        assert len(similarities) == 5
        assert similarities[-1] < 0.99
    assert "5 real test pictures in the held-out style “fluent”, chosen by hash" in found.sentence
    assert "the encoder of a finds most alike among 14." in found.sentence


def test_similarity_is_the_cosine_of_centred_features(searchable: Project) -> None:
    encoder = load_encoder(searchable.runs[0].path)
    painted = searchable.image_columns(["image", "status"], "origin != 'real' AND status = 'ok'")
    features = extract(encoder, painted["image"].to_pylist()).astype(np.float64)
    for query in search(searchable).queries:
        assert query.picture.source is not None
        real = extract(encoder, [base64.b64decode(query.picture.source.partition(",")[2])])[
            0
        ] - features.mean(0)
        others = features - features.mean(0)
        cosines = others @ real / np.linalg.norm(others, axis=1) / np.linalg.norm(real)
        found = [neighbour.similarity for neighbour in query.nearest]
        assert np.allclose(found, np.sort(cosines)[::-1][:5], atol=1e-4)


def test_a_limited_search_says_so(searchable: Project) -> None:
    found = search(searchable, max_searched=6, num_queries=2)
    assert len(found.queries) == 2
    assert "among 6 of 14, chosen by hash" in found.sentence


def test_without_the_means_a_sentence_says_why(searchable: Project, tmp_path: Path) -> None:
    assert search(searchable, num_queries=0).sentence == "Left out on request."
    run = write_run(tmp_path / "stopped", finished=False)
    assert "exported an encoder" in search(open_project((run,), None, None, None)).sentence
    write_paintings(tmp_path / "project" / "images.lance")
    write_run(tmp_path / "project" / "runs" / "a")
    no_world = search(open_project((tmp_path / "project",), None, None, None))
    assert no_world.sentence == "Left out: the tables hold no real test pictures."
    write_world(tmp_path / "bare" / "world")
    write_run(tmp_path / "bare" / "runs" / "a")
    no_paintings = search(open_project((tmp_path / "bare",), None, None, None))
    assert no_paintings.sentence == "Left out: the tables hold no painted pictures."


def test_a_damaged_encoder_is_reported_and_not_shown(searchable: Project, tmp_path: Path) -> None:
    run = write_run(tmp_path / "damaged")
    (run / "encoder" / "encoder.safetensors").write_bytes(b"nothing")
    project = open_project((*searchable.folders, run), None, None, None)
    found = find_neighbours(project, project.runs[-1], NeighbourConfig(device="cpu"), 0, QUIET)
    assert found.queries == ()
    assert found.sentence.startswith("Left out: ")
    assert "encoder.safetensors" in found.sentence


def test_impossible_sizes_are_refused() -> None:
    for settings in ({"num_queries": -1}, {"max_searched": 0}):
        with pytest.raises(ValueError, match="max_searched must be positive"):
            NeighbourConfig(**settings)
