"""gc's decisions: what is collectable, what is not, and why. Pure: a snapshot in, a plan out.

``facts`` looks things up in the snapshot and makes a case of each row, ``rules`` is the table that
decides it, ``rows`` and ``marked`` put the decisions into items, ``foreign`` names others.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from hvtx.model.plan import Item, Items, Plan, Snapshot
from hvtx.model.resource import State
from hvtx.model.typed import TYPE_CHECKING, Any
from hvtx.planner.gc.facts import Facts
from hvtx.planner.gc.foreign import foreign_devices, foreign_nat, foreign_rest
from hvtx.planner.gc.marked import marked_entries, marked_files, marked_links
from hvtx.planner.gc.rows import items_of, left_alone, row_items
from hvtx.planner.order import RELEASED

if TYPE_CHECKING:
    from hvtx.model.foreign_rule import ForeignRule

_RELEASED = State.RELEASED.value


def plan_gc(
    snapshot: Snapshot, *, everything: bool = False, rules: Sequence[ForeignRule] | None = None
) -> Plan:
    """Judge every row, every marked object, and the others that are worth naming.

    With ``everything`` all their devices and NAT rules, with all ``rules`` of the host every one
    of theirs, and their addresses.
    """
    facts = Facts(snapshot)
    items = row_items(facts)
    items += marked_links(facts)
    items += marked_entries(facts)
    items += marked_files(facts)
    items += foreign_devices(facts, everything=everything)
    items += foreign_nat(facts, everything=everything)
    if rules is not None:
        shown = {item.key for item in items}
        items += [item for item in foreign_rest(facts, rules) if item.key not in shown]
    items.sort(key=_place)
    alone = left_alone(snapshot)
    return Plan(
        Items(items, alone, partial(items_of, links=snapshot.settled.links), _place)
        if alone
        else tuple(items)
    )


def _place(item: Item) -> tuple[Any, ...]:
    """Where an item stands in a plan: a total order, so that no dump's order shows through."""
    order = RELEASED.get(item.kind, 9) if item.row else 99
    if item.row and item.entry is None and item.state != _RELEASED:
        return (item.vm or "", order, item.row)  # the row's own item: there is one
    handle = item.entry.handle if item.entry else 0
    reason = item.reason.value
    return (item.vm or "", order, item.row, item.kind, item.key, reason, item.evidence, handle)
