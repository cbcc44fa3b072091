"""`recover` of a new life of the host beside who starts one of the VMs that it is to start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine.fake_world import FakeWorld, run
from tests.machine.world import KILLED

pytestmark = pytest.mark.slow
START, RECOVER = ("vm", "start", "web"), ("recover",)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[FakeWorld]:
    """A fake host that has just booted, with a VM that is to be started."""
    made = FakeWorld(tmp_path)
    run(made, "network", "create", "net", "--subnet", "10.77.0.0/24", "--bridge", "hvnet")
    run(made, "vm", "create", "web", "--network", "net", "--autostart", "--", "sleep", "600")
    made.do("reboot", {})
    run(made, "network", "create", "other", "--subnet", "10.78.0.0/24")  # the life is entered
    yield made
    made.close()


def runs(world: FakeWorld) -> bool:
    return '"state":"running"' in run(world, "vm", "show", "web", "--json").out.replace(" ", "")


def test_who_holds_a_vm_for_long_is_told_and_it_is_tried_again(world: FakeWorld) -> None:
    """The other start was killed after that: else nobody would ever start it."""
    told = []

    def recover() -> None:
        told.append(world.run(RECOVER, "", lambda: None))

    ran = world.run(START, "spawned:stop,registered:kill", recover)
    assert (ran.code, [one.code for one in told]) == (KILLED, [9])
    assert not runs(world)
    run(world, "recover")
    assert runs(world)
    run(world, "recover")
