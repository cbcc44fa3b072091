"""What a list needs of all rows, and how many there are."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from hvtx.model.mark import make_mark
from hvtx.model.resource import Kind, Resource
from hvtx.store import intents, records
from hvtx.store.database import Store
from tests.store.shelf import enter

SPECS: list[dict[str, Any]] = [{}, {"what": "egress", "mac": "m"}, {"what": "port", "x": "egress"}]


def made(store: Store) -> list[Resource]:
    """A row of each kind with each of these, and with something learnt."""
    operation = enter(store)
    with store.transaction() as sql:
        wanted = [
            intents.NewRow(kind, f"{kind}{n}", spec, None, None, {"pid": n})
            for kind in Kind
            for n, spec in enumerate(SPECS)
        ]
        rows = intents.intend(
            sql, wanted, operation=operation, life=1,
            mark=lambda row: make_mark(store.installation, row, os.urandom(10)),
        )  # fmt: skip
        intents.commit(sql, rows[::2], {}, operation)
    return records.resources(store.connection)


def test_in_brief_rows_have_what_a_list_tells(store: Store) -> None:
    told = {Kind.PROCESS, Kind.NETNS, Kind.VETH}
    wanted = [
        row._replace(
            observed=row.observed if row.kind in told else {},
            spec=row.spec
            if row.kind == Kind.VETH or (row.kind == Kind.FILTER and "egress" in str(row.spec))
            else {},
        )
        for row in made(store)
    ]
    assert records.resources_in_brief(store.connection) == wanted


def test_rows_of_policies_are_those_that_say_so(store: Store) -> None:
    rows = [row for row in made(store) if row.kind == Kind.FILTER and row.role == "egress"]
    assert rows
    assert records.egress_rows(store.connection) == rows


def test_rows_are_counted_by_kind_and_state(store: Store) -> None:
    counts = Counter((row.kind, row.state) for row in made(store))
    assert records.resource_counts(store.connection) == counts
