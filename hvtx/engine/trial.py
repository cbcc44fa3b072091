"""The flows of a network, tried one after the other in a replica."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterator, Mapping

from hvtx.host.inet import packed
from hvtx.host.replica import sources, topology
from hvtx.host.replica.causes import Cause, Leg, paths
from hvtx.host.replica.frames import Packet
from hvtx.host.replica.scratch import Owner, Picture, Scratch
from hvtx.host.replica.tries import Far, Tries
from hvtx.model.address import is_of
from hvtx.model.traffic import DHCP_SERVER, Flow, Way
from hvtx.model.typed import NamedTuple
from hvtx.planner.egress_flows import Sent
from hvtx.planner.promises import (
    GATEWAY_PORT,
    GUEST_PORT,
    PROTOCOLS,
    WORLD_PORT,
    Guest,
    Port,
    Promise,
)
from hvtx.rulesets.packing import link_local

Result = tuple[Flow, Cause | None]
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


class Exit(NamedTuple):
    """The way to the world: the device that routes say, an address beyond it, the host's own."""

    device: str
    address: bytes
    own: bytes | None


def owner_of(guest: Guest) -> Owner:
    """A guest as the far end of its device."""
    addresses = tuple(packed(a) for a in (guest.ipv4, guest.ipv6) if a)
    if guest.ipv6:
        addresses = (*addresses, link_local(guest.mac))
    return Owner(guest.device, bytes.fromhex(guest.mac.replace(":", "")), addresses)


_NUMBERS = {"tcp": 6, "udp": 17}


def _let(promise: Promise, guest: Guest, to: bytes, protocol: str, *, local: bool = False) -> bool:
    """Whether egress policies let a guest reach that address, as it is tried."""
    number = _NUMBERS.get(protocol, 1 if len(to) == 4 else 58)
    ports = GATEWAY_PORT if local else WORLD_PORT
    return promise.lets(guest, Sent(to, number, ports[protocol], local, gateway=local))


class Trial:
    """Tries what networks are promised."""

    def __init__(
        self, scratch: Scratch, exits: Mapping[int, Exit], uplinks: Mapping[str, Mapping[int, Exit]]
    ) -> None:
        """``exits`` are the ways to the world by family.

        ``uplinks`` are those of networks with an uplink, by name: to the world or to what is
        behind it; without one of a family they are promised no way out.
        """
        self._uplinks = uplinks
        self._scratch = scratch
        self._tries = Tries(scratch)
        self._exits = exits
        known = scratch.picture.topology.addresses
        self._own = {topology.address_of(body)[1] for body in known}

    def of(self, promise: Promise) -> Iterator[Result]:
        """Every flow of a network, and what stopped it."""
        for family in promise.network.families:
            guests = [guest for guest in promise.guests if guest.address(family)]
            if not guests:
                continue
            yield from self._before_an_address(promise, guests[0], family)
            ways = self._ways_out(promise, guests[0], family)
            for protocol in PROTOCOLS:
                for leave in ways:
                    if not _let(promise, guests[0], leave.address, protocol):
                        continue
                    yield self._to_world(promise, guests[0], leave, protocol)
                gateway = packed(promise.gateway(family))
                asked = _let(promise, guests[0], gateway, protocol, local=True)
                if asked and not _leads_to_guest(promise, protocol):
                    yield self._to_gateway(promise, guests[0], family, protocol)
                yield self._from_host(promise, guests[0], family, protocol)
                if len(guests) > 1 and not promise.network.isolate:
                    yield self._between(promise, guests[0], guests[1], family, protocol)
            for port in promise.ports:
                if (result := self._to_port(promise, port, family)) is not None:
                    yield result

    def _flow(
        self, promise: Promise, way: Way, family: int, protocol: str, port: int | None = None
    ) -> Flow:
        network = promise.network
        shown = port or None
        return Flow(way, family, protocol, network.name, network.bridge, shown)

    def _before_an_address(self, promise: Promise, guest: Guest, family: int) -> Iterator[Result]:
        """What a guest asks the network's service first, where there is one."""
        network, owner = promise.network, owner_of(guest)
        if not network.dhcp:
            return
        cause = self._tries.to_dhcp(owner, network.bridge, family)
        yield self._flow(promise, Way.GUEST_TO_DHCP, family, "udp", DHCP_SERVER[family]), cause
        if family == 6:
            cause = self._tries.to_router(owner, network.bridge)
            yield self._flow(promise, Way.GUEST_TO_ROUTER, family, "icmp"), cause

    def _ways_out(self, promise: Promise, guest: Guest, family: int) -> list[Exit]:
        """By which ways guests are to leave the host."""
        if promise.network.uplink is None:
            return [self._exits[family], *self._other_paths(promise, guest, family)]
        self._tries.exchange.equal = frozenset()
        own = self._uplinks.get(promise.network.name, {})
        return [own[family]] if family in own else []

    def _other_paths(self, promise: Promise, guest: Guest, family: int) -> list[Exit]:
        """The other ways to the world, where a route has several next hops."""
        leave, picture = self._exits[family], self._scratch.picture
        self._tries.exchange.equal = frozenset()
        if not topology.has_paths(picture.topology):
            return []
        own = packed(guest.address(family) or "")
        leg = Leg(promise.network.bridge, own, leave.address, "", True)
        found = paths(self._scratch.route, leg, promise.ifindex)
        names = {device.ifindex: device.name for device in picture.topology.devices}
        taken = next((i for i, way in found.items() if way.target == leave.address), 0)
        self._tries.exchange.equal = frozenset(names[i] for i in found if i in names)
        return [
            Exit(names[index], way.target, leave.own)
            for index, way in found.items()
            if index in names and index != taken
        ]

    def _to_world(self, promise: Promise, guest: Guest, leave: Exit, protocol: str) -> Result:
        bridge, family = promise.network.bridge, 4 if len(leave.address) == 4 else 6
        own, gateway = packed(guest.address(family) or ""), packed(promise.gateway(family))
        legs = there_and_back(
            Leg(bridge, own, leave.address, "", True),
            Leg(leave.device, leave.address, own, bridge, True),
            protocol, WORLD_PORT[protocol],
        )  # fmt: skip
        cause = self._tries.from_guest(
            owner_of(guest), gateway, leave.address, protocol, WORLD_PORT[protocol], legs,
            self._own if promise.network.nat else (),
        )  # fmt: skip
        return self._flow(promise, Way.GUEST_TO_WORLD, family, protocol), cause

    def _to_gateway(self, promise: Promise, guest: Guest, family: int, protocol: str) -> Result:
        own, gateway = packed(guest.address(family) or ""), packed(promise.gateway(family))
        bridge, port = promise.network.bridge, GATEWAY_PORT[protocol]
        to, back = Leg(bridge, own, gateway, ""), Leg("", gateway, own, bridge)
        legs = there_and_back(to, back, protocol, port)
        cause = self._tries.to_host(owner_of(guest), gateway, protocol, port, legs)
        return self._flow(promise, Way.GUEST_TO_GATEWAY, family, protocol, port), cause

    def _from_host(self, promise: Promise, guest: Guest, family: int, protocol: str) -> Result:
        own, port = packed(guest.address(family) or ""), GUEST_PORT[protocol]
        bridge, gateway = promise.network.bridge, packed(promise.gateway(family))
        legs = [
            numbered(Leg("", source, own, bridge), protocol, dport=port)
            for source in (b"", gateway)
        ]
        legs.append(numbered(Leg(bridge, own, gateway, ""), protocol, sport=port))
        cause = self._tries.from_host(owner_of(guest), family, protocol, port, legs)
        return self._flow(promise, Way.HOST_TO_GUEST, family, protocol), cause

    def _between(
        self, promise: Promise, one: Guest, other: Guest, family: int, protocol: str
    ) -> Result:
        port = GUEST_PORT[protocol]
        cause = self._tries.between(owner_of(one), owner_of(other), family, protocol, port, [])
        return self._flow(promise, Way.GUEST_TO_GUEST, family, protocol), cause

    def _to_port(self, promise: Promise, port: Port, family: int) -> Result | None:
        """A connection from the world; None where it is of another family, or of the host only."""
        guest, leave = port.guest.address(family), self._exits[family]
        target, into = leave.own, leave
        if port.host_ip and port.host_ip not in ("0.0.0.0", "::"):  # noqa: S104
            if not is_of(port.host_ip, family):
                return None
            target = packed(port.host_ip)
            found = beyond(self._scratch.picture, target)
            if found is None:
                return None
            if found.device != leave.device:
                into = found
        elif port.host_ip and (port.host_ip == "::") != (family == 6):
            return None
        device = self._scratch.picture.device(into.device)
        end = far_end(self._scratch, into.device)
        if guest is None or target is None or device is None or end is None:
            return None
        own, bridge, name = packed(guest), promise.network.bridge, port.guest.device
        legs = there_and_back(
            Leg(into.device, into.address, own, bridge, True),
            Leg(bridge, own, into.address, "" if self._tries.exchange.equal else into.device, True),
            port.protocol, port.guest_port,
        )  # fmt: skip

        def arrives(seen: Packet) -> bool:
            return seen.device == name and seen.target == own and seen.ports[1] == port.guest_port

        def asked_by(address: bytes) -> Cause | None:
            return self._tries.from_world(
                Far(end, address), device.mac, target, port.protocol, port.host_port, arrives, legs,
                (owner_of(port.guest),),
            )  # fmt: skip

        cause = self._but_for(asked_by(into.address), family, target, asked_by)
        flow = self._flow(promise, Way.WORLD_TO_PORT, family, port.protocol, port.host_port)
        return flow, cause

    def _but_for(
        self, cause: Cause | None, family: int, target: bytes,
        asked_by: Callable[[bytes], Cause | None],
    ) -> Cause | None:  # fmt: skip
        """What stops the world at a port, if it stops the host's neighbours and named ones too."""
        if cause is None or cause.by not in ("nft", "legacy"):
            return cause
        picture = self._scratch.picture
        near = beyond(picture, target)
        some = [] if near is None else [near.address]
        some += sources.of(cause, family, picture.legacy.get(family, ""))
        for address in dict.fromkeys(some):
            if address not in self._own and asked_by(address) is None:
                shown = socket.inet_ntop(_FAMILIES[family], address)
                return cause._replace(by="some", what=f"{cause.what} (not from {shown})".strip())
        return cause


_NUMBERS = {"tcp": 6, "udp": 17}
_ICMP = {4: 1, 16: 58}


def numbered(leg: Leg, protocol: str, sport: int = 0, dport: int = 0) -> Leg:
    """A leg with what rules can know of its packets."""
    number = _NUMBERS.get(protocol) or _ICMP[len(leg.target)]
    return leg._replace(protocol=number, sport=sport, dport=dport)


def there_and_back(there: Leg, back: Leg, protocol: str, port: int) -> list[Leg]:
    """The two ways of a flow to a port."""
    return [numbered(there, protocol, dport=port), numbered(back, protocol, sport=port)]


def _leads_to_guest(promise: Promise, protocol: str) -> bool:
    """Whether what is asked of the gateway is published, and so some guest's to answer."""
    asked = (protocol, GATEWAY_PORT[protocol])
    return any((port.protocol, port.host_port) == asked for port in promise.ports)


def far_end(scratch: Scratch, device: str) -> str | None:
    """Where frames for a device come in: itself, or a port of it that is nobody's of ours."""
    if scratch.is_world(device):
        return device
    master = scratch.picture.device(device)
    if master is None:
        return None
    ports = [d for d in scratch.picture.topology.devices if d.master == master.ifindex]
    ports.sort(key=lambda d: (d.kind in ("tun", "veth"), not d.up))
    return next((d.name for d in ports if scratch.is_world(d.name)), None)


def beyond(picture: Picture, own: bytes) -> Exit | None:
    """Somebody beyond the device that has an address of the host; None if none has it."""
    every = list(picture.addresses())
    for name, address, length in every:
        if address == own:
            other = neighbour_of(address, length, {mine for _, mine, _ in every})
            return None if other is None or name == "lo" else Exit(name, other, own)
    return None


def neighbour_of(address: bytes, length: int, mine: Collection[bytes] = ()) -> bytes | None:
    """Another address in the same prefix, none of the host's (``mine``); None where there is none.

    What says that it comes from an address of the host is dropped as martian. Pure.
    """
    bits = len(address) * 8
    if length >= bits:
        return None
    number = int.from_bytes(address, "big")
    mask = (1 << (bits - length)) - 1
    host, base = number & mask, number & ~mask
    # of more candidates than the host has addresses one is nobody's of the host's
    for other in (host ^ 3, host ^ 1, *range(1, min(mask, len(mine) + 3))):
        found: bytes = (base | (other & mask)).to_bytes(len(address), "big")
        if (0 < other < mask or mask == 1) and found != address and found not in mine:
            return found
    return None
