"""Removing what no live row accounts for, by the mark that was seen on it."""

from __future__ import annotations

from collections.abc import Iterable

from hvtx.drivers.base import FirewallDriver
from hvtx.engine.runtime import Runtime
from hvtx.model.plan import Item, Reason
from hvtx.model.resource import GONE, Entry, Outcome, Resource, State
from hvtx.store import records


def _inside_out(entries: Iterable[Entry]) -> list[Entry]:
    """Elements and rules before the tables that they stand in."""
    return sorted(entries, key=lambda entry: entry.place.is_table)


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
        outcome = firewall.release([row])[row.id]
        if not outcome.gone and row.spec.get("what") == "base":
            # it was restored into the tables and chains of the base that is there now, which stay
            return _remove_each(firewall, item)
        return outcome
    assert item.link is not None
    sighted = Resource(
        id=item.row,
        kind=item.kind,
        key=item.link.name,
        state=State.RELEASING,
        mark=item.mark,
        spec={"ifindex": item.link.ifindex, "device": item.link.name, "mac": item.link.mac},
        observed={"ifindex": item.link.ifindex},
        operation=0,
        life=0,
        vm=None,
        network=None,
    )
    return runtime.driver(item.kind).release([sighted])[sighted.id]
