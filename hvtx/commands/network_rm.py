"""`network rm`: nobody uses it and nothing of others is on it, then what it has is released."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial

from hvtx.engine import egress_base, privileges
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import all_networks
from hvtx.engine.transaction import Operation, begin
from hvtx.engine.undo import take_down
from hvtx.engine.unsettled import resolved_networks
from hvtx.errors import (
    Conflict,
    Contended,
    HostRefused,
    HvtxError,
    NotPermitted,
    PartialFailure,
)
from hvtx.host.links import Links
from hvtx.host.netlink import DumpInterrupted, forbidden
from hvtx.model.firewall import firewall_spec
from hvtx.model.resource import (
    Address,
    Kind,
    Link,
    Resource,
    State,
    filters_on,
    put_by_others,
)
from hvtx.model.typed import Any
from hvtx.model.vm import Network
from hvtx.planner import provision
from hvtx.planner.leftovers import AGAIN, taken_away
from hvtx.planner.scope import NetworkScope
from hvtx.store import records


def remove_network(runtime: Runtime, name: str) -> None:
    """Remove a network; with the last one everything of this installation leaves the host.

    Raises NotFound, Conflict (VMs use it, others' things stand on its bridge), PartialFailure.
    """
    runtime.enter()
    runtime.lock("network", name)
    runtime.lock("all", "networks")
    network = runtime.read(records.get_network, name)
    scope = resolved_networks(runtime, all_networks(runtime))
    if network.id not in scope.networks:  # it was what an interrupted operation had left
        rest = [r for r in scope.rows if r.network is None and r.state == State.RELEASING]
        if rest and not scope.networks:  # what the last one left is tried once more
            with begin(runtime, "network-rm", network=name) as (_, operation):
                pass
            _take_down(operation, name, rest, again=AGAIN)
        if network.block_size is not None:
            _give_back(runtime, name)
        return
    rows = [row for row in scope.rows if row.network == network.id]
    # One whose removal something stood in the way of is only on record for what it left.
    others = scope.networks.keys() - scope.provisional.keys() - {network.id}
    shared = [row for row in scope.rows if row.network is None]
    unlimited = partial(egress_base.may_go, runtime.read, runtime.try_lock, network.id)
    rows += _idle_bases(scope, network, shared, unlimited) if others else shared
    users = runtime.read(records.users_of_network, network.id)
    if users:
        raise Conflict(
            f"network {name!r} is used by {', '.join(users)}",
            hint="; ".join((*(_away(runtime, vm) for vm in users), f"hvtx network rm {name}")),
        )
    privileges.need_for(rows)
    _refuse_dependents(runtime, network, rows)
    with begin(runtime, "network-rm", network=name) as (sql, operation):
        records.set_network_leaving(sql, network.id, operation.id)
    _take_down(
        operation,
        name,
        rows,
        again=f"hvtx network rm {name}",
        gone=lambda sql: records.remove_network(sql, network.id),
    )
    if network.block_size is not None:
        _give_back(runtime, name)


def _take_down(
    operation: Operation,
    name: str,
    rows: Sequence[Resource],
    *,
    again: str,
    gone: Callable[[Any], None] = lambda sql: None,
) -> None:
    """Release the rows; ``again``: the command that goes on. Raises PartialFailure if one stays."""
    kept = take_down(operation, rows, reason="network-rm", gone=gone)
    if kept:
        from hvtx.engine import leftovers

        left = [outcome.message for _, outcome in kept]
        raise PartialFailure(
            f"network {name!r} was removed only in part: {'; '.join(left)}",
            hint=leftovers.hint(operation.runtime, kept, again=again),
        )


def _give_back(runtime: Runtime, name: str) -> None:
    """Give the network's blocks back to the cluster; what cannot be now goes back by `recover`.

    What the network is, is forgotten there with its last block, or here, if it never had one.
    """
    from hvtx.engine import blocks, notice

    settled = blocks.settle(runtime)
    for what, why in settled.failed:
        notice.warning(f"{what}: {why}; blocks of the network go back with hvtx recover")
    if settled.failed or runtime.settings.cluster is None:
        return
    try:
        with blocks.opened(runtime) as cluster:
            cluster.source.undefine(name)
    except HvtxError as problem:
        notice.warning(
            f"cluster: {problem.message}; it knows network {name!r} still: make it there as it"
            " was, or under another name"
        )


def _away(runtime: Runtime, name: str) -> str:
    """The command that removes a VM as it is now."""
    from hvtx.engine.vm_state import state_of
    from hvtx.planner.states import VmState

    vm = runtime.read(records.find_vm, name)
    down = vm is not None and state_of(runtime, vm)[0] is VmState.DEFINED
    return f"hvtx vm rm {name}" + ("" if down else " --force")


def _idle_bases(
    scope: NetworkScope,
    leaving: Network,
    shared: Sequence[Resource],
    unlimited: Callable[[], bool],
) -> list[Resource]:
    """What of the installation only networks like the one that leaves stood on.

    Tables and chains of its backend, and the way into the accepts of a family; what egress policies
    stand on only where none stays or is being made (``unlimited``, which is asked if it matters).
    """
    staying = [n for n in scope.networks.values() if n.id != leaving.id]
    idle = _idle(staying, shared, limited=False)
    kept = _idle(staying, shared, limited=True)
    return idle if idle == kept or unlimited() else kept


def _idle(
    staying: Sequence[Network], shared: Sequence[Resource], *, limited: bool
) -> list[Resource]:
    """The same where egress policies stay (``limited``), or none (pure)."""
    others = {n.firewall for n in staying}
    families = {
        family
        for network in staying
        if network.firewall == "iptables"
        for family in network.families
    }
    return [
        row
        for row in shared
        if (row.role == "base" and provision.idle_base(firewall_spec(row), others, limited=limited))
        or (row.role == "pass" and firewall_spec(row)["family"] not in families)
    ]


def _off_bridge(
    row: Resource, every: Sequence[Link], addresses: Sequence[Address], filtered: Collection[int]
) -> list[str]:
    """The commands that take off a bridge what others put on it."""
    own = next(link for link in every if link.ifindex == row.ifindex)
    return taken_away(own, every, addresses, filtered, row.addresses)


def _refuse_dependents(runtime: Runtime, network: Network, rows: Sequence[Resource]) -> None:
    """Refuse before anything is touched if others' things stand on the bridge."""
    bridges = [row for row in rows if row.kind == Kind.BRIDGE and row.life == runtime.life.id]
    indexes = [row.ifindex for row in bridges]
    links = Links()
    try:
        every = links.all()
        addresses = [each for index in indexes for each in links.addresses(index)]
        filtered = links.filtered_among(indexes)
    except DumpInterrupted as problem:
        raise Contended(
            "the host's links changed too fast to be listed", hint="try again"
        ) from problem
    except OSError as problem:
        if forbidden(problem):
            raise NotPermitted(
                "the host's links may not be read", hint="run hvtx as root"
            ) from problem
        raise HostRefused(f"the host's links could not be listed: {problem.strerror}") from problem
    finally:
        links.close()
    for row in bridges:
        index = row.ifindex
        things = [link.name for link in every if index in (link.master, link.lower)]
        things += put_by_others(index, addresses, row.addresses)
        for link in every:
            things += filters_on(link, filtered) if link.ifindex == index else []
        if things:
            raise Conflict(
                f"foreign resources use bridge {row.key}: {', '.join(things)}",
                hint="; ".join(
                    (
                        *_off_bridge(row, every, addresses, filtered),
                        f"hvtx network rm {network.name}",
                    )
                ),
            )
