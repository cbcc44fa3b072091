"""Foreign rules that translate packets for a port of the host, by the kernel's trace.

Connections begin in a scratch from the world and from the host itself. What answers them does not
matter: a rule that translates the destination is traced (or counted, in a legacy table) before any
route or filter is met.
"""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress

from hvtx.host.nat_detection import LEGACY_RULE, OUR_LINE, OURS, translates
from hvtx.host.netlink import attribute, attribute_map, legible, nested
from hvtx.host.nfanswers import expressions
from hvtx.host.replica import frames, legacy, limits, ruleset
from hvtx.host.replica.frames import SYN
from hvtx.host.replica.ruleset import Place, Ruleset
from hvtx.host.replica.scratch import WORLD_MAC, Picture, Scratch
from hvtx.host.replica.trace import TABLE
from hvtx.host.xtnames import TOOLS
from hvtx.model.typed import NamedTuple

_RULE_EXPRESSIONS, _NAT_TYPE, _DNAT, _XT_NAME = 4, 1, 1, 1
_XT_TARGETS = frozenset({b"DNAT", b"REDIRECT", b"NETMAP", b"TPROXY"})
_PROXY = b"tproxy\0"
_ACCEPTED = attribute(1, bytes(4)) + nested(2, nested(2, attribute(1, (1).to_bytes(4, "big"))))
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


class Door(NamedTuple):
    """Where somebody comes to a port: a far end, the MAC address to send to, who, and to whom.

    ``end`` is empty for a program of the host itself.
    """

    end: str
    mac: bytes
    source: bytes
    target: bytes


class Hit(NamedTuple):
    """A rule that translates: its place, the copy's handle and, in a legacy table, its text."""

    place: tuple[str, str, str]
    handle: int
    text: str = ""


# -- whose they are --------------------------------------------------------------------------------


def tables_of(picture: Picture) -> set[tuple[str, str]]:
    """Family and name of the tables of others in which something may translate. Pure."""
    return {ruleset.table_of(body) for body in picture.ruleset.chains if translates(body)}


def without_ours(picture: Picture) -> Picture:
    """The host without any rule of hvtx's. Pure."""

    def theirs(bodies: Iterable[bytes]) -> list[bytes]:
        return [body for body in bodies if not ruleset.table_of(body)[1].startswith(OURS)]

    texts = {
        family: "".join(line for line in text.splitlines(True) if not re.match(OUR_LINE, line))
        for family, text in picture.legacy.items()
    }
    known = picture.ruleset
    return picture._replace(ruleset=Ruleset(*(theirs(part) for part in known)), legacy=texts)


def ending_at_proxies(picture: Picture) -> Picture:
    """The host with rules that accept what they would give to a proxy. Raises Garbled. Pure.

    Natively they pass on what they find no socket for, as in a scratch, and the trace knows of
    none of them then. The verdict stands before what it takes the place of.
    """
    rules = []
    for body in picture.ruleset.rules:
        raw = attribute_map(body, 4).get(_RULE_EXPRESSIONS, b"") if _PROXY in body else b""
        at = next((a for a, (name, _) in enumerate(expressions(raw)) if name == "tproxy"), None)
        if at is None:
            rules.append(body)
            continue
        each = [limits.listed(name, data) for name, data in expressions(raw)]
        each.insert(at, limits.listed("immediate", _ACCEPTED))
        head = body[:4] + limits.with_fields(body[4:], {_RULE_EXPRESSIONS: None})
        rules.append(head + nested(_RULE_EXPRESSIONS, *each))
    return picture._replace(ruleset=picture.ruleset._replace(rules=rules))


# -- in the scratch --------------------------------------------------------------------------------


class Looker:
    """Knocks at ports, and tells which rules translate."""

    def __init__(self, scratch: Scratch) -> None:
        """In this scratch."""
        self._scratch = scratch
        self._translating = {
            (ruleset.place(body), ruleset.handle_of(body))
            for body in scratch.copy.rules
            if translates_to(body)
        }

    def at(self, doors: Sequence[Door], protocol: str, port: int) -> list[Hit]:
        """The rules that translate what comes to ``port`` by these doors, each once."""
        found: dict[Hit, None] = {}
        families = {4 if len(door.target) == 4 else 6 for door in doors}
        legacies = families & self._scratch.picture.legacy.keys()
        before = {family: _counted(family) for family in legacies}
        for door in doors:
            with suppress(OSError):
                self._knock(door, protocol, port)
            for step in self._scratch.steps():
                place: Place = (step.family, step.table, step.chain)
                if (place, step.handle) in self._translating and step.table != TABLE:
                    found[Hit(place, step.handle)] = None
        for family, old in before.items():
            for (table, rule), count in _counted(family).items():
                if count > old.get((table, rule), 0):
                    tool = f"{TOOLS[family]}-legacy"
                    found[Hit((tool, table, rule.split()[1]), 0, rule)] = None
        return list(found)

    def _knock(self, door: Door, protocol: str, port: int) -> None:
        if not door.end:
            self._dial(door.target, protocol, port)
            return
        ports = (self._scratch.number(), port)
        if protocol == "tcp":
            inside = frames.tcp(door.source, door.target, ports, SYN, 1)
        else:
            inside = frames.udp(door.source, door.target, ports, b"hvtx")
        ether = self._scratch.ether(door.end)
        data = frames.frame(WORLD_MAC, door.mac, inside) if ether else inside
        self._scratch.send(door.end, data)

    def _dial(self, target: bytes, protocol: str, port: int) -> None:
        family = _FAMILIES[4 if len(target) == 4 else 6]
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        with socket.socket(family, kind | socket.SOCK_NONBLOCK) as client:
            with suppress(OSError):
                client.connect((socket.inet_ntop(family, target), port))
                if protocol == "udp":
                    client.send(b"hvtx")
            self._scratch.settle()


@legible
def translates_to(rule: bytes) -> bool:
    """Whether a rule gives packets another destination, or to a proxy. Raises Garbled. Pure."""
    for name, data in expressions(attribute_map(rule, 4).get(_RULE_EXPRESSIONS, b"")):
        fields = attribute_map(data)
        if name in ("redir", "tproxy"):
            return True
        if name == "nat" and int.from_bytes(fields.get(_NAT_TYPE, b""), "big") == _DNAT:
            return True
        if name == "target" and fields.get(_XT_NAME, b"").rstrip(b"\0") in _XT_TARGETS:
            return True
    return False


def _counted(family: int) -> dict[tuple[str, str], int]:
    """The translating rules of legacy tables in this namespace, and what each has met."""
    call = legacy.called(family, "save")
    if call is None:
        return {}
    try:
        done = subprocess.run([*call, "-c"], capture_output=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return counted_in(done.stdout.decode(errors="replace"))


def counted_in(text: str) -> dict[tuple[str, str], int]:
    """The same by table and rule, of what ``iptables-save -c`` prints. Pure."""
    found, table = {}, ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif (rule := re.fullmatch(LEGACY_RULE, line)) is not None:
            found[table, rule[2]] = int(rule[1])
    return found
