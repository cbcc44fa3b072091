"""The state machine of tests/machine on the real kernel, in namespaces of its own.

The ordinary run is the same every time. ``HVTX_MACHINE=<examples>`` takes a twentieth of so many, other ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from integration.machine_world import RealWorld
from tests.machine.found import FOUND, play
from tests.machine.machine import Machine
from tests.machine.running import LONG, run


class RealMachine(Machine):
    """Sequences on the real kernel."""

    plan_every = 3


@pytest.fixture
def machine(tmp_path: Path) -> type[RealMachine]:
    """The machine, with a place for its worlds."""
    RealMachine.make_world = staticmethod(worlds(tmp_path))  # type: ignore[assignment]
    return RealMachine


@pytest.mark.timeout(7200 if LONG else 300)
def test_sequences(machine: type[RealMachine]) -> None:
    """No sequence breaks a law."""
    run(machine, examples=6, steps=12, share=0.05)


@pytest.mark.parametrize("name", FOUND)
def test_found(machine: type[RealMachine], name: str) -> None:
    """What was found once stays mended, on the real kernel too."""
    play(machine(), name)


def worlds(base: Path) -> Callable[[], RealWorld]:
    """A fresh world each, in a directory of its own."""
    numbers = itertools.count()

    def make() -> RealWorld:
        place = base / str(next(numbers))
        place.mkdir()
        return RealWorld(place)

    return make
