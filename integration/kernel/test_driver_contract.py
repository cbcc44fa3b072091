"""The drivers' contract (tests/drivers) on the real kernel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.lab.machine_world import RealWorld
from tests.drivers.contract import *  # noqa: F403


@pytest.fixture
def world(tmp_path: Path) -> Iterator[RealWorld]:
    """A network namespace."""
    found = RealWorld(tmp_path)
    yield found
    found.close()
