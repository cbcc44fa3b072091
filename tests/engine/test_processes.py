"""The second look at the processes of VMs, right before their things go."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hvtx.engine import processes
from hvtx.host import procfs
from hvtx.model.resource import Kind, Resource, State
from hvtx.model.vm import Epoch, Liveness

_GONE = 4_194_303  # no process: above what the kernel hands out (pid_max is at most 4,194,304)


class _Runtime:
    """A runtime that counts how often the record is read."""

    life = Epoch(1, procfs.boot_id(), 0, recovered=True)

    def __init__(self) -> None:
        self.reads = 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        self.reads += 1
        yield


def _process(number: int, *, alive: bool) -> Resource:
    seen = procfs.identify(os.getpid())._asdict()
    if not alive:
        seen |= {"pid": _GONE, "inode": 0}
    spec: dict[str, Any] = {"hypervisor": "external"}
    return Resource(
        id=number, kind=Kind.PROCESS, key=f"vm{number}", state=State.COMMITTED,
        mark=f"hvtx:1:abc:{number}.xyz", spec=spec, observed=seen, operation=1, life=1,
        vm=f"id{number}", network=None,
    )  # fmt: skip


@pytest.mark.parametrize("many", [1, 30])
def test_the_record_is_read_once_for_all(monkeypatch: pytest.MonkeyPatch, many: int) -> None:
    asked: list[list[str]] = []

    def evidence(_: None, vms: Iterable[str]) -> list[Resource]:
        asked.append(sorted(vms))
        return [_process(n, alive=n % 2 == 0) for n in range(many)]

    monkeypatch.setattr(processes.records, "evidence_of_vms", evidence)
    runtime: Any = _Runtime()
    vms = [f"id{n}" for n in range(many)]
    found = processes.alive_again(runtime, vms)
    assert found == {f"id{n}": Liveness.ALIVE for n in range(0, many, 2)}
    assert asked == [sorted(vms)]
    assert runtime.reads == 1
