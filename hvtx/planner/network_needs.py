"""What networks need before VMs start in them, from the record and what was looked at. Pure.

It is nearly always nothing. Who looks is :mod:`hvtx.engine.network_needs`; what is needed is done
by :mod:`hvtx.engine.network_upkeep`, which no other start loads.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from hvtx.model.firewall import firewall_spec
from hvtx.model.policy import Policy
from hvtx.model.resource import FIREWALL_KINDS, Resource, State
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Network, Vm
from hvtx.planner import egress, provision
from hvtx.planner.scope import NetworkScope

Policies = Mapping[str, Collection[Policy]]  # of guests, by network (its id)


class Needs(NamedTuple):
    """What is to be done, in this order; of each kind nothing, where it is false."""

    anew: Sequence[Resource] = ()  # tables and chains that an earlier version made otherwise
    missing: Sequence[Network] = ()  # those without a bridge in this life of the host
    services: bool = False  # some have DHCP and DNS: whether these run is to be looked at
    accepts: bool = False  # others may have filters, or had: so are the accepts in them
    tables: Sequence[str] = ()  # what egress policies stand on, and nothing did before


def needs_of(
    scope: NetworkScope,
    policies: Policies,
    *,
    outdated: Callable[[Resource], bool],
    filters: bool,
) -> Needs:
    """What the networks of a scope need for guests with these policies.

    ``outdated``: whether an earlier version made what a row stands for otherwise. ``filters``:
    whether guests may have to pass a filter of others.
    """
    return Needs(
        made_otherwise(scope.rows, scope.networks.values(), scope.life, outdated),
        scope.missing(),
        any(network.dhcp for network in scope.networks.values()),
        filters,
        missing_tables(scope, policies),
    )


def policies_of(vms: Iterable[Vm]) -> Policies:
    """The policies of VMs, by the networks that they are in."""
    found: dict[str, list[Policy]] = {}
    for vm in vms:
        for interface in vm.interfaces:
            found.setdefault(interface.network, []).append(vm.policy)
    return found


def missing_tables(scope: NetworkScope, policies: Policies) -> list[str]:
    """The bases that egress policies stand on and that nothing has needed before."""
    there = [firewall_spec(row) for row in scope.bases()]
    found: dict[str, None] = {}
    for network in limited(scope, policies):
        found |= dict.fromkeys(provision.missing_bases(network.firewall, there, limited=True))
    return list(found)


def limited(scope: NetworkScope, policies: Policies) -> list[Network]:
    """The networks in which a guest's policy lets it reach less than all."""
    return [
        network
        for network in scope.networks.values()
        if any(egress.is_limited(own, network.policy) for own in policies.get(network.id, ()))
    ]


def has_accepts(scope: NetworkScope) -> bool:
    """Whether accepts among others' rules are a network's by its record: no look is needed."""
    every = (*scope.every, *scope.networks.values())
    return bool(legacy(every)) or any(row.role == "passage" for row in scope.rows)


def legacy(networks: Iterable[Network]) -> list[str]:
    """Those of the networks (by id) that have the iptables backend."""
    return [network.id for network in networks if network.firewall == "iptables"]


def made_otherwise(
    rows: Iterable[Resource],
    networks: Iterable[Network],
    life: int,
    outdated: Callable[[Resource], bool],
) -> list[Resource]:
    """Those of the installation's rows and of the networks' whose rules are another version's.

    Of nftables only tables have rules.
    """
    own = {None, *legacy(networks)}
    return outdated_of([row for row in rows if row.network in own], life, outdated)


def outdated_of(
    rows: Iterable[Resource], life: int, outdated: Callable[[Resource], bool]
) -> list[Resource]:
    """Those of the rows, of this life of the host, that an earlier version made otherwise."""
    here = (State.COMMITTED, life)
    return [
        row
        for row in rows
        if row.kind in FIREWALL_KINDS
        and not row.imported
        and (row.state, row.life) == here
        and outdated(row)
    ]
