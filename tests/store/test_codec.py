"""`spec` and `observed`: what was written comes back, also what this program does not know."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvtx.model.resource import Kind, Resource, State, bridge_spec, index_of, tap_spec
from hvtx.store import intents, records
from hvtx.store.codec import decode, decode_all, encode
from hvtx.store.database import Store

from .shelf import enter, intend

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=4)


@given(st.lists(OBJECTS, max_size=4))
def test_what_is_written_comes_back_alone_and_among_others(objects: list[dict[str, Any]]) -> None:
    texts = [encode(one) for one in objects]
    assert [decode(text) for text in texts] == objects
    assert decode_all(texts) == objects


def test_keys_of_a_newer_program_stay(store: Store) -> None:
    """Through every move of a row: this program hands on what it cannot read."""
    operation = enter(store)
    (row,) = intend(store, operation, (Kind.TAP, "hv1"))
    newer = {"device": "hv1", "of_tomorrow": {"deep": [1, None, "café"]}}
    with store.transaction() as sql:
        sql.execute("UPDATE resource SET spec = ?, observed = ?", (json.dumps(newer),) * 2)
    (read,) = records.resources(store.connection)
    assert (read.spec, read.observed) == (newer, newer)
    with store.transaction() as sql:
        intents.record_observed(sql, row.id, {**read.observed, "ifindex": 7})
        assert intents.commit(sql, [read], {}, operation) == 1
    (kept,) = records.resources(store.connection)
    assert kept.spec == newer
    assert kept.observed == {**newer, "ifindex": 7}
    with store.transaction() as sql:
        intents.release(sql, [kept], operation)
        intents.forget(sql, [kept._replace(state=State.RELEASING)])
    assert records.resources_by_id(store.connection, [row.id])[row.id].spec == newer


def row_of(kind: Kind, spec: dict[str, Any], observed: dict[str, Any]) -> Resource:
    return Resource(1, kind, "k", "committed", "m", spec, observed, 1, 1, None, None)


def test_a_spec_is_given_by_its_kind_only() -> None:
    """A spec taken for another kind's is a fault of the program, and does not go unnoticed."""
    tap = row_of(Kind.TAP, {"device": "hv1", "ifindex": 5, "more": 1}, {})
    assert tap_spec(tap) is tap.spec
    with pytest.raises(AssertionError):
        bridge_spec(tap)


@pytest.mark.parametrize(("observed", "index"), [({}, 5), ({"ifindex": 9}, 9)])
def test_an_index_is_as_it_was_read_back(observed: dict[str, Any], index: int) -> None:
    """A row that is only intended has the chosen one."""
    assert index_of(row_of(Kind.BRIDGE, {"ifindex": 5}, observed)) == index
