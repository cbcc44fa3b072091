"""The owner of a MAC address, a subnet or an address. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from hvtx.model.mark import Mark, parse_mark
from hvtx.model.reason import Reason
from hvtx.model.resource import Kind, Link, address_spec
from hvtx.model.vm import Network
from hvtx.planner import address_notes
from hvtx.planner.identify_devices import device_subject
from hvtx.planner.known_software import looks_like
from hvtx.planner.subjects import ExplainFacts, Subject, of_row, rules_with

MAC = re.compile(r"[0-9a-fA-F]{2}(?:[:-][0-9a-fA-F]{2}){5}")


def by_mac(sight: ExplainFacts, text: str) -> Iterator[Subject]:
    """Devices and leases with a MAC address."""
    if not MAC.fullmatch(text):
        return
    mac = text.lower().replace("-", ":")
    for vm in sight.vms:
        for interface in vm.interfaces:
            if interface.mac == mac:
                words = f"the MAC address of VM {vm.name!r} in network {interface.network_name!r}"
                yield Subject(
                    "mac", mac, words, None, "hvtx", Reason.RESERVED, vm.name,
                    interface.network_name, evidence=tuple(rules_with(sight, mac)),
                )  # fmt: skip
    for link in sight.snapshot.links:
        if link.mac == mac:
            yield device_subject(sight, link)


def by_subnet(sight: ExplainFacts, text: str) -> Iterator[Subject]:
    """A range of addresses: a network's, or one that touches some."""
    try:
        wanted = ipaddress.ip_network(text)
    except ValueError:
        return
    if wanted.prefixlen == wanted.max_prefixlen:
        return
    for network in sight.networks:
        for cidr in network.subnets:
            if address_notes.touch(wanted, cidr):
                yield _subnet(sight, network, cidr, str(wanted))
    ours = {network.bridge for network in sight.networks}
    for address in address_notes.nearest_first(sight.snapshot.addresses, str(wanted)):
        own = ipaddress.ip_interface(address.address).network
        link = next((x for x in sight.snapshot.links if x.ifindex == address.ifindex), None)
        if link is not None and link.name not in ours and address_notes.touch(wanted, str(own)):
            words = f"it is the subnet of {link.name} ({address.address})"
            yield _unowned_address(sight, str(own), words, link, kind="subnet")


def _subnet(sight: ExplainFacts, network: Network, cidr: str, wanted: str) -> Subject:
    spans = "the subnet" if cidr == wanted else f"it touches {cidr}, the subnet"
    return Subject(
        "subnet", cidr, f"{spans} of network {network.name!r} on bridge {network.bridge}", None,
        "hvtx", Reason.RESERVED, None, network.name, evidence=tuple(rules_with(sight, cidr)),
    )  # fmt: skip


def by_address(sight: ExplainFacts, text: str) -> Iterator[Subject]:
    """Guests, the host or others that have an address."""
    address = address_notes.read_address(text)
    if address is None or ("/" in text and next(by_subnet(sight, text), None) is not None):
        return
    zone = address_notes.zone_of(text)
    links, networks = sight.snapshot.links, sight.networks
    notes = address_notes.zone_notes(zone, address, links, networks)
    device = address_notes.device_of(zone, address, links)
    if device is not None:
        sight = _on_device(sight, device)
    for subject in _having(sight, address):
        yield subject._replace(evidence=(*notes, *subject.evidence))


def _on_device(sight: ExplainFacts, device: Link) -> ExplainFacts:
    """With the addresses of one device only: another may have the same link-local one."""
    snapshot = sight.snapshot
    rows = [
        row
        for row in snapshot.rows
        if row.kind != Kind.ADDRESS or address_spec(row)["owner"] == device.alias
    ]
    addresses = [own for own in snapshot.addresses if own.ifindex == device.ifindex]
    seen = snapshot._replace(rows=tuple(rows), addresses=tuple(addresses))
    return sight._replace(snapshot=seen)


def _having(
    sight: ExplainFacts, address: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> Iterator[Subject]:
    """Who has an address, or whose subnet it is in where nobody has it."""
    found = False
    for row in sight.snapshot.rows:
        leased = row.kind == Kind.LEASE and row.key == str(address)
        if leased or (row.kind == Kind.ADDRESS and row.key.partition("/")[0] == str(address)):
            found = True
            also = _had_by_host(sight, str(address)) if leased else ()
            yield of_row(sight, row, (*also, *rules_with(sight, str(address))))
    for own in sight.snapshot.addresses:
        if not found and own.address.partition("/")[0] == str(address):
            link = next((x for x in sight.snapshot.links if x.ifindex == own.ifindex), None)
            found = True
            words = f"an address of {link.name if link else 'a device'}"
            words += address_notes.taken_by_host(sight.networks, address)
            yield _unowned_address(sight, own.address, words, link)
    if not found:
        yield from _nearby(sight, address)


def _had_by_host(sight: ExplainFacts, address: str) -> Iterator[str]:
    """Devices of the host that have an address which is leased to a guest."""
    for own in sight.snapshot.addresses:
        if own.address.partition("/")[0] == address:
            link = next((x for x in sight.snapshot.links if x.ifindex == own.ifindex), None)
            name = link.name if link else "a device"
            yield f"{name} of this host has it itself ({own.address}): its guest is not reached"


def _unowned_address(
    sight: ExplainFacts, key: str, words: str, link: Link | None, kind: str = Kind.ADDRESS
) -> Subject:
    """An address or subnet that is not on record, by the device that has it."""
    mentioned = tuple(rules_with(sight, key if kind == "subnet" else key.partition("/")[0]))
    parsed = parse_mark(link.alias) if link is not None else None
    if isinstance(parsed, Mark) and parsed.installation != sight.snapshot.installation:
        told = f"{words}, of another installation of hvtx ({parsed.installation})"
        other = Reason.OTHER_INSTALLATION
        return Subject(kind, key, told, None, "other-installation", other, evidence=mentioned)
    looks = looks_like(link.name) if link is not None else None
    told = f"not ours: {words}" + (f"; looks like {looks}" if looks else "")
    return Subject(kind, key, told, evidence=mentioned)


def _nearby(
    sight: ExplainFacts, address: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> Iterator[Subject]:
    """An address that nobody has here: whose subnet it is in."""
    within = address_notes.network_of(sight.networks, address)
    if within is not None:
        yield Subject(
            Kind.ADDRESS, str(address), address_notes.use_of(*within, address), None, "hvtx",
            Reason.RESERVED, None, within[0].name,
            evidence=tuple(rules_with(sight, str(address))),
        )  # fmt: skip
        return
    for own in sight.snapshot.addresses:
        if address in ipaddress.ip_interface(own.address).network:
            link = next((x for x in sight.snapshot.links if x.ifindex == own.ifindex), None)
            device = link.name if link else "a device"
            words = f"in the subnet of {device}, and not an address of this host"
            yield _unowned_address(sight, str(address), words, link)
            return
    mentioned = tuple(rules_with(sight, str(address)))
    if mentioned:
        words = "not ours: no address of this host, but rules speak of it"
        yield Subject(Kind.ADDRESS, str(address), words, evidence=mentioned)
