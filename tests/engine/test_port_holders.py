"""Who holds the ports that stay where others are let go, whoever was killed at that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from hvtx.drivers import portholder
from hvtx.engine import port_holders
from hvtx.host import failpoint
from hvtx.model.resource import HOLDER, Kind, Resource, State
from hvtx.model.vm import Identity, Publish
from hvtx.planner.states import holder_of
from hvtx.store import intents, records
from hvtx.store.database import Store
from tests.store.shelf import Shelf, enter, intend


class Killed(BaseException):
    """The end of the command."""


class Holders:
    """Processes by pid, each with the ports that it has sockets of."""

    def __init__(self) -> None:
        self.ports: dict[int, set[int]] = {}
        self.waiting: set[int] = set()

    def begin(self, *ports: int) -> Identity:
        identity = Identity("boot-a", 100 + len(self.ports), 1, 0)
        self.ports[identity.pid] = set(ports)
        return identity

    def ended(self, identity: Identity) -> bool:
        return not self.ports[identity.pid]

    def end(self, identity: Identity) -> bool:
        self.ports[identity.pid] = set()
        return True

    def die(self) -> None:
        """Whoever spawned those that wait was killed: they read end-of-file."""
        for pid in self.waiting:
            self.ports[pid] = set()
        self.waiting.clear()

    def taken_over(self, identity: Identity, ports: Iterable[Publish]) -> Taken:
        wanted = {port.host_port for port in ports}
        return Taken(wanted & self.ports[identity.pid])

    def spawn(self, held: Taken, _: object, __: object) -> Fresh:
        identity = self.begin(*held.ports)
        self.waiting.add(identity.pid)
        return Fresh(self, identity)


class Taken:
    def __init__(self, ports: set[int]) -> None:
        self.ports = ports

    def __bool__(self) -> bool:
        return bool(self.ports)

    def has(self, port: Publish) -> bool:
        return port.host_port in self.ports


class Fresh:
    def __init__(self, holders: Holders, identity: Identity) -> None:
        self.holders, self.identity = holders, identity

    def open(self) -> None:
        self.holders.waiting.discard(self.identity.pid)

    def cancel(self) -> None:
        self.holders.end(self.identity)


@pytest.fixture
def holders(monkeypatch: pytest.MonkeyPatch) -> Iterator[Holders]:
    found = Holders()
    for name in ("ended", "end", "taken_over", "spawn"):
        monkeypatch.setattr(portholder, name, getattr(found, name))
    monkeypatch.setattr(port_holders, "enter_own_scope", lambda *_: None)
    yield found
    failpoint.arm("")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Shelf(tmp_path).opened() as found:
        yield found


def published(store: Store, holder: Identity, *ports: int) -> list[Resource]:
    """Committed rows of these ports, which one process holds."""
    made = intend(
        store, enter(store), *((Kind.PUBLISH, f"{port}/tcp") for port in ports),
        state=State.COMMITTED,
    )  # fmt: skip
    with store.transaction() as sql:
        for row, port in zip(made, ports, strict=True):
            spec = {"protocol": "tcp", "host_ip": None, "host_port": port, "guest_port": 80}
            intents.record_spec(sql, row.id, spec)
            intents.record_observed(sql, row.id, {HOLDER: holder._asdict()})
    return now(store, made)


def now(store: Store, rows: Sequence[Resource]) -> list[Resource]:
    with store.reading() as sql:
        found = records.resources_by_id(sql, [row.id for row in rows])
    return [found[row.id] for row in rows]


def holds(store: Store, holders: Holders, row: Resource) -> set[int]:
    """What the holder on record of a row has sockets of."""
    identity = holder_of(now(store, [row])[0])
    return set() if identity is None else holders.ports[identity.pid]


def killed_between_record_and_word(
    store: Store, holders: Holders, gone: list[Resource], staying: list[Resource],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def kill(self: Fresh) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Fresh, "open", kill)
        patch.setattr(Fresh, "cancel", lambda _: None)
        with pytest.raises(Killed):
            port_holders.let_go(store, gone, staying, "web")
    holders.die()


def test_what_stays_is_held_by_another(store: Store, holders: Holders) -> None:
    """Which has nothing of what goes."""
    goes, stays = published(store, holders.begin(8080, 8090), 8090, 8080)
    port_holders.let_go(store, [goes], [stays], "web")
    assert holds(store, holders, stays) == {8080}
    assert holds(store, holders, goes) == set()


def test_killed_before_its_word_it_is_taken_again(
    store: Store, holders: Holders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From who holds it still, for what goes; once or twice."""
    goes, stays = published(store, holders.begin(8080, 8090), 8090, 8080)
    for _ in range(2):
        (known,) = now(store, [stays])
        killed_between_record_and_word(store, holders, [goes], [known], monkeypatch)
        assert holds(store, holders, stays) == set()
        assert holds(store, holders, goes) == {8080, 8090}
    port_holders.let_go(store, [goes], now(store, [stays]), "web")
    assert holds(store, holders, stays) == {8080}
    assert holds(store, holders, goes) == set()


def test_what_it_has_not_is_noted_of_nobody(store: Store, holders: Holders) -> None:
    """A port whose holder somebody killed is repaired, not taken for held."""
    (goes,) = published(store, holders.begin(8090), 8090)
    other = holders.begin(8070)
    (lost,) = published(store, other, 8070)
    holders.end(other)
    port_holders.let_go(store, [goes], [lost], "web")
    assert holder_of(now(store, [lost])[0]) == other
    assert holds(store, holders, goes) == set()
