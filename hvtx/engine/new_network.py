"""A network is described and made: one that was asked for, or `default` where it is needed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress

from hvtx.engine import exits, notice
from hvtx.engine.network_build import (
    build_network,
    host_prefixes,
    refuse_taken_subnet,
)
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import all_networks
from hvtx.engine.unsettled import resolved_networks
from hvtx.engine.vm_options import refuse_names
from hvtx.errors import (
    Conflict,
    HostRefused,
    HvtxError,
    NotFound,
    ServiceRefused,
)
from hvtx.host.links import Links
from hvtx.model.address import is_ipv6
from hvtx.model.policy import NO_POLICY, Policy
from hvtx.model.typed import TYPE_CHECKING, NamedTuple
from hvtx.model.vm import DEFAULT, Network
from hvtx.planner import provision
from hvtx.planner.exits import NO_EXITS, Exits
from hvtx.planner.scope import NetworkScope
from hvtx.store import records

if TYPE_CHECKING:
    from hvtx.engine.blocks import Blocks


class NetworkRequest(NamedTuple):
    """What a person asked for; checked, but not yet known to be free."""

    name: str
    subnets: tuple[str, ...] = ()
    bridge: str | None = None
    mtu: int = 1500
    nat: bool = True
    isolate: bool = False
    passage: bool = True
    policy: Policy = NO_POLICY  # without a mode: that of the settings
    dhcp: bool | None = None  # None: as the setting says
    exits: Exits = NO_EXITS
    block_size: int | None = None  # prefix length of the cluster's blocks that guests lease from


def make_network(runtime: Runtime, request: NetworkRequest, scope: NetworkScope) -> Network:
    """Make it, under the locks; ``scope`` are all networks."""
    check_free(scope, request)
    _warn_of_public(request.subnets)
    network = describe(runtime, request)._replace(dhcp=_serves(runtime, request))
    refuse_names(network.policy, [network], new=True)
    agreed: AbstractContextManager[None] = nullcontext()
    if network.block_size is not None:
        from hvtx.engine import blocks

        agreed = _agreed(blocks.opened(runtime), network)
    with agreed:
        try:
            rows = build_network(runtime, network, scope, "network-create", new=True)
        except ServiceRefused as problem:
            if request.dhcp or runtime.settings.dhcp != "auto":
                raise  # it was asked for
            notice.warning(f"the network gets no DHCP and DNS: {problem.message}")
            network = describe(runtime, request)
            rows = build_network(runtime, network, scope, "network-create", new=True)
    from hvtx.engine.network_upkeep import settle_accepts  # hardly ever is one made

    settle_accepts(runtime, scope.with_network(network, rows), locked=True)
    return network


@contextmanager
def _agreed(opened: AbstractContextManager[Blocks], network: Network) -> Iterator[None]:
    """Say in the cluster what a network is; if it is not made, forget there what was not known."""
    with opened as cluster:
        first = cluster.define(network)
        try:
            yield
        except BaseException:
            if first:
                with suppress(HvtxError):  # the error at hand says more
                    cluster.source.undefine(network.name)
            raise


def _serves(runtime: Runtime, request: NetworkRequest) -> bool:
    """Whether the network gets a service; raises HostRefused, Conflict where it cannot have one."""
    setting = runtime.settings.dhcp
    if request.dhcp is False or (request.dhcp is None and setting == "off"):
        return False
    from hvtx.engine import network_service

    return network_service.wanted(setting, request.dhcp, request.subnets)


def _warn_of_public(subnets: Iterable[str]) -> None:
    from hvtx.planner import addressing

    for subnet in subnets:
        if addressing.is_public(subnet):
            notice.warning(
                f"{subnet} is a public subnet: unless it is yours, this host and its guests "
                "can no longer reach its owner"
            )


def take_network(runtime: Runtime, name: str) -> Network:
    """A network, locked against removal until this run ends; `default` is made if it is not there.

    What is read before the lock is held may be gone by then. Raises NotFound, Conflict, Busy.
    """
    runtime.lock("network", name, shared=True)
    with runtime.reading() as sql:
        found = records.find_network(sql, name)
        half = found is not None and found.id in records.provisional_networks(sql)
        if found is not None and not half:
            return found
        if found is None and name != DEFAULT:
            return records.get_network(sql, name)  # which says what was probably meant
    if name == DEFAULT:
        return _make_missing(runtime, NetworkRequest(DEFAULT))
    raise NotFound(
        f"network {name!r} is incomplete: a command was interrupted",
        hint="hvtx recover; then create it again:"
        f" hvtx network create {name} --subnet 10.77.0.0/24;"
        f" if something of it could not go: hvtx network rm {name}",
    )


def take_or_make(runtime: Runtime, request: NetworkRequest) -> Network:
    """The network of that name, made as asked for where it is not there, and locked the same.

    One that is there is taken as it is. Raises what :func:`take_network`, `network create` raise.
    """
    runtime.lock("network", request.name, shared=True)
    with runtime.reading() as sql:
        found = records.find_network(sql, request.name)
        if found is not None and found.id not in records.provisional_networks(sql):
            return found
    return _make_missing(runtime, request)


def _make_missing(runtime: Runtime, request: NetworkRequest) -> Network:
    """Make a network, `default` from a free private /24; it stays locked against removal.

    Its lock, which is shared, is let go: two that share it would wait for each other for ever.
    """
    name = request.name
    runtime.unlock("network", name)
    runtime.lock("network", name)
    with runtime.held("all", "networks"):
        scope = resolved_networks(runtime, all_networks(runtime))
        network = _named(scope, name)  # another process may have made it
        if network is None or network.id in scope.provisional:  # the latter: what cannot go
            if not request.subnets:
                request = request._replace(subnets=(_free_subnet(scope.networks.values()),))
            network = make_network(runtime, request, scope)
            words = f"{', '.join(network.subnets)} on bridge {network.bridge}"
            notice.note(f"there is no network {name} yet: creating it: {words}")
    runtime.lock("network", name, shared=True)
    return network


def default_draft(runtime: Runtime, *, serves: bool = False) -> Network:
    """The network ``default`` as it is, or as :func:`take_network` would make it now.

    ``serves``: with the look whether it would have a service.
    """
    known = runtime.read(records.networks)
    found = next((network for network in known if network.name == DEFAULT), None)
    if found is not None:
        return found
    request = NetworkRequest(DEFAULT, (_free_subnet(known),))
    draft = describe(runtime, request)
    return draft._replace(dhcp=_serves(runtime, request)) if serves else draft


def _named(scope: NetworkScope, name: str) -> Network | None:
    return next((network for network in scope.networks.values() if network.name == name), None)


def _free_subnet(known: Iterable[Network]) -> str:
    from hvtx.planner import addressing

    routes = [*host_prefixes(), *_subnets_of(known)]
    for subnet in addressing.private_subnets():
        if addressing.overlap(subnet, routes) is None:
            return subnet
    raise Conflict(
        "no private /24 is free for the network 'default'",
        hint="hvtx network create default --subnet fd77::/64, or an IPv4 subnet in its place",
    )


def check_anew(known: Iterable[Network], request: NetworkRequest) -> None:
    """Refuse what the host itself would refuse of a network, before one is removed for it.

    What the networks on record, ``known``, have of the host may be free by then: the plan judges
    that. Raises Conflict, NotFound.
    """
    from hvtx.planner import addressing

    networks = list(known)
    own = _subnets_of(networks)
    others = [each for each in request.subnets if addressing.overlap(each, own) is None]
    refuse_taken_subnet(others, block_size=request.block_size)
    exits.refuse_exits(request.exits, networks)
    if request.bridge not in {network.bridge for network in networks}:
        _refuse_device(request.bridge)


def check_free(scope: NetworkScope, request: NetworkRequest) -> None:
    """Raise Conflict where name, subnets, bridge or ways out are taken; NotFound for a device."""
    from hvtx.planner import addressing

    if _named(scope, request.name):
        hint = f"choose another name, or take it as it is: hvtx network show {request.name}"
        raise Conflict(f"network {request.name!r} exists already", hint=hint)
    known = _subnets_of(scope.networks.values())
    for subnet in request.subnets:
        taken = addressing.overlap(subnet, known)
        if taken:
            raise Conflict(f"{subnet} overlaps {taken} of another network", hint="hvtx network ls")
    refuse_taken_subnet(request.subnets, block_size=request.block_size)
    exits.refuse_exits(request.exits, scope.networks.values())
    _refuse_device(request.bridge)


def _refuse_device(name: str | None) -> None:
    if name is None:
        return
    with closing(Links()) as links:
        if links.get(name=name) is not None:
            raise Conflict(
                f"a device named {name} exists already",
                hint="choose another --bridge, or omit it",
            )


def _subnets_of(networks: Iterable[Network]) -> list[str]:
    return [subnet for network in networks for subnet in network.subnets]


def describe(runtime: Runtime, request: NetworkRequest) -> Network:
    """The network as it would be made, under an id and a bridge of its own; nothing is."""
    from hvtx.planner import addressing

    mac = provision.guest_mac(os.urandom(5))
    six = any(map(is_ipv6, request.subnets))
    return Network(
        id=os.urandom(16).hex(),
        name=request.name,
        bridge=request.bridge or provision.bridge_name(os.urandom(8)),
        mac=mac,
        mtu=request.mtu,
        nat=request.nat,
        isolate=request.isolate,
        firewall=_choose_firewall(runtime.settings.firewall),
        subnets=request.subnets,
        gateways=tuple(addressing.gateway_of(subnet) for subnet in request.subnets),
        gateway6=provision.link_local(mac) if six else None,
        uplink=request.exits.uplink,
        sources=request.exits.sources,
        passage=request.passage,
        policy=_policy(runtime, request.policy),
        block_size=request.block_size,
    )


def _policy(runtime: Runtime, asked: Policy) -> Policy:
    """What a new network's guests may reach: a default of the settings is kept with it."""
    return asked._replace(egress=asked.egress or runtime.settings.egress)


def _choose_firewall(asked: str) -> str:
    """The backend that is ``asked`` for a new network.

    ``auto``: iptables only where a legacy table is in use and nftables is not.
    Raises HostRefused where that would be it and it cannot work.
    """
    if asked != "auto":
        return asked
    from hvtx.host import xtblob, xtneeds

    if not any(xtblob.in_use(family) for family in (4, 6)):
        return "nftables"
    from hvtx.host.nfnetlink import Nftables

    nftables = Nftables()
    try:
        foreign_objects = any(not rule.table.startswith("hvtx-") for rule in nftables.rules())
    finally:
        nftables.close()
    if foreign_objects:
        return "nftables"
    lack = xtneeds.lack()
    if lack is not None:
        raise HostRefused(
            "this host's own rules stand in legacy iptables tables, where guests of another"
            f" backend may not pass, but {lack.message}",
            hint=lack.hint,
        )
    return "iptables"
