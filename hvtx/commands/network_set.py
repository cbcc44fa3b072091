"""`network set`: a network is changed, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from hvtx.engine import egress_base, exchange
from hvtx.engine.network_build import ensure_networks, resolved_networks
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import all_networks
from hvtx.engine.vm_options import changed_policy
from hvtx.errors import Conflict, UsageError
from hvtx.model.policy import NO_POLICY, policy_words
from hvtx.model.resource import Kind, Resource, State
from hvtx.model.vm import Network
from hvtx.planner import changes
from hvtx.planner.scope import NetworkScope
from hvtx.store import records
from hvtx.store.history import Event

if TYPE_CHECKING:
    from hvtx.planner.egress_rules import PolicyChange


class Changes(NamedTuple):
    """What a person wants otherwise; None leaves it as it is."""

    isolate: bool | None = None
    policy: PolicyChange | None = None


def parse_changes(**wanted: Any) -> Changes:
    """Check what can be checked without the network. Raises UsageError: nothing is wanted."""
    found = Changes(**wanted)
    if found == Changes():
        raise UsageError(
            "there is nothing to set", hint="for instance: hvtx network set lab --isolate"
        )
    return found


def set_network(runtime: Runtime, name: str, wish: Changes) -> Network:
    """Change a network; the network as it is then.

    Raises NotFound, Conflict (VMs are up that hear of it only at their start), HostRefused (all is
    as it was), Busy.
    """
    runtime.enter()
    runtime.lock("network", name)
    runtime.lock("all", "networks")
    scope = resolved_networks(runtime, all_networks(runtime))
    network = next((each for each in scope.networks.values() if each.name == name), None)
    if network is None:
        raise records.no_network(name, [each.name for each in scope.networks.values()])
    given = {field: value for field, value in wish._asdict().items() if value is not None}
    policy = changed_policy(network.policy, wish.policy)
    wanted = network._replace(**{**given, "policy": policy})
    if wanted == network:
        return network
    if wanted.isolate != network.isolate:
        with runtime.reading() as sql:
            _refuse_isolation(network, records.resources_of_vms(sql), records.vm_names(sql))
    scope = ensure_networks(runtime, scope.of(network), "set", settle=False, resolved=True)
    ahead = scope._replace(networks={wanted.id: wanted})
    scope = egress_base.ensure(runtime, NO_POLICY, ahead)._replace(networks={network.id: network})
    exchange.exchange(runtime, _change(scope, network, wanted), network=name)
    return wanted


def _refuse_isolation(network: Network, rows: Iterable[Resource], names: Mapping[str, str]) -> None:
    """Refuse while VMs are up: whom a guest's frames reach is held by a filter on its device too.

    ``rows`` are those of all VMs, ``names`` the VMs' by id.
    """
    up = {
        names.get(row.vm or "", "?")
        for row in rows
        if row.kind == Kind.TAP and row.network == network.id
    }
    if up:
        shown = ", ".join(sorted(up))
        raise Conflict(
            f"VMs are up in network {network.name!r} ({shown}), and isolation is held by a filter"
            " on each one's device, which is made when it starts",
            hint=f"stop them first: hvtx vm stop {min(up)}",
        )


def field_words(field: str, value: Any) -> str:
    """A field with its value, as the history tells it."""
    return f"egress {policy_words(value)}" if field == "policy" else f"{field} {value}".lower()


def _change(scope: NetworkScope, network: Network, wanted: Network) -> exchange.Change:
    rows = [
        row
        for row in scope.rows
        if row.network == network.id and (row.state, row.life) == (State.COMMITTED, scope.life)
    ]
    difference = changes.difference(
        rows, changes.of_network(network, rows), changes.of_network(wanted, rows)
    )
    words = ", ".join(
        field_words(field, getattr(wanted, field))
        for field in Changes._fields
        if getattr(wanted, field) != getattr(network, field)
    )
    return exchange.Change(
        difference,
        lambda sql: records.set_network(sql, wanted),
        lambda sql: records.set_network(sql, network),
        [Event("changed", f"network {network.name}: {words}")],
    )
