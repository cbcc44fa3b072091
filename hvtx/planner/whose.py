"""Whose a thing is: from what somebody calls it to what it is. Pure: a sight in, subjects out.

A name may fit several things (a chain and a VM); all are found, the likeliest first. What gc would
do with each is read off the plan, so that the two can never disagree.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from hvtx.model.mark import FAMILY, Mark, UnreadableMark, parse_mark
from hvtx.model.plan import Item, Plan, Reason, Snapshot
from hvtx.model.resource import Kind, Link, Resource, link_called
from hvtx.model.ruleset import Difference
from hvtx.model.stranger import StrangeRule
from hvtx.model.vm import Liveness, Network, Publish, Vm
from hvtx.planner import addressees
from hvtx.planner.heuristic import keeper_of
from hvtx.planner.likeness import likeness

_IFF_TAP = 0x2
_MENTIONS = 5  # strangers' rules that are named as evidence
_SHORTEST = 3  # letters of a rule's text that tell something

_MAC = re.compile(r"[0-9a-fA-F]{2}(?:[:-][0-9a-fA-F]{2}){5}")
_PORT = re.compile(r"(?:(.+):)?([0-9]{1,5})(?:/(tcp|udp))?")
_SPELT = re.compile(
    r"(?:ip6?tables(?:-legacy|-nft)? +)?(?:-t (\S+) +)?(?:-[ACDI] (\S+) +(?:\d+ +)?)?(.*)"
)
_ASKED_OTHERWISE = (Kind.TAP, Kind.BRIDGE, Kind.LEASE, Kind.PUBLISH, Kind.PROCESS)
_ANY = ("0.0.0.0", "::")  # noqa: S104 - what a program listens on
_OURS = re.compile(r"(?:hvtx|HVTX)-([a-z2-7]{10})(?:-|$)")


class Sight(NamedTuple):
    """Everything that an answer is made from."""

    snapshot: Snapshot
    plan: Plan  # of all things, strangers' too
    vms: tuple[Vm, ...]
    networks: tuple[Network, ...]
    rules: tuple[StrangeRule, ...]  # every rule of the host, ours too
    places: tuple[str, ...]  # every table, chain and set: "nft ip nat", "iptables nat OUTPUT"
    sockets: frozenset[tuple[str, str, int]]  # protocol, address, port that a program listens on
    deaf: str = ""  # why sockets may be missing
    unread: str = ""  # why rules and places are missing, if they could not be read
    tombstone: Resource | None = None  # the released row with the mark that was asked for
    differences: tuple[Difference, ...] = ()  # what in our own tables is not as hvtx made it


class Subject(NamedTuple):
    """A thing that somebody asked for.

    ``item`` is gc's verdict on it; without one, ``owner`` and ``reason`` say what is known. ``row``
    is its row on record; ``words`` is what it is, if that is not a resource of ours.
    """

    kind: str
    key: str
    words: str
    item: Item | None = None
    owner: str = "foreign"
    reason: Reason = Reason.FOREIGN
    vm: str | None = None
    network: str | None = None
    row: Resource | None = None
    evidence: tuple[str, ...] = ()


def identify(sight: Sight, text: str) -> list[Subject]:
    """What ``text`` may mean, the likeliest first; empty if nothing here is called so."""
    found: list[Subject] = []
    for finder in (_marks, _devices, _macs, _subnets, _addresses, _ports, _owners, _keys, _places):
        found += finder(sight, text)
    if not found:
        found += _rules(sight, text)
    seen: set[tuple[str, str, int, Item | None]] = set()  # a copy is judged by itself
    unique = []
    for subject in found:
        row = subject.row.id if subject.row else 0
        thing = (subject.kind, subject.key, row, subject.item)
        if thing not in seen:
            seen.add(thing)
            unique.append(subject)
    return unique


# -- verdicts --------------------------------------------------------------------------------------


def _of_item(sight: Sight, item: Item, words: str = "", evidence: Iterable[str] = ()) -> Subject:
    row = next((row for row in sight.snapshot.rows if row.id == item.row), None)
    return Subject(
        item.kind, item.key, words, item, owner_of(item.reason), item.reason, item.vm,
        _network_of(sight, row), row, tuple(evidence),
    )  # fmt: skip


def _of_row(sight: Sight, row: Resource, evidence: Iterable[str] = ()) -> Subject:
    """A row's own item: the first that speaks of it is its own, copies come behind."""
    item = next(item for item in sight.plan.items if item.row == row.id and item.entry is None)
    return _of_item(sight, item, evidence=evidence)


def _network_of(sight: Sight, row: Resource | None) -> str | None:
    facts = sight.snapshot.networks.get(row.network) if row and row.network else None
    if facts:
        return facts.name
    bridge = row.spec.get("bridge") if row else None
    return next((network.name for network in sight.networks if network.bridge == bridge), None)


def owner_of(reason: Reason) -> str:
    """The owner (a word of the interface) of what is planned for this reason."""
    if reason is Reason.OTHER_INSTALLATION:
        return "other-installation"
    if reason in (Reason.FOREIGN, Reason.MARK_MISMATCH):
        return "foreign"
    if reason in (
        Reason.MARK_UNREADABLE,
        Reason.MARK_STRIPPED,
        Reason.UNRECORDED,
        Reason.DUPLICATE_MARK,
        Reason.EDITED_COPY,
    ):
        return "unknown"
    return "hvtx"


# -- marks and devices -----------------------------------------------------------------------------


def _marks(sight: Sight, text: str) -> Iterator[Subject]:
    parsed = parse_mark(text)
    if parsed is None:
        return
    items = [item for item in sight.plan.items if item.mark == text]
    yield from (_of_item(sight, item) for item in items)
    if items:
        return
    if isinstance(parsed, UnreadableMark) and (
        parsed.installation in (None, sight.snapshot.installation)
    ):
        words, owner = "a mark in a form that this program does not know", "unknown"
        yield Subject("mark", text, words, None, owner, Reason.MARK_UNREADABLE)
    else:
        yield _unseen(sight, parsed, text)


def _unseen(sight: Sight, mark: Mark | UnreadableMark, text: str) -> Subject:
    nobody = "; nothing here carries it"
    if mark.installation != sight.snapshot.installation:
        words = f"a mark of another installation ({mark.installation}){nobody}"
        return Subject("mark", text, words, None, "other-installation", Reason.OTHER_INSTALLATION)
    row = sight.tombstone
    if row is None:
        words = f"a mark of this installation that is not on record{nobody}"
        return Subject("mark", text, words, None, "unknown", Reason.UNRECORDED)
    words = f"the mark of {row.kind} {row.key}, which was removed{nobody}"
    return Subject("mark", text, words, None, "hvtx", Reason.ALREADY_GONE, row=row)


def _devices(sight: Sight, text: str) -> Iterator[Subject]:
    link = link_called(sight.snapshot.links, text)
    if link is not None:
        yield _device(sight, link)
    for row in sight.snapshot.rows:
        if row.kind in (Kind.TAP, Kind.BRIDGE) and row.key == text:
            yield _of_row(sight, row, () if link else ("the host has no such device",))


def _device(sight: Sight, link: Link) -> Subject:
    more = tuple(_about(sight, link))
    item = next((item for item in sight.plan.items if item.link == link), None)
    if item is None:  # of a row of an earlier life, for instance
        return Subject(_kind(link), link.name, foreign_words(sight, link), evidence=more)
    return _of_item(sight, item, foreign_words(sight, link), more)


def _kind(link: Link) -> str:
    if link.kind == "bridge":
        return Kind.BRIDGE
    return Kind.TAP if link.kind == "tun" and link.tun_flags & _IFF_TAP else "device"


def _about(sight: Sight, link: Link) -> Iterator[str]:
    """What the kernel shows of a device, and who speaks of it."""
    names = {other.ifindex: other.name for other in sight.snapshot.links}
    yield f"{link.kind or 'device'} with index {link.ifindex}, MAC address {link.mac}"
    if link.altnames:
        yield f"also called {addressees.listed(list(link.altnames))}"
    if link.master:
        yield f"a port of {names.get(link.master, 'a bridge that is not seen')}"
    ports = [other.name for other in sight.snapshot.links if other.master == link.ifindex]
    if ports:
        yield f"its ports: {addressees.listed(ports)}"
    own = [a.address for a in sight.snapshot.addresses if a.ifindex == link.ifindex]
    if own:
        yield f"its addresses: {addressees.listed(own)}"
    yield from _mentioned(sight, link.name)


def _mentioned(sight: Sight, word: str) -> Iterator[str]:
    """Strangers' rules that speak of something."""
    whole = re.compile(rf"(?<![\w.:-]){re.escape(word)}(?![\w.:-])")
    rules = [r for r in sight.rules if not r.mark and (whole.search(r.text) or r.native == word)]
    for rule in rules[:_MENTIONS]:
        yield f"mentioned by a rule without a mark: {rule.key}"
    if len(rules) > _MENTIONS:
        yield f"and by {len(rules) - _MENTIONS} more"


def foreign_words(sight: Sight, link: Link) -> str:
    """What can be said of a stranger's device."""
    master = next((o.name for o in sight.snapshot.links if o.ifindex == link.master), "")
    looks = (likeness(master) if master else None) or likeness(link.name)
    alias = f"its alias is {link.alias!r}" if link.alias else "no mark"
    return f"not ours: {alias}" + (f"; looks like {looks}" if looks else "")


def _macs(sight: Sight, text: str) -> Iterator[Subject]:
    if not _MAC.fullmatch(text):
        return
    mac = text.lower().replace("-", ":")
    for vm in sight.vms:
        for interface in vm.interfaces:
            if interface.mac == mac:
                words = f"the MAC address of VM {vm.name!r} in network {interface.network_name!r}"
                yield Subject(
                    "mac", mac, words, None, "hvtx", Reason.RESERVED, vm.name,
                    interface.network_name, evidence=tuple(_mentioned(sight, mac)),
                )  # fmt: skip
    for link in sight.snapshot.links:
        if link.mac == mac:
            yield _device(sight, link)


# -- addresses -------------------------------------------------------------------------------------


def _subnets(sight: Sight, text: str) -> Iterator[Subject]:
    """A range of addresses: a network's, or one that touches some."""
    try:
        wanted = ipaddress.ip_network(text)
    except ValueError:
        return
    if wanted.prefixlen == wanted.max_prefixlen:
        return
    for network in sight.networks:
        for cidr in network.subnets:
            if addressees.touch(wanted, cidr):
                yield _subnet(sight, network, cidr, str(wanted))
    ours = {network.bridge for network in sight.networks}
    for address in addressees.nearest_first(sight.snapshot.addresses, str(wanted)):
        own = ipaddress.ip_interface(address.address).network
        link = next((x for x in sight.snapshot.links if x.ifindex == address.ifindex), None)
        if link is not None and link.name not in ours and addressees.touch(wanted, str(own)):
            words = f"it is the subnet of {link.name} ({address.address})"
            yield _strange_address(sight, str(own), words, link, kind="subnet")


def _subnet(sight: Sight, network: Network, cidr: str, wanted: str) -> Subject:
    spans = "the subnet" if cidr == wanted else f"it touches {cidr}, the subnet"
    return Subject(
        "subnet", cidr, f"{spans} of network {network.name!r} on bridge {network.bridge}", None,
        "hvtx", Reason.RESERVED, None, network.name, evidence=tuple(_mentioned(sight, cidr)),
    )  # fmt: skip


def _addresses(sight: Sight, text: str) -> Iterator[Subject]:
    address = addressees.read_address(text)
    if address is None or ("/" in text and next(_subnets(sight, text), None) is not None):
        return
    found = False
    for row in sight.snapshot.rows:
        leased = row.kind == Kind.LEASE and row.key == str(address)
        if leased or (row.kind == Kind.ADDRESS and row.key.partition("/")[0] == str(address)):
            found = True
            also = _had_by_host(sight, str(address)) if leased else ()
            yield _of_row(sight, row, (*also, *_mentioned(sight, str(address))))
    for own in sight.snapshot.addresses:
        if not found and own.address.partition("/")[0] == str(address):
            link = next((x for x in sight.snapshot.links if x.ifindex == own.ifindex), None)
            found = True
            words = f"an address of {link.name if link else 'a device'}"
            words += addressees.taken_by_host(sight.networks, address)
            yield _strange_address(sight, own.address, words, link)
    if not found:
        yield from _nearby(sight, address)


def _had_by_host(sight: Sight, address: str) -> Iterator[str]:
    """Devices of the host that have an address which is leased to a guest."""
    for own in sight.snapshot.addresses:
        if own.address.partition("/")[0] == address:
            link = next((x for x in sight.snapshot.links if x.ifindex == own.ifindex), None)
            name = link.name if link else "a device"
            yield f"{name} of this host has it itself ({own.address}): its guest is not reached"


def _strange_address(
    sight: Sight, key: str, words: str, link: Link | None, kind: str = Kind.ADDRESS
) -> Subject:
    """An address or subnet that is not on record, by the device that has it."""
    mentioned = tuple(_mentioned(sight, key if kind == "subnet" else key.partition("/")[0]))
    parsed = parse_mark(link.alias) if link is not None else None
    if isinstance(parsed, Mark) and parsed.installation != sight.snapshot.installation:
        told = f"{words}, of another installation of hvtx ({parsed.installation})"
        other = Reason.OTHER_INSTALLATION
        return Subject(kind, key, told, None, "other-installation", other, evidence=mentioned)
    looks = likeness(link.name) if link is not None else None
    told = f"not ours: {words}" + (f"; looks like {looks}" if looks else "")
    return Subject(kind, key, told, evidence=mentioned)


def _nearby(
    sight: Sight, address: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> Iterator[Subject]:
    """An address that nobody has here: whose subnet it is in."""
    within = addressees.network_of(sight.networks, address)
    if within is not None:
        yield Subject(
            Kind.ADDRESS, str(address), addressees.use_of(*within, address), None, "hvtx",
            Reason.RESERVED, None, within[0].name,
            evidence=tuple(_mentioned(sight, str(address))),
        )  # fmt: skip
        return
    for own in sight.snapshot.addresses:
        if address in ipaddress.ip_interface(own.address).network:
            link = next((x for x in sight.snapshot.links if x.ifindex == own.ifindex), None)
            device = link.name if link else "a device"
            words = f"in the subnet of {device}, and not an address of this host"
            yield _strange_address(sight, str(address), words, link)
            return
    mentioned = tuple(_mentioned(sight, str(address)))
    if mentioned:
        words = "not ours: no address of this host, but rules speak of it"
        yield Subject(Kind.ADDRESS, str(address), words, evidence=mentioned)


# -- ports -----------------------------------------------------------------------------------------


def _ports(sight: Sight, text: str) -> Iterator[Subject]:
    found = _PORT.fullmatch(text)
    if not found or not 1 <= int(found[2]) <= 65535:
        return
    try:
        host = str(ipaddress.ip_address(found[1].strip("[]"))) if found[1] else None
    except ValueError:
        return
    number, protocol = int(found[2]), found[3]

    def fits(other: str, at: str | None) -> bool:
        return protocol in (None, other) and (host is None or at in (None, host, *_ANY))

    ours = [
        row
        for row in sight.snapshot.rows
        if row.kind == Kind.PUBLISH
        and row.spec.get("host_port") == number
        and fits(row.spec["protocol"], row.spec["host_ip"])
    ]
    yield from (_of_row(sight, row) for row in ours)
    reserved = [
        Subject(
            "port", f"{number}/{port.protocol}",
            f"reserved for VM {vm.name!r}, which is not running", None, "hvtx", Reason.RESERVED,
            vm.name, interface.network_name,
        )
        for vm in (() if ours else sight.vms)
        for interface in vm.interfaces
        for port in interface.publish
        if port.host_port == number and fits(port.protocol, port.host_ip)
    ]  # fmt: skip
    yield from reserved
    elsewhere = list(_elsewhere(sight, Publish(protocol or "tcp", host, number, 0), protocol))
    yield from elsewhere
    if not ours and not reserved and not elsewhere:
        yield _strange_port(sight, number, protocol, host)


def _elsewhere(sight: Sight, asked: Publish, protocol: str | None) -> Iterator[Subject]:
    """What other installations publish."""
    entries, own, both = sight.snapshot.entries, sight.snapshot.installation, protocol is None
    for port, owner in addressees.published_elsewhere(entries, own, asked, both=both):
        words = f"published by another installation of hvtx ({owner})"
        key, other = f"{port.host_port}/{port.protocol}", Reason.OTHER_INSTALLATION
        yield Subject("port", key, words, None, "other-installation", other)


def _strange_port(sight: Sight, number: int, protocol: str | None, host: str | None) -> Subject:
    heard = sorted(
        f"a program listens on {address}, port {port}/{proto}"
        for proto, address, port in sight.sockets
        if port == number
        and protocol in (None, proto)
        and (host is None or address in (host, *_ANY))
    )
    to_port = re.compile(rf"dport {number}(?![\d.])")
    rules = [rule for rule in sight.rules if not rule.mark and to_port.search(rule.text)]
    looks = next((whose for rule in rules if (whose := likeness(rule.chain))), None)
    words = "not ours: no VM on record publishes this port"
    if rules:
        words += "; a rule of others is about it"
    if looks:
        words += f", which looks like {looks}"
    told = [*heard, *(f"rule without a mark: {rule.key}" for rule in rules[:_MENTIONS])]
    key = f"{number}/{protocol}" if protocol else str(number)
    silence = f"it is not known what listens on it: {sight.deaf}" if sight.deaf else ""
    told = told or ["nothing listens on it"] if not silence else [*told, silence]
    return Subject("port", key, words, evidence=tuple(told))


# -- rows by name, tables and chains, VMs and networks ---------------------------------------------


def _keys(sight: Sight, text: str) -> Iterator[Subject]:
    """Settings, files, and whatever else a plan calls by this very name."""
    dotted = text.replace("/", ".")
    for row in sight.snapshot.rows:
        other = row.kind not in _ASKED_OTHERWISE
        if other and (row.key == text or (row.kind == Kind.SYSCTL and row.key == dotted)):
            yield _of_row(sight, row)


def _places(sight: Sight, text: str) -> Iterator[Subject]:
    wanted = text.split()
    for place in sight.places:
        words = place.split()
        if wanted and words[-len(wanted) :] == wanted:
            yield _place(sight, place)


def _place(sight: Sight, place: str) -> Subject:
    """A table, a chain or a set of the firewall."""
    parts = place.split()
    table = len(parts) == (3 if parts[0] == "nft" else 2)
    kind = "table" if table else "chain"
    inside = [r for r in sight.rules if r.place == place or r.place.startswith(place + " ")]
    marked = sum(1 for rule in inside if rule.mark)
    rules = "1 rule" if len(inside) == 1 else f"{len(inside)} rules"
    changed = [d for d in sight.differences if f"{d.place} ".startswith(f"{place} ")]
    evidence = (
        f"{rules} in it, {marked} with a mark of hvtx",
        *(f"{d.place}: {d.words}: {d.mend}" for d in changed),
    )
    if any(d.whole and d.place == place for d in changed):
        words = f"not hvtx's, although it stands in hvtx's own table {parts[2]}"
        return Subject(kind, place, words, evidence=evidence)
    named = _OURS.match(parts[2] if parts[0] == "nft" else parts[-1])
    if named is None:
        looks = likeness(parts[-1]) or (likeness(parts[2]) if parts[0] == "nft" else None)
        words = "not ours: no mark" + (f"; looks like {looks}" if looks else "")
        if marked:
            words = f"not ours, but {marked} of its {len(inside)} rules are hvtx's"
        return Subject(kind, place, words, evidence=evidence)
    if named[1] != sight.snapshot.installation:
        words = f"a {kind} of another installation of hvtx ({named[1]})"
        other = Reason.OTHER_INSTALLATION
        return Subject(kind, place, words, None, "other-installation", other, evidence=evidence)
    backend = "nftables" if parts[0] == "nft" else "iptables"
    family = parts[1] if backend == "nftables" else ""
    for row in sight.snapshot.rows:
        if row.spec.get("what") == "base" and row.spec["backend"] == backend:
            if family not in row.spec.get("families", (family,)):
                continue
            found = _of_row(sight, row, evidence)
            return found._replace(kind=kind, key=place)
    words = f"a {kind} named like those of this installation, but not on record"
    return Subject(kind, place, words, None, "unknown", Reason.UNRECORDED, evidence=evidence)


def _owners(sight: Sight, text: str) -> Iterator[Subject]:
    """VMs and networks by name."""
    for identity, facts in sight.snapshot.vms.items():
        if text not in (facts.name, identity):
            continue
        items = [item for item in sight.plan.items if item.vm == facts.name]
        first = next((i for i in items if i.action.value != "skip"), items[0] if items else None)
        runs = {
            Liveness.ALIVE: "which runs",
            Liveness.DEAD: "whose process is dead" if first else "which is not running",
        }.get(facts.liveness, "which can be proven neither alive nor dead")
        vm = next((vm for vm in sight.vms if vm.id == identity), None)
        networks = [interface.network_name for interface in vm.interfaces] if vm else []
        yield Subject(
            "vm", facts.name, f"VM {facts.name!r}, {runs}; {len(items)} things", first, "hvtx",
            first.reason if first else Reason.RESERVED, facts.name,
            networks[0] if networks else None, None, facts.evidence,
        )  # fmt: skip
    for network in sight.networks:
        if text in (network.name, network.id):
            words = f"network {network.name!r} on bridge {network.bridge}, {network.firewall}"
            yield Subject(
                "network", network.name, words, None, "hvtx", Reason.RESERVED, None, network.name,
                evidence=tuple(f"subnet {cidr}" for cidr in network.subnets),
            )  # fmt: skip


# -- rules -----------------------------------------------------------------------------------------


def _rules(sight: Sight, text: str) -> Iterator[Subject]:
    """A rule by its text, a part of it, or as it would be typed for iptables."""
    if len(text) < _SHORTEST:
        return
    spelt = _SPELT.fullmatch(text)
    table, chain, rest = spelt.groups() if spelt else (None, None, text)

    def fits(rule: StrangeRule) -> bool:
        if table or chain:
            here = table in (None, rule.table) and chain in (None, rule.chain)
            return here and _bare(rest) in (_bare(rule.text), _bare(rule.native))
        return any(text in words for words in (rule.key, f"{rule.place}: {rule.native}"))

    for rule in sight.rules:
        if fits(rule):
            yield _rule(sight, rule)
    told = {item.mark for item in sight.plan.items if item.mark}
    for entry in sight.snapshot.entries:  # elements of sets: addresses, ports, devices
        if entry.mark in told and text in f"{entry.place}: {entry.text}":
            item = next(item for item in sight.plan.items if item.mark == entry.mark)
            yield _of_item(sight, item, evidence=(f"{entry.place}: {entry.text}",))
    for one in sight.differences:
        if one.element and text in f"{one.place}: {one.element}":
            words = "not hvtx's, although it stands in hvtx's own table"
            more = (f"to remove it: {one.mend}",)
            yield Subject("rule", f"{one.place}: {one.element}", words, evidence=more)


def _bare(text: str) -> str:
    return " ".join(text.split())


def _rule(sight: Sight, rule: StrangeRule) -> Subject:
    words = "not ours: no mark"
    if rule.mark is not None:
        item = next((item for item in sight.plan.items if item.mark == rule.mark), None)
        if item is not None:
            found = _of_item(sight, item, evidence=(rule.key,))
            return found._replace(kind="rule", key=rule.key)
        words = f"not ours: it carries {rule.mark}" if rule.mark.startswith(FAMILY) else words
    spoken = f"handle {rule.handle})" if rule.handle else f"`{rule.text}`"
    for one in sight.differences:
        if one.row is None and one.place == rule.place and spoken in one.words:
            words = "not hvtx's, although it stands in a table or chain of hvtx's, or leads there"
            return Subject("rule", rule.key, words, evidence=(f"to remove it: {one.mend}",))
    keeper = keeper_of(rule)
    looks = next((w for name in (rule.chain, rule.table) if (w := likeness(name))), None)
    looks = looks or next(
        (w for name in rule.text.split() if (w := likeness(name.strip('"')))), None
    )
    words += f"; {keeper}" if keeper else ""
    words += f"; looks like {looks}" if looks else ""
    more = (f"rule {rule.position} of its chain", f"to make it again: {rule.restore}")
    if rule.doubt:
        more = (more[0], f"these are not iptables' words for it: {rule.doubt}")
    return Subject("rule", rule.key, words, evidence=more)
