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
