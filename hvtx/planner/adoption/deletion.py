"""Rules of iptables in delete form, as tools keep them to remove what they added."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from itertools import pairwise

from hvtx.model.typed import NamedTuple


class Deletion(NamedTuple):
    """A rule in delete form: where it stands, and its words."""

    tool: str  # "iptables" or "ip6tables"
    table: str
    chain: str
    words: tuple[str, ...]


_SHORT = {"--source": "-s", "--destination": "-d", "--jump": "-j", "--protocol": "-p"}
_HOST = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}|[0-9a-fA-F:]*:[0-9a-fA-F:.]*")


_DELETION = ("-D", "--delete")


def parse_deletion(text: str, *forms: str) -> Deletion:
    """Read ``[ip[6]tables] [-t TABLE] -D CHAIN WORDS…``; ValueError says what is wrong.

    ``forms`` are further words that may stand where ``-D`` does.
    """
    words = shlex.split(text)
    tool, table, chain = "", "filter", ""
    rest: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        if word in ("sudo", "-w", "--wait") and not rest:
            at += 1
        elif re.fullmatch(r"(?:.*/)?ip6?tables(?:-nft|-legacy)?", word) and not chain:
            tool = "ip6tables" if "ip6" in word else "iptables"
            at += 1
        elif word in ("-t", "--table") and at + 1 < len(words):
            table, at = words[at + 1], at + 2
        elif word in (*forms, *_DELETION) and at + 1 < len(words):
            chain, at = words[at + 1], at + 2
        else:
            rest.append(word)
            at += 1
    if not chain:
        raise ValueError("it is not in delete form: there is no -D CHAIN")
    if not rest or rest[0].isdigit():
        raise ValueError("it names a rule by its number, which says nothing")
    if not tool:
        tool = "ip6tables" if any(w.count(":") > 1 and _HOST.match(w) for w in rest) else "iptables"
    return Deletion(tool, table, chain, tuple(_canonical(rest, tool)))


def _canonical(words: Sequence[str], tool: str) -> list[str]:
    """The words as iptables-save has them, where those are other words for the very same."""
    length = "/128" if tool == "ip6tables" else "/32"
    found: list[str] = []
    for before, word in zip(("", *words), words, strict=False):
        if before in ("-s", "-d", "--source", "--destination") and _HOST.fullmatch(word):
            found.append(word + length)
        else:
            found.append(_SHORT.get(word, word))
    for protocol in ("tcp", "udp"):
        ports = {"--dport", "--sport"} & set(found)
        if ports and protocol in found and ["-m", protocol] not in _pairs(found):
            at = found.index(protocol) + 1
            found[at:at] = ["-m", protocol]
    return found


def _pairs(words: Sequence[str]) -> list[list[str]]:
    return [list(pair) for pair in pairwise(words)]
