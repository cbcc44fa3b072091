"""What the tests of this package begin with."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.neighbourhood import host, image

ALL = os.environ.get("HVTX_NEIGHBOURS") == "all"
only_in_the_long_job = pytest.mark.skipif(not ALL, reason="the long job: tox -e neighbours")


@pytest.fixture(scope="module")
def layer() -> Iterator[Path]:
    """hvtx installed over the image of the neighbours' host."""
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces")
    if not image.path().exists():
        pytest.skip("the image is not made: python -m integration.neighbourhood.image")
    place = Path(tempfile.mkdtemp(prefix="hvtx-layer-"))
    try:
        host.layer(place)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def here(layer: Path) -> Iterator[host.Host]:
    """A host that has booted."""
    with host.booted(layer) as made:
        yield made
