"""What the tests of this package begin with."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.lab.boot import image as boot
from integration.lab.neighbourhood import host, image

ALL = os.environ.get("HVTX_NEIGHBOURS") == "all"
only_in_the_long_job = pytest.mark.skipif(not ALL, reason="the long job: tox -e neighbours")


@pytest.fixture(scope="module")
def layers() -> Iterator[str]:
    """hvtx installed over the image of the neighbours' host.

    Where that is not made, over the small one that the tests of boots have: for neighbours that
    every Debian brings along.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces")
    place = Path(tempfile.mkdtemp(prefix="hvtx-layer-"))
    below = image.ROOT.path()
    try:
        if not below.exists():
            if ALL:
                pytest.fail("the image is not made: python -m integration.lab.neighbourhood.image")
            below = place / "below"
            below.mkdir()
            try:
                packed = boot.root_tar()
            except boot.Unavailable as problem:
                pytest.skip(str(problem))
            boot.run("tar", "-xf", str(packed), "-C", str(below), "--numeric-owner")
        yield host.layers(place, below)
    finally:
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def here(layers: str) -> Iterator[host.Host]:
    """A host that has booted."""
    with host.booted(layers) as made:
        yield made
