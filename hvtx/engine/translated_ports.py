"""Ports that a foreign rule translates: Docker's, firewalld's forward-ports, any DNAT.

Of two that translate a port one is cut off, whichever the kernel asks first; nothing says so. So
such a port is refused when a VM is made and when it starts, and `doctor` tells of one that came
later. The kernel is asked, in a replica of the host without hvtx's own rules, and only where others
have chains for it at all (docs/adr/0031).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping, Sequence

from hvtx.engine.port_holders import port_of
from hvtx.engine.trial import Exit, beyond, far_end
from hvtx.errors import Conflict, HvtxError
from hvtx.host.inet import packed
from hvtx.host.nat_detection import may_translate
from hvtx.host.netlink import DumpInterrupted
from hvtx.host.replica import nat, ruleset
from hvtx.host.replica.nat import Door, Hit
from hvtx.host.replica.scratch import Picture, Scratch, Unavailable, look, within
from hvtx.host.replica.tries import WORLD
from hvtx.model.resource import Resource
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Publish

MOST_PORTS = 64  # that are tried at a time
_MOST_TARGETS, _MOST_SOURCES = 12, 6  # of a family: addresses of the host, and of who asks
_ADDRESS = re.compile(r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,7})"
                      r"(?:/\d{1,3})?(?![\w.:])")  # fmt: skip
_LOOPBACK = {4: bytes((127, 0, 0, 1)), 6: bytes(15) + b"\1"}


class Translated(NamedTuple):
    """A port, and the rule of others that translates it, as its own tool prints it."""

    port: Publish
    rule: str
    first: bool = True  # whether it stands before hvtx's own, where hvtx has one


def refuse(ports: Sequence[Publish], families: Collection[int]) -> str | None:
    """Raise Conflict for a port that others translate; why, where it cannot be told.

    For who has seen that others may (:func:`hvtx.host.nat_detection.may_translate`).
    """
    try:
        found = among(ports, families)
    except (Unavailable, DumpInterrupted, OSError, HvtxError) as problem:
        return str(problem)
    for port, rule, _ in found:
        raise Conflict(
            f"port {port.host_port}/{port.protocol} of this host is translated by a rule of another"
            f" program: {rule}",
            hint=f"choose another host port than {port.host_port}, or remove that rule in the "
            "program that added it",
        )
    return None


def among(
    ports: Sequence[Publish], families: Collection[int], *, beside: bool = False
) -> list[Translated]:
    """The ports that others translate, each with its rule.

    ``beside``: hvtx has rules for these ports now, and who stands first is asked, too. Raises
    Unavailable, HvtxError, OSError, DumpInterrupted.
    """
    whole = look()
    bare = _hits(nat.without_ours(whole), ports, families)
    if not beside or not bare:
        return [Translated(port, rule) for port, rule in bare]
    first = set(_hits(whole, ports, families))
    return [Translated(port, rule, (port, rule) in first) for port, rule in bare]


def beside(rows: Sequence[Resource]) -> tuple[list[Translated], list[str]]:
    """The published ports of ``rows`` that others translate, too; and why some are not known."""
    found: list[Translated] = []
    try:
        if not rows or not may_translate():
            return [], []
        by_families: dict[frozenset[int], list[Publish]] = {}
        for row in rows[:MOST_PORTS]:
            spec = row.spec
            own = frozenset({4} if spec["ipv4"] else ()) | frozenset({6} if spec["ipv6"] else ())
            by_families.setdefault(own, []).append(port_of(row))
        for families, ports in by_families.items():
            found += among(ports, families, beside=True)
    except (Unavailable, DumpInterrupted, OSError, HvtxError) as problem:
        return found, [str(problem)]
    left = len(rows) - MOST_PORTS
    return found, [f"{left} more ports were not tried"] if left > 0 else []


def _hits(
    picture: Picture, ports: Sequence[Publish], families: Collection[int]
) -> list[tuple[Publish, str]]:
    from hvtx.engine import forward

    picture = nat.ending_at_proxies(picture)
    ways = {family: forward.way_out(picture, family, ()) for family in families}
    without = [family for family, way in ways.items() if way is None]
    if without:
        picture = forward.with_uplink(picture, without)
        ways |= {family: forward.thought_out(family) for family in without}
    out = {family: way for family, way in ways.items() if way is not None}
    callers = _callers(picture)

    def ask(scratch: Scratch) -> tuple[list[tuple[Publish, Hit]], Mapping[forward.Place, int]]:
        looker = nat.Looker(scratch)
        found = [
            (port, hit)
            for port in ports
            for hit in looker.at(_doors(scratch, port, out, callers), port.protocol, port.host_port)
        ]
        return found, ruleset.handles(picture.ruleset, scratch.copy) if found else {}

    found, handles = within(picture, ask)
    return [(port, _words(hit, handles)) for port, hit in found]


def _words(hit: Hit, handles: Mapping[tuple[ruleset.Place, int], int]) -> str:
    from hvtx.engine.forward import listed

    where = " ".join(hit.place)
    if hit.text:
        return f"{hit.place[0]} -t {hit.place[1]} {hit.text}"
    number = handles.get((hit.place, hit.handle), 0)
    return f"nft {where}: {listed(*hit.place).get(number, f'rule with handle {number}')}"


# -- who comes to a port ---------------------------------------------------------------------------


def _doors(
    scratch: Scratch,
    port: Publish,
    ways: Mapping[int, Exit],
    callers: Mapping[int, Sequence[bytes]],
) -> list[Door]:
    """From the world and from the host itself, to each address that the port is published on."""
    picture, found = scratch.picture, []
    for family, way in ways.items():
        for target in _targets(picture, port, family):
            found.append(Door("", b"", b"", target))
            if target == _LOOPBACK[family]:
                continue
            near = beyond(picture, target)
            for one in dict.fromkeys(filter(None, (near, way))):
                end, device = far_end(scratch, one.device), picture.device(one.device)
                if end is None or device is None:
                    continue
                sources = dict.fromkeys((one.address, WORLD[family], *callers[family]))
                found += [Door(end, device.mac, source, target) for source in sources]
    return found


def _targets(picture: Picture, port: Publish, family: int) -> list[bytes]:
    if port.host_ip and port.host_ip not in ("0.0.0.0", "::"):  # noqa: S104 - not bound to
        target = packed(port.host_ip)
        return [target] if (len(target) == 4) == (family == 4) else []
    own = [address for _, address, _ in picture.addresses() if (len(address) == 4) == (family == 4)]
    return list(dict.fromkeys((*own[:_MOST_TARGETS], _LOOPBACK[family])))


def _callers(picture: Picture) -> dict[int, list[bytes]]:
    """Addresses that rules speak of: one of them may be translated where others are not."""
    from hvtx.host import libnftables

    tables = [" ".join(table) for table in sorted(nat.tables_of(picture))]
    listed = [libnftables.run(f"list table {table}") for table in tables]
    text = "\n".join((*listed, *picture.legacy.values()))
    found: dict[int, dict[bytes, None]] = {4: {}, 6: {}}
    for word in _ADDRESS.findall(text):
        try:
            net = ipaddress.ip_network(word, strict=False)
        except ValueError:
            continue
        usable = not (net.is_multicast or net.is_loopback or net.is_unspecified)
        host = net.network_address + (1 if net.num_addresses > 1 else 0)
        if usable and len(found[net.version]) < _MOST_SOURCES:
            found[net.version][host.packed] = None
    return {family: list(known) for family, known in found.items()}
