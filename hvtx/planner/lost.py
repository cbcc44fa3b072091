"""The remains of an installation whose store is gone, and which of them may be removed. Pure.

Without its record there is only the mark: it says whose a thing was, not what it was for. So all of
an installation goes or nothing: nothing while anything speaks for its being alive. What others put
on top keeps the thing that it stands on.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping, Sequence

from hvtx.model.mark import parse_mark
from hvtx.model.place import NFT
from hvtx.model.plan import Action, Item, Plan
from hvtx.model.reason import Reason
from hvtx.model.resource import PORTS, Address, Entry, Kind, Link, filters_on, put_by_others
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Identity

_KINDS = {"tun": Kind.TAP, "veth": Kind.VETH, "bridge": Kind.BRIDGE}
CONTAINER = "a container has an interface of it: "
_WORDS = "marked by an installation whose store is gone"


class Service(NamedTuple):
    """A dnsmasq of one of its networks, known by the configuration that it reads."""

    identity: Identity
    configuration: str  # a path in the installation's run directory

    @property
    def key(self) -> str:
        """How plans name it."""
        return f"dnsmasq, pid {self.identity.pid}"

    @property
    def run_directory(self) -> str:
        """Where its installation's directory is: ``RUN/INSTALLATION/networks/NETWORK/FILE``."""
        return self.configuration.rsplit("/", 4)[0]


class Remains(NamedTuple):
    """What was seen of an installation, and around it."""

    installation: str
    links: Sequence[Link]  # of the whole host
    addresses: Sequence[Address]
    filtered: Collection[int]
    entries: Sequence[Entry]  # as its own drivers see them
    holders: Mapping[str, Sequence[str]]  # device -> who has it open
    objections: Sequence[str]  # why nothing may go
    services: Sequence[Service] = ()


def belongs(mark: str | None, installation: str) -> bool:
    """Whether a mark, readable as a whole or not, is of an installation."""
    parsed = parse_mark(mark)
    return parsed is not None and parsed.installation == installation


def devices_of(links: Iterable[Link], installation: str) -> list[Link]:
    """The devices of hvtx's kinds with a mark of the installation."""
    ours = [link for link in links if belongs(link.alias, installation)]
    return [link for link in ours if link.kind in _KINDS]


def containers(links: Iterable[Link], installation: str) -> list[str]:
    """What speaks for the life of containers, in words: as long as a pair is there, its own does.

    With its namespace it goes.
    """
    pairs = [link for link in devices_of(links, installation) if link.kind == "veth"]
    return [f"{CONTAINER}{link.name}" for link in pairs]


def installations(links: Iterable[Link], entries: Iterable[Entry]) -> set[str]:
    """Every installation that some mark names."""
    marks = {link.alias for link in links} | {entry.mark for entry in entries}
    parsed = [parse_mark(mark) for mark in marks]
    return {mark.installation for mark in parsed if mark is not None and mark.installation}


def plan_lost(remains: Remains) -> Plan:
    """Every thing of the installation: to be deleted, or why not. Guests' devices first.

    One that somebody has open cannot be removed, which is known so before anything else goes. After
    them processes, rules, bridges; tables last.
    """
    services = [_service(remains, service) for service in remains.services]
    found = devices_of(remains.links, remains.installation)
    devices = [_device(remains, link, _KINDS[link.kind]) for link in found]
    ports = [item for item in devices if item.kind in PORTS]
    bridges = [item for item in devices if item.kind not in PORTS]
    rules = _rules(remains)
    tables = sorted((item for item in rules if _is_table(item)), key=_tells)
    others = [item for item in rules if not _is_table(item)]
    rest = [*ports, *services, *others, *bridges]
    if any(item.action is Action.SKIP for item in rest):
        tables = [_kept_to_the_last(item) for item in tables]
    return Plan((*rest, *tables))


def _tells(item: Item) -> bool:
    """Whether a table tells where the store was: it goes last, for whoever is to go on."""
    return any(tells(entry) for entry in (item.entry, *item.more) if entry is not None)


def tells(entry: Entry) -> bool:
    """Whether an entry is in the family of the table that has the trace."""
    return (entry.place.tool, entry.place.family) == (NFT, "bridge")


def _kept_to_the_last(item: Item) -> Item:
    """A table tells where the store was: it stays while anything else does."""
    if item.action is Action.SKIP:
        return item
    return item._replace(action=Action.SKIP, message="it stays while others of its kind do")


def _is_table(item: Item) -> bool:
    return any(is_table(entry) for entry in (item.entry, *item.more) if entry is not None)


def is_table(entry: Entry) -> bool:
    """Whether an entry is a whole table of nftables."""
    return entry.backend == "nftables" and entry.place.is_table


def _service(remains: Remains, service: Service) -> Item:
    """It serves nobody once its bridge is gone, and would hold its ports."""
    start = service.identity.start
    evidence = (f"it reads {service.configuration}", f"it started at tick {start}")
    item = _judged(remains, Kind.PROCESS, service.key, None, evidence)
    if item.action is Action.SKIP:
        return item
    return item._replace(message="it serves a network of an installation whose store is gone")


def _rules(remains: Remains) -> list[Item]:
    by_mark: dict[str, list[Entry]] = {}
    for entry in remains.entries:
        if belongs(entry.mark, remains.installation):
            by_mark.setdefault(entry.mark or "", []).append(entry)
    items = []
    for mark, (first, *more) in sorted(by_mark.items()):
        evidence: tuple[str, ...] = (f"comment {mark}", f"{first.place}: {first.text}")
        evidence += (f"and {len(more)} more with this mark",) if more else ()
        key = f"{first.place}: {first.text}"
        items.append(_judged(remains, Kind.FILTER, key, mark, evidence)._replace(
            entry=first, more=tuple(more)))  # fmt: skip
    return items


def _device(remains: Remains, link: Link, kind: Kind) -> Item:
    held = tuple(remains.holders.get(link.name, ()))
    evidence = (f"alias {link.alias}", f"index {link.ifindex}", *held)
    item = _judged(remains, kind, link.name, link.alias or "", evidence)._replace(link=link)
    if held:
        words = f"{link.name} is held open by {', '.join(held)}"
        return item._replace(action=Action.SKIP, reason=Reason.IN_USE, message=words)
    others = dependents(remains, link)
    if others and item.action is Action.DELETE:
        words = f"foreign resources use it: {', '.join(others)}"
        return item._replace(action=Action.SKIP, reason=Reason.FOREIGN_DEPENDENTS, message=words)
    return item


def _judged(
    remains: Remains, kind: Kind, key: str, mark: str | None, evidence: tuple[str, ...]
) -> Item:
    stays = bool(remains.objections)
    return Item.for_object(
        kind,
        key,
        Action.SKIP if stays else Action.DELETE,
        Reason.OTHER_INSTALLATION,
        evidence=evidence,
        message=f"it stays: {remains.objections[0]}" if stays else _WORDS,
        mark=mark,
    )


def dependents(remains: Remains, link: Link) -> list[str]:
    """What others put on a device, and would lose with it."""
    own = {device.ifindex for device in devices_of(remains.links, remains.installation)}
    found = [
        other.name
        for other in remains.links
        if link.ifindex in (other.master, other.lower) and other.ifindex not in own
    ]
    held = put_by_others(link.ifindex, remains.addresses, ())
    found += foreign_addresses(held) if link.kind == "bridge" else held
    return [*sorted(found), *filters_on(link, remains.filtered)]


def own_addresses(addresses: Iterable[str]) -> list[str]:
    """Which addresses of a bridge were its network's, as far as that shows without the record.

    The gateway's, which is the first of its subnet, and the link-local one; of each family only
    where there is one candidate.
    """
    candidates: dict[tuple[int, bool], list[str]] = {}
    for text in addresses:
        address = ipaddress.ip_interface(text)
        local = address.ip.is_link_local
        if local or int(address.ip) == int(address.network.network_address) + 1:
            candidates.setdefault((address.version, local), []).append(text)
    return [found[0] for found in candidates.values() if len(found) == 1]


def foreign_addresses(addresses: Iterable[str]) -> list[str]:
    """The others of a bridge's addresses: somebody gave them to it."""
    known = list(addresses)
    own = own_addresses(known)
    return [address for address in known if address not in own]
