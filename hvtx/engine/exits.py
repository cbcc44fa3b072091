"""Whether this host has the device and the addresses by which a network's guests leave it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing

from hvtx.errors import Conflict, NotFound
from hvtx.host.links import Links
from hvtx.model.shell import word
from hvtx.model.vm import Network
from hvtx.planner.exits import Exits


def refuse_exits(exits: Exits, networks: Iterable[Network]) -> None:
    """Refuse what the host does not have, or what is a network's own; ``networks`` are all.

    Raises NotFound for a device, Conflict for an address and for what is of a network's bridge.
    """
    if exits == Exits():
        return
    bridges = {network.bridge: network.name for network in networks}
    with closing(Links()) as links:
        if exits.uplink is not None:
            if exits.uplink in bridges:
                raise Conflict(
                    f"{exits.uplink} is the bridge of network {bridges[exits.uplink]!r}",
                    hint="an uplink is a device where the world is: ip route show default",
                )
            if links.get(name=exits.uplink) is None:
                raise NotFound(
                    f"there is no device {exits.uplink!r}",
                    hint="ip link shows them; one that comes later is to be there once, now",
                )
        own = _own(links)
    for address in exits.sources:
        device = own.get(address)
        if device is None:
            raise Conflict(
                f"the address {address} is not this host's: nobody would answer to it here",
                hint=f"ip addr shows those that are; ip addr add {address} dev IFNAME adds it",
            )
        if device in bridges:
            raise Conflict(
                f"the address {address} is the gateway of network {bridges[device]!r}",
                hint="give an address of the device where the world is: ip addr",
            )


def _own(links: Links) -> dict[str, str]:
    names = {link.ifindex: link.name for link in links.all()}
    return {
        seen.address.partition("/")[0]: names.get(seen.ifindex, "?") for seen in links.addresses()
    }


def gone(networks: Iterable[Network]) -> list[tuple[Network, str, str]]:
    """What networks leave by and this host does not have: ``(network, words, what to do)``."""
    found = []
    bound = [network for network in networks if network.uplink or network.sources]
    if not bound:
        return []
    with closing(Links()) as links:
        names = {link.name: link.up for link in links.all()}
        own = _own(links)
    for network in bound:
        if network.uplink is not None and not names.get(network.uplink):
            state = "is down" if network.uplink in names else "is not there"
            words = f"its uplink {network.uplink} {state}, so its guests do not leave this host"
            fix = f"ip link set {word(network.uplink)} up"
            if network.uplink not in names:
                fix = f"make the device {network.uplink} again, then: {fix}"
            found.append((network, words, fix))
        found += [
            (
                network,
                f"its source address {address} is not this host's, so no answers come back",
                f"ip addr add {address} dev IFNAME",
            )
            for address in network.sources
            if address not in own
        ]
    return found
