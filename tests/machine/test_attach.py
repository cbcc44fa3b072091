"""Two commands attach one process to two VMs at once: it becomes that of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hvtx.commands import vm_attach
from hvtx.model.resource import Kind
from tests.machine.fake_world import FakeWorld, run

pytestmark = pytest.mark.slow


@pytest.fixture
def world(tmp_path: Path) -> Iterator[FakeWorld]:
    """A fake host with two VMs that are started, and whose processes hvtx does not start."""
    made = FakeWorld(tmp_path)
    run(made, "network", "create", "net", "--subnet", "10.77.0.0/24", "--bridge", "hvnet")
    for name in ("one", "two"):
        run(made, "vm", "create", name, "--network", "net", "--hypervisor", "external")
        run(made, "vm", "start", name)
    yield made
    made.close()


def test_the_second_of_two_at_once_is_refused(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looked before the other had it on record, too."""
    pid = str(world.do("guest", {}))
    really = vm_attach.begin
    other = world._elsewhere(lambda: run(world, "vm", "attach", "two", "--pid", pid))

    def begin(*given: Any, **more: Any) -> Any:
        monkeypatch.setattr(vm_attach, "begin", really)
        other()
        return really(*given, **more)

    monkeypatch.setattr(vm_attach, "begin", begin)
    refused = run(world, "vm", "attach", "one", "--pid", pid, code=4)
    assert f"process {pid} is that of VM 'two'" in refused.err
    assert [row.key for row in world.record().rows if row.kind == Kind.PROCESS] == ["two"]
    run(world, "gc", "--plan", "--detailed-exitcode")
    run(world, "vm", "attach", "one", "--pid", str(world.do("guest", {})))
