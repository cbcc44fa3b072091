"""A ruleset made again in the calling thread's namespace, with what of it the kernel takes.

A rule that it does not take is there without what it does: which flows come to it is seen, and of
those it is not known what becomes of them. The same goes for rules that ask a set that cannot be
made. Only where no place can be held, a whole table stays behind.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Sequence

from hvtx.host.netlink import NESTED, attribute, attribute_map
from hvtx.host.nfanswers import expressions
from hvtx.host.nfnetlink import BatchRefused, Nftables
from hvtx.host.nfnumbers import NEWRULE, NEWSETELEM
from hvtx.host.replica import limits
from hvtx.host.replica.ruleset import (
    NEWFLOWTABLE,
    NEWOBJ,
    NEWSET,
    Part,
    Place,
    Ruleset,
    handle_of,
    parts,
    place,
)
from hvtx.model.typed import NamedTuple

_MOST_ATTEMPTS = 64
_EXPRESSIONS, _VERDICT = 4, 2
# What only looks at a packet; the last of them has a verdict, too.
_LOOKS = frozenset({"meta", "cmp", "payload", "bitwise", "range", "byteorder", "ct", "fib",
                    "exthdr", "lookup", "rt", "socket", "counter", "hash",
                    "immediate"})  # fmt: skip
# Which attributes of an expression name a set, an object or a flowtable.
_NAMES = {"lookup": (1,), "dynset": (1,), "objref": (2, 4), "flow_offload": (1,)}


class Copied(NamedTuple):
    """How a copy went.

    ``lacks``: what is missing in it, in words. ``without``: the tables that are. ``doubts``: rules
    of which it is not known what they do, by their chain and the host's handle. ``unmade``: sets,
    objects and flowtables that are not as on the host.
    """

    lacks: tuple[str, ...] = ()
    without: frozenset[tuple[str, str]] = frozenset()
    doubts: frozenset[tuple[Place, int]] = frozenset()
    unmade: frozenset[Place] = frozenset()


def write(ruleset: Ruleset, devices: Collection[str]) -> Copied:
    """Make a ruleset. Raises OSError for what is no fault of one table."""
    job = _Job(parts(ruleset, devices), ruleset)
    if not job.every:
        return Copied()
    channel = Nftables()
    try:
        for attempt in range(_MOST_ATTEMPTS + len(ruleset.tables)):
            try:
                channel.batch([part.command for part in job.every])
            except BatchRefused as refusal:
                if refusal.index < 0:
                    raise
                job.refused(
                    job.every[refusal.index], str(refusal.strerror), attempt < _MOST_ATTEMPTS
                )
            else:
                return job.copied()
        raise OSError(errno.E2BIG, "too many tables cannot be copied")
    finally:
        channel.close()


class _Job:
    """What is to be made, less and less of it."""

    def __init__(self, every: Sequence[Part], ruleset: Ruleset) -> None:
        self.every = list(every)
        self._lacks: list[str] = []
        self._without: set[tuple[str, str]] = set()
        self._unmade: set[Place] = set()
        self._tried: set[str] = set()
        self._doubts = {
            (place(body), handle_of(body)) for body in ruleset.rules
            if limits.is_doubtful(attribute_map(body, 4).get(_EXPRESSIONS, b""))
        }  # fmt: skip

    def copied(self) -> Copied:
        return Copied(tuple(self._lacks), frozenset(self._without), frozenset(self._doubts),
                      frozenset(self._unmade))  # fmt: skip

    def refused(self, bad: Part, why: str, patient: bool) -> None:
        """Leave out what the kernel does not take."""
        number = bad.command.number
        if patient and number == NEWRULE and f"again {bad.words}" not in self._tried:
            again = f"again {bad.words}" if bad.words in self._tried else bad.words
            self._tried.add(again)
            self._hold(bad, looks(_raw(bad)) if again == bad.words else b"")
        elif patient and number in (NEWSET, NEWSETELEM, NEWOBJ, NEWFLOWTABLE):
            self._unmade.add((*bad.table, bad.name))
            held = (NEWSETELEM,) if number == NEWSETELEM else (number, NEWSETELEM)
            self.every = [part for part in self.every if part.command.number not in held
                          or (part.table, part.name) != (bad.table, bad.name)]  # fmt: skip
            for part in [p for p in self.every if p.command.number == NEWRULE]:
                raw = _raw(part)
                if part.table == bad.table and (cut := before(raw, bad.name)) != raw:
                    self._hold(part, cut)
        else:
            self._lacks.append(f"{bad.words} cannot be copied: {why}")
            self._without.add(bad.table)
            self.every = [part for part in self.every if part.table != bad.table]

    def _hold(self, rule: Part, raw: bytes) -> None:
        """Have a rule with these expressions in its place, which does nothing more."""
        inside = limits.with_fields(rule.command.body, {_EXPRESSIONS: None})
        inside += attribute(_EXPRESSIONS | NESTED, raw)
        self.every[self.every.index(rule)] = rule._replace(
            command=rule.command._replace(body=inside)
        )
        self._doubts.add(((*rule.table, rule.name), rule.handle))


def _raw(rule: Part) -> bytes:
    return attribute_map(rule.command.body).get(_EXPRESSIONS, b"")


def looks(raw: bytes) -> bytes:
    """The first expressions of a rule, as far as they only look at a packet. Pure."""
    found = []
    for name, data in expressions(raw):
        if name not in _LOOKS or (name == "immediate" and _is_verdict(data)):
            break
        found.append(limits.listed(name, data))
    return b"".join(found)


def before(raw: bytes, wanted: str) -> bytes:
    """The expressions of a rule before the first one that names a set or an object. Pure."""
    found: list[bytes] = []
    for name, data in expressions(raw):
        fields = attribute_map(data)
        names = (fields.get(kind, b"").rstrip(b"\0") for kind in _NAMES.get(name, ()))
        if wanted.encode() in names:
            return b"".join(found)
        found.append(limits.listed(name, data))
    return raw


def _is_verdict(immediate: bytes) -> bool:
    return _VERDICT in attribute_map(attribute_map(immediate).get(_VERDICT, b""))
