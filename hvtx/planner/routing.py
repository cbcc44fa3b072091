"""The required routes of guest packets, and the rules and routes that divert them. Pure.

The verdict is the kernel's (:mod:`hvtx.host.routes`). What is evaluated here only names its cause,
and stands in where the kernel cannot tell yet: routes through a bridge without a carrier on a host
that passes over them (``ignore_routes_with_linkdown``).
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable, Iterator, Sequence

from hvtx.model.address import is_ipv6
from hvtx.model.routing import LOCAL, MAIN, TABLES, Answer, Ask, Found, Packet, Place, Route, Rule

HALVES = 3  # prefixes up to this length are a default route in parts: 0.0.0.0/1, 2000::/3
_ENDS = frozenset({"blackhole", "unreachable", "prohibit"})
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp"}
_MANY_STEPS = 4096  # more than a host has rules; a goto only leads forward


# -- what is asked ---------------------------------------------------------------------------------


def asks(guest: str, gateway: str, bridge: tuple[int, str], places: Iterable[Place]) -> list[Ask]:
    """The packets that must find their way for a guest to have what it is promised.

    ``bridge`` is its index and name, ``places`` are where the world is (of the guest's family).
    """
    index, name = bridge
    found = [
        Ask("host to guest", Packet(guest), "bridge"),
        Ask("host to guest", Packet(guest, gateway), "bridge"),
        Ask("guest to gateway", Packet(gateway, guest, index, name), "local"),
    ]
    for place in places:
        came = Packet(guest, place.address, place.ifindex, place.name)
        found.append(Ask(f"world to guest, by {place.name}", came, "bridge"))
    return found


def goes_astray(ask: Ask, answer: Answer, bridge: int) -> bool:
    """Whether the packet goes elsewhere than it has to, or nowhere."""
    if answer.errno:
        return True
    if ask.goal == "local":
        return not answer.local
    if ask.goal == "bridge":
        return answer.local or answer.device != bridge
    return answer.local


def sample(subnet: str, gateway: str) -> str:
    """An address that a guest of the subnet could have."""
    import ipaddress

    base = ipaddress.ip_network(subnet).network_address + 1
    return str(base if str(base) != gateway else base + 1)


def last(subnet: str, gateway: str) -> str:
    """The last address that a guest of the subnet could have."""
    import ipaddress

    top = ipaddress.ip_network(subnet).broadcast_address - 1
    return str(top if str(top) != gateway else top - 1)


# -- naming the cause ------------------------------------------------------------------------------


def find(rules: Iterable[Rule], routes: Sequence[Route], packet: Packet) -> Found | None:
    """The rule and route that decide about a packet; None if none does.

    ``rules`` and ``routes`` are those of the packet's family. VRFs (l3mdev) are not known here.
    """
    ordered = sorted(rules, key=lambda rule: rule.pref)
    at = 0
    for _ in range(_MANY_STEPS):
        if at >= len(ordered):
            return None
        rule = ordered[at]
        at += 1
        if not matches(rule, packet):
            continue
        if rule.action == "goto":
            ahead = [n for n, r in enumerate(ordered) if r.pref >= rule.target and n >= at]
            at = ahead[0] if ahead else at
        elif rule.action in _ENDS:
            return Found(rule, None)
        elif rule.action == "lookup":
            route = best(routes, rule.table, packet.destination, packet.source)
            if route is not None and route.kind != "throw" and _length(route) > rule.suppress:
                return Found(rule, route)
    return None


def matches(rule: Rule, packet: Packet) -> bool:
    """Whether a rule speaks of a packet (net/core/fib_rules.c)."""
    fits = (
        within(packet.source, rule.source)
        and within(packet.destination, rule.destination)
        and rule.iif in (None, packet.device)
        and (rule.oif is None or bool(packet.oif))
        and not (packet.mark ^ rule.mark) & rule.mask
        and (rule.users is None or (not packet.iif and rule.users[0] == 0))
        and rule.protocol in (0, packet.protocol)
        and (rule.sports is None or rule.sports[0] <= packet.sport <= rule.sports[1])
        and (rule.dports is None or rule.dports[0] <= packet.dport <= rule.dports[1])
        and not rule.tos
        and (not rule.l3mdev or bool(packet.oif))
    )
    return fits is not rule.inverted


def within(address: str | None, prefix: str | None) -> bool:
    """Whether an address fits a selector; no prefix fits all, no address fits none."""
    import ipaddress

    if prefix is None:
        return True
    if address is None:
        return False
    return ipaddress.ip_address(address) in ipaddress.ip_network(prefix, strict=False)


def best(
    routes: Iterable[Route], table: int, destination: str, source: str | None = None
) -> Route | None:
    """The route of a table with the longest prefix, and of these the one with the lowest metric."""
    import ipaddress

    to = ipaddress.ip_address(destination)
    found = [
        route
        for route in routes
        if route.table == table
        and to in ipaddress.ip_network(route.prefix, strict=False)
        and within(source, route.source)
    ]
    return min(found, key=lambda route: (-_length(route), route.metric), default=None)


def predicted(found: Found | None) -> Answer:
    """What the kernel would answer, were every device up and with a carrier."""
    if found is None:
        return Answer(0, 0, False, errno.ENETUNREACH)
    if found.route is None or found.route.kind in _ENDS:
        return Answer(0, found.rule.table, False, errno.EHOSTUNREACH)
    return Answer(found.route.device, found.route.table, found.route.kind == "local")


def in_the_way(subnet: str, own: int, routes: Iterable[Route]) -> Iterator[Route]:
    """Routes for parts of a subnet, or for all of it, that do not lead to device ``own``."""
    import ipaddress

    mine = ipaddress.ip_network(subnet)
    for route in routes:
        other = ipaddress.ip_network(route.prefix, strict=False)
        if other.version != mine.version or route.kind == "throw":
            continue
        inner = other.prefixlen >= mine.prefixlen and other.overlaps(mine)
        if inner and own not in (route.device, *route.devices):
            yield route


def takes(route: Route) -> bool:
    """Whether a route, in whatever table, makes a prefix somebody's: no default, and no throw."""
    return route.table != LOCAL and route.kind != "throw" and _length(route) > HALVES


def is_default(route: Route) -> bool:
    """Whether a route leads to the world."""
    return route.kind == "unicast" and route.table != LOCAL and _length(route) <= HALVES


def fix(found: Found | None, subnet: str, taken: Iterable[int]) -> str:
    """How packets for a subnet find the bridge again, as commands that can be run.

    ``taken`` are the numbers of the rules that stand.
    """
    option = "-6 " if is_ipv6(subnet) else ""
    if found is None or found.rule.table in (MAIN, LOCAL):
        shows = f"`ip {option}route show table all` shows it"
        return f"{shows}; remove that route or address, or use another subnet"
    if found.rule.pref == 0:
        return f"give the rule a number above 0: ip {option}rule show"
    free = _free_before(found.rule.pref, taken)
    return f"ip {option}rule add to {subnet} lookup main pref {free}"


def fix_out(
    found: Found, bridge: str, taken: Iterable[int], *, family: int, reply: Packet | None = None
) -> str:
    """How what guests of a bridge send finds its way out again.

    ``reply``: of a published port; only packets like it need the way, the rest may go elsewhere.
    """
    option = "-6 " * (family == 6)
    if found.rule.table in (MAIN, LOCAL):
        return f"`ip {option}route show table all` shows it; remove that route"
    if found.rule.pref == 0:
        return f"give the rule a number above 0: ip {option}rule show"
    free = _free_before(found.rule.pref, taken)
    if reply is not None:
        name = _PROTOCOLS.get(reply.protocol, reply.protocol)
        only = f"{bridge} ipproto {name} sport {reply.sport}"
        return f"ip {option}rule add iif {only} lookup main pref {free}"
    return f"ip {option}rule add iif {bridge} lookup main pref {free}"


def _free_before(pref: int, taken: Iterable[int]) -> int:
    """The next lower number that no rule has: of two with the same one the older is asked first."""
    free, numbers = pref - 1, set(taken)
    while free in numbers and free > 1:
        free -= 1
    return free


def two_before(pref: int, taken: Collection[int]) -> tuple[int, int] | None:
    """Two free numbers for rules that are asked before the rule ``pref``, the lower one first.

    None where there are none: those below are taken, up to that of the table local.
    """
    second = _free_before(pref, taken)
    first = _free_before(second, taken)
    return (first, second) if first > 0 and not {first, second} & set(taken) else None


def _length(route: Route) -> int:
    return int(route.prefix.rpartition("/")[2])


def told(found: Found, name: Iterable[tuple[int, str]]) -> str:
    """The cause in words; ``name`` gives the names of devices by their index."""
    rule, route = found
    if route is None:
        return f"rule {rule.pref} ({shown_rule(rule)})"
    words = f"the route {shown_route(route, dict(name))} in table {shown_table(route.table)}"
    return (
        words if rule.table in (MAIN, LOCAL) else f"rule {rule.pref} ({shown_rule(rule)}): {words}"
    )


def shown_table(table: int) -> str:
    """A table as ``ip`` names it."""
    return TABLES.get(table, str(table))


def shown_route(route: Route, names: dict[int, str]) -> str:
    """A route as ``ip route`` shows it, in short."""
    length = _length(route)
    words = "default" if length == 0 else route.prefix
    if route.kind != "unicast":
        words = f"{route.kind} {words}"
    devices = route.devices or ((route.device,) if route.device else ())
    return " ".join([words, *(f"dev {names.get(index, index)}" for index in devices)])


def shown_rule(rule: Rule) -> str:
    """A rule as ``ip rule`` shows it."""
    words = ["not"] if rule.inverted else []
    words += ["from", rule.source or "all"]
    for word, value in (("to", rule.destination), ("iif", rule.iif), ("oif", rule.oif)):
        words += [word, value] if value else []
    if rule.mask:
        mask = "" if rule.mask == 0xFFFFFFFF else f"/{rule.mask:#x}"
        words += ["fwmark", f"{rule.mark:#x}{mask}"]
    for word, ends in (("uidrange", rule.users), ("sport", rule.sports), ("dport", rule.dports)):
        words += (
            [word, f"{ends[0]}-{ends[1]}" if ends[0] != ends[1] else str(ends[0])] if ends else []
        )
    if rule.protocol:
        words += ["ipproto", _PROTOCOLS.get(rule.protocol, str(rule.protocol))]
    if rule.action == "lookup":
        words += ["lookup", shown_table(rule.table)]
        words += ["suppress_prefixlength", str(rule.suppress)] if rule.suppress >= 0 else []
    else:
        words += [rule.action] + ([str(rule.target)] if rule.action == "goto" else [])
    return " ".join(words)
