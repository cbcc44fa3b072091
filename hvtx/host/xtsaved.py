"""Legacy tables as text: what ``iptables-save`` prints, read."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping

from hvtx.errors import HostRefused, NotPermitted
from hvtx.host import capabilities, program
from hvtx.host.netlink import forbidden
from hvtx.host.xtblob import info_of
from hvtx.host.xtnames import TOOLS, listed, unobserved
from hvtx.model.typed import NamedTuple


class SavedRule(NamedTuple):
    """A rule as ``iptables-save`` prints it.

    ``text`` lacks ``-A CHAIN`` and, where the comment begins with ``hvtx:``, the comment, which
    then is ``mark``.
    """

    table: str
    chain: str
    text: str
    mark: str | None


class Saved(NamedTuple):
    """All tables of a family: ``(table, chain)`` pairs and rules, in the kernel's order."""

    chains: frozenset[tuple[str, str]]
    rules: tuple[SavedRule, ...]
    counts: Mapping[str, int] = {}  # rules by table


_SECONDS = 60
_LOOKS = 20  # a program is run for each, and meanwhile several writers may change a table again

NOTHING = Saved(frozenset(), ())

_MARKED = re.compile(
    r'(?:^| )-m comment --comment (?:"(hvtx:(?:[^"\\]|\\.)*)"|(hvtx:\S*))', re.DOTALL
)
_CHAIN = re.compile(r":(.+) (?:-|[A-Z]+) \[\d+:\d+\]")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def saved(family: int) -> Saved:
    """What ``iptables-legacy-save`` prints of the listed tables of ``family``.

    Raises HostRefused (``cannot-observe``) when it fails, is missing, or prints what is not
    understood: an unread rule is not an absent rule.
    """
    tables = listed(family)
    if not tables:
        return NOTHING
    for _ in range(_LOOKS):
        try:
            found = parse(save_text(family))
        except ValueError as problem:
            raise unobserved(f"{TOOLS[family]}-save printed {problem}") from problem
        if missing := tables - {table for table, _ in found.chains}:
            raise unobserved(f"{TOOLS[family]}-save left out {', '.join(sorted(missing))}")
        partial = [table for table in sorted(tables) if not _whole(family, table, found)]
        if not partial:
            return found
    raise unobserved(
        f"{TOOLS[family]}-save printed another number of rules of {', '.join(partial)} than the"
        " kernel has"
    )


def _whole(family: int, table: str, found: Saved) -> bool:
    """Whether as much was printed of a table as the kernel counts in it."""
    chains = [chain for where, chain in found.chains if where == table]
    rules = found.counts.get(table, 0)
    try:
        info = info_of(family, table)
        built_in, entries = info[1].bit_count(), info[12]  # one chain a hook
        return bool(entries == rules + built_in + 2 * (len(chains) - built_in) + 1)
    except OSError as problem:
        if forbidden(problem):
            raise NotPermitted(
                "the legacy iptables tables cannot be counted without CAP_NET_ADMIN and"
                " CAP_NET_RAW",
                hint="run hvtx as root, or with these capabilities (docs/privileges.md)",
            ) from problem
        raise unobserved(f"the table {table} cannot be counted: {problem.strerror}") from problem


def save_text(family: int) -> str:
    """What ``iptables-legacy-save`` prints.

    Raises NotPermitted, HostRefused (``cannot-observe``).
    """
    call = save_program(family)
    if call is None:
        raise HostRefused(
            f"this host has legacy {TOOLS[family]} tables but no {TOOLS[family]}-legacy-save to"
            " read them",
            hint="install the package iptables",
            code="cannot-observe",
        )
    name = os.path.basename(call[0])
    try:
        done = program.capture(call, _SECONDS)
    except OSError as problem:
        raise unobserved(f"{name}: {problem}") from problem
    if done.status is None:
        raise unobserved(f"{name} did not end within {_SECONDS} seconds")
    shown = not done.errors and _is_whole(done.output)
    if program.ended_well(done.status, shown=shown):
        return done.output.decode(errors="surrogateescape")
    if not capabilities.has("CAP_NET_RAW"):
        raise NotPermitted(
            "the legacy iptables tables cannot be read without the capability CAP_NET_RAW",
            hint="run hvtx as root, or with that capability (docs/privileges.md)",
        )
    words = done.errors.decode(errors="replace").strip()
    raise unobserved(f"{name} {program.how(done.status)}: {words}")


def _is_whole(text: bytes) -> bool:
    """Whether the last table that a save program prints is there to its end (pure)."""
    last = text.rstrip(b"\n").rpartition(b"\n")[2]
    return last.startswith(b"# Completed ")


def save_program(family: int) -> tuple[str, ...] | None:
    """How to call what prints the legacy tables of a family, by its path."""
    tool = TOOLS[family]
    for argv in ((f"{tool}-legacy-save",), ("xtables-legacy-multi", f"{tool}-save")):
        found = program.find((argv[0],))
        if found is not None:
            return (found, *argv[1:])
    return None


def parse(text: str) -> Saved:
    """Read the output of ``iptables-save``; ValueError names what was not understood."""
    chains: set[tuple[str, str]] = set()
    rules: list[SavedRule] = []
    table = ""
    for line in _lines(text):
        if line.startswith("-A ") and table:
            chain, _, rest = line[3:].partition(" ")
            if (table, chain) not in chains:
                raise ValueError(f"a rule of an undeclared chain: {line!r}")
            rules.append(_rule(table, chain, rest))
        elif line.startswith(":") and table and (found := _CHAIN.fullmatch(line)):
            chains.add((table, found[1]))
        elif line.startswith("*") and not table:
            table = line[1:]
        elif line == "COMMIT" and table:
            table = ""
        elif line and (table or not line.startswith("#")):
            raise ValueError(f"an unknown line: {line!r}")
    if table:
        raise ValueError(f"no end of table {table}")
    return Saved(frozenset(chains), tuple(rules), Counter([rule.table for rule in rules]))


def _lines(text: str) -> Iterator[str]:
    """Lines, with those joined that a quoted newline (in somebody else's comment) splits."""
    pending: list[str] = []  # the pieces of a line so far: each is looked at once
    for line in text.split("\n"):
        quotes = line.count('"')
        if not (pending or quotes & 1) and "\\" not in line:
            yield line
            continue
        if quotes and "\\" in line:
            quotes = _ESCAPED.sub("", line).count('"')
        open_ = bool(pending)
        turned = bool(quotes & 1) and (open_ or not line.startswith("#"))
        pending.append(line)
        if open_ != turned:
            continue  # a quotation mark is open at its end
        yield "\n".join(pending)
        pending = []
    if pending:
        raise ValueError(f"an open quotation mark: {pending[0][:80]!r}")


def _rule(table: str, chain: str, text: str) -> SavedRule:
    if "\\" not in text and (plain := _plain(table, chain, text)) is not None:
        return plain
    found = _MARKED.search(text)
    if found is None:
        return SavedRule(table, chain, text, None)
    mark = _ESCAPED.sub(r"\1", found[1]) if found[1] is not None else found[2]
    return SavedRule(table, chain, (text[: found.start()] + text[found.end() :]).lstrip(" "), mark)


_COMMENT = "-m comment --comment "


def _plain(table: str, chain: str, text: str) -> SavedRule | None:
    """The same for a line with one comment, quoted, or with none: what nearly all are.

    Without the search for what may be quoted how, which costs a host of many VMs most of its time.
    """
    times = text.count("--comment ")
    if not times:
        return SavedRule(table, chain, text, None)
    start = text.find(_COMMENT + '"hvtx:')
    if times != 1 or start < 0 or text[start - 1 : start] not in ("", " "):
        return None
    first = start + len(_COMMENT) + 1
    end = text.find('"', first)
    if end < 0:
        return None
    rest = text[: max(start - 1, 0)] + text[end + 1 :]
    return SavedRule(table, chain, rest.lstrip(" "), text[first:end])
