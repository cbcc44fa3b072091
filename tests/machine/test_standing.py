"""What stands on a device keeps it, and what it keeps, its guards.

A release that does not ask for it takes a stranger's device.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hvtx.drivers.tap import standing
from tests.machine.attachment_verbs import WORD
from tests.machine.fake_world import FakeWorld

pytestmark = pytest.mark.slow


@pytest.fixture
def world(tmp_path: Path) -> Iterator[FakeWorld]:
    """A fake host with a running VM `web`, on whose TAP somebody put a VLAN."""
    made = FakeWorld(tmp_path)
    for argv in (
        ("network", "create", "net", "--subnet", "10.77.0.0/24", "--bridge", "hvnet"),
        ("vm", "create", "web", "--network", "net", "--", "sleep", "600"),
        ("vm", "start", "web"),
    ):
        ran = made.run(argv, "", lambda: None)
        assert ran.code == 0, ran
    (device,) = [row.key for row in made.record().rows if row.kind == "tap"]
    made.do("vlan", {"device": device, "name": "theirs"})
    yield made
    made.close()


def stopped(world: FakeWorld) -> set[str]:
    """Names of the devices that are left after a stop."""
    world.run(("vm", "stop", "--force", "web"), "", lambda: None)
    return {link.name for link in world.look().links.values()}


def test_a_stop_asks_for_each_device(world: FakeWorld) -> None:
    """The VLAN stays, and so does the TAP that it stands on, on record."""
    left = stopped(world)
    assert "theirs" in left
    assert {row.key for row in world.record().rows if row.kind == "tap"} <= left


@pytest.mark.parametrize("wrong", ["nobody asks", "by a list of another moment"])
def test_without_the_look_a_strangers_device_goes(
    world: FakeWorld, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is this look that keeps it."""

    class Nothing:
        def close(self) -> None:
            pass

        def on(self, ifindex: int, name: str) -> list[str]:
            del ifindex, name
            return []

    if wrong == "nobody asks":
        monkeypatch.setattr(standing, "look_up", Nothing)
    else:
        listed: Any = standing._listed
        monkeypatch.setattr(standing, "look_up", lambda: None)
        monkeypatch.setattr(standing, "_listed", lambda everything: listed([]))
    assert "theirs" not in stopped(world)


@pytest.fixture
def attached(tmp_path: Path) -> Iterator[FakeWorld]:
    """A fake host with a container in a network of both families."""
    made = FakeWorld(tmp_path)
    path = made.act("contain", name="c1", nsid="")
    for argv in (
        ("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64"),
        (WORD, "add", path, "c1"),
    ):
        ran = made.run(argv, "", lambda: None)
        assert ran.code == 0, ran
    yield made
    made.close()


def port_of(world: FakeWorld) -> str:
    """The host's end of the container's pair."""
    (device,) = [row.key for row in world.record().rows if row.kind == "veth"]
    return device


def guards(world: FakeWorld) -> set[tuple[str, str, str, bytes]]:
    """Those elements in the kernel that hold the container."""
    own = {row.mark for row in world.record().rows if row.vm}
    return {place for place, (_, mark) in world.look().elements.items() if mark in own}


@pytest.mark.parametrize("kept", ["an address", "another alias"])
@pytest.mark.parametrize("then", [("gc", "--apply"), ("recover",), (WORD, "gc")])
def test_a_port_that_stays_keeps_its_guards_and_its_leases(
    attached: FakeWorld, kept: str, then: tuple[str, ...]
) -> None:
    """Whoever collects meanwhile; once nothing keeps it, all goes."""
    device = port_of(attached)
    before, leased = guards(attached), leases(attached)
    assert before
    assert len(leased) == 2
    (mark,) = [row.mark for row in attached.record().rows if row.kind == "veth"]
    if kept == "an address":
        attached.act("address", device=device, address="192.0.2.9/32")
    else:
        attached.act("alias", device=device, mark="theirs")
    assert attached.run((WORD, "del", "c1"), "", lambda: None).code == 9
    for _ in range(2):
        attached.run(then, "", lambda: None)
        assert guards(attached) == before
        assert leases(attached) == leased
    if kept == "an address":
        attached.act("no_address", device=device, address="192.0.2.9/32")
    else:
        attached.act("alias", device=device, mark=mark)
    assert attached.run(("gc", "--apply"), "", lambda: None).code == 0
    assert (guards(attached), leases(attached)) == (set(), set())
    assert device not in {link.name for link in attached.look().links.values()}


def leases(world: FakeWorld) -> set[str]:
    """The addresses that are leased."""
    return {row.key for row in world.record().rows if row.kind == "lease"}
