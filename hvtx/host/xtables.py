"""Legacy iptables tables: edits that lose nothing, and rules with their text and their bytes.

The kernel knows only "replace the whole table", refused if the number of entries differs from the
writer's copy. So every edit here is: take the lock that iptables takes, read the table afresh,
change, commit once, count, unlock. Reading a table that the network namespace does not have yet
makes it; therefore nothing here reads a table that the kernel does not list, except an edit.

Families are 4 and 6; tables and chains are named as iptables names them. Not for use by two
threads at a time (libiptc keeps in the process what failed last).

Sources: include/uapi/linux/netfilter/x_tables.h, netfilter_ipv4/ip_tables.h,
netfilter_ipv6/ip6_tables.h; libiptc/libiptc.c and iptables/xshared.c of iptables 1.8.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto

from hvtx.errors import Contended
from hvtx.host import libiptc, xtblob, xtentry
from hvtx.host.retry import retry_transient
from hvtx.host.xtblob import Marked, count, entries, marked, read, refusal
from hvtx.host.xtlock import locked
from hvtx.host.xtnames import TOOLS, listed
from hvtx.host.xtneeds import load_module
from hvtx.host.xtsaved import Saved, SavedRule, saved
from hvtx.model.typed import Self

build = xtentry.build


class Edit:
    """One table between a fresh read and one commit, to be used under :func:`locked`.

    Methods raise OSError with libiptc's errno.
    """

    def __init__(self, family: int, table: str) -> None:
        """Read the table afresh (which makes it, if the namespace has none)."""
        self._family, self._name, self._growth = family, table, 0
        self._before = retry_transient(lambda: count(family, table))
        self._table = libiptc.Table(family, table)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._table.close()

    def has(self, chain: str) -> bool:
        """Whether the table has the chain."""
        return self._table.has(chain)

    def make_chain(self, chain: str) -> None:
        """Add an empty chain."""
        self._table.create_chain(chain)
        self._growth += 2

    def drop_chain(self, chain: str) -> None:
        """Remove a chain that is empty and that nothing jumps to."""
        self._table.delete_chain(chain)
        self._growth -= 2

    def empty(self, chain: str) -> bool:
        """Whether the chain has no rule."""
        return self._table.empty(chain)

    def references(self, chain: str) -> int:
        """How many rules jump to a chain of users."""
        return self._table.references(chain)

    def add(self, chain: str, entry: bytes, *, first: bool) -> None:
        """Put an entry at the head or the end of a chain."""
        if first:
            self._table.insert(chain, entry, 0)
        else:
            self._table.append(chain, entry)
        self._growth += 1

    def put_at(self, chain: str, entry: bytes, place: int) -> None:
        """Put an entry before the rule at a place, counted from 0, or behind the last one."""
        self._table.insert(chain, entry, place)
        self._growth += 1

    def put_last(self, chain: str, entry: bytes) -> bool:
        """Move the first rule that equals ``entry`` to its chain's end; False if there is none."""
        taken = self.delete_rule(chain, entry)
        if taken:
            self.add(chain, entry, first=False)
        return taken

    def set_comment(self, chain: str, entry: bytes, comment: str) -> bool:
        """Put an equal rule with a comment in the place of the first that equals ``entry``."""
        place = self._place(chain, entry)
        if place is None:
            return False
        self._table.replace(chain, xtentry.with_comment(self._family, entry, comment), place)
        return True

    def _place(self, chain: str, entry: bytes) -> int | None:
        """Where in the chain the first rule equal to ``entry`` stands, counted from 0."""
        blob = read(self._family, self._name)
        rules = entries(self._family, blob).get(chain, []) if blob else []
        return rules.index(entry) if entry in rules else None

    def delete_rule(self, chain: str, entry: bytes) -> bool:
        """Remove the first rule that equals ``entry``, byte by byte; False if there is none."""
        try:
            self._table.delete(chain, entry)
        except FileNotFoundError:
            return False
        self._growth -= 1
        return True

    def commit(self) -> bool:
        """Give the table to the kernel; False if its number of entries then is not as meant.

        That happens only beside a program that writes without taking the lock.
        """
        self._table.commit()
        return count(self._family, self._name) == self._before + self._growth


class Edited(Enum):
    """What became of an edit."""

    UNCHANGED = auto()  # there was nothing to commit
    AS_MEANT = auto()
    OTHERWISE = auto()  # somebody wrote without the lock: look again (see Edit.commit)


def edit(family: int, table: str, timeout: float, change: Callable[[Edit], bool]) -> Edited:
    """Lock, read, ``change(edit)``, commit; again while the kernel says EAGAIN.

    ``change`` returns whether there is anything to commit. Raises Busy, NotPermitted, HostRefused.
    """
    libiptc.library(family)  # loading takes time: never under the lock
    load_module(family)

    def once() -> Edited:
        with locked(timeout), Edit(family, table) as work:
            if not change(work):
                return Edited.UNCHANGED
            return Edited.AS_MEANT if work.commit() else Edited.OTHERWISE

    try:
        return retry_transient(once)
    except OSError as problem:
        raise refusal(family, table, problem) from problem


def matching(
    family: int, marks: Iterable[str], prefix: str, *, attempts: int = 6
) -> tuple[Saved, dict[tuple[str, str, str, str], list[bytes]]]:
    """Text and bytes of the same rules.

    The saved text, and by ``(table, chain, mark, text)`` of ``marks`` the entries in order. The
    bytes are read before and after the text and must be equal. Raises
    Contended if they never are.
    """
    wanted = frozenset(marks)
    for attempt in range(attempts):
        if attempt:
            time.sleep(0.002 * 2**attempt)
        before = _marked_in_all(family, wanted, prefix)
        text = saved(family)
        if before == _marked_in_all(family, wanted, prefix):
            paired = pair(text.rules, before, wanted)
            if paired is not None:
                return text, paired
    raise Contended(
        f"the {TOOLS[family]} rules changed while they were read",
        hint="try again when the other program is done",
    )


def _marked_in_all(family: int, wanted: frozenset[str], prefix: str) -> dict[str, list[Marked]]:
    found = {}
    for table in sorted(listed(family)):
        blob = read(family, table)
        if blob is not None and xtblob.has_any(blob, wanted):
            found[table] = marked(family, blob, prefix, wanted)
    return {table: entries for table, entries in found.items() if entries}


def pair(
    rules: Sequence[SavedRule], entries: dict[str, list[Marked]], wanted: frozenset[str]
) -> dict[tuple[str, str, str, str], list[bytes]] | None:
    """Join printed rules and entries by their order; None if they do not fit (pure)."""
    # Chains come in one order in the text and in another from the kernel: go chain by chain.
    left: dict[tuple[str, str], list[Marked]] = {}
    for table, found in entries.items():
        for entry in reversed(found):
            left.setdefault((table, entry.chain), []).append(entry)
    paired: dict[tuple[str, str, str, str], list[bytes]] = {}
    for line in rules:
        if line.mark is None or line.mark not in wanted:
            continue
        here = left.get((line.table, line.chain))
        if not here or here[-1].mark != line.mark:
            return None
        key = (line.table, line.chain, line.mark, line.text)
        paired.setdefault(key, []).append(here.pop().data)
    return None if any(left.values()) else paired
