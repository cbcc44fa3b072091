"""What guests reach by the uplink of their network, in words, and how they reach more. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from hvtx.model.address import is_ipv6
from hvtx.model.firewall import firewall_spec
from hvtx.model.resource import Kind, Resource
from hvtx.model.routing import LOCAL, TABLES, Found, Route, Rule
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Network
from hvtx.planner.routing import HALVES, two_before

_FIRST_TABLE = 100  # of those that `ip` has no names for
_MAIN_RULE = 32766  # the kernel's own rule of the table main
_MANY = 3
_SAMPLES = 4  # addresses of a prefix that are asked for: some may be the host's own


class Way(NamedTuple):
    """Where packets of guests are led by the uplink, in one family.

    ``target`` is an address that they are led to; None: none was found. ``world``: it is one of the
    world; ``behind`` are the prefixes that they are led to where it is not. ``gateway``: to go
    further a gateway's address is needed, as the device carries frames. ``table`` is a table of
    routes that nobody uses, ``prefs`` are numbers of rules that would be asked before the one that
    decides about such packets now; None: there are none.
    """

    target: str | None
    world: bool = False
    behind: tuple[str, ...] = ()
    gateway: bool = True
    table: int = _FIRST_TABLE
    prefs: tuple[int, int] | None = (_MAIN_RULE - 2, _MAIN_RULE - 1)


class Served(NamedTuple):
    """A guest's port that others are answered from, since it is published; of which family."""

    protocol: str
    port: int
    family: int | None = None  # None: of both


def prefixes(routes: Iterable[Route], uplink: int) -> list[str]:
    """What the host's routes lead to by a device, each prefix once; not what its link alone has."""
    found = (
        route.prefix
        for route in routes
        if route.kind == "unicast"
        and route.table != LOCAL
        and uplink in (route.device, *route.devices)
    )
    return [prefix for prefix in dict.fromkeys(found) if not _is_of_a_link(prefix)]


def _is_of_a_link(prefix: str) -> bool:
    import ipaddress

    base = ipaddress.ip_network(prefix)
    return base.is_link_local or base.is_multicast


def samples(prefix: str) -> Iterator[str]:
    """Addresses of a prefix, some of which may be the host's own."""
    import ipaddress

    whole = ipaddress.ip_network(prefix)
    if whole.num_addresses <= _SAMPLES:
        yield from map(str, whole)
    else:
        yield from (str(whole.network_address + number) for number in range(1, _SAMPLES + 1))


def served(rows: Iterable[Resource], bridge: str) -> tuple[Served, ...]:
    """What guests of a bridge answer others from, each once; not what is for the host alone."""
    specs = [firewall_spec(r) for r in rows if r.kind == Kind.PUBLISH and r.bridge == bridge]
    found = {
        Served(spec["protocol"], spec["guest_port"], _family(spec["host_ip"]))
        for spec in specs
        if not (spec["host_ip"] or "").startswith("127.") and spec["host_ip"] != "::1"
    }
    return tuple(sorted(found, key=lambda one: (one.protocol, one.port, one.family or 0)))


def _family(host_ip: str | None) -> int | None:
    if host_ip is None:
        return None
    return 6 if is_ipv6(host_ip) else 4


def free_table(routes: Iterable[Route], rules: Iterable[Rule], given: Collection[int] = ()) -> int:
    """The first number of a table that has no route, that no rule asks, and that is not ``given``.

    A rule may stand before its routes do: those of a tunnel that is down.
    """
    taken = {route.table for route in routes} | {rule.table for rule in rules}
    taken.update(given, TABLES)
    return next(number for number in itertools.count(_FIRST_TABLE) if number not in taken)


def free_prefs(rules: Iterable[Rule], now: Iterable[Found | None]) -> tuple[int, int] | None:
    """Numbers for rules before those that decide ``now``, where packets to the world are led."""
    deciding = [found.rule.pref for found in now if found is not None]
    return two_before(min(deciding, default=_MAIN_RULE), {rule.pref for rule in rules})


def told(
    network: Network, ways: Mapping[int, Way], ports: Sequence[Served] = ()
) -> tuple[str, str, str] | None:
    """``warning`` or ``note``, what guests do not reach, and what leads them there.

    None where they reach the world in some family, or nothing can be told. ``ports`` are those that
    guests of the network answer others from.
    """
    if not ways or any(way.world for way in ways.values()):
        return None
    shown = {f: way.behind for f, way in ways.items() if way.target is not None}
    fix = lead(network, ways, ports)
    if not shown:
        words = f"no route leads its guests by its uplink {network.uplink}"
        return "warning", f"{words}, so they reach nothing beyond this host", fix
    some = [prefix for family in sorted(shown) for prefix in shown[family]]
    more = f" and {len(some) - _MANY} more" if len(some) > _MANY else ""
    words = f"its guests reach {', '.join(some[:_MANY])}{more} by its uplink {network.uplink}"
    return "note", f"{words}, and not the world, to which no route leads them by it", fix


def lead(network: Network, ways: Mapping[int, Way], ports: Sequence[Served] = ()) -> str:
    """Commands that lead guests of a network to the world by its uplink, and nothing else there.

    What the table main has a route for beside a default one (in halves, too) stays as it is, and so
    do answers from published ``ports``: to neighbours by another device, to other networks.
    """
    return "; ".join(
        command
        for family in sorted(ways)
        for command in _lead(network, family, ways[family], ports)
    )


def _lead(network: Network, family: int, way: Way, ports: Iterable[Served]) -> Iterator[str]:
    six, via = "-6 " * (family == 6), "via GATEWAY " * way.gateway
    if way.prefs is None:
        yield f"give the first rules higher numbers: ip {six}rule show"
        return
    bridge, (first, second) = network.bridge, way.prefs
    yield f"ip {six}route add default {via}dev {network.uplink} table {way.table}"
    yield f"ip {six}rule add iif {bridge} lookup main suppress_prefixlength {HALVES} pref {first}"
    for one in (one for one in ports if one.family in (None, family)):
        answers = f"ipproto {one.protocol} sport {one.port}"
        yield f"ip {six}rule add iif {bridge} {answers} lookup main pref {first}"
    yield f"ip {six}rule add iif {bridge} lookup {way.table} pref {second}"
