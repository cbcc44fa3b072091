"""Notes for `explain` on unowned addresses, and on ports that others publish. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from hvtx.model.resource import Address, Entry, Link, link_called
from hvtx.model.vm import Network, Publish
from hvtx.planner.peer_ports import published_by_others

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def read_address(text: str) -> IpAddress | None:
    """An address as people write it: in brackets, with a prefix length or a zone; None if none."""
    bare = text[1:-1] if text[:1] == "[" and text[-1:] == "]" else text
    if "%" in bare:
        bare = bare.partition("%")[0]
    try:
        return ipaddress.ip_interface(bare).ip
    except ValueError:
        return None


def zone_of(text: str) -> str:
    """What stands behind ``%`` in an address as `read_address` takes it; empty without."""
    return text.partition("%")[2].removesuffix("]").partition("/")[0]


def device_of(zone: str, address: IpAddress, links: Sequence[Link]) -> Link | None:
    """The device that has a link-local address of IPv6, by the zone behind it (RFC 4007, 11).

    None where the zone names none, and for other addresses: they are the same on every device.
    """
    if address.version == 4 or not address.is_link_local:
        return None
    return _named(zone, links)


def _named(zone: str, links: Sequence[Link]) -> Link | None:
    by_index = (link for link in links if zone == str(link.ifindex))
    return link_called(links, zone) or next(by_index, None)


def zone_notes(
    zone: str, address: IpAddress, links: Sequence[Link], networks: Iterable[Network]
) -> tuple[str, ...]:
    """What is to be told of the zone that was asked for, where it decides nothing."""
    if not zone or device_of(zone, address, links) is not None:
        return ()
    if _named(zone, links) is not None:
        return (f"{zone!r} behind '%' says nothing: only fe80::/10 is another on each device",)
    bridge = next((network.bridge for network in networks if network.name == zone), None)
    whose = f"; the bridge of network {zone!r} is {bridge}" if bridge else ""
    return (f"{zone!r} behind '%' is no device of this host{whose}",)


def network_of(networks: Iterable[Network], address: IpAddress) -> tuple[Network, str] | None:
    """The network whose subnet an address is in, with that subnet."""
    for network in networks:
        for cidr in network.subnets:
            if address in ipaddress.ip_network(cidr):
                return network, cidr
    return None


def use_of(network: Network, cidr: str, address: IpAddress) -> str:
    """What an address of a network's subnet that nobody has is for."""
    subnet = ipaddress.ip_network(cidr)
    if address == subnet.network_address:
        return f"the network address of network {network.name!r}: no guest can have it"
    if subnet.version == 4 and address == subnet.broadcast_address:
        return f"the broadcast address of network {network.name!r}: no guest can have it"
    if str(address) in network.gateways:
        return f"the gateway's address of network {network.name!r}, and on no device: hvtx repair"
    return f"free: in the subnet of network {network.name!r}, leased to nobody"


def taken_by_host(networks: Iterable[Network], address: IpAddress) -> str:
    """What follows for guests where the host itself has an address of theirs; else empty."""
    found = network_of(networks, address)
    if found is None:
        return ""
    return f"; in the subnet of network {found[0].name!r}, which leases it to no guest"


def nearest_first(addresses: Iterable[Address], wanted: str) -> list[Address]:
    """The host's addresses: those with just the ``wanted`` subnet first, single ones last."""

    def place(own: Address) -> tuple[bool, int]:
        subnet = ipaddress.ip_interface(own.address).network
        return str(subnet) != wanted, subnet.prefixlen

    return sorted(addresses, key=place)


def published_elsewhere(
    entries: Iterable[Entry], installation: str, asked: Publish, *, both: bool
) -> list[tuple[Publish, str]]:
    """Ports that other installations publish, and which; ``both``: of either protocol."""
    found = published_by_others(list(entries), installation)
    return sorted(
        {
            (port, owner)
            for port, owner in found
            if asked._replace(protocol=port.protocol if both else asked.protocol).collides(port)
        },
        key=repr,
    )


def touch(wanted: ipaddress.IPv4Network | ipaddress.IPv6Network, cidr: str) -> bool:
    """Whether two subnets share addresses, the whole internet aside."""
    own = ipaddress.ip_network(cidr)
    return wanted.version == own.version and bool(wanted.prefixlen) and wanted.overlaps(own)


def listed(words: list[str], most: int = 6) -> str:
    """Some of many words."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more
