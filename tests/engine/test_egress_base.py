"""The table that egress policies stand on, between who needs it and who takes it away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hvtx.commands import network_rm
from hvtx.engine import egress_base, network_upkeep
from hvtx.errors import Busy
from hvtx.host.locks import LockFile, name_offset
from hvtx.model.policy import NO_POLICY, Policy
from hvtx.model.resource import Kind, Resource, State
from hvtx.planner.provision import want_bases
from hvtx.planner.scope import NetworkScope
from hvtx.store import intents, records
from tests.store.shelf import Shelf, add_network, enter, network

OLD = network("old")._replace(firewall="iptables")
LEAVING = network("leaving", "10.78.0.0/24")
NONE = Policy(egress="none")
BASES = ("nftables bridge", "iptables", "nftables inet")


class FakeRuntime:
    """One command's: a store, and locks that are not waited for."""

    def __init__(self, shelf: Shelf) -> None:
        self.store = shelf.open()
        self.names = LockFile(str(shelf.base / "names.lock"))
        self.meanwhile: Callable[[], None] = lambda: None  # before a lock is had
        self.life = type("Life", (), {"id": 1})

    def read(self, ask: Callable[..., Any], *values: Any) -> Any:
        with self.store.reading() as sql:
            return ask(sql, *values)

    def reading(self) -> Any:
        return self.store.reading()

    def lock(self, kind: str, name: str, *, shared: bool = False) -> None:
        self.meanwhile()
        self.names.lock(name_offset(kind, name), 0, name, shared=shared)

    def try_lock(self, kind: str, name: str) -> bool:
        return self.names.try_lock(name_offset(kind, name))

    def unlock(self, kind: str, name: str) -> None:
        self.names.unlock(name_offset(kind, name))

    @contextmanager
    def held(self, kind: str, name: str) -> Iterator[None]:
        self.lock(kind, name)
        yield
        self.unlock(kind, name)

    def end(self) -> None:
        self.names.close()
        self.store.close()


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Any]]:
    """Commands that begin, on one store with two networks and the tables of both."""
    shelf, every = Shelf(tmp_path), []

    def begin() -> FakeRuntime:
        every.append(FakeRuntime(shelf))
        return every[-1]

    first = begin()
    add_network(first.store, OLD, LEAVING)
    make(first, "", want_bases(BASES))
    monkeypatch.setattr(network_upkeep, "make", make)
    monkeypatch.setattr(network_upkeep, "resolved_networks", lambda _, scope: scope)
    yield begin
    for one in every:
        one.end()


def make(runtime: Any, _: str, wants: Any) -> list[Resource]:
    operation = enter(runtime.store)
    with runtime.store.transaction() as sql:
        drafts = [intents.NewRow(w.kind, w.key, w.spec, None, None) for w in wants]
        return intents.intend(
            sql, drafts, operation=operation, life=1, mark=str, state=State.COMMITTED
        )


def ensured(runtime: Any, policy: Policy, scope: NetworkScope) -> NetworkScope:
    """The table, as a start has it made."""
    policies = {network: [policy] for network in scope.networks}
    return network_upkeep.ensure_tables(runtime, scope, policies)


def scope_of(runtime: FakeRuntime) -> NetworkScope:
    rows = runtime.read(records.resources_of_networks)
    return NetworkScope(1, {OLD.id: OLD}, rows, (OLD, LEAVING))


def leaves(runtime: FakeRuntime) -> set[str]:
    """What of the installation `network rm leaving` would take with it."""
    scope = scope_of(runtime)._replace(networks={OLD.id: OLD, LEAVING.id: LEAVING})
    shared = runtime.read(records.resources_of_network, None)
    found = network_rm._idle_bases(
        scope,
        LEAVING,
        shared,
        lambda: egress_base.may_go(runtime.read, runtime.try_lock, LEAVING.id),  # type: ignore[arg-type]
    )
    return {row.key for row in found}


def test_who_is_about_to_need_the_table_keeps_it(begun: Callable[[], Any]) -> None:
    """From its look at it until its rows are there, or it has ended without any."""
    start, removal = begun(), begun()
    scope = scope_of(start)
    assert ensured(start, NONE, scope) is scope
    assert leaves(removal) == set()
    start.names.close()
    start.names = LockFile(removal.names.path)
    assert leaves(removal) == {"nftables inet base"}


def test_a_policy_on_record_keeps_it(begun: Callable[[], Any]) -> None:
    removal = begun()
    operation = enter(removal.store)
    spec = {"backend": "nftables", "what": "egress"}
    with removal.store.transaction() as sql:
        draft = intents.NewRow(Kind.FILTER, "hv1 egress", spec, "id-web", OLD.id)
        intents.intend(sql, [draft], operation=operation, life=1, mark=str)
    assert leaves(removal) == set()


def test_who_comes_while_it_is_taken_waits_and_makes_it_anew(begun: Callable[[], Any]) -> None:
    """What it read before is not what is there."""
    start, removal = begun(), begun()
    assert leaves(removal) == {"nftables inet base"}
    scope = scope_of(start)
    with pytest.raises(Busy):
        ensured(start, NONE, scope)

    def gone() -> None:
        start.meanwhile = lambda: None
        rows = removal.read(records.resources_of_network, None)
        with removal.store.transaction() as sql:
            intents.forget(sql, [row for row in rows if row.key == "nftables inet base"])
        removal.names.close()
        removal.names = LockFile(start.names.path)

    start.meanwhile = gone
    now = ensured(start, NONE, scope)
    assert [row.key for row in now.bases()].count("nftables inet base") == 1
    assert leaves(removal) == set()


def test_who_has_no_policy_holds_nobody_up(begun: Callable[[], Any]) -> None:
    start, removal = begun(), begun()
    scope = scope_of(start)
    assert leaves(removal) == {"nftables inet base"}
    assert ensured(start, NO_POLICY, scope) is scope


def test_a_network_of_nftables_is_asked_of_nobody(begun: Callable[[], Any]) -> None:
    """It needs the table itself: its starts neither wait nor read it again."""
    start = begun()
    scope = scope_of(start)._replace(networks={LEAVING.id: LEAVING})

    def asked() -> None:
        pytest.fail("a lock")

    start.meanwhile = asked
    assert ensured(start, NONE, scope) is scope


def test_another_of_the_same_kind_keeps_it_and_nobody_is_asked(begun: Callable[[], Any]) -> None:
    """So no start waits for this removal."""
    removal = begun()
    more = network("more", "10.79.0.0/24")
    scope = scope_of(removal)
    scope = scope._replace(networks={one.id: one for one in (OLD, LEAVING, more)})
    shared = removal.read(records.resources_of_network, None)
    assert network_rm._idle_bases(scope, LEAVING, shared, lambda: pytest.fail("asked")) == []
