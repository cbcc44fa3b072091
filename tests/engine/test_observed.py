"""What was noted of a row stays, whoever writes another part of it, from however old a look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hvtx.engine import flows, outdated
from hvtx.model.resource import FLOWS, HOLDER, Kind, Resource, State
from hvtx.store import intents, records
from hvtx.store.database import Store
from tests.store.shelf import Shelf, enter, intend

OLD, NEW = {"pid": 41}, {"pid": 42}
SPEC = {"backend": "iptables", "what": "publish", "protocol": "udp", "host_ip": None,
        "host_port": 53, "guest_port": 53, "ipv4": "10.77.0.2", "ipv6": None}  # fmt: skip


class FakeRuntime:
    """A store, and a firewall that has made everything anew; its own operation."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.runtime = self

    def read(self, ask: Any, *values: Any) -> Any:
        with self.store.reading() as sql:
            return ask(sql, *values)

    @contextmanager
    def reading(self) -> Iterator[Any]:
        with self.store.reading() as sql:
            yield sql

    def firewall(self, _: str) -> FakeRuntime:
        return self

    def repair(self, rows: Sequence[Resource]) -> Mapping[int, dict[str, Any]]:
        return {row.id: {"rules": ["new"]} for row in rows}

    @contextmanager
    def held(self, *_: str) -> Iterator[None]:
        yield

    def history(self, *_: Any) -> None: ...

    def vm_name(self, *_: Any) -> str:
        return "web"


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[FakeRuntime]:
    with Shelf(tmp_path).opened() as store:
        yield FakeRuntime(store)


@pytest.fixture
def row(runtime: FakeRuntime) -> Resource:
    """A published port, as it is on record before somebody else's note."""
    store = runtime.store
    made = intend(store, enter(store), (Kind.PUBLISH, "53/udp"), state=State.COMMITTED)[0]
    with store.transaction() as sql:
        intents.record_spec(sql, made.id, SPEC)
        intents.record_observed(sql, made.id, {"rules": ["old"], HOLDER: OLD, FLOWS: True})
    return now(runtime, made.id)


def now(runtime: FakeRuntime, row: int) -> Resource:
    found: Resource = runtime.read(records.resources_by_id, [row])[row]
    return found


def note(runtime: FakeRuntime, row: int, **learnt: Any) -> None:
    with runtime.store.transaction() as sql:
        intents.amend_observed(sql, row, learnt)


@pytest.mark.parametrize("why", [None, "the kernel said no"])
@pytest.mark.parametrize("noted", [True, False])
def test_who_holds_a_port_stays_when_its_flows_are_noted(
    runtime: FakeRuntime, row: Resource, why: str | None, noted: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The row was read before its holder was replaced, or before others noted what is due."""
    monkeypatch.setattr(flows, "_close_doors", lambda _: why)
    old = row if noted else row._replace(observed={"rules": ["old"], HOLDER: OLD})
    note(runtime, row.id, **{HOLDER: NEW, FLOWS: None if noted else True})
    assert flows.end_past(runtime, [old]).gone is (why is None)  # type: ignore[arg-type]
    due = {} if why is None else {FLOWS: True}
    assert now(runtime, row.id).observed == {"rules": ["old"], HOLDER: NEW, **due}


def test_nothing_is_noted_of_a_row_that_was_released_meanwhile(
    runtime: FakeRuntime, row: Resource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows, "_close_doors", lambda _: None)
    with runtime.store.transaction() as sql:
        intents.forget(sql, [row])
    assert flows.end_past(runtime, [row]).gone  # type: ignore[arg-type]
    assert now(runtime, row.id).observed == row.observed


def test_rules_of_an_earlier_version_are_made_anew_beside_what_is_noted(
    runtime: FakeRuntime, row: Resource, monkeypatch: pytest.MonkeyPatch
) -> None:
    note(runtime, row.id, **{HOLDER: NEW})
    monkeypatch.setattr(outdated, "outdated", lambda _: True)
    outdated.make_anew(runtime, runtime.store, row)  # type: ignore[arg-type]
    assert now(runtime, row.id).observed == {"rules": ["new"], HOLDER: NEW, FLOWS: True}
