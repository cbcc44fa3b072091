"""What the sandbox of its unit keeps gc from: systemd runs gc once more, outside of it.

A network's dnsmasq is another user's process: only CAP_KILL may signal it, and hvtx-gc has not got
that. One that is started in the sandbox would stay in it, and end with the unit. So neither is done
there; the service that does it ends as soon as it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hvtx.engine import autostart
from hvtx.engine.runtime import Settings
from hvtx.engine.shut_in import starts_vms
from hvtx.errors import HostRefused
from hvtx.model.plan import Item, Plan, Result
from hvtx.model.reason import Reason
from hvtx.model.resource import Kind, Resource, State

_DONE = "systemd did it outside of the sandbox of this unit"


def collect_outside(
    plan: Plan, settings: Settings, rows_of: Callable[[list[int]], Mapping[int, Resource]]
) -> Plan:
    """The plan that was carried out, once systemd has seen to what this run was kept from.

    The lock of gc must be free. ``rows_of`` reads rows by id, those that are still there.
    """
    kept = [item for item in plan.judged() if _is_kept(item)] if starts_vms() else []
    if not kept:
        return plan
    why = ""
    try:
        autostart.collect(settings)
    except HostRefused as problem:
        why = problem.message
    rows = rows_of([item.row for item in kept])
    left = {number for number, row in rows.items() if row.state != State.RELEASED}
    return plan.with_judged(
        [_told(item, item.row in left, why) if _is_kept(item) else item for item in plan.judged()]
    )


def _is_kept(item: Item) -> bool:
    """Whether it failed, and is of a network's service or of a change that may start one."""
    of_a_service = item.kind == Kind.PROCESS or item.reason in (
        Reason.CHANGE_INTERRUPTED,
        Reason.REPLACED,
    )
    return item.outcome is Result.FAILED and item.vm is None and item.row != 0 and of_a_service


def _told(item: Item, left: bool, why: str) -> Item:
    if left:
        return item._replace(message=f"{item.message}; {why}") if why else item
    return item._replace(outcome=Result.DONE, message=f"{item.message}; {_DONE}")
