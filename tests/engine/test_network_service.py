"""A network's service that is started again beside a command that takes the service away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hvtx.engine import network_service, notice, service_upkeep
from hvtx.errors import HostRefused
from hvtx.model.resource import GONE, Kind, Outcome, Resource, State, process_observed
from hvtx.model.vm import Identity
from hvtx.store import intents, records
from tests.store.shelf import Shelf, add_network, enter, network

DEAD = Identity("another boot", 41, 1, 0)._asdict()
LAN = network()


class FakeRuntime:
    """A store, and a driver of which every process has the next pid."""

    def __init__(self, shelf: Shelf) -> None:
        self.store = shelf.open()
        self.settings = type("Settings", (), {"lock_timeout": 1.0})
        self.drivers = self
        self.meanwhile: dict[str, Callable[[], None]] = {}  # what others do at a step
        self.living: set[int] = set()
        self.told: list[str] = []
        self.dropped: list[int] = []  # rows whose table of names was taken away
        self.ended: dict[int, Identity] = {}
        self.locks: list[str] = []

    def of(self, _: str) -> FakeRuntime:
        return self

    def read(self, ask: Callable[..., Any], *values: Any) -> Any:
        with self.store.reading() as sql:
            return ask(sql, *values)

    def lock(self, *names: str) -> None:
        self.locks.append(" ".join(names))

    @contextmanager
    def held(self, *names: str) -> Iterator[None]:
        self.lock(*names)
        yield
        self.lock(*names)

    def create(self, rows: Sequence[Resource]) -> Mapping[int, dict[str, Any]]:
        self._pass("create")
        self.living.add(42)
        return {row.id: {**DEAD, "pid": 42, "logger": 43} for row in rows}

    def open(self, rows: Sequence[Resource]) -> None:
        assert now(self, rows[0].id).observed["pid"] == 42, "on record before it serves"
        self._pass("open")

    def release(self, rows: Sequence[Resource]) -> Mapping[int, Outcome]:
        for row in rows:
            if row.state == State.RELEASING:
                self.dropped.append(row.id)
            # who is on record, else who waits to serve
            self.living.discard(process_observed(row).get("pid", 42))
        return {row.id: GONE for row in rows}

    def _pass(self, step: str) -> None:
        self.meanwhile.pop(step, lambda: None)()


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(network_service, "enter_scope", lambda *_: None)
    monkeypatch.setattr(network_service, "starts_vms", lambda: False)
    found = FakeRuntime(Shelf(tmp_path))
    monkeypatch.setattr(notice, "note", found.told.append)
    monkeypatch.setattr(notice, "warning", found.told.append)
    yield found
    found.store.close()


@pytest.fixture
def row(runtime: FakeRuntime, tmp_path: Path) -> Resource:
    """The service of a network, whose process of another boot is dead."""
    add_network(runtime.store, LAN)
    spec = {"hypervisor": "dnsmasq", "directory": str(tmp_path), "bridge": LAN.bridge}
    operation = enter(runtime.store)
    with runtime.store.transaction() as sql:
        draft = intents.NewRow(Kind.PROCESS, f"dnsmasq {LAN.name}", spec, None, LAN.id, DEAD)
        (made,) = intents.intend(
            sql, [draft], operation=operation, life=1, mark=str, state=State.COMMITTED
        )
    return made


def now(runtime: FakeRuntime, row: int) -> Resource:
    found: Resource = runtime.read(records.resources_by_id, [row])[row]
    return found


def taken(runtime: FakeRuntime, row: Resource, *, gone: bool) -> None:
    """What another command does with the row as it has read it before: it ends who is there."""
    other = enter(runtime.store)
    with runtime.store.transaction() as sql:
        (moved,) = intents.release(sql, [row], other)
    runtime.living.discard(moved.observed["pid"])
    if gone:
        with runtime.store.transaction() as sql:
            intents.forget(sql, [moved])


def start_again(runtime: Any, row: Resource, *, lost: bool) -> None:
    """What upkeep does with one that it found dead, or without its directory."""
    again = network_service.put_back if lost else network_service.renew
    missed = partial(network_service.is_on_record, runtime.read, row)
    service_upkeep._start_again("lan", partial(again, runtime, row), missed, lost=lost)


def test_a_dead_one_is_started_again_and_on_record(runtime: FakeRuntime, row: Resource) -> None:
    assert network_service.renew(runtime, row) is True  # type: ignore[arg-type]
    assert now(runtime, row.id).observed["pid"] == 42
    assert now(runtime, row.id).observed["restarts"] == 1
    assert (runtime.living, runtime.dropped) == ({42}, [])


@pytest.mark.parametrize("gone", [True, False])
def test_who_removes_it_between_look_and_note_has_it_removed(
    runtime: FakeRuntime, row: Resource, *, gone: bool
) -> None:
    """What was spawned ends, with a table of names that was made anew: nobody has it on record."""
    runtime.meanwhile["create"] = lambda: taken(runtime, row, gone=gone)
    assert network_service.renew(runtime, row) is False  # type: ignore[arg-type]
    assert (runtime.living, runtime.dropped) == (set(), [row.id])


def test_who_read_the_row_before_it_was_started_again_ends_who_serves_now(
    runtime: FakeRuntime, row: Resource
) -> None:
    network_service.renew(runtime, row)  # type: ignore[arg-type]
    assert runtime.living == {42}
    taken(runtime, row, gone=True)
    assert runtime.living == set()


def test_one_that_cannot_serve_keeps_its_table(runtime: FakeRuntime, row: Resource) -> None:
    def refuse() -> None:
        raise HostRefused("it does not serve")

    runtime.meanwhile["open"] = refuse
    with pytest.raises(HostRefused):
        network_service.renew(runtime, row)  # type: ignore[arg-type]
    assert (runtime.living, runtime.dropped) == (set(), [])


@pytest.mark.parametrize("lost", [True, False])
def test_upkeep_says_nothing_of_one_that_is_removed_meanwhile(
    runtime: FakeRuntime, row: Resource, tmp_path: Path, *, lost: bool
) -> None:
    """Neither that it is started again, nor that its network has none."""

    def refuse() -> None:
        taken(runtime, row, gone=True)
        raise HostRefused("its directory is gone")

    if lost:
        row = row._replace(spec={**row.spec, "directory": str(tmp_path / "gone")})
        taken(runtime, row, gone=True)
    else:
        runtime.meanwhile["create"] = refuse
    start_again(runtime, row, lost=lost)
    assert (runtime.told, runtime.living) == ([], set())


def test_upkeep_says_what_it_started_and_what_it_could_not(
    runtime: FakeRuntime, row: Resource
) -> None:
    def refuse() -> None:
        raise HostRefused("no memory")

    runtime.meanwhile["create"] = refuse
    start_again(runtime, row, lost=False)
    start_again(runtime, row, lost=False)
    assert runtime.told == [
        "network lan has no DHCP and DNS: no memory",
        "the dnsmasq of network lan is started again: it had ended",
    ]
