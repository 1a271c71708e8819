"""What tests of every room may ask for.

Torch is imported where it is used: the process that hands out the files, which all others wait for, does without.
"""

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Any]]:
    """An S3 server on loopback with a bucket called ``bucket``: its address, and the faults it can be told to make."""
    pytest.importorskip("moto", reason="an S3 server on loopback needs moto")
    import object_store

    with object_store.serve() as (address, faults), pytest.MonkeyPatch.context() as patch:
        for name, value in object_store.environment(address).items():
            patch.setenv(name, value)
        object_store.make_bucket(address, "bucket")
        yield address, faults


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """A module computes on one thread, so that nothing depends on how many cores there are."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def blank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches whose pictures are neither read nor cropped, for tests that draw hundreds and count what they hold."""
    import torch

    from stablerep.learning import data
    from stablerep.learning.pictures import Pictures

    monkeypatch.setattr(
        data.ViewSource,
        "_load",
        lambda _, refs: Pictures([torch.zeros(3, 2, 2, dtype=torch.uint8)] * len(refs)),
    )
    monkeypatch.setattr(data, "draw_parameters", lambda seeds, *_: seeds)
    monkeypatch.setattr(data, "apply_parameters", lambda _, seeds, __: torch.zeros(len(seeds), 3, 1, 1))


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each question to the hub, which has nothing here, whether something was to be fetched."""
    asked: list[bool] = []

    def refuse(*_: object, local_files_only: bool, **__: object) -> str:
        asked.append(not local_files_only)
        raise OSError("nothing there")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setattr("diffusers.DiffusionPipeline.download", refuse)
    return asked
