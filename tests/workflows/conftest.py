"""Workflows at their smallest."""

from collections.abc import Iterator

import pytest

from less import do_less, write_no_figures


@pytest.fixture(scope="module", autouse=True)
def less() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        do_less(patch)
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without figures, for tests that look at none."""
    write_no_figures(monkeypatch)
