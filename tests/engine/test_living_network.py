"""A network that is changed while others start, stop and remove its VMs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hvtx.engine.runtime import Runtime
from tests.machine.fake_world import FakeWorld

NETWORK = ("network", "create", "lan", "--subnet", "10.77.0.0/24")
RUN = ("vm", "run", "web", "--network", "lan", "--", "sleep", "60")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[FakeWorld]:
    found = FakeWorld(tmp_path)
    yield found
    found.close()


def test_a_vm_that_is_removed_meanwhile_is_not_missed(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it, so it may go after it was listed."""
    for argv in (NETWORK, RUN):
        assert world.hvtx(*argv).code == 0
    try_lock, removed = Runtime.try_lock, []

    def after_it_went(runtime: Runtime, kind: str, name: str) -> bool:
        if not removed:
            removed.append(name)
            world._elsewhere(lambda: world.hvtx("vm", "rm", name, "--force"))()
        return try_lock(runtime, kind, name)

    monkeypatch.setattr(Runtime, "try_lock", after_it_went)
    ran = world.hvtx("network", "set", "lan", "--egress", "none")
    assert (ran.code, removed) == (0, ["web"]), ran.err
    assert world.record().vms == {}


def guards(world: FakeWorld, name: str) -> list[object]:
    """Whether what a VM's device has on it keeps neighbours apart, by each of its rows."""
    return [row.spec["isolate"] for row in world.record().of(name) if "isolate" in row.spec]


@pytest.mark.parametrize("names", [("web",), ("web", "db")], ids=["one", "several"])
def test_a_start_makes_what_the_network_is_under_its_lock(
    names: tuple[str, ...], world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was read before, and somebody was quicker: no VM was up yet, so nothing kept him."""
    assert world.hvtx(*NETWORK).code == 0
    for name in names:
        create = ("vm", "create", name, *RUN[3:])
        assert world.hvtx(*create).code == 0
    lock, done = Runtime.lock, []

    def late(runtime: Runtime, kind: str, name: str, *, shared: bool = False) -> None:
        if kind == "network" and shared and not done:
            done.append(name)
            act = ("network", "set", "lan", "--isolate")
            world._elsewhere(lambda: done.append(str(world.hvtx(*act).code)))()
        lock(runtime, kind, name, shared=shared)

    monkeypatch.setattr(Runtime, "lock", late)
    ran = world.hvtx("vm", "start", *names)
    assert (ran.code, done) == (0, ["lan", "0"]), ran.err
    for name in names:
        assert guards(world, name), world.record().of(name)
        assert all(guards(world, name))
