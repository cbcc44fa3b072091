"""`route_localnet` of a network's bridge: on while a port is published on 127.0.0.1, else off.

The host reaches guests through its 127.0.0.1 only with it, and with it the routing of the kernel no
longer keeps 127.0.0.0/8 from the bridge's ports: only rules do. So it is on for as long as a row
needs it. It is turned off before that row is closed: who dies in between leaves the row, and with
it what `recover` and gc have to do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from hvtx.errors import HvtxError
from hvtx.model.firewall import firewall_spec
from hvtx.model.resource import Kind, Outcome, Resource, State
from hvtx.model.typed import TYPE_CHECKING
from hvtx.planner.provision import serves_loopback

if TYPE_CHECKING:
    from hvtx.engine.runtime import Runtime

_SERVING = (State.INTENDED, State.COMMITTED)


def bridges_in_need(rows: Iterable[Resource], life: int) -> set[str]:
    """The bridges that lead 127.0.0.1 to a guest, as far as these rows say."""
    return {
        row.bridge for row in rows if row.life == life and row.state in _SERVING and _serves(row)
    }


def settle(runtime: Runtime, rows: Sequence[Resource], leaving: Collection[int] = ()) -> None:
    """Turn the setting of these rows' bridges on or off, as what is on record now needs it.

    ``leaving`` are ids of rows that go. Under a lock of its own: between the look at the record
    and the write no other operation may begin to need it. Raises HvtxError.
    """
    bridges = {row.bridge: row.network for row in rows if _serves(row)}
    if not bridges:
        return
    own = bridges_in_need((row for row in rows if row.id not in leaving), runtime.life.id)
    from hvtx.host.localnet import lead_loopback, leads_loopback

    with runtime.held("all", "loopback"):
        for bridge, network in sorted(bridges.items()):
            if bridge in own and leads_loopback(bridge):
                continue  # whoever's it is: there is nothing to be written
            if _is_ours(runtime, bridge):
                needed = bridge in own or is_needed(runtime, bridge, network, leaving)
                lead_loopback(bridge, on=needed)


def _is_ours(runtime: Runtime, bridge: str) -> bool:
    """Whether the device of that name is a network's bridge: another's may have it by now.

    Asked by its index, since names are given to others; a recorded mark that it carries proves it.
    """
    from hvtx.store import records

    rows = runtime.read(records.devices_called, Kind.BRIDGE, bridge)
    for row in rows:
        if row.life == runtime.life.id and row.ifindex:
            seen = runtime.devices().links.get(ifindex=row.ifindex)
            if seen is not None and (seen.name, seen.alias) == (bridge, row.mark):
                return True
    return False


def is_needed(
    runtime: Runtime, bridge: str, network: str | None, leaving: Collection[int] = ()
) -> bool:
    """Whether a row on record needs it at a network's bridge, but for those ``leaving`` (ids).

    That holds as long as the lock ``loopback`` is held.
    """
    from hvtx.store import records

    there = runtime.read(records.published_in, network)
    rows = (row for row in there if row.id not in leaving)
    return bridge in bridges_in_need(rows, runtime.life.id)


def settle_gone(
    runtime: Runtime, outcomes: Mapping[int, Outcome], rows: Sequence[Resource]
) -> dict[int, Outcome]:
    """The same after a release; where it fails these rows stay on record, and are tried again."""
    from hvtx.model.reason import Reason

    gone = [row for row in rows if _serves(row) and outcomes[row.id].gone]
    try:
        settle(runtime, gone, {row.id for row in gone})
    except (HvtxError, OSError) as problem:
        words = problem.message if isinstance(problem, HvtxError) else str(problem)
        why = f"127.0.0.1 still leads to its bridge: {words}"
        return {row.id: Outcome(False, Reason.OBSERVE_FAILED, f"{row.key}: {why}") for row in gone}
    return {}


def _serves(row: Resource) -> bool:
    return (
        row.kind == Kind.PUBLISH and row.role == "publish" and serves_loopback(firewall_spec(row))
    )
