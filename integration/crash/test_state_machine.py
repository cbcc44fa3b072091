"""The state machine of tests/machine on the real kernel, in namespaces of its own.

The ordinary run is the same every time. ``HVTX_MACHINE=<examples>`` takes a twentieth of so many, other ones.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from integration.lab.machine_world import RealWorld
from tests.machine.found import FOUND, play
from tests.machine.machine import Machine
from tests.machine.running import LONG, run

PROLOGUE = Path(__file__).parents[2] / "tests" / "machine" / "prologue.sh"
SCRIPTED = [
    ("start", 0, ("kill", 5)),
    ("save", 0, ()),
    ("kill", 0, ()),
    ("run", 0, ()),
    ("rename", 0, ()),
    ("stop", 0, ("stop", 3, ("hold", 1))),
    ("let_go", 0, ()),
    ("network", 0, ()),
    ("bind", 0, ()),
    ("start", 0, ()),
    ("gc", 0, ("stop", 2, ("recover",))),
    ("ADD", 0, ()),
    ("ADD", 1, ("kill", 5)),
    ("container ends", 0, ()),
    ("GC", 0, ()),
    ("ADD", 3, ()),
    ("DEL", 1, ()),
    ("ADD", 2, ()),
    ("reboot", 0, ()),
    ("load", 0, ()),
    ("recover", 0, ("kill", 2)),
    ("recover", 0, ()),
]


class RealMachine(Machine):
    """Sequences on the real kernel."""

    plan_every = 3


@pytest.fixture
def machine(tmp_path: Path) -> type[RealMachine]:
    """The machine, with a place for its worlds."""
    RealMachine.make_world = staticmethod(worlds(tmp_path))  # type: ignore[assignment]
    return RealMachine


@pytest.mark.timeout(7200 if LONG else 1800)
def test_sequences(machine: type[RealMachine]) -> None:
    """No sequence breaks a law."""
    run(machine, examples=4, steps=12, share=0.05)


@pytest.mark.parametrize("name", FOUND)
def test_found(machine: type[RealMachine], name: str) -> None:
    """What was found once stays fixed, on the real kernel too."""
    play(machine(), name)


def test_the_script_does_the_same(machine: type[RealMachine], tmp_path: Path) -> None:
    """What a failing run prints can be run: every command ends as it did in the machine."""
    done = machine()
    try:
        done.begin(ready=True)
        for step in SCRIPTED:
            done.step(step=step)
        world = done.world
        script = tmp_path / "script.sh"
        script.write_text(PROLOGUE.read_text() + world.script() + "\n")
        ran = subprocess.run(
            ["bash", str(script)],
            capture_output=True, text=True, check=False, timeout=200, cwd=PROLOGUE.parents[2],
            env={**os.environ, "PYTHON": sys.executable, "TMPDIR": str(tmp_path)},
        )  # fmt: skip
    finally:
        done.failed = True
        done.teardown()
    codes = [int(line.split()[1]) for line in ran.stderr.splitlines() if line.startswith("exit ")]
    assert codes == world.codes, f"{world.script()}\n{ran.stderr}"
    assert len(set(codes)) >= 4, "a command that is killed, one that is refused, and others"


def worlds(base: Path) -> Callable[[], RealWorld]:
    """A fresh world each, in a directory of its own."""
    numbers = itertools.count()

    def make() -> RealWorld:
        place = base / str(next(numbers))
        place.mkdir()
        return RealWorld(place)

    return make
