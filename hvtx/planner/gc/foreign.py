"""The items of what others put on the host: named, never touched."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from hvtx.model.mark import parse_mark
from hvtx.model.plan import Action, Item
from hvtx.model.reason import Reason
from hvtx.model.resource import Kind, Link
from hvtx.model.typed import TYPE_CHECKING, NamedTuple
from hvtx.planner.gc.facts import Facts

if TYPE_CHECKING:
    from hvtx.model.foreign_rule import ForeignRule

_IFF_TAP = 0x2
_ADDRESS = re.compile(
    r"(?<![\d.])(\d{1,3}(?:\.\d{1,3}){3}|[0-9a-fA-F]{0,4}:[0-9a-fA-F:]*:[0-9a-fA-F:.]*)(/\d{1,3})?"
)
_NOT_OURS = "not ours: it carries no mark of hvtx"


def foreign_devices(facts: Facts, *, everything: bool) -> list[Item]:
    """TAP devices without our mark; all devices without one with ``everything``."""
    named = _named(facts)
    return [
        _device(facts, link)
        for link in facts.snapshot.links
        if link.ifindex not in named
        and parse_mark(link.alias) is None
        and (everything or _is_tap(link))
    ]


def foreign_nat(facts: Facts, *, everything: bool) -> list[Item]:
    """NAT rules without our mark that touch our subnets; all of them with ``everything``."""
    networks = facts.snapshot.networks.values()
    subnets = [subnet(cidr, network.name) for network in networks for cidr in network.subnets]
    items = []
    for entry in facts.snapshot.entries:
        if entry.mark is not None or not entry.nat:
            continue
        touched = mentions(entry.text, subnets)
        if touched or everything:
            words = f"{_NOT_OURS}; it mentions network {touched}" if touched else _NOT_OURS
            item = _foreign("rule", f"{entry.place}: {entry.text}", "no mark")
            items.append(item._replace(message=words, entry=entry))
    return items


def foreign_rest(facts: Facts, rules: Sequence[ForeignRule]) -> list[Item]:
    """Others' rules of every kind, and the addresses of their devices."""
    snapshot = facts.snapshot
    names = {link.ifindex: link.name for link in snapshot.links}
    ours = _named(facts)
    seen = {(e.place, e.handle) for e in snapshot.entries if e.handle and e.nat}
    return [
        _foreign("rule", rule.key, "no mark")
        for rule in rules
        if rule.mark is None and (rule.place, rule.handle) not in seen
    ] + [
        _foreign(Kind.ADDRESS, address.address, f"on {names.get(address.ifindex, '?')}")
        for address in snapshot.addresses
        if address.ifindex not in ours
    ]


def _named(facts: Facts) -> set[int]:
    """Devices that stand for a row, or in the place of one."""
    named = {seen.link.ifindex for seen in facts.presences.values() if seen.link is not None}
    return named.union(facts.snapshot.settled.taps)


def _is_tap(link: Link) -> bool:
    return link.kind == "tun" and bool(link.tun_flags & _IFF_TAP)


def _device(facts: Facts, link: Link) -> Item:
    holders = facts.snapshot.holders.get(link.name, ())
    kind = Kind.BRIDGE if link.kind == "bridge" else "device"
    alias = f"alias {link.alias}" if link.alias else "no alias"
    item = _foreign(Kind.TAP if _is_tap(link) else kind, link.name, alias, *holders)
    return item._replace(link=link)


def _foreign(kind: str, key: str, *evidence: str) -> Item:
    return Item.for_object(
        kind, key, Action.SKIP, Reason.FOREIGN, evidence=evidence, message=_NOT_OURS
    )


class Subnet(NamedTuple):
    """A network's subnet, as it is compared with the addresses of thousands of rules."""

    version: int
    first: int
    last: int
    name: str  # the network's


def subnet(cidr: str, name: str) -> Subnet:
    """A subnet in CIDR notation, of the network of this name. Raises ValueError."""
    return Subnet(*_span(ipaddress.ip_network(cidr)), name)


def _span(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> tuple[int, int, int]:
    """Its version, its first and its last address."""
    first = int(network.network_address)
    return network.version, first, first | int(network.hostmask)


def mentions(words: str, subnets: Sequence[Subnet]) -> str | None:
    """The name of the first network whose subnet an address or prefix in a rule's text touches."""
    for found in _ADDRESS.finditer(words):
        try:
            network = ipaddress.ip_network(found[1] + (found[2] or ""), strict=False)
        except ValueError:
            continue
        if not network.prefixlen:
            continue
        version, first, last = _span(network)
        for one in subnets:
            if version == one.version and first <= one.last and one.first <= last:
                return one.name
    return None
