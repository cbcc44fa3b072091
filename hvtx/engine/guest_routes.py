"""Checks of guest packets' routes, by the kernel's routes and policy rules.

One lookup (``RTM_GETROUTE``) a kind of packet, with its real source and device. All rules and
routes are read only where an answer is wrong, to name what makes it so.
"""

from __future__ import annotations

import _socket as socket
import errno
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager

from hvtx.engine import notice
from hvtx.errors import Conflict, Contended, HostRefused
from hvtx.host import routes
from hvtx.host.links import Links
from hvtx.host.netlink import Channel, DumpInterrupted
from hvtx.host.sysctl import read as read_setting
from hvtx.model.address import family_of, is_ipv6, is_of
from hvtx.model.resource import Address, Resource
from hvtx.model.routing import Answer, Ask, Found, Packet, Place, Route, Rule
from hvtx.model.shell import word
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Network

# Addresses of the world, of which one is asked for: no packet is sent to either.
WORLD = {4: ("192.0.2.1", "9.9.9.9"), 6: ("2001:db8::1", "2620:fe::fe")}
_SETTLED_SECONDS = 1.0  # for routes of our own bridge that the kernel is about to make
_MOST_PLACES = 8  # devices with addresses, beside the one towards the world


class Look(NamedTuple):
    """What one look at the host goes by: a socket that stays open, and what was told by it."""

    links: Links
    local: routes.LocalTable


def look_by(links: Links) -> Look:
    """A look that begins now."""
    return Look(links, routes.LocalTable(links.channel))


@contextmanager
def _looking(given: Look | None) -> Iterator[Look]:
    """A look of somebody else, or one by a socket of its own."""
    if given is not None:
        yield given
        return
    with closing(Links()) as links:
        yield look_by(links)


class Stray(NamedTuple):
    """A packet that goes astray, and what sends it there, in words."""

    ask: Ask
    cause: str
    fix: str


def refuse_diverted(
    network: Network, bridge: Resource, guests: Sequence[str], look: Look | None = None
) -> None:
    """Raise Conflict if packets for a guest, or its own to its gateway, would go elsewhere.

    HostRefused where the bridge is down, or IPv6 is switched off there. Where others took the
    gateway's address off the bridge, its route went with it: no other route is to blame, and
    `repair` puts it back.
    """
    refuse_without_ipv6(network, bridge, guests)
    found = strays(network, bridge, guests, first=True, needed=True, look=look)
    stray = next(iter(found), None)
    if stray is not None and (lost := lost_gateways(network, bridge)):
        notice.warning(
            f"another program removed {', '.join(lost)} from bridge {bridge.key} of network "
            f"{network.name!r}: its guests are cut off until `hvtx repair` puts it back"
        )
        off = {family_of(gateway) for gateway in lost}
        left = [guest for guest in guests if family_of(guest) not in off]
        stray = next(iter(strays(network, bridge, left, first=True)), None)
    if stray is None:
        return
    raise Conflict(
        f"{stray.cause} diverts packets of the guests of network {network.name!r} "
        f"({stray.ask.way}, {stray.ask.packet.destination})",
        hint=stray.fix,
    )


def lost_gateways(network: Network, bridge: Resource) -> list[str]:
    """The gateway addresses that the bridge should have and has not."""
    links = Links()
    try:
        here = {a.address.partition("/")[0] for a in links.addresses(bridge.ifindex)}
    finally:
        links.close()
    return [gateway for gateway in network.gateways if gateway not in here]


def refuse_lost_subnet(network: Network, bridge: Resource, requested: Sequence[str]) -> None:
    """Raise Conflict where a VM would be lost with an address that it asks for, or with any.

    The first and the last address of a subnet stand for all.
    """
    from hvtx.planner import routing

    for subnet, gateway in network.ranges:
        mine = [ip for ip in requested if routing.within(ip, subnet)]
        if network.block_size is not None and not mine:
            continue  # routes to other hosts' blocks are to be there
        asked = mine or [routing.sample(subnet, gateway), routing.last(subnet, gateway)]
        if all(strays(network, bridge, [guest], first=True) for guest in asked):
            refuse_diverted(network, bridge, asked[:1])


def refuse_without_ipv6(network: Network, bridge: Resource, guests: Iterable[str]) -> None:
    """Raise HostRefused if IPv6 is off at a bridge that guests use IPv6 by."""
    if not any(map(is_ipv6, guests)):
        return
    if read_setting(f"net/ipv6/conf/{bridge.key}/disable_ipv6") == "1":
        raise HostRefused(
            f"IPv6 is switched off at bridge {bridge.key} of network {network.name!r}"
            f" (net.ipv6.conf.{bridge.key}.disable_ipv6 = 1)",
            hint="hvtx repair switches it on there, unless the whole host is without:"
            " sysctl -w net.ipv6.conf.all.disable_ipv6=0",
        )


def samples(network: Network) -> list[str]:
    """An address in each subnet that a guest could have: for a network without guests."""
    from hvtx.planner import routing

    if network.block_size is not None:
        return []  # which blocks are this host's is known with its guests
    return [routing.sample(subnet, gateway) for subnet, gateway in network.ranges]


def strays(
    network: Network,
    bridge: Resource,
    guests: Sequence[str],
    *,
    first: bool = False,
    needed: bool = False,
    look: Look | None = None,
) -> list[Stray]:
    """The packets for and from these guests that go astray; ``first``: no more than one.

    ``look`` is one that has just begun; without it there is one for this alone.
    Raises OSError if the kernel does not say, Contended; HostRefused where the bridge is ``needed``
    and down.
    """
    try:
        with _looking(look) as mine:
            return _strays(network, bridge, guests, mine, first=first, needed=needed)
    except DumpInterrupted as problem:
        words = "the host's addresses changed too fast to be listed"
        raise Contended(words, hint="try again") from problem


def _strays(
    network: Network,
    bridge: Resource,
    guests: Sequence[str],
    look: Look,
    *,
    first: bool,
    needed: bool,
) -> list[Stray]:
    index = bridge.ifindex
    found: list[Stray] = []
    channel = look.links.channel
    seen = look.links.get(ifindex=index)
    # No device, or one that is down and has no routes: whoever needs it says so.
    if needed and seen is not None and not seen.up:
        words = f"bridge {bridge.key} of network {network.name!r} is down: it leads nowhere"
        raise HostRefused(words, hint="hvtx repair")
    if seen is None or not seen.up:
        return []
    for subnet, gateway in network.ranges:
        family = family_of(subnet)
        own = [guest for guest in guests if is_of(guest, family)]
        off = family == 6 and read_setting(f"net/ipv6/conf/{seen.name}/disable_ipv6") == "1"
        if not own or off:  # without IPv6 it has no routes: the check damage tells
            continue
        bound = seen.master  # the VRF that an administrator put it into
        places = [] if bound else _places(look, index, family)
        cause = _Cause(family, subnet, gateway, bridge)
        for guest in own:
            for ask in _questions(guest, gateway, (index, bridge.key), places, bound):
                stray = _stray(channel, ask, cause)
                if stray is not None:
                    found.append(stray)
                    if first:
                        return found
    return found


def without_world(network: Network, bridge: Resource, guests: Sequence[str]) -> list[Stray]:
    """What guests send to the world and goes nowhere, although the host's own packets go there."""
    found = []
    index = bridge.ifindex
    channel = Channel(0)
    try:
        for guest in guests:
            family = family_of(guest)
            subnet, gateway = network.ranges[network.families.index(family)]
            known = [world for world in WORLD[family] if _reaches(channel, Packet(world))]
            asked = [
                Ask("guest to world", Packet(world, guest, index, bridge.key), "world")
                for world in known
            ]
            cause = _Cause(family, subnet, gateway, bridge)
            lost = [_stray(channel, ask, cause) for ask in asked]
            if lost and all(lost):
                found += [stray for stray in lost[:1] if stray is not None]
    finally:
        channel.close()
    return found


def _questions(
    guest: str, gateway: str, bridge: tuple[int, str], places: Sequence[Place], bound: int
) -> list[Ask]:
    from hvtx.planner import routing

    found = routing.asks(guest, gateway, bridge, places)
    if bound:  # what the host sends to a VRF's addresses is sent by who is bound to it
        found = [
            ask if ask.packet.iif else ask._replace(packet=ask.packet._replace(oif=bound))
            for ask in found
        ]
    return found


def _places(look: Look, bridge: int, family: int) -> list[Place]:
    """Devices by which the world is reached: the default route's, and those with addresses."""
    local = look.local.of(family)
    mine = {address for _, address in local}
    others = sorted({index for index, _ in local} - {bridge})
    found: dict[int, Place] = {}
    for index in others[:_MOST_PLACES]:
        near = _near(look.links.addresses(index), family, mine)
        if near is not None:
            found[index] = Place(index, "", near)
    for world in WORLD[family]:
        way = routes.ask(look.links.channel, Packet(world))
        if not way.errno and not way.local and way.device not in (0, bridge):
            found.setdefault(way.device, Place(way.device, "", world))
            break
    named = []
    for place in found.values():
        link = look.links.get(ifindex=place.ifindex)
        if link is not None and link.up:
            named.append(place._replace(name=link.name))
    return named


def _near(addresses: Iterable[Address], family: int, mine: Collection[bytes]) -> str | None:
    """A neighbour in the subnet of a link's first address of a family; None if it has none.

    ``mine`` are the host's own addresses, which no neighbour has.
    """
    for address in addresses:
        plain = address.address.partition("/")[0]
        if is_of(plain, family) and not plain.startswith(("fe80:", "127.")) and plain != "::1":
            return routes.beyond(address.address, WORLD[family][0], mine)
    return None


def _reaches(channel: Channel, packet: Packet) -> bool:
    answer = routes.ask(channel, packet)
    return not answer.errno and not answer.local


def _stray(channel: Channel, ask: Ask, cause: _Cause) -> Stray | None:
    from hvtx.planner import routing

    until = time.monotonic() + _SETTLED_SECONDS
    while True:
        answer = routes.ask(channel, ask.packet)
        if not routing.goes_astray(ask, answer, cause.bridge.ifindex):
            return None
        found = cause.of(ask.packet)
        if not cause.is_own(found) or answer.errno == errno.EXDEV or time.monotonic() > until:
            break
        time.sleep(0.002)
        cause.forget()
    silent = answer.errno == errno.EHOSTUNREACH and _does_not_forward(ask)
    if silent or cause.without_carrier():  # that another setting stops it is told elsewhere
        answer = routing.predicted(found)
        if not routing.goes_astray(ask, answer, cause.bridge.ifindex):
            return None
    words, fix = cause.told(found, answer, ask)
    return Stray(ask, words, fix)


def _does_not_forward(ask: Ask) -> bool:
    """Whether a device refuses to forward IPv4: its setting, not a route, stops the packet."""
    path = f"net/ipv4/conf/{ask.packet.device}/forwarding"
    return bool(ask.packet.iif) and is_of(ask.packet.destination, 4) and read_setting(path) == "0"


class _Cause:
    """All rules and routes of a family, read once when a first packet goes astray."""

    def __init__(self, family: int, subnet: str, gateway: str, bridge: Resource) -> None:
        self.family, self.subnet, self.gateway, self.bridge = family, subnet, gateway, bridge
        self._read: tuple[list[Rule], list[Route]] | None = None

    def _host(self) -> tuple[list[Rule], list[Route]]:
        if self._read is None:
            self._read = routes.rules(self.family), routes.routes(self.family)
        return self._read

    def forget(self) -> None:
        """Read them again when they are next asked for."""
        self._read = None

    def is_own(self, found: Found | None) -> bool:
        """Whether it is a route by our own bridge, which takes nothing away from it.

        A new address of IPv6 has its local route a moment later, by a worker of the kernel's
        (net/ipv6/addrconf.c, addrconf_dad_work).
        """
        route = found.route if found is not None else None
        return route is not None and route.device == self.bridge.ifindex

    def of(self, packet: Packet) -> Found | None:
        from hvtx.planner import routing

        return routing.find(*self._host(), packet)

    def without_carrier(self) -> bool:
        """Whether the kernel passes over routes by the bridge while no guest is there."""
        paths = [f"net/ipv{self.family}/conf/{name}/ignore_routes_with_linkdown"
                 for name in ("all", self.bridge.key)]  # fmt: skip
        return any(read_setting(path) == "1" for path in paths)

    def told(self, found: Found | None, answer: Answer, ask: Ask) -> tuple[str, str]:
        """What sends a packet astray, and how it finds its way again."""
        from hvtx.planner import own_routes, routing

        rules, every = self._host()
        packet = ask.packet
        if answer.errno in (errno.EXDEV, errno.EINVAL) and self.is_own(found) and packet.iif:
            path = f"net.ipv4.conf.{packet.device.replace('.', '/')}.rp_filter"
            return f"reverse path filtering ({path})", f"sysctl -w {word(path)}=2"
        own = (self.bridge.ifindex, self.bridge.key)
        if (lack := own_routes.lack(self.subnet, self.gateway, own, every)) is not None:
            return lack, "hvtx repair"
        if found is None:
            words = "no rule finds a route; that"
            if answer.errno == errno.EXDEV:
                words = "reverse path filtering (rp_filter)"
            return words, f"`ip {'-6 ' * (self.family == 6)}rule` shows what is asked"
        names = socket.if_nameindex()
        taken = [rule.pref for rule in rules]
        free = routing.fix(found, self.subnet, taken)
        if ask.goal == "world":
            free = routing.fix_out(found, self.bridge.key, taken, family=self.family)
        return routing.told(found, names), free


def taken_parts(network: Network, bridge: Resource, told: Sequence[Stray]) -> list[tuple[str, str]]:
    """Parts of a network's subnets, where no guest is yet, whose packets go elsewhere, in words."""
    from hvtx.planner import routing

    found: list[tuple[str, str]] = []
    every = routes.all_routes()
    known = {stray.cause for stray in told}
    for subnet, gateway in network.ranges:
        for route in routing.in_the_way(subnet, bridge.ifindex, every):
            whole = route.prefix.rpartition("/")[2] == subnet.rpartition("/")[2]
            if route.kind == "local" or whole:  # the whole is asked for by a sample
                continue
            guest = routing.sample(route.prefix, gateway)
            if guest in {p.ask.packet.destination for p in told} or guest == gateway:
                continue
            for stray in strays(network, bridge, [guest], first=True):
                if stray.cause not in known:
                    known.add(stray.cause)
                    words = f"{stray.cause} diverts a part of network {network.name!r}: a VM with"
                    words += f" {guest} would not be reached"
                    found.append((words, stray.fix))
    return found
