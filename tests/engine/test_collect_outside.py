"""What gc was kept from by its sandbox is told by what came of it outside."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from hvtx.engine import autostart
from hvtx.engine.collect_outside import collect_outside
from hvtx.errors import HostRefused
from hvtx.model.plan import Action, Item, Plan, Result
from hvtx.model.reason import Reason
from hvtx.model.resource import Kind, State


class Row(NamedTuple):
    """As much of a row as a plan's item is made of."""

    id: int
    kind: Kind
    key: str
    state: State = State.RELEASING
    mark: str = "hvtx:1:aaaaaaaaaa:1.kkkkkkkkkkkkkkkk"


def item(number: int, kind: Kind, outcome: Result, *, vm: str | None = None) -> Item:
    found = Item.for_row(
        Row(number, kind, f"thing {number}"), Action.DELETE, Reason.RELEASE_INTERRUPTED,
        vm=vm, evidence=(), message="it was left",
    )  # type: ignore[arg-type]  # fmt: skip
    return found._replace(outcome=outcome)


SERVICE = item(1, Kind.PROCESS, Result.FAILED)
DONE = item(2, Kind.PROCESS, Result.DONE)
BRIDGE = item(3, Kind.BRIDGE, Result.FAILED)
VM = item(4, Kind.PROCESS, Result.FAILED, vm="web")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The settings that systemd was asked with."""
    calls: list[Any] = []
    monkeypatch.setenv("HVTX_AUTOSTART", "systemd-run")
    monkeypatch.setattr(autostart, "collect", calls.append)
    return calls


def told(*items: Item, left: tuple[int, ...] = ()) -> list[tuple[Result | None, str]]:
    rows = {number: Row(number, Kind.PROCESS, "x") for number in left}
    plan = collect_outside(Plan(items), "settings", lambda ids: rows)  # type: ignore[arg-type]
    return [(each.outcome, each.message) for each in plan.judged()]


def test_what_is_gone_by_then_is_done(asked: list[Any]) -> None:
    (first, words), *rest = told(SERVICE, DONE, BRIDGE, VM)
    assert first is Result.DONE
    assert words == "it was left; systemd did it outside of the sandbox of this unit"
    assert rest == [(each.outcome, each.message) for each in (DONE, BRIDGE, VM)]
    assert asked == ["settings"]


def test_what_stays_has_failed(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(SERVICE, left=(1,)) == [(Result.FAILED, "it was left")]

    def refuse(settings: Any) -> None:
        raise HostRefused("systemd-run is missing")

    monkeypatch.setattr(autostart, "collect", refuse)
    assert told(SERVICE, left=(1,)) == [(Result.FAILED, "it was left; systemd-run is missing")]


@pytest.mark.parametrize("items", [(DONE,), (BRIDGE,), (VM,), ()])
def test_systemd_is_not_asked_for_what_it_cannot_help(
    asked: list[Any], items: tuple[Item, ...]
) -> None:
    told(*items)
    assert asked == []


def test_nor_where_there_is_no_sandbox(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HVTX_AUTOSTART")
    assert told(SERVICE, left=(1,)) == [(Result.FAILED, "it was left")]
    assert asked == []
