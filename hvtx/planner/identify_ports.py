"""The owner of a port of the host. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from hvtx.model.firewall import firewall_spec
from hvtx.model.reason import Reason
from hvtx.model.resource import Kind
from hvtx.model.vm import Publish
from hvtx.planner import address_notes
from hvtx.planner.known_software import looks_like
from hvtx.planner.subjects import MENTIONS, ExplainFacts, Subject, of_row

PORT = re.compile(r"(?:(.+):)?([0-9]{1,5})(?:/(tcp|udp))?")
_ANY = ("0.0.0.0", "::")  # noqa: S104 - what a program listens on


def by_port(sight: ExplainFacts, text: str) -> Iterator[Subject]:
    """Published ports and others with that number."""
    found = PORT.fullmatch(text)
    if not found or not 1 <= int(found[2]) <= 65535:
        return
    bare, _, zone = (found[1] or "").strip("[]").partition("%")
    try:
        address = ipaddress.ip_address(bare) if found[1] else None
    except ValueError:
        return
    notes = (
        ()
        if address is None
        else address_notes.zone_notes(zone, address, sight.snapshot.links, sight.networks)
    )
    host = None if address is None else str(address)
    for subject in _of_port(sight, int(found[2]), found[3], host):
        yield subject._replace(evidence=(*notes, *subject.evidence))


def _of_port(
    sight: ExplainFacts, number: int, protocol: str | None, host: str | None
) -> Iterator[Subject]:
    """Who has a port of the host, at one of its addresses or at any."""

    def fits(other: str, at: str | None) -> bool:
        return protocol in (None, other) and (host is None or at in (None, host, *_ANY))

    ours = [
        row
        for row in sight.snapshot.rows
        if row.kind == Kind.PUBLISH
        and (spec := firewall_spec(row)).get("host_port") == number
        and fits(spec["protocol"], spec["host_ip"])
    ]
    yield from (of_row(sight, row) for row in ours)
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
        yield _unowned_port(sight, number, protocol, host)


def _elsewhere(sight: ExplainFacts, asked: Publish, protocol: str | None) -> Iterator[Subject]:
    """What other installations publish."""
    entries, own, both = sight.snapshot.entries, sight.snapshot.installation, protocol is None
    for port, owner in address_notes.published_elsewhere(entries, own, asked, both=both):
        words = f"published by another installation of hvtx ({owner})"
        key, other = f"{port.host_port}/{port.protocol}", Reason.OTHER_INSTALLATION
        yield Subject("port", key, words, None, "other-installation", other)


def _unowned_port(
    sight: ExplainFacts, number: int, protocol: str | None, host: str | None
) -> Subject:
    heard = sorted(
        f"a program listens on {address}, port {port}/{proto}"
        for proto, address, port in sight.sockets
        if port == number
        and protocol in (None, proto)
        and (host is None or address in (host, *_ANY))
    )
    to_port = re.compile(rf"dport {number}(?![\d.])")
    rules = [rule for rule in sight.rules if not rule.mark and to_port.search(rule.text)]
    looks = next((whose for rule in rules if (whose := looks_like(rule.chain))), None)
    words = "not ours: no VM on record publishes this port"
    if rules:
        words += "; a rule of others is about it"
    if looks:
        words += f", which looks like {looks}"
    told = [*heard, *(f"rule without a mark: {rule.key}" for rule in rules[:MENTIONS])]
    key = f"{number}/{protocol}" if protocol else str(number)
    silence = f"it is not known what listens on it: {sight.deaf}" if sight.deaf else ""
    told = told or ["nothing listens on it"] if not silence else [*told, silence]
    return Subject("port", key, words, evidence=tuple(told))
