"""The state machine on the fake kernel.

The ordinary run is the same every time. ``HVTX_MACHINE=<examples>`` takes so many of other ones,
and prints the seed with which they are found again (``HVTX_MACHINE_SEED``).
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.machine.fake_world import FakeWorld
from tests.machine.found import FOUND, play
from tests.machine.machine import Machine
from tests.machine.running import LONG, run

MEMORY = Path("/dev/shm")  # the store's writes are durable, and a disk would take its time


class FakeMachine(Machine):
    """Sequences on the fake kernel."""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[type[FakeMachine]]:
    """The machine, with a place for its worlds."""
    base = Path(tempfile.mkdtemp(dir=MEMORY if os.access(MEMORY, os.W_OK) else tmp_path))
    FakeMachine.make_world = staticmethod(worlds(base))  # type: ignore[assignment]
    yield FakeMachine
    shutil.rmtree(base)


@pytest.mark.timeout(7200 if LONG else 300)
def test_sequences(machine: type[FakeMachine]) -> None:
    """No sequence breaks a law."""
    run(machine, examples=30, steps=20)


@pytest.mark.parametrize("name", FOUND)
def test_found(machine: type[FakeMachine], name: str) -> None:
    """What was found once stays mended."""
    play(machine(), name)


def worlds(base: Path) -> Callable[[], FakeWorld]:
    """A fresh world each, in a directory of its own."""
    numbers = itertools.count()

    def make() -> FakeWorld:
        place = base / str(next(numbers))
        place.mkdir()
        return FakeWorld(place)

    return make
