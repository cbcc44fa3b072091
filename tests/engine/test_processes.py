"""The second look at the processes and namespaces of VMs, right before their things go."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import pytest

from hvtx.engine import processes
from hvtx.host import procfs
from hvtx.model.resource import Kind, Resource, State
from hvtx.model.vm import Epoch, Identity, Liveness, ProcessFacts

LIFE = Epoch(1, "boot", 7, recovered=True)
SEEN = {
    11: ProcessFacts(True, 5),
    12: ProcessFacts(False, error="not permitted"),
    13: ProcessFacts(False),
}
_GONE = 4_194_303  # no process: above what the kernel hands out (pid_max is at most 4,194,304)


class _Runtime:
    """A runtime with these rows, which counts how often the record is read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rows: list[Resource], life: Epoch) -> None:
        self.reads = 0
        self.asked: list[list[str]] = []
        self.life = life

        def evidence(_: None, vms: Iterable[str]) -> list[Resource]:
            self.asked.append(sorted(vms))
            return rows

        monkeypatch.setattr(processes.records, "evidence_of_vms", evidence)
        monkeypatch.setattr(processes.records, "lives", lambda _: {life.id: life})

    @contextmanager
    def reading(self) -> Iterator[None]:
        self.reads += 1
        yield


def row(pid: int) -> Resource:
    observed = {"pid": pid, "start": 5, "boot_id": "boot"}
    return Resource(pid, "process", "p", State.COMMITTED, "m", {}, observed, 1, 1, "vm", None)


def alive(monkeypatch: pytest.MonkeyPatch, rows: list[Resource]) -> dict[str, Liveness]:
    runtime: Any = _Runtime(monkeypatch, rows, LIFE)
    return processes.alive_again(runtime, ["vm"])


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is seen of a process is in SEEN."""

    def look_again(identity: Identity) -> ProcessFacts:
        return SEEN[identity.pid]

    monkeypatch.setattr("hvtx.host.procfs.look_again", look_again)


@pytest.mark.usefixtures("looked")
@pytest.mark.parametrize("pids", [*itertools.permutations(SEEN), (11, 12), (12, 11), (13, 12)])
def test_one_that_lives_counts_more_than_one_that_was_not_seen(
    pids: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = alive(monkeypatch, [row(pid) for pid in pids])
    assert found == {"vm": Liveness.ALIVE if 11 in pids else Liveness.UNKNOWN}


@pytest.mark.usefixtures("looked")
def test_what_is_dead_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert alive(monkeypatch, [row(13)]) == {}


def test_an_attachment_whose_interface_was_moved_away_is_not_proven_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Ids:
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

        def there(self, _: object) -> set[int]:
            return set()

        def of_peer(self, *_: object) -> int:
            return 3

    monkeypatch.setattr("hvtx.host.nsid.ids", Ids)
    namespace = row(1)._replace(kind="netns", spec={"nsid": 9, "path": ""}, observed={"nsid": 9})
    pair = row(2)._replace(kind="veth", spec={"ifindex": 4}, observed={"ifindex": 4})
    assert alive(monkeypatch, [namespace, pair]) == {"vm": Liveness.UNKNOWN}
    assert alive(monkeypatch, [namespace]) == {}


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
    rows = [_process(n, alive=n % 2 == 0) for n in range(many)]
    runtime = _Runtime(monkeypatch, rows, Epoch(1, procfs.boot_id(), 0, recovered=True))
    vms = [f"id{n}" for n in range(many)]
    here: Any = runtime
    found = processes.alive_again(here, vms)
    assert found == {f"id{n}": Liveness.ALIVE for n in range(0, many, 2)}
    assert (runtime.asked, runtime.reads) == ([sorted(vms)], 1)
