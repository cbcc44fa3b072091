"""VMs that `recover` is to start, and that another command starts meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from hvtx.commands import recover
from hvtx.engine.together import Several
from hvtx.errors import Busy, Conflict, HostRefused
from hvtx.model.vm import Vm
from hvtx.planner.states import VmState
from tests.store.shelf import vm

STARTING = Conflict("VM 'web' is starting")
DOWN, UP, ON_ITS_WAY = VmState.DEFINED, VmState.RUNNING, VmState.STARTING


class Host:
    """The states of VMs, what a start of one comes to, and what others do while one is waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.states: dict[str, VmState] = {}
        self.refuses: dict[str, Exception] = {}
        self.starts: list[str] = []
        self.meanwhile: Callable[[], None] = lambda: None
        monkeypatch.setattr(recover, "_start_slice", lambda _, vms: self.start(vms))
        monkeypatch.setattr(
            recover, "_states", lambda _, vms: {v.name: self.states[v.name] for v in vms}
        )

    def start(self, vms: Sequence[Vm]) -> Several:
        done: dict[str, Any] = {}
        failed: dict[str, Any] = {}
        for one in vms:
            self.starts.append(one.name)
            if one.name in self.refuses:
                failed[one.name] = self.refuses[one.name]
            else:
                self.states[one.name], done[one.name] = UP, None
        return Several(done, failed)

    def lock(self, *_: str) -> None:
        self.meanwhile()

    def unlock(self, *_: str) -> None: ...

    def came(self, *names: str) -> tuple[list[str], dict[str, Any]]:
        found = recover._start_beside_others(self, [vm(name) for name in names])  # type: ignore[arg-type]
        return list(found.done), dict(found.failed)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


def test_those_that_run_are_left_alone(host: Host) -> None:
    host.states = {"web": UP, "db": DOWN, "odd": VmState.UNKNOWN}
    assert host.came("web", "db", "odd") == (["db"], {})


def test_who_is_up_by_now_is_no_failure(host: Host) -> None:
    """Another command began and ended its start in between."""
    host.states = {"web": DOWN}
    host.refuses = {"web": Conflict("VM 'web' is running")}
    start = host.start

    def quicker(vms: Sequence[Vm]) -> Several:
        found = start(vms)
        host.states["web"] = UP
        return found

    host.start = quicker  # type: ignore[method-assign]
    assert host.came("web") == ([], {})


def test_who_is_being_started_is_waited_for(host: Host) -> None:
    host.states = {"web": ON_ITS_WAY, "db": DOWN}
    host.refuses = {"web": STARTING}
    host.meanwhile = lambda: host.states.update(web=UP)
    assert host.came("web", "db") == (["db"], {})
    assert host.starts == ["web", "db"]


def test_one_whose_start_by_others_failed_is_started(host: Host) -> None:
    host.states = {"web": ON_ITS_WAY}
    host.refuses = {"web": STARTING}

    def fails() -> None:
        host.states["web"] = DOWN
        host.refuses.clear()

    host.meanwhile = fails
    assert host.came("web") == (["web"], {})


def test_who_has_it_for_too_long_is_told(host: Host) -> None:
    host.states = {"web": ON_ITS_WAY}
    host.refuses = {"web": STARTING}

    def busy() -> None:
        raise Busy("pid 7 has it")

    host.meanwhile = busy
    done, failed = host.came("web")
    assert done == []
    assert isinstance(failed["web"], Busy)


def test_what_fails_by_itself_has_failed_once(host: Host) -> None:
    host.states = {"web": DOWN}
    host.refuses = {"web": HostRefused("no memory")}
    assert host.came("web") == ([], {"web": host.refuses["web"]})
    assert host.starts == ["web"]
