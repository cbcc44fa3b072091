"""Removing what no live row accounts for, by the mark that was seen on it."""

from __future__ import annotations

from collections.abc import Iterable

from hvtx.drivers.base import FirewallDriver
from hvtx.engine.effects import released_by, remove_seen
from hvtx.engine.runtime import Runtime
from hvtx.model.plan import Item, Reason
from hvtx.model.resource import GONE, Entry, Outcome
from hvtx.store import records


def _inside_out(entries: Iterable[Entry]) -> list[Entry]:
    """Elements and rules before the tables that they stand in."""
    return sorted(entries, key=lambda entry: -len(entry.place.split(" ")))


def _remove_each(firewall: FirewallDriver, item: Item) -> Outcome:
    """Remove the entries that were seen, each if it is still exactly that."""
    assert item.entry is not None
    outcomes = [firewall.remove(entry) for entry in _inside_out((item.entry, *item.more))]
    return next((outcome for outcome in outcomes if not outcome.gone), GONE)


def remove_sighted(runtime: Runtime, item: Item) -> Outcome:
    """Remove an object that no live row accounts for, by the mark that was seen on it."""
    assert item.mark is not None
    if item.entry is not None:
        firewall = runtime.firewall(item.entry.backend)
        if item.alone or item.reason is Reason.UNRECORDED:
            return _remove_each(firewall, item)
        row = runtime.read(records.resources_by_id, [item.row])[item.row]
        if item.reason is Reason.DUPLICATE_COPY:
            return firewall.remove_copies(row)
        outcome = released_by(firewall, [row])[row.id]
        if not outcome.gone and row.spec.get("what") == "base":
            # it was restored into the tables and chains of the base that is there now, which stay
            return _remove_each(firewall, item)
        return outcome
    assert item.link is not None
    return remove_seen(runtime.driver(item.kind), item)
