"""Rules as ``iptables-save`` prints them, as a flow meets them that exceeds no limit. Pure.

The same for legacy tables that :mod:`hvtx.host.replica.limits` is for nf_tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from hvtx.model.typed import NamedTuple

_WORD = re.compile(r'(?:[^\s"]|"(?:\\.|[^"\\])*")+')
_MANY = "2147483647"
_END = frozenset({"-j", "-g"})


class Text(NamedTuple):
    """What is to be restored.

    ``rules``: the host's rule by table and rule of the copy. ``doubts``: rules of the copy that
    only count who comes to them, since what the host's do is not known.
    """

    text: str
    rules: dict[tuple[str, str], str]
    doubts: frozenset[tuple[str, str]]


def quiet(text: str) -> Text:
    """All tables of a family."""
    return _made(text, {}, lambda _number, line: rule(line))


def without(made: Text, number: int) -> Text | None:
    """The same, with the rule in a line (counted from 1) only counting; None if it is no rule.

    A second time the rule goes without all that it matches.
    """
    lines = made.text.splitlines()
    line = lines[number - 1] if 0 < number <= len(lines) else ""
    words = _WORD.findall(line)
    if words[:1] != ["-A"] or len(words) < 3:
        return None

    def less(at: int, line: str) -> tuple[str, bool]:
        table_doubts = {rule for _, rule in made.doubts}
        if at != number:
            return line, line in table_doubts
        bare = line if len(plain := _plain(words)) == len(words) else " ".join(plain)
        return (bare if bare != line else " ".join(words[:2])), True

    return _made(made.text, made.rules, less)


def _made(
    text: str, known: dict[tuple[str, str], str], change: Callable[[int, str], tuple[str, bool]]
) -> Text:
    table, lines, doubts = "", [], set()
    rules: dict[tuple[str, str], str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("*"):
            table = line[1:]
        if line.startswith("-A "):
            new, doubtful = change(number, line)
            rules[table, new] = known.get((table, line), line)
            if doubtful:
                doubts.add((table, new))
            lines.append(new)
        else:
            lines.append(line)
    return Text("\n".join(lines) + "\n", rules, frozenset(doubts))


def rule(line: str) -> tuple[str, bool]:
    """One rule (``-A CHAIN …``), and whether it only counts since nobody knows what it does."""
    if "limit" not in line and "quota" not in line:
        return line, False
    words, doubtful, dead = _WORD.findall(line), False, False
    found: list[str] = []
    at = 0
    while at < len(words):
        name = words[at + 1] if words[at] == "-m" and at + 1 < len(words) else ""
        if name not in ("limit", "hashlimit", "quota", "connlimit"):
            found.append(words[at])
            at += 1
            continue
        end = _end(words, at + 2)
        options = words[at + 2 : end]
        at = end
        if name == "connlimit":
            found += ["-m", name, *_wide(options)]
        doubtful = doubtful or name == "quota"
        dead = dead or "--hashlimit-above" in options
    if dead or doubtful:
        found = _targetless(found)
    return " ".join(found), doubtful and not dead


def _end(words: Sequence[str], at: int) -> int:
    """Where the options of a match end."""
    while at < len(words) and words[at] not in {"-m", *_END}:
        at += 1
    return at


def _wide(options: Sequence[str]) -> list[str]:
    found = list(options)
    for name in ("--connlimit-above", "--connlimit-upto"):
        if name in found and found[(at := found.index(name) + 1)] != "0":
            found[at] = _MANY
    return found


def _targetless(words: Sequence[str]) -> list[str]:
    end = next((n for n, word in enumerate(words) if word in _END), len(words))
    return list(words[:end])


def _plain(words: Sequence[str]) -> list[str]:
    """A rule with only what every kernel knows: addresses, devices, the protocol."""
    at = next((n for n, word in enumerate(words) if word in {"-m", *_END}), len(words))
    return list(words[:at])
