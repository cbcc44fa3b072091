"""`hvtx network routes` as lines for a routing daemon (pure)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from hvtx.model.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from hvtx import ShownRoute

FORMATS = ("text", "frr", "bird")
_COMMENT = {"frr": "!", "bird": "#"}


def lines_of(routes: Iterable[ShownRoute], form: str) -> list[str]:
    """Static routes to the blocks of other hosts that said where they are reached."""
    by_family: dict[int, list[tuple[str, str]]] = {4: [], 6: []}
    apart = []
    for one in routes:
        if one.via is None:
            continue
        family = ipaddress.ip_network(one.cidr).version
        if ipaddress.ip_address(one.via).version == family:
            by_family[family].append((one.cidr, one.via))
        else:  # FRR would take the address for the name of an interface
            other = f"its host is reached by {one.via}, of the other family"
            apart.append(f"{_COMMENT[form]} {one.cidr} is left out: {other}")
    return [*(_frr(by_family) if form == "frr" else _bird(by_family)), *apart]


def _frr(routes: dict[int, list[tuple[str, str]]]) -> list[str]:
    word = {4: "ip", 6: "ipv6"}
    return [f"{word[f]} route {cidr} {via}" for f, found in routes.items() for cidr, via in found]


def _bird(routes: dict[int, list[tuple[str, str]]]) -> list[str]:
    lines = []
    for family, found in routes.items():
        if found:
            lines += [f"protocol static hvtx{family} {{", f"    ipv{family};"]
            lines += [f"    route {cidr} via {via};" for cidr, via in found]
            lines.append("}")
    return lines
