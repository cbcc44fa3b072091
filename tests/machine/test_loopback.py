"""Who repairs a bridge settles by the record of that moment whether 127.0.0.1 leads to its guests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hvtx.drivers import bridge
from hvtx.host.localnet import route_localnet
from tests.machine.fake_world import FakeWorld, run

pytestmark = pytest.mark.slow
DB = ("vm", "start", "db"), ("vm", "stop", "db", "--force")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[FakeWorld]:
    """A fake host with a running VM `web` without ports, and one that has a port, which is down."""
    made = FakeWorld(tmp_path)
    for words in (
        "network create net --subnet 10.77.0.0/24 --bridge hvnet",
        "vm create web --network net -- sleep 600",
        "vm create db --network net -p 127.0.0.1:8080:80 -- sleep 600",
        "vm start web",
    ):
        run(made, *words.split())
    made.kernel.settings[route_localnet("hvnet")] = "0"  # which no bridge has there by itself
    yield made
    made.close()


def leads(world: FakeWorld) -> bool:
    return world.kernel.settings[route_localnet("hvnet")] == "1"


def beside(world: FakeWorld, argv: tuple[str, ...], patch: pytest.MonkeyPatch) -> None:
    """Have a command run whole while a bridge is put back."""
    really: Callable[..., Any] = bridge.restore
    other = world._elsewhere(lambda: run(world, *argv))

    def restore(*given: Any, **more: Any) -> None:
        other()
        really(*given, **more)

    patch.setattr(bridge, "restore", restore)


@pytest.mark.parametrize("up", [True, False])
def test_it_is_as_the_last_of_the_two_needs_it(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch, *, up: bool
) -> None:
    """Of a VM of the same network that starts, or stops, while `repair web` is at its bridge."""
    start, stop = DB
    if not up:
        run(world, *start)
    world.kernel.change(world._index("hvnet"), mtu=1280)
    beside(world, start if up else stop, monkeypatch)
    run(world, "repair", "web")
    assert leads(world) is up


@pytest.mark.parametrize("needed", [True, False])
def test_what_somebody_changed_is_put_back(world: FakeWorld, *, needed: bool) -> None:
    if needed:
        run(world, *DB[0])
    world.kernel.settings[route_localnet("hvnet")] = "0" if needed else "1"
    run(world, "repair")
    assert leads(world) is needed


def test_a_bridge_that_is_made_again_leads_there(world: FakeWorld) -> None:
    run(world, *DB[0])
    world.do("delete", {"device": "hvnet"})
    run(world, "repair")
    assert leads(world)
