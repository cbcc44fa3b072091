"""Routes, policy rules, and what is asked of them. Values only."""

from __future__ import annotations

from hvtx.model.typed import NamedTuple

LOCAL, MAIN, DEFAULT = 255, 254, 253  # tables (include/uapi/linux/rtnetlink.h)
TABLES = {LOCAL: "local", MAIN: "main", DEFAULT: "default"}


class Route(NamedTuple):
    """A prefix that the host routes somewhere, or has an address in."""

    prefix: str
    device: int  # index; 0 where it leads nowhere (blackhole) or to several
    table: int
    kind: str = "unicast"  # unicast, local, broadcast, blackhole, unreachable, prohibit, throw …
    metric: int = 0
    devices: tuple[int, ...] = ()  # of the next hops, where there are several
    source: str | None = None  # only for packets from this prefix (IPv6)


class OwnRoute(NamedTuple):
    """A route that the kernel makes with an address on a device."""

    prefix: str
    table: int
    kind: str  # unicast, local, broadcast, multicast
    source: str  # the address


class Rule(NamedTuple):
    """A policy rule as ``ip rule`` shows it; None and 0 stand for a selector that is not given."""

    pref: int
    action: str  # lookup, goto, nop, blackhole, unreachable, prohibit
    table: int = 0
    target: int = 0  # of goto: the pref where it goes on
    source: str | None = None  # prefixes
    destination: str | None = None
    iif: str | None = None
    oif: str | None = None
    mark: int = 0
    mask: int = 0
    users: tuple[int, int] | None = None  # ids, both ends included
    protocol: int = 0
    sports: tuple[int, int] | None = None
    dports: tuple[int, int] | None = None
    tos: int = 0
    l3mdev: bool = False  # matches what belongs to a VRF
    inverted: bool = False  # ``not``
    suppress: int = -1  # a route with a prefix no longer than this does not count


class Packet(NamedTuple):
    """A packet that is about to be routed; sent by root where the host sends it."""

    destination: str
    source: str | None = None  # None: the host has not chosen one yet
    iif: int = 0  # the index of the device that it came by; 0: the host sends it
    device: str = "lo"  # the name of that device; lo as the kernel has it for the host's own
    oif: int = 0  # a VRF that it is bound to
    protocol: int = 6
    dport: int = 0
    sport: int = 0
    mark: int = 0


class Answer(NamedTuple):
    """Where the kernel sends a packet.

    ``errno`` is 0 where there is a way. Else: ENETUNREACH: no route; EHOSTUNREACH: unreachable, or
    a device that does not forward; EACCES: prohibit; EINVAL: blackhole, or a source that cannot be;
    EXDEV: refused by rp_filter.
    """

    device: int  # index of the one it leaves by
    table: int
    local: bool  # it is for the host itself
    errno: int = 0
    gateway: str | None = None


class Found(NamedTuple):
    """The rule that decides, and the route of its table (None: the rule itself refuses)."""

    rule: Rule
    route: Route | None


class Ask(NamedTuple):
    """One packet of a flow that guests are promised, and where it has to go."""

    way: str  # in words: "host to guest"
    packet: Packet
    goal: str  # "bridge": out by the network's bridge; "local": the host's; "world": to some device


class Place(NamedTuple):
    """A device by which the world is reached, and an address beyond it."""

    ifindex: int
    name: str
    address: str
