"""Candidates of `explain` with their owners: the values that all finders share. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from hvtx.model.foreign_rule import ForeignRule
from hvtx.model.place import Place
from hvtx.model.plan import Item, Plan, Snapshot
from hvtx.model.reason import Reason
from hvtx.model.resource import Link, Resource
from hvtx.model.ruleset import Difference
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Network, Vm
from hvtx.planner import address_notes
from hvtx.planner.known_software import looks_like

MENTIONS = 5  # others' rules that are named as evidence


class ExplainFacts(NamedTuple):
    """Everything that an answer is made from."""

    snapshot: Snapshot
    plan: Plan  # of all things, others' too
    vms: tuple[Vm, ...]
    networks: tuple[Network, ...]
    rules: tuple[ForeignRule, ...]  # every rule of the host, ours too
    places: tuple[Place, ...]  # every table, chain and set
    sockets: frozenset[tuple[str, str, int]]  # protocol, address, port that a program listens on
    deaf: str = ""  # why sockets may be missing
    unread: str = ""  # why rules and places are missing, if they could not be read
    tombstone: Resource | None = None  # the released row with the mark that was asked for
    differences: tuple[Difference, ...] = ()  # what in our own tables is not as hvtx made it


class Subject(NamedTuple):
    """A thing that somebody asked for.

    ``item`` is gc's verdict on it; without one, ``owner`` and ``reason`` say what is known. ``row``
    is its row on record; ``words`` is what it is, if that is not a resource of ours.
    """

    kind: str
    key: str
    words: str
    item: Item | None = None
    owner: str = "foreign"
    reason: Reason = Reason.FOREIGN
    vm: str | None = None
    network: str | None = None
    row: Resource | None = None
    evidence: tuple[str, ...] = ()


def of_item(
    sight: ExplainFacts, item: Item, words: str = "", evidence: Iterable[str] = ()
) -> Subject:
    """The subject of a plan's item."""
    row = next((row for row in sight.snapshot.rows if row.id == item.row), None)
    return Subject(
        item.kind, item.key, words, item, owner_of(reason_of(item)), reason_of(item), item.vm,
        _network_of(sight, row), row, tuple(evidence),
    )  # fmt: skip


def reason_of(item: Item) -> Reason:
    """The reason of an item of gc's plan, which has no guesses."""
    assert isinstance(item.reason, Reason)
    return item.reason


def of_row(sight: ExplainFacts, row: Resource, evidence: Iterable[str] = ()) -> Subject:
    """A row's own item: the first that speaks of it is its own, copies come behind."""
    item = next(item for item in sight.plan.items if item.row == row.id and item.entry is None)
    return of_item(sight, item, evidence=evidence)


def _network_of(sight: ExplainFacts, row: Resource | None) -> str | None:
    facts = sight.snapshot.networks.get(row.network) if row and row.network else None
    if facts:
        return facts.name
    bridge = row.bridge if row else ""
    return next((network.name for network in sight.networks if network.bridge == bridge), None)


def owner_of(reason: Reason) -> str:
    """The owner (a word of the interface) of what is planned for this reason."""
    if reason is Reason.OTHER_INSTALLATION:
        return "other-installation"
    if reason in (Reason.FOREIGN, Reason.MARK_MISMATCH):
        return "foreign"
    if reason in (
        Reason.MARK_UNREADABLE,
        Reason.MARK_STRIPPED,
        Reason.UNRECORDED,
        Reason.DUPLICATE_MARK,
        Reason.EDITED_COPY,
    ):
        return "unknown"
    return "hvtx"


def rules_about(sight: ExplainFacts, link: Link) -> Iterator[str]:
    """What the kernel shows of a device, and who speaks of it."""
    names = {other.ifindex: other.name for other in sight.snapshot.links}
    yield f"{link.kind or 'device'} with index {link.ifindex}, MAC address {link.mac}"
    if link.altnames:
        yield f"also called {address_notes.listed(list(link.altnames))}"
    if link.master:
        yield f"a port of {names.get(link.master, 'a bridge that is not seen')}"
    ports = [other.name for other in sight.snapshot.links if other.master == link.ifindex]
    if ports:
        yield f"its ports: {address_notes.listed(ports)}"
    own = [a.address for a in sight.snapshot.addresses if a.ifindex == link.ifindex]
    if own:
        yield f"its addresses: {address_notes.listed(own)}"
    yield from rules_with(sight, link.name)


def rules_with(sight: ExplainFacts, word: str) -> Iterator[str]:
    """Others' rules that speak of something."""
    whole = re.compile(rf"(?<![\w.:-]){re.escape(word)}(?![\w.:-])")
    rules = [r for r in sight.rules if not r.mark and (whole.search(r.text) or r.native == word)]
    for rule in rules[:MENTIONS]:
        yield f"mentioned by a rule without a mark: {rule.key}"
    if len(rules) > MENTIONS:
        yield f"and by {len(rules) - MENTIONS} more"


def foreign_words(sight: ExplainFacts, link: Link) -> str:
    """What can be said of somebody else's device."""
    master = next((o.name for o in sight.snapshot.links if o.ifindex == link.master), "")
    looks = (looks_like(master) if master else None) or looks_like(link.name)
    alias = f"its alias is {link.alias!r}" if link.alias else "no mark"
    return f"not ours: {alias}" + (f"; looks like {looks}" if looks else "")
