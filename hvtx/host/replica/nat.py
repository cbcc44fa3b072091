"""Which rules of others translate what comes to a port of the host: asked of the kernel's trace.

Connections begin in a scratch from the world and from the host itself. What answers them does not
matter: a rule that translates the destination is traced (or counted, in a legacy table) before any
route or filter is met.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

from hvtx.host.netlink import attribute_map, legible
from hvtx.host.nfnetlink import expressions
from hvtx.host.replica import frames, legacy, ruleset
from hvtx.host.replica.frames import SYN
from hvtx.host.replica.ruleset import Place, Ruleset
from hvtx.host.replica.scratch import WORLD_MAC, Picture, Scratch
from hvtx.host.replica.trace import TABLE
from hvtx.host.translating import LEGACY_RULE, OUR_LINE, OURS, translates
from hvtx.host.xtables import TOOLS

_RULE_EXPRESSIONS, _NAT_TYPE, _DNAT, _XT_NAME = 4, 1, 1, 1
_XT_TARGETS = frozenset({b"DNAT", b"REDIRECT", b"NETMAP", b"TPROXY"})
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
        family: "".join(line for line in text.splitlines(True) if not OUR_LINE.match(line))
        for family, text in picture.legacy.items()
    }
    known = picture.ruleset
    return picture._replace(ruleset=Ruleset(*(theirs(part) for part in known)), legacy=texts)


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
            for rule, count in _counted(family).items():
                if count > old.get(rule, 0):
                    tool = f"{TOOLS[family]}-legacy"
                    found[Hit((tool, "nat", rule.split()[1]), 0, rule)] = None
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


def _counted(family: int) -> dict[str, int]:
    """The translating rules of the legacy table nat in this namespace, and what each has met."""
    call = legacy.called(family, "save")
    if call is None:
        return {}
    try:
        argv = [*call, "-c", "-t", "nat"]
        done = subprocess.run(argv, capture_output=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return counted_in(done.stdout.decode(errors="replace"))


def counted_in(text: str) -> dict[str, int]:
    """The same, of what ``iptables-save -c`` prints. Pure."""
    found = (LEGACY_RULE.fullmatch(line) for line in text.splitlines())
    return {rule[2]: int(rule[1]) for rule in found if rule is not None}
