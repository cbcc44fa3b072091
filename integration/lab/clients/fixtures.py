"""What the tests of real clients begin with."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.lab.boot import image as boot
from integration.lab.clients import host

ALL = os.environ.get("HVTX_CLIENTS") == "all"
only_in_the_long_job = pytest.mark.skipif(not ALL, reason="the long job: tox -e clients")


@pytest.fixture(scope="module")
def layers() -> Iterator[str]:
    """hvtx installed over the image of a host with runtimes."""
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces")
    place = Path(tempfile.mkdtemp(prefix="hvtx-layer-"))
    try:
        yield host.installed(place)
    except boot.Unavailable as problem:
        pytest.fail(str(problem))
    finally:
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def here(netns: None, layers: str) -> Iterator[host.Host]:
    """A host without any configuration of CNI, in the network namespace of the test."""
    with host.made(layers) as made:
        yield made
