"""Who starts a VM looks as little as it can, and loads what does something only where it must."""

from __future__ import annotations

from typing import Any

import pytest

from hvtx.engine import network_needs, network_upkeep, others_filters
from hvtx.planner.network_needs import Needs
from hvtx.planner.scope import NetworkScope
from tests.planner.test_network_needs import LEGACY, base, scope
from tests.planner.test_provision import LAN


class Runtime:
    """Nothing but the list of tables, which is not asked here."""

    def nftables(self) -> Any:
        return self

    tables = frozenset

    def lock(self, *_: object, **__: object) -> None:
        raise AssertionError("a lock that no network needs")


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Needs, str]]:
    """What was carried out, and as which verb; all rows are of this version, nothing filters."""
    found: list[tuple[Needs, str]] = []

    def carry_out(
        _: Any, there: NetworkScope, needs: Needs, policies: Any, verb: str
    ) -> NetworkScope:
        found.append((needs, verb))
        return there._replace(rows=[])

    monkeypatch.setattr(network_upkeep, "carry_out", carry_out)
    monkeypatch.setattr(network_needs, "outdated", lambda _: False)
    monkeypatch.setattr(others_filters, "there_may_be", lambda _: False)
    return found


def ready(there: NetworkScope, *verb: str) -> NetworkScope:
    runtime: Any = Runtime()
    return network_needs.ready(runtime, there, {}, *verb)


def test_what_stands_is_taken_as_it_is(done: list[tuple[Needs, str]]) -> None:
    there = scope(LAN, rows=(base(1),))
    assert ready(there) is there
    assert done == []


def test_what_is_missing_is_made_by_the_verb(done: list[tuple[Needs, str]]) -> None:
    there = scope(LAN)._replace(rows=[base(1)])
    assert ready(there, "recover").rows == []
    assert done == [(Needs([], [LAN], tables=[]), "recover")]


def test_others_are_looked_for_only_where_the_record_does_not_say(
    done: list[tuple[Needs, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def look(_: Any) -> bool:
        looks.append(1)
        return True

    monkeypatch.setattr(others_filters, "there_may_be", look)
    ready(scope(LEGACY))
    assert looks == []
    ready(scope(LAN))
    assert looks == [1]
    assert [needs.accepts for needs, _ in done] == [True, True]
