"""One gallery for the tests that only read; what writes opens its own."""

import pytest
from small_gallery import open_small

from stablerep.gallery.session import Gallery


@pytest.fixture(scope="package")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    return open_small(tmp_path_factory.mktemp("gallery"))
