"""Ports that other installations of hvtx on this host publish, by their marked entries. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from hvtx.model.mark import Mark, parse_mark
from hvtx.model.resource import Entry
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Publish

# As the two firewall drivers write an entry of a published port.
_NATIVE = re.compile(r"(?:(\S+) )?(tcp|udp) (\d+) -> ")
_LEGACY = re.compile(r"(?:-d (\S+?)(?:/\d+)? )?-p (tcp|udp) .*--dport (\d+) .*-j DNAT")


class Published(NamedTuple):
    """A port, and the installation that publishes it."""

    port: Publish
    installation: str


def published_by_others(entries: Iterable[Entry], installation: str) -> list[Published]:
    """The ports of every installation but ``installation``; their guests' ports read as 0."""
    found = []
    for entry in entries:
        mark = parse_mark(entry.mark)
        if not isinstance(mark, Mark) or mark.installation == installation:
            continue
        words = (_LEGACY if entry.backend == "iptables" else _NATIVE).match(entry.text)
        if words:
            port = Publish(words[2], words[1], int(words[3]), 0)
            found.append(Published(port, mark.installation))
    return found
