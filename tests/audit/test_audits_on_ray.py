"""Audits and features by the workers of a real Ray: the columns and numbers of this process."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from painted_table import columns, image_row, write_images
from tiny_world import TEXTS, picture

from stablerep.audit.match import MatchAuditConfig, audit_match
from stablerep.audit.quality import QualityConfig, audit_quality
from stablerep.embedding import EmbedConfig, embed
from stablerep.errors import UserError
from stablerep.store import ImageTable

pytestmark = pytest.mark.slow
RAY = {"engine": "ray", "num_workers": 1, "cpus_per_worker": 1}


@pytest.fixture(scope="module")
def _cluster() -> Iterator[None]:
    """A Ray of this machine with room for one worker, started once."""
    ray = pytest.importorskip("ray")
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    own = {"include_dashboard": False, "object_store_memory": 100 * 2**20}
    ray.init(address="local", num_cpus=1, log_to_driver=False, logging_level="error", **own)
    torch.set_num_threads(1)  # as many as a worker has
    yield
    ray.shutdown()


@pytest.fixture
def twice(tmp_path: Path) -> tuple[Path, Path]:
    """The same paintings in two tables."""
    rows = [
        image_row(text, index, picture(number, 50 + index))
        for number, text in enumerate(TEXTS)
        for index in (0, 1)
    ]
    rows.append(image_row(TEXTS[0], 2, b"no picture", width=16, height=16))
    paths = tmp_path / "local" / "images.lance", tmp_path / "ray" / "images.lance"
    for path in paths:
        path.parent.mkdir()
        write_images(path, rows)
    return paths


@pytest.mark.usefixtures("_cluster")
def test_quality_is_measured_alike(twice: tuple[Path, Path]) -> None:
    local, shared = twice
    results = [audit_quality(QualityConfig(images=local)), audit_quality(QualityConfig(images=shared, **RAY))]  # type: ignore[arg-type]
    names = [*results[0].columns, "quality_ok", "quality_reason", "keep"]
    assert columns(local, *names) == columns(shared, *names)
    assert results[0].num_rejected == results[1].num_rejected == 1
    assert ImageTable.open(shared).version == ImageTable.open(local).version


@pytest.mark.usefixtures("_cluster")
def test_features_are_alike_and_found_in_one_cache(
    clip: Path, twice: tuple[Path, Path], tmp_path: Path
) -> None:
    found = []
    for path, engine in zip(twice, ({}, RAY), strict=True):
        embed(
            EmbedConfig(
                source=path,
                encoder=clip,
                where="image_index < 2",
                batch_size=7,
                device="cpu",
                cache=path.parent / "cache",
                out=path.parent / "features.npy",
                **engine,  # type: ignore[arg-type]
            )
        )
        cached = sorted(entry.name for entry in (path.parent / "cache").iterdir())
        found.append((cached, (path.parent / "features.npy").read_bytes()))
    assert found[0] == found[1]
    with pytest.raises(UserError, match="image 60 of the list cannot be decoded"):
        embed(EmbedConfig(source=twice[1], encoder=clip, device="cpu", out=tmp_path / "x.npy", **RAY))  # type: ignore[arg-type]
    assert not (tmp_path / "x.npy").exists()


@pytest.mark.usefixtures("_cluster")
def test_an_encoder_is_sent_and_gives_the_same(world: Path, clip: Path, twice: tuple[Path, Path]) -> None:
    """Of pictures that can be decoded; what is said of another is the same too."""
    found = []
    for path, engine in zip(twice, ({}, RAY), strict=True):
        audit_match(
            MatchAuditConfig(
                images=path,
                captions=world / "captions.lance",
                encoder=str(clip),
                batch_size=7,
                precision="float32",
                device="cpu",
                **engine,  # type: ignore[arg-type]
            )
        )
        found.append(columns(path, "match", "match_level", "match_reason", "keep"))
    assert found[0] == found[1]
    assert sum("cannot be decoded" in (reason or "") for _, _, reason, _ in found[1]) == 1
