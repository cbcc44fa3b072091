"""What stands on a device keeps it; a release that does not ask for it takes a stranger's device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hvtx.drivers.tap import standing
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
