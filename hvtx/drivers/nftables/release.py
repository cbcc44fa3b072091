"""Removal of what carries a row's mark, and of nothing else: compare-and-swap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hvtx.drivers.nftables.judging import (
    families_of,
    foreign_objects,
    judge,
    surplus,
)
from hvtx.drivers.nftables.session import Acted, Session, guarded
from hvtx.host.nfanswers import Table, all_elements
from hvtx.host.nfmessages import Command, delete_element, delete_rule, delete_table
from hvtx.host.nfnumbers import SET_ANONYMOUS
from hvtx.model.firewall import firewall_spec
from hvtx.model.hook import SetElement
from hvtx.model.resource import GONE, Entry, Outcome, Resource
from hvtx.rulesets.nftables_elements import pieces
from hvtx.rulesets.nftables_layout import PASSING


def release_elements(session: Session, rows: Sequence[Resource]) -> Mapping[int, Outcome]:
    """What becomes of rows of VMs and networks, each by its own elements; all in one batch."""
    wanted = [(row, p) for row in rows for p in pieces(session.installation, firewall_spec(row))]
    marks = {row.mark for row in rows}

    def swap(generation: int) -> Acted:
        there = session.socket.lookup([piece for _, piece in wanted])
        outcomes = {row.id: GONE for row in rows}
        commands: list[Command] = []
        for (row, piece), element in zip(wanted, there, strict=True):
            if element is not None and element.comment != row.mark and element.comment in marks:
                continue  # another of these rows has taken its place, and goes too
            outcome = judge(piece, element, row.mark)
            if outcome is None:
                commands.append(delete_element(piece))
            elif not outcome.gone:
                outcomes[row.id] = outcome
        session.act(generation, 0, commands, GONE)
        return Acted(outcomes)

    return session.consistently(swap, "the release of elements").outcomes


def release_base(session: Session, row: Resource) -> Mapping[int, Outcome]:
    """Remove the tables of a base row, if all in them carries its mark."""

    def swap(generation: int) -> Acted:
        tables = [
            table
            for table in session.socket.tables()
            if table.name == session.table and table.family in families_of(row)
        ]
        outcome = next((o for t in tables if (o := _removable(session, t, row.mark))), GONE)
        commands = [delete_table(table.family, table.name) for table in tables]
        return session.act(generation, row.id, commands if outcome.gone else [], outcome)

    return session.consistently(swap, f"table {session.table}").outcomes


def _removable(session: Session, table: Table, mark: str) -> Outcome | None:
    """None if a table and all in it carry ``mark``, else why it stays."""
    where = f"table {table.family} {table.name}"
    if table.comment is None:
        return Outcome(False, "mark-stripped", f"{where} has no comment")
    if table.comment != mark:
        return Outcome(False, "mark-mismatch", f"{where} carries {table.comment!r}")
    if table.name.startswith(f"{session.table}-"):
        return None  # of a network's names (rulesets/egress_names.py): nothing in it has a mark
    foreign_object = _foreign_object_in(session, table, mark)
    if foreign_object:
        return Outcome(False, "foreign-dependents", f"{where} still holds {foreign_object}")
    return None


def _foreign_object_in(session: Session, table: Table, mark: str) -> str:
    socket, here = session.socket, (table.family, table.name)
    sets = [s for s in socket.sets() if (s.family, s.table) == here]
    sets = [s for s in sets if not s.flags & SET_ANONYMOUS]
    named = [("set", s.name) for s in sets]
    named += [
        (kind, thing.name)
        for kind, things in (("chain", socket.chains()), ("object", socket.objects()))
        for thing in things
        if (thing.family, thing.table) == here
    ]
    elements = [
        (s.name, all_elements(socket.dump_elements(*here, s.name)))
        for s in sets
        if (s.family, s.name) not in PASSING
    ]
    return foreign_objects(table.family, mark, named, socket.rules(*here), elements)


def remove_copies(session: Session, resource: Resource) -> Outcome:
    """Remove the surplus identical copies of a base row's rules, keeping the first of each.

    Elements cannot have copies. Raises nothing for a single item.
    """

    def swap(generation: int) -> Acted:
        found = surplus(session.own_rules(), resource.mark)
        return session.act(generation, resource.id, [delete_rule(r) for r in found], GONE)

    def attempt() -> Mapping[int, Outcome]:
        return session.consistently(swap, f"copies in table {session.table}").outcomes

    return guarded([resource.id], attempt)[resource.id]


def remove(session: Session, entry: Entry) -> Outcome:
    """Remove one object that was seen, if it is still exactly that; of copies, the last.

    A table goes only if all in it carries the same mark. Never raises.
    """
    if entry.mark is None:
        return Outcome(False, "foreign", f"`{entry.text}` in {entry.place} carries no mark")

    def swap(generation: int) -> Acted:
        found = _removal(session, entry)
        if isinstance(found, Outcome):
            return session.act(generation, 0, [], found)
        return session.act(generation, 0, [found], GONE)

    def attempt() -> Mapping[int, Outcome]:
        return session.consistently(swap, str(entry.place)).outcomes

    return guarded([0], attempt)[0]


def _removal(session: Session, entry: Entry) -> Command | Outcome:
    """What removes the object of ``entry``; an outcome if it is gone or must stay."""
    from hvtx.drivers.nftables.ruleset import rule_entries
    from hvtx.host.nfttext import render

    _, family, table, name = entry.place
    mark = entry.mark or ""
    if entry.place.is_table:
        there = [t for t in session.socket.tables() if (t.family, t.name) == (family, table)]
        kept = _removable(session, there[0], mark) if there else GONE
        return delete_table(family, table) if kept is None else kept
    same = entry._replace(handle=0, nat=False)
    rules = [
        rule
        for rule, seen in rule_entries(session, session.rules_of(family, table))
        if seen._replace(handle=0, nat=False) == same
    ]
    if rules:
        return delete_rule(rules[-1])
    if any((s.family, s.table, s.name) == (family, table, name) for s in session.socket.sets()):
        for one in all_elements(session.socket.dump_elements(family, table, name)):
            if one.comment == mark and render(family, name, one.key, one.data) == entry.text:
                piece = SetElement(family, table, name, one.key, interval=one.interval)
                return delete_element(piece)
    return GONE
