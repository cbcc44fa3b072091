"""`repair` that is cut off while it makes a bridge again, or before all that stood on it is back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hvtx.model import remaking
from hvtx.model.resource import Kind, Resource
from tests.machine.fake_world import FakeWorld, run
from tests.machine.world import KILLED

pytestmark = pytest.mark.slow


@pytest.fixture
def world(tmp_path: Path) -> Iterator[FakeWorld]:
    """A fake host with a running VM `web`, whose network's bridge somebody deleted."""
    made = FakeWorld(tmp_path)
    run(made, "network", "create", "net", "--subnet", "10.77.0.0/24", "--bridge", "hvnet")
    run(made, "vm", "create", "web", "--network", "net", "--", "sleep", "600")
    run(made, "vm", "start", "web")
    made.do("delete", {"device": "hvnet"})
    yield made
    made.close()


def bridge(world: FakeWorld) -> Resource:
    (row,) = [row for row in world.record().rows if row.kind == Kind.BRIDGE]
    return row


def is_whole(world: FakeWorld) -> None:
    """The bridge has its mark, its address and its port, and the record is as before."""
    row = bridge(world)
    assert not remaking.is_remade(row)
    links = {link.name: link for link in world.look().links.values()}
    assert links["hvnet"].alias == row.mark
    (tap,) = [r.key for r in world.record().rows if r.kind == Kind.TAP]
    assert links[tap].master == links["hvnet"].ifindex
    assert [a.address for a in world.kernel.addresses if a.ifindex == row.ifindex]
    run(world, "gc", "--plan", "--detailed-exitcode")


@pytest.mark.parametrize("how", ["kill", "error"])
def test_one_without_its_mark_yet_is_known(world: FakeWorld, how: str) -> None:
    """By its row, which says that it is being made; the next repair goes on."""
    code = KILLED if how == "kill" else 9
    run(world, "repair", failpoint=f"created:bridge:{how}", code=code)
    assert {link.alias for link in world.look().links.values() if link.name == "hvnet"} == {None}
    run(world, "gc", "--plan", "--detailed-exitcode")
    run(world, "repair")
    is_whole(world)
    run(world, "repair")


@pytest.mark.parametrize("call", range(1, 13))
def test_killed_at_any_step_the_next_repair_goes_on(world: FakeWorld, call: int) -> None:
    """Whatever is there again by then."""
    ran = world.run(("repair",), f"*:kill:{call}", lambda: None)
    assert ran.code in (0, KILLED), ran
    run(world, "recover")
    run(world, "repair")
    is_whole(world)


def test_its_network_goes_with_it(world: FakeWorld) -> None:
    run(world, "repair", failpoint="created:bridge:kill", code=KILLED)
    run(world, "vm", "stop", "web")
    run(world, "vm", "rm", "web")
    run(world, "network", "rm", "net")
    assert "hvnet" not in {link.name for link in world.look().links.values()}


def test_a_mark_that_somebody_takes_off_is_not_put_back(world: FakeWorld) -> None:
    """Nobody was making that bridge: it may be another's by now."""
    run(world, "repair")
    world.do("alias", {"device": "hvnet", "mark": ""})
    run(world, "repair", code=9)
    assert {link.alias for link in world.look().links.values() if link.name == "hvnet"} == {None}
