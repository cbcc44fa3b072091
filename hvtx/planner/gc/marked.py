"""The items of what carries our mark, or another installation's, and is no row's object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hvtx.model.mark import Mark, UnreadableMark, parse_mark
from hvtx.model.place import Place
from hvtx.model.plan import Action, Item
from hvtx.model.reason import Reason
from hvtx.model.resource import Entry, Kind, Link, Resource, State
from hvtx.planner.gc.cases import (
    Alive,
    EntryCase,
    Likeness,
    LinkCase,
    Record,
    RowEpoch,
    Whose,
)
from hvtx.planner.gc.facts import Facts
from hvtx.planner.gc.rules import decide_entry, decide_link
from hvtx.planner.gc.table import Rule
from hvtx.planner.presence import OBJECT_KEY

_Parsed = Mark | UnreadableMark | None
_KINDS = {"bridge": Kind.BRIDGE, "veth": Kind.VETH}  # of a link; all else is told as a TAP


def marked_links(facts: Facts) -> list[Item]:
    """Devices with a mark that no row accounts for."""
    items = []
    settled = facts.snapshot.settled.marks
    for mark, links in facts.sights.marks_of_links.items():
        if mark in settled:
            continue
        row = facts.by_mark.get(mark)
        loose = [link for link in links if row is None or facts.presences[row.id].link != link]
        parsed = parse_mark(mark) if loose else None
        if parsed is not None:
            items += [_marked_link(facts, link, mark, parsed) for link in loose]
    return items


def _marked_link(facts: Facts, link: Link, mark: str, parsed: _Parsed) -> Item:
    kind = _KINDS.get(link.kind, Kind.TAP)
    whose = _whose(facts, parsed)
    live = mark in facts.by_mark
    tombstone = None if live else facts.snapshot.tombstones.get(mark)
    own = tombstone if whose is Whose.OURS else None
    alike = own is not None and (own.kind, own.ifindex) == (kind, link.ifindex)
    holders = facts.snapshot.holders.get(link.name, ())
    others = facts.dependents(own, link) if own is not None else []
    decided = decide_link(
        LinkCase(
            whose=whose,
            record=Record.LIVE if live else Record.REMOVED if own else Record.NOTHING,
            likeness=Likeness.SAME if alike else Likeness.NONE,
            held=bool(holders),
            others=bool(others),
        )
    )
    shown = holders if "holders" in decided.words.evidence else ()
    return Item.for_object(
        kind,
        link.name,
        decided.action,
        decided.reason,
        evidence=(f"alias {mark}", f"index {link.ifindex}", *shown),
        message=_words(decided, parsed, key=link.name, holders=holders, others=others),
        mark=mark,
        tombstone=own,
    )._replace(link=link)


def marked_entries(facts: Facts) -> list[Item]:
    """Firewall objects with a mark that no row accounts for, and surplus copies."""
    items = []
    places = Places(facts)
    for mark, entries in facts.sights.by_mark.items():
        row = facts.by_mark.get(mark) or facts.snapshot.tombstones.get(mark)
        if row is not None and _just_as_recorded(facts, row, entries):
            continue
        parsed = parse_mark(mark)
        live = row is not None and row.state != State.RELEASED
        known = facts.snapshot.expected.get(row.id, ()) if row and live else ()
        left = Counter(entry.object_key for entry in known)
        # sorted: which copy stays must not depend on the dump's order
        for entry in sorted(entries, key=lambda entry: (entry.handle, entry.object_key)):
            if left[entry.object_key] > 0:
                left[entry.object_key] -= 1
                continue
            items.append(_marked_entry(facts, places, entry, parsed, row))
    return _merged(items)


def marked_files(facts: Facts) -> list[Item]:
    """Run-time directories and seeds with a mark that no row accounts for."""
    items = []
    for path, seen in facts.snapshot.unrecorded.items():
        parsed = parse_mark(seen.mark)
        if parsed is None:
            continue
        whose = _whose(facts, parsed)
        decided = decide_entry(
            EntryCase(
                whose, Record.NOTHING, Likeness.NONE, RowEpoch.NOW, working=False, serves=None
            )
        )
        users = [f"{who} is at it" for who in seen.users]
        users += ["some processes could not be looked into"] if seen.hidden else []
        items.append(
            Item.for_object(
                Kind.FILE, path, decided.action, decided.reason,
                evidence=(f"mark {seen.mark}", *(users or ["no process is at it"])),
                message=_words(decided, parsed), mark=seen.mark,
            )
        )  # fmt: skip
    return items


def _just_as_recorded(facts: Facts, row: Resource, entries: Sequence[Entry]) -> bool:
    """Whether these are a live row's own objects, each once: nearly all are."""
    if row.state == State.RELEASED:
        return False
    there = {*map(OBJECT_KEY, entries)}
    known = facts.snapshot.expected.get(row.id, ())
    return len(there) == len(entries) and there.issubset(map(OBJECT_KEY, known))


def _marked_entry(
    facts: Facts, places: Places, entry: Entry, parsed: _Parsed, row: Resource | None
) -> Item:
    where = f"{entry.place}: {entry.text}"
    case, alone = _entry_case(facts, places, entry, parsed, row)
    decided = decide_entry(case)
    evidence, words = (f"comment {entry.mark}", where), _words(decided, parsed)
    if row is None:
        return Item.for_object(
            Kind.FILTER, where, decided.action, decided.reason, evidence=evidence, message=words,
            mark=entry.mark,
        )._replace(entry=entry)  # fmt: skip
    item = Item.for_row(
        row, decided.action, decided.reason, vm=facts.name(row.vm), evidence=evidence, message=words
    )
    return item._replace(entry=entry, alone=alone and decided.action is Action.DELETE)


def _entry_case(
    facts: Facts, places: Places, entry: Entry, parsed: _Parsed, row: Resource | None
) -> tuple[EntryCase, bool]:
    """The case of an entry, and whether others of its mark stay though it goes."""
    whose = _whose(facts, parsed)
    if row is None or whose is not Whose.OURS:
        case = EntryCase(
            whose, Record.NOTHING, Likeness.NONE, RowEpoch.NOW, working=False, serves=None
        )
        return case, False
    known = facts.snapshot.expected.get(row.id, ())
    like = Likeness.PLACE if any(e.place == entry.place for e in known) else Likeness.NONE
    if entry.object_key in {other.object_key for other in known}:
        like = Likeness.SAME
    removed = row.state == State.RELEASED
    needed = None
    if removed and like is Likeness.SAME:
        needed = places.needed(facts.sights.by_mark[row.mark])
    alone = needed is not None and places.beside_its_own(entry)
    return (
        EntryCase(
            whose=whose,
            record=Record.REMOVED if removed else Record.LIVE,
            likeness=like,
            life=facts.life(row),
            working=facts.working(row),
            serves=None if alone else needed,
        ),
        alone,
    )


class Places:
    """Where in the firewall rows' objects belong, and which of those places are filled."""

    def __init__(self, facts: Facts) -> None:
        """Remember what to look at; the look is taken when a tombstone's object is met."""
        self._facts = facts
        self._empty: dict[tuple[str, Place, str], list[Resource]] = {}  # who needs what where
        self._filled: set[tuple[str, Place, str]] = set()  # where the rows' own objects are
        self._looked = False

    def needed(self, entries: Sequence[Entry]) -> Reason | None:
        """Why what stands in a row's own place stays, whatever its mark: its owner lives by it.

        A restore of saved rules puts the elements of an earlier start there; without them packets
        of the VM that runs now would be lost. They go together, so one that serves keeps all but
        those beside their own copy.
        """
        self._look()
        rows = [row for entry in entries for row in self._empty.get(entry.object_key, ())]
        return next((reason for row in rows if (reason := self._why(row)) is not None), None)

    def beside_its_own(self, entry: Entry) -> bool:
        """Whether a rule is there for the one that needs it, so that this one serves nobody.

        ``iptables-restore -n`` empties the chains that it fills, and adds to the built-in ones.
        """
        self._look()
        return entry.object_key in self._filled and entry.object_key not in self._empty

    def _look(self) -> None:
        if self._looked:
            return
        self._looked = True
        snapshot = self._facts.snapshot
        for row in snapshot.rows:
            there = {entry.object_key for entry in self._facts.sights.by_mark.get(row.mark, ())}
            for own in snapshot.expected.get(row.id, ()):
                if own.object_key in there:
                    self._filled.add(own.object_key)
                else:
                    self._empty.setdefault(own.object_key, []).append(row)

    def _why(self, row: Resource) -> Reason | None:
        """Why the owner of a row needs its object now; None if it is dead, or there is none."""
        if self._facts.working(row):
            return Reason.OPERATION_RUNNING
        if row.vm is None:
            return Reason.RESERVED if row.state == State.COMMITTED else None
        alive = self._facts.alive(row.vm)
        if alive is Alive.ALIVE or row.vm in self._facts.held_vms:
            return Reason.VM_ALIVE
        return Reason.LIVENESS_UNKNOWN if alive is not Alive.DEAD else None


def _whose(facts: Facts, parsed: _Parsed) -> Whose:
    if parsed is not None:
        installation = parsed.installation
        if installation is not None and installation != facts.snapshot.installation:
            return Whose.OTHERS
    return Whose.OURS if isinstance(parsed, Mark) else Whose.UNREADABLE


def _words(
    decided: Rule,
    parsed: _Parsed,
    key: str = "",
    holders: Sequence[str] = (),
    others: Sequence[str] = (),
) -> str:
    installation = parsed.installation if parsed else ""
    return decided.words.text.format(
        installation=installation, key=key, holders=", ".join(holders), others=", ".join(others)
    )


def _merged(items: list[Item]) -> list[Item]:
    """One item for all entries of a mark that are judged alike (a table has many rules)."""
    merged: dict[tuple[object, ...], Item] = {}
    for item in items:
        key = (item.mark, item.reason, item.row)
        first = merged.get(key)
        if first is None or item.entry is None:
            merged[key] = item
        else:
            merged[key] = first._replace(more=(*first.more, item.entry))
    return [
        item._replace(evidence=(*item.evidence, f"and {len(item.more)} more with this mark"))
        if item.more
        else item
        for item in merged.values()
    ]
