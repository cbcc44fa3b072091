"""`network set`: a network is changed, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from hvtx.engine import exchange, living_network, network_service, privileges, uplink_ways
from hvtx.engine.exits import refuse_exits
from hvtx.engine.network_upkeep import carry_out, ensure_tables, settle_accepts
from hvtx.engine.registry import outdated
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import all_networks
from hvtx.engine.unsettled import resolved_networks
from hvtx.engine.vm_options import changed_policy, refuse_names, warn_of_useless
from hvtx.errors import Conflict, PartialFailure, UsageError
from hvtx.model.policy import NO_POLICY, names_in, policy_words, written
from hvtx.model.resource import PORTS, Kind, Resource
from hvtx.model.typed import TYPE_CHECKING, Any, NamedTuple
from hvtx.model.vm import Network, Vm
from hvtx.planner import given_once
from hvtx.planner.assigning import given_of, never_given
from hvtx.planner.changes import Difference
from hvtx.planner.exits import Exits, parse_exits
from hvtx.planner.network_needs import needs_of
from hvtx.planner.service_changes import asking
from hvtx.planner.uplink_ways import served
from hvtx.store import records
from hvtx.store.history import Event

if TYPE_CHECKING:
    from hvtx.planner.egress_rules import PolicyChange

_FIELDS = ("isolate", "policy", "dhcp", "uplink", "sources", "passage")


class Changes(NamedTuple):
    """What a person wants otherwise; None leaves it as it is."""

    isolate: bool | None = None
    policy: PolicyChange | None = None
    dhcp: bool | None = None
    uplink: str | None = None
    no_uplink: bool = False
    sources: Sequence[str] = ()  # in the place of all that there are
    no_source: bool = False
    passage: bool | None = None
    once: given_once.OfNetwork = given_once.OfNetwork()  # refused where it is to be otherwise

    def frees(self) -> bool:
        """Whether it only gives up what the network has: its service, its rules, its accepts."""
        policy = self.policy
        given_up = Changes(
            policy=policy if policy is not None and policy.only_clears() else None,
            dhcp=False if self.dhcp is False else None,
            passage=False if self.passage is False else None,
        )
        return self == given_up

    def accepted(self) -> bool:
        """Whether what others' filters are to accept follows from any of it."""
        asked = (self.dhcp, self.uplink, self.passage)
        return self.no_uplink or any(value is not None for value in asked)


def parse_changes(**wanted: Any) -> Changes:
    """Check what can be checked without the network. Raises UsageError."""
    of_creation = {field: wanted.pop(field, None) for field in given_once.OfNetwork._fields}
    of_creation["subnets"] = of_creation["subnets"] or ()
    once = given_once.parse_network(given_once.OfNetwork(**of_creation))
    found = Changes(**wanted, once=once)
    if found == Changes():
        raise UsageError(
            "there is nothing to set", hint="for instance: hvtx network set lab --isolate"
        )
    for option, given, off in (
        ("uplink", found.uplink is not None, found.no_uplink),
        ("source", bool(found.sources), found.no_source),
    ):
        if given and off:
            raise UsageError(
                f"--{option} and --no-{option} cannot be combined", hint="give one of them"
            )
    return found


def set_network(runtime: Runtime, name: str, wish: Changes) -> Network:
    """Change a network, and what its guests that are up have of it; the network as it is then.

    Raises UsageError (what does not go together), NotFound (the network, a device), Conflict (VMs
    are up that hear of it only at their start; what is given once; an address that is not the
    host's; a port that somebody has), HostRefused (all is as it was), PartialFailure (it is
    changed, and flows that were known before may go on), Busy.
    """
    runtime.enter()
    with_guests = wish.dhcp is not None or bool(wish.sources) or wish.no_source
    living_network.hold(runtime, name, guests=with_guests)
    scope = resolved_networks(runtime, all_networks(runtime))
    network = next((each for each in scope.networks.values() if each.name == name), None)
    if network is None:
        raise records.no_network(name, [each.name for each in scope.networks.values()])
    given_once.refuse_network(network, wish.once)
    wanted = _wanted(network, wish, runtime.settings.egress)
    if wanted == network:
        if wish.accepted():  # who made it so may have been cut off before this
            settle_accepts(runtime, scope, locked=True)
        return network
    read = runtime.read
    _refuse(read, network, wanted, scope.networks.values())
    if wanted.policy != network.policy:
        warn_of_useless(wanted.policy, [wanted])
    scope = scope.of(network)
    needs = needs_of(scope, {}, outdated=outdated, filters=False)
    scope = carry_out(runtime, scope, needs, {}, "set", resolved=True)
    ensure_tables(runtime, scope._replace(networks={wanted.id: wanted}), {wanted.id: [NO_POLICY]})
    if with_guests:
        guests = living_network.guests_of(runtime, network)
    else:
        life = runtime.life.id
        guests = living_network.newly_counted(read, runtime.try_lock, life, network, wanted)
    own = read(records.resources_of_network, network.id)
    where = runtime.life.id, runtime.store.run_directory
    difference = living_network.difference(network, wanted, own, guests, *where)
    unended: PartialFailure | None = None
    try:
        exchange.exchange(runtime, _change(network, wanted, difference), network=name)
    except PartialFailure as problem:  # it is changed all the same
        unended = problem
    if wish.accepted():
        settle_accepts(runtime, all_networks(runtime), locked=True)
    if wanted.uplink != network.uplink:
        published = read(records.committed_resources, Kind.PUBLISH)
        uplink_ways.tell(wanted, served(published, wanted.bridge))
    if unended is not None:
        raise unended
    return wanted


def _change(network: Network, wanted: Network, difference: Difference) -> exchange.Change:
    """What makes a network another (pure)."""
    return exchange.Change(
        difference,
        lambda sql: records.set_network(sql, wanted),
        lambda sql: records.set_network(sql, network),
        [Event("changed", f"network {network.name}: {_words(network, wanted)}")],
    )


def _wanted(network: Network, wish: Changes, egress: str | None) -> Network:
    """The network as it would be; ``egress``: the setting's mode. Raises UsageError."""
    given = {name: getattr(wish, name) for name in ("isolate", "dhcp", "passage")}
    changed = {name: value for name, value in given.items() if value is not None}
    exits = parse_exits(wish.uplink, wish.sources, families=network.families, nat=network.nat)
    if exits.uplink is not None or wish.no_uplink:
        changed["uplink"] = exits.uplink
    if exits.sources or wish.no_source:
        changed["sources"] = exits.sources
    policy = changed_policy(network.policy, wish.policy, egress)
    return network._replace(**changed, policy=policy)


def _refuse(
    read: Callable[..., Any], network: Network, wanted: Network, every: Iterable[Network]
) -> None:
    """Refuse what cannot be, before anything is changed."""
    privileges.need(legacy=network.firewall == "iptables")
    if wanted.isolate != network.isolate:
        _refuse_isolation(network, read(records.resources_of_vms), read(records.vm_names))
    uplink = wanted.uplink if wanted.uplink != network.uplink else None
    sources = wanted.sources if wanted.sources != network.sources else ()
    refuse_exits(Exits(uplink, sources), every)
    if wanted.dhcp and not network.dhcp:
        network_service.wanted("on", asked=True, subnets=network.subnets)
        pairs = read(records.resources_of_kind, Kind.VETH)
        _refuse_never_given(wanted, asking(read(records.vms), pairs))
    if network.dhcp and not wanted.dhcp:
        _refuse_own_names(wanted)
        for vm in read(records.vms):
            if any(interface.network == network.id for interface in vm.interfaces):
                _refuse_vm_names(vm, wanted)
    refuse_names(wanted.policy, [wanted])


def _refuse_never_given(network: Network, vms: Iterable[Vm]) -> None:
    """Refuse DHCP where VMs have addresses on record that it does not give."""
    found = {vm.name: (vm, asked) for vm in vms if (asked := never_given(vm, network))}
    if found:
        vm, asked = found[min(found)]
        name = vm.name
        hint = f"its runtime has to DEL {name}, which has {asked[0]}, and make it anew with another"
        if vm.attachment is None:
            hint = (
                f"remove {name}, which has {asked[0]}, and make it anew with another: hvtx vm stop"
            )
            hint += f" {name}; hvtx vm rm {name}"
        raise Conflict(
            f"network {network.name!r} can give what is in {given_of(network)} by"
            f" DHCPv6, and VMs have other addresses: {', '.join(sorted(found))}",
            hint=hint,
        )


def _refuse_own_names(network: Network) -> None:
    """Refuse to take away the DNS that names in the network's own policy are looked up by."""
    if names := names_in(network.policy.rules):
        raise Conflict(
            f"guests of network {network.name!r} may reach {written(names[0])} by its name, which"
            " the network's own DNS looks up",
            hint=f"hvtx network set {network.name} --no-dhcp --no-rules",
        )


def _refuse_vm_names(vm: Vm, network: Network) -> None:
    """Refuse to take away the DNS that names in a VM's policy are looked up by."""
    if names := names_in(vm.policy.rules):
        raise Conflict(
            f"VM {vm.name!r} may reach {written(names[0])} by its name, which the DNS of network"
            f" {network.name!r} looks up",
            hint=f"hvtx vm set {vm.name} --no-rules",
        )


def _refuse_isolation(network: Network, rows: Iterable[Resource], names: Mapping[str, str]) -> None:
    """Refuse while VMs are up: whom a guest's frames reach is held by a filter on its device too.

    ``rows`` are those of all VMs, ``names`` the VMs' by id.
    """
    up = {
        names.get(row.vm or "", "?"): row.kind
        for row in rows
        if row.kind in PORTS and row.network == network.id
    }
    if up:
        shown, one = ", ".join(sorted(up)), min(up)
        raise Conflict(
            f"VMs are up in network {network.name!r} ({shown}), and isolation is held by a filter"
            " on each one's device, which is made when it starts",
            hint=f"release the container's interface first: hvtx vm rm {one} --force"
            if up[one] == Kind.VETH
            else f"stop them first: hvtx vm stop {one}",
        )


def field_words(field: str, value: Any) -> str:
    """A field with its value, as the history tells it."""
    if field == "policy":
        return f"egress {policy_words(value)}"
    if field == "sources":
        return f"source {' '.join(value) or 'none'}"
    return f"{field} {str(value).lower() if field != 'uplink' else value or 'none'}"


def _words(network: Network, wanted: Network) -> str:
    return ", ".join(
        field_words(field, getattr(wanted, field))
        for field in _FIELDS
        if getattr(wanted, field) != getattr(network, field)
    )
