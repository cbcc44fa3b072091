"""`network create`: what was asked for, checked and described; `default`, where it is needed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hvtx.engine import notice
from hvtx.engine.network_build import (
    build_network,
    host_prefixes,
    refuse_taken_subnet,
    resolved_networks,
)
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import all_networks
from hvtx.errors import (
    Conflict,
    HostRefused,
    NotFound,
    UsageError,
    advised,
)
from hvtx.host.links import Links
from hvtx.model.address import family_of, is_ipv6
from hvtx.model.vm import Network
from hvtx.planner import provision
from hvtx.planner.scope import NetworkScope
from hvtx.store import records

DEFAULT = "default"


class NetworkWish(NamedTuple):
    """What a person asked for; checked, but not yet known to be free."""

    name: str
    subnets: tuple[str, ...] = ()
    bridge: str | None = None
    mtu: int = 1500
    nat: bool = True
    isolate: bool = False


def parse_wish(
    name: str, subnets: Sequence[str], bridge: str | None, mtu: int, *, nat: bool, isolate: bool
) -> NetworkWish:
    """Check what was written; raises UsageError."""
    from hvtx.planner import addressing

    addressing.parse_name(name, "network")
    with advised("take a private one with room for guests, for instance 10.77.0.0/24 or fd77::/64"):
        parsed = tuple(addressing.parse_subnet(subnet) for subnet in subnets)
    if not parsed:
        raise UsageError("a network needs a --subnet", hint="for instance --subnet 10.77.0.0/24")
    families = [family_of(subnet) for subnet in parsed]
    if len(parsed) > 2 or len(set(families)) != len(families):
        raise UsageError(
            "a network has at most one IPv4 and one IPv6 subnet",
            hint="make another network; a VM may have several: --network N --network M",
        )
    if bridge is not None:
        addressing.parse_device(bridge)
    least = 1280 if 6 in families else 576
    most = 65521  # of a TAP device: 65535 less an Ethernet header (tun_net_initialize)
    if not least <= mtu <= most:
        raise UsageError(
            f"--mtu {mtu} is not between {least} and {most}",
            hint="1500 is Ethernet's; IPv6 needs 1280 at least",
        )
    return NetworkWish(name, tuple(sorted(parsed, key=family_of)), bridge, mtu, nat, isolate)


def create_network(runtime: Runtime, wish: NetworkWish) -> Network:
    """Make a network, whole or not at all.

    Raises Conflict (name, bridge or subnet taken), NotPermitted, HostRefused (undone), Busy.
    """
    runtime.enter()
    runtime.lock("network", wish.name)
    runtime.lock("all", "networks")
    scope = resolved_networks(runtime, all_networks(runtime))
    return _create(runtime, wish, scope)


def _create(runtime: Runtime, wish: NetworkWish, scope: NetworkScope) -> Network:
    """Make it, under the locks; ``scope`` are all networks."""
    _check_free(scope, wish)
    _warn_of_public(wish.subnets)
    network = _describe(runtime, wish)
    rows = build_network(runtime, network, scope, "network-create", new=True)
    if network.firewall == "iptables":
        from hvtx.engine import passes

        passes.settle(runtime, scope.with_network(network, rows), locked=True)
    return network


def _warn_of_public(subnets: Iterable[str]) -> None:
    from hvtx.planner import addressing

    for subnet in subnets:
        if addressing.is_public(subnet):
            notice.warning(
                f"{subnet} are public addresses: unless they are yours, whoever has them in the"
                " world is not reached from this host and its guests any more"
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
        runtime.unlock("network", name)  # to be had alone: two that share it would wait for ever
        return _make_default(runtime)
    raise NotFound(
        f"network {name!r} was left half-made or half-removed by an interrupted command",
        hint="`hvtx recover` takes it back; then make it again: hvtx network create"
        f" {name} --subnet …",
    )


def _make_default(runtime: Runtime) -> Network:
    """Make the network ``default`` from a free private /24; it stays locked against removal."""
    runtime.lock("network", DEFAULT)
    runtime.lock("all", "networks")
    try:
        scope = resolved_networks(runtime, all_networks(runtime))
        network = _named(scope, DEFAULT)  # another process may have made it
        if network is None or network.id in scope.provisional:  # the latter: what cannot go
            wish = NetworkWish(DEFAULT, (_free_subnet(scope.networks.values()),))
            network = _create(runtime, wish, scope)
            words = f"{', '.join(network.subnets)} on bridge {network.bridge}"
            notice.note(f"there was no network yet; network {DEFAULT} is made: {words}")
    finally:
        runtime.unlock("all", "networks")
    runtime.lock("network", DEFAULT, shared=True)
    return network


def default_draft(runtime: Runtime) -> Network:
    """The network ``default`` as it is, or as :func:`take_network` would make it now."""
    known = runtime.read(records.networks)
    found = next((network for network in known if network.name == DEFAULT), None)
    return found or _describe(runtime, NetworkWish(DEFAULT, (_free_subnet(known),)))


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
        hint="make one: hvtx network create default --subnet …",
    )


def _check_free(scope: NetworkScope, wish: NetworkWish) -> None:
    from hvtx.planner import addressing

    if _named(scope, wish.name):
        raise Conflict(f"network {wish.name!r} exists already", hint="hvtx network ls")
    known = _subnets_of(scope.networks.values())
    for subnet in wish.subnets:
        taken = addressing.overlap(subnet, known)
        if taken:
            raise Conflict(f"{subnet} overlaps {taken} of another network", hint="hvtx network ls")
    refuse_taken_subnet(wish.subnets)
    if wish.bridge is not None:
        links = Links()
        try:
            if links.get(name=wish.bridge) is not None:
                raise Conflict(
                    f"a device named {wish.bridge} exists already",
                    hint="choose another --bridge, or leave it away",
                )
        finally:
            links.close()


def _subnets_of(networks: Iterable[Network]) -> list[str]:
    return [subnet for network in networks for subnet in network.subnets]


def _describe(runtime: Runtime, wish: NetworkWish) -> Network:
    from hvtx.planner import addressing

    mac = provision.guest_mac(os.urandom(5))
    six = any(map(is_ipv6, wish.subnets))
    return Network(
        id=os.urandom(16).hex(),
        name=wish.name,
        bridge=wish.bridge or provision.bridge_name(os.urandom(8)),
        mac=mac,
        mtu=wish.mtu,
        nat=wish.nat,
        isolate=wish.isolate,
        firewall=_choose_firewall(runtime),
        subnets=wish.subnets,
        gateways=tuple(addressing.gateway_of(subnet) for subnet in wish.subnets),
        gateway6=provision.link_local(mac) if six else None,
    )


def _choose_firewall(runtime: Runtime) -> str:
    """``auto``: iptables only where a legacy table is in use and nftables is not.

    Raises HostRefused where that would be it and it cannot work.
    """
    if runtime.settings.firewall != "auto":
        return runtime.settings.firewall
    from hvtx.host import xtblob, xtlack

    if not any(xtblob.in_use(family) for family in (4, 6)):
        return "nftables"
    from hvtx.host.nfnetlink import Nftables

    nftables = Nftables()
    try:
        strangers = any(not rule.table.startswith("hvtx-") for rule in nftables.rules())
    finally:
        nftables.close()
    if strangers:
        return "nftables"
    lack = xtlack.lack()
    if lack is not None:
        raise HostRefused(
            "this host's own rules stand in legacy iptables tables, where guests of another"
            f" backend may not pass, but {lack.message}",
            hint=lack.hint,
        )
    return "iptables"
