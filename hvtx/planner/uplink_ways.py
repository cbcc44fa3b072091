"""What guests reach by the uplink of their network, in words, and how they reach more. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from hvtx.model.routing import LOCAL, Route
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Network

_FIRST_TABLE = 100  # of those that `ip` has no names for
_MANY = 3
_SAMPLES = 4  # addresses of a prefix that are asked for: some may be the host's own


class Way(NamedTuple):
    """Where packets of guests are led by the uplink, in one family.

    ``target`` is an address that they are led to; None: none was found. ``world``: it is one of the
    world; ``behind`` are the prefixes that they are led to where it is not. ``gateway``: to go
    further a gateway's address is needed, as the device carries frames. ``table`` is a table of
    routes that nobody uses.
    """

    target: str | None
    world: bool = False
    behind: tuple[str, ...] = ()
    gateway: bool = True
    table: int = _FIRST_TABLE


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


def free_table(routes: Iterable[Route]) -> int:
    """The first number of a table that has no route."""
    taken = {route.table for route in routes}
    return next(n for n in range(_FIRST_TABLE, LOCAL) if n not in taken)


def told(network: Network, ways: Mapping[int, Way]) -> tuple[str, str, str] | None:
    """``warning`` or ``note``, what guests do not reach, and what leads them there.

    None where they reach the world in some family, or nothing can be told.
    """
    if not ways or any(way.world for way in ways.values()):
        return None
    shown = {f: way.behind for f, way in ways.items() if way.target is not None}
    fix = lead(network, ways)
    if not shown:
        words = f"no route leads its guests by its uplink {network.uplink}"
        return "warning", f"{words}, so they reach nothing beyond this host", fix
    some = [prefix for family in sorted(shown) for prefix in shown[family]]
    more = f" and {len(some) - _MANY} more" if len(some) > _MANY else ""
    words = f"its guests reach {', '.join(some[:_MANY])}{more} by its uplink {network.uplink}"
    return "note", f"{words}, and not the world, to which no route leads them by it", fix


def lead(network: Network, ways: Mapping[int, Way]) -> str:
    """Commands that lead guests of a network to the world by its uplink."""
    found = []
    for family in sorted(ways):
        six, way = "-6 " * (family == 6), ways[family]
        via = "via GATEWAY " * way.gateway
        found.append(f"ip {six}route add default {via}dev {network.uplink} table {way.table}")
        found.append(f"ip {six}rule add iif {network.bridge} lookup {way.table}")
    return "; ".join(found)
