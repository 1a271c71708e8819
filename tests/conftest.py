"""What tests of every room may ask for."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch


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
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
