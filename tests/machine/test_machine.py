"""The state machine on the fake kernel.

The ordinary run is the same every time. ``HVTX_MACHINE=<examples>`` takes so many of other ones,
and prints the seed with which they are found again (``HVTX_MACHINE_SEED``).
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.machine.fake_world import FakeWorld
from tests.machine.found import FOUND, play
from tests.machine.machine import Machine
from tests.machine.running import LONG, run

pytestmark = pytest.mark.slow  # sequences of commands, with crashes

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


@pytest.mark.timeout(7200 if LONG else 1800)
def test_sequences(machine: type[FakeMachine]) -> None:
    """No sequence breaks a law."""
    run(machine, examples=22, steps=20)


@pytest.mark.parametrize("name", FOUND)
def test_found(machine: type[FakeMachine], name: str) -> None:
    """What was found once stays fixed."""
    play(machine(), name)


GUARDED = """
import sys
from pathlib import Path
from tests.machine.found import FOUND, play
from tests.machine.test_machine import FakeMachine, worlds

def refuse(event, arguments):
    if event == "socket.__new__" and arguments[1] in (16, 17):  # netlink, packets
        raise RuntimeError(f"the real kernel was asked: {event} {arguments[1:]}")
    if event in ("os.posix_spawn", "os.fork", "subprocess.Popen", "fcntl.ioctl", "os.kill"):
        raise RuntimeError(f"the real kernel was asked: {event} {arguments}")
    own = str(arguments[0]).startswith("/proc/self/fd/") if arguments else False  # a file of ours
    if event == "open" and not own and str(arguments[0]).startswith(("/proc/", "/sys/", "/dev/net")):
        raise RuntimeError(f"the real kernel was asked: open {arguments}")

FakeMachine.make_world = staticmethod(worlds(Path(sys.argv[1])))
names = list(FOUND)[1], list(FOUND)[3]  # a reboot, a crash, somebody else who holds a device
play(FakeMachine(), names[0])  # what is loaded only when it is first used is loaded now
sys.addaudithook(refuse)
for name in names:
    play(FakeMachine(), name)
"""


def test_the_fake_world_asks_no_real_kernel(tmp_path: Path) -> None:
    """Whatever the program looks at, it is the fake: no socket, process, ioctl or /proc of ours."""
    ran = subprocess.run(
        [sys.executable, "-c", GUARDED, str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=120, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr


def worlds(base: Path) -> Callable[[], FakeWorld]:
    """A fresh world each, in a directory of its own."""
    numbers = itertools.count()

    def make() -> FakeWorld:
        place = base / str(next(numbers))
        place.mkdir()
        return FakeWorld(place)

    return make
