"""State that rules learn from packets: sets that they fill, lists of the match ``recent``.

In a copy it is what earlier tries taught them. A flow that fails meets the sets as the host has
them. Lists of ``recent`` are empty then: when somebody was seen cannot be written to them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

from hvtx.host.netlink import attribute_map, legible, text
from hvtx.host.nfanswers import expressions
from hvtx.host.nfmessages import Command
from hvtx.host.nfnetlink import BatchRefused, Nftables
from hvtx.host.nfnumbers import DELSETELEM, NEWSETELEM
from hvtx.host.replica.ruleset import Place, Ruleset, parts, table_of

_RECENT = "/proc/thread-self/net/xt_recent"
_RULE_EXPRESSIONS, _SET, _OWN = 4, 1, "hvtx-"


@legible
def filled(ruleset: Ruleset) -> set[Place]:
    """The sets of others that rules add to. Raises Garbled. Pure."""
    found = set()
    for body in ruleset.rules:
        if b"dynset\0" not in body:
            continue
        family, table = table_of(body)
        for name, data in expressions(attribute_map(body, 4).get(_RULE_EXPRESSIONS, b"")):
            if name == "dynset" and not table.startswith(_OWN):
                names = attribute_map(data)[_SET].rstrip(b"\0").decode()
                found.add((family, table, names))
    return found


def forget(ruleset: Ruleset, legacy: Mapping[int, str]) -> bool:
    """Forget it in the calling thread's namespace; whether there is anything to forget."""
    sets = filled(ruleset)
    recent = _recent() if legacy or any(b"recent\0" in body for body in ruleset.rules) else []
    for name in recent:
        with suppress(OSError):
            _write(f"{_RECENT}/{name}", b"/\n")
    if sets:
        commands = [
            Command(DELSETELEM, 0, family, text(1, table) + text(2, name))
            for family, table, name in sorted(sets)
        ]
        every = parts(ruleset._replace(chains=(), rules=(), flowtables=(), objects=()), ())
        commands += [
            part.command for part in every
            if part.command.number == NEWSETELEM and (*part.table, part.name) in sets
        ]  # fmt: skip
        channel = Nftables()
        try:
            with suppress(BatchRefused):
                channel.batch(commands)
        finally:
            channel.close()
    return bool(sets or recent)


# How an expression begins that takes a random number, beside numgen: NFTA_META_KEY is 24.
_CHANCE = (b"numgen\0", b"statistic\0", bytes((8, 0, 2, 0, 0, 0, 0, 24)))


def by_chance(ruleset: Ruleset, legacy: Mapping[int, str]) -> bool:
    """Whether there may be rules that decide by chance, or by turns. Pure."""
    every = any(word in body for body in ruleset.rules for word in _CHANCE)
    return every or any("-m statistic" in text for text in legacy.values())


def _recent() -> list[str]:
    try:
        return os.listdir(_RECENT)
    except OSError:
        return []


def _write(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)
