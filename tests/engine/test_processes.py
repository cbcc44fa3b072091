"""What lives again is told from what could not be looked at, in whatever order it is on record."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Self

import pytest

from hvtx.engine import processes
from hvtx.model.resource import Resource, State
from hvtx.model.vm import Epoch, Identity, Liveness, ProcessFacts
from hvtx.store import records

LIFE = Epoch(1, "boot", 7, recovered=True)
SEEN = {
    11: ProcessFacts(True, 5),
    12: ProcessFacts(False, error="not permitted"),
    13: ProcessFacts(False),
}
WANTED = {11: Liveness.ALIVE, 12: Liveness.UNKNOWN, 13: Liveness.DEAD}


def row(pid: int) -> Resource:
    observed = {"pid": pid, "start": 5, "boot_id": "boot"}
    return Resource(pid, "process", "p", State.COMMITTED, "m", {}, observed, 1, 1, "vm", None)


def runtime(rows: list[Resource]) -> Any:
    def read(function: Callable[..., Any], *_: object) -> Any:
        return rows if function is records.evidence_of_vm else {LIFE.id: LIFE}

    return SimpleNamespace(read=read, life=LIFE)


@pytest.mark.parametrize("pids", [*itertools.permutations(SEEN), (11, 12), (12, 11), (13, 12)])
def test_one_that_lives_counts_more_than_one_that_was_not_seen(
    pids: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_again(identity: Identity) -> ProcessFacts:
        return SEEN[identity.pid]

    monkeypatch.setattr("hvtx.host.procfs.look_again", look_again)
    found = processes.alive_again(runtime([row(pid) for pid in pids]), ["vm"])
    assert found == {"vm": Liveness.ALIVE if 11 in pids else Liveness.UNKNOWN}


def test_what_is_dead_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hvtx.host.procfs.look_again", lambda _: SEEN[13])
    assert processes.alive_again(runtime([row(13)]), ["vm"]) == {}


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
    assert processes.alive_again(runtime([namespace, pair]), ["vm"]) == {"vm": Liveness.UNKNOWN}
    assert processes.alive_again(runtime([namespace]), ["vm"]) == {}
