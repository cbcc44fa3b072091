"""Rules of an egress policy as boxes that do not overlap: ranges of addresses and of ports. Pure.

The kernel's sets of ranges refuse an element that lies within another, unless it was there first
(findings/nft-wider-range-behind-a-narrow-one.sh), and rules that people write may overlap
(10.0.0.0/8:443 beside 10.1.0.0/16:400-500). What is allowed or denied by all of them together is
cut at every address where a rule begins or ends; between two cuts the ports are one list of ranges,
and neighbours with equal lists are one again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from hvtx.model.address import is_of
from hvtx.model.policy import EgressRule, is_name
from hvtx.model.typed import NamedTuple
from hvtx.rulesets.packing import packed

PROTOCOLS = ("tcp", "udp")
Range = tuple[int, int]


class Box(NamedTuple):
    """Addresses from ``first`` to ``last`` as numbers; without a protocol all that goes there."""

    first: int
    last: int
    protocol: str | None = None
    ports: Range | None = None


def boxes(rules: Iterable[EgressRule], family: int, action: str) -> list[Box]:
    """What the rules of one action and family say, in order of addresses, protocols and ports.

    Names have sets of their own (:mod:`hvtx.rulesets.egress_names`). Raises OSError for an
    address that is none.
    """
    whole: list[Range] = []
    some: dict[str, list[tuple[Range, Range]]] = {protocol: [] for protocol in PROTOCOLS}
    for rule in rules:
        if rule.action != action or is_name(rule) or not is_of(rule.to, family):
            continue
        _, *ends = range_of(rule.to)
        addresses = (ends[0], ends[1])
        if rule.first_port is None:
            whole.append(addresses)
            continue
        ports = (rule.first_port, rule.last_port or rule.first_port)
        for protocol in (rule.protocol,) if rule.protocol else PROTOCOLS:
            some[protocol].append((addresses, ports))
    found = [Box(*addresses) for addresses in joined(whole)]
    for protocol, parts in some.items():
        found += [
            Box(first, last, protocol, ports)
            for (first, last), listed in _slabs(parts)
            for ports in listed
        ]
    return found


def range_of(to: str) -> tuple[int, int, int]:
    """How many bytes the addresses of a subnet have, its first and its last.

    Also of a single address. ``ipaddress`` would cost each start 2 ms.
    """
    address, _, length = to.partition("/")
    raw = packed(address)
    first, bits = int.from_bytes(raw, "big"), 8 * len(raw)
    return len(raw), first, first + (1 << (bits - int(length or bits))) - 1


def joined(ranges: Iterable[Range]) -> list[Range]:
    """The same numbers as ranges that neither overlap nor touch, in order."""
    found: list[Range] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found


def _slabs(parts: Sequence[tuple[Range, Range]]) -> list[tuple[Range, list[Range]]]:
    """Ranges of addresses, each with the ports that hold for all of it."""
    cuts = sorted({end for (first, last), _ in parts for end in (first, last + 1)})
    found: list[tuple[Range, list[Range]]] = []
    for start, after in pairwise(cuts):
        ports = joined(p for (first, last), p in parts if first <= start and after - 1 <= last)
        if not ports:
            continue
        if found and found[-1][0][1] + 1 == start and found[-1][1] == ports:
            found[-1] = ((found[-1][0][0], after - 1), ports)
        else:
            found.append(((start, after - 1), ports))
    return found
