"""The newest line of each thing that is asked for, and of no other."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hvtx.store import history
from hvtx.store.database import Store
from hvtx.store.history import Event

_EVENTS = st.builds(
    lambda event, kind, key, reason: Event(event, "words", kind, key, reason),
    st.sampled_from(["made", "skipped", "removed"]),
    st.sampled_from(["tap", "filter", None]),
    st.sampled_from(["a", "b", 'tap web: it\'s "so"', None]),
    st.sampled_from(["in-use", "vm-dead", None]),
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_EVENTS, max_size=8), st.sets(st.sampled_from(["a", "b", 'tap web: it\'s "so"'])))
def test_the_newest_line_of_each_thing_that_is_asked_for(
    store: Store, events: list[Event], keys: set[str]
) -> None:
    with store.transaction() as sql:
        sql.execute("DELETE FROM history")
        history.add(sql, events, operation=None, verb="gc")
    with store.reading() as sql:
        found = history.last_of_each(sql, keys)
    wanted = {(e.kind, e.key): (e.event, e.reason) for e in events if e.kind and e.key in keys}
    assert found == wanted
