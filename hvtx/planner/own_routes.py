"""The routes that the kernel makes with an address of ours, and which of them are gone. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator

from hvtx.model.routing import LOCAL, MAIN, OwnRoute, Route

_ALL_NODES = "ff00::/8"


def expected(address: str) -> Iterator[OwnRoute]:
    """What stands for ``address/length``: its subnet, itself, and whom it reaches all at once."""
    own = ipaddress.ip_interface(address)
    net, plain = own.network, str(own.ip)
    bits = own.max_prefixlen
    yield OwnRoute(str(net), MAIN, "unicast", plain)
    yield OwnRoute(f"{plain}/{bits}", LOCAL, "local", plain)
    if own.version == 4 and net.prefixlen < bits - 1:
        yield OwnRoute(f"{net.broadcast_address}/{bits}", LOCAL, "broadcast", plain)
    if own.is_link_local and own.version == 6:
        yield OwnRoute(_ALL_NODES, LOCAL, "multicast", plain)


def lost(address: str, there: Collection[tuple[str, int]]) -> list[OwnRoute]:
    """Those of an address that are gone; ``there`` are prefix and table of what the device has."""
    return [route for route in expected(address) if (route.prefix, route.table) not in there]


SOFT = "its route for all at once was gone"  # single packets find their way without it


def words(routes: Collection[OwnRoute]) -> str:
    """What is gone, as people read it."""
    soft = all(route.kind in ("broadcast", "multicast") for route in routes)
    return f"{SOFT if soft else 'its route was gone'}: {_shown(routes)}"


def _shown(routes: Iterable[OwnRoute]) -> str:
    return ", ".join(r.prefix if r.kind == "unicast" else f"{r.kind} {r.prefix}" for r in routes)


def lack(subnet: str, gateway: str, device: tuple[int, str], routes: Iterable[Route]) -> str | None:
    """That a bridge lacks routes without which packets do not find it; ``device``: index, name."""
    index, name = device
    there = {(route.prefix, route.table) for route in routes if route.device == index}
    gone = lost(f"{gateway}/{subnet.rpartition('/')[2]}", there)
    hard = [route for route in gone if route.kind in ("unicast", "local")]
    if not hard:
        return None
    return f"the lack of a route {_shown(hard)} by bridge {name}, which others removed,"
