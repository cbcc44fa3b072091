"""The drivers' contract on the fake kernel: so that the fake stays like the real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drivers.contract import *  # noqa: F403
from tests.machine.fake_world import FakeWorld


@pytest.fixture
def world(tmp_path: Path) -> Iterator[FakeWorld]:
    """A fake host."""
    found = FakeWorld(tmp_path)
    yield found
    found.close()
