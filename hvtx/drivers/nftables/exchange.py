"""Elements of some rows take the place of those of others, in one batch under one generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hvtx.drivers.base import stand_for
from hvtx.drivers.nftables.judging import counts_others, describe
from hvtx.drivers.nftables.session import Acted, Session
from hvtx.drivers.nftables.tables import refuse_unguarded
from hvtx.errors import Conflict
from hvtx.host.nfanswers import Element
from hvtx.host.nfmessages import Command, add_element, delete_element
from hvtx.model.firewall import firewall_spec, nftables_observed
from hvtx.model.hook import SetElement
from hvtx.model.mark import parse_mark
from hvtx.model.resource import GONE, Resource
from hvtx.model.typed import Any
from hvtx.rulesets.nftables_elements import pieces

Piece = tuple[Resource, SetElement]
_Key = tuple[str, str, str, bytes]


def exchange(
    session: Session, gone: Sequence[Resource], made: Sequence[Resource]
) -> Mapping[int, dict[str, Any]]:
    """See :meth:`hvtx.drivers.base.ExchangingDriver.exchange`; of rows that are no base."""
    leaving = [piece for row in gone for piece in _pieces(session, row)]
    coming = [piece for row in made for piece in stand_for(row, _pieces(session, row))]
    if coming:
        refuse_unguarded(session)

    def swap(generation: int) -> Acted:
        there = session.socket.lookup([piece for _, piece in (*leaving, *coming)])
        commands = _commands(leaving, coming, there)
        session.act(generation, 0, commands, GONE)
        return Acted({})

    session.consistently(swap, "a change of elements")
    found: dict[int, dict[str, Any]] = {row.id: {"elements": 0} for row in made}
    for row, _ in coming:
        found[row.id]["elements"] += 1
    return found


def _pieces(session: Session, row: Resource) -> list[Piece]:
    return [(row, piece) for piece in pieces(session.installation, firewall_spec(row))]


def _key(piece: SetElement) -> _Key:
    return piece.family, piece.table, piece.set, piece.key


def _commands(
    leaving: Sequence[Piece], coming: Sequence[Piece], there: Sequence[Element | None]
) -> list[Command]:
    """What makes of the elements ``there`` those that are to be; raises Conflict (pure).

    ``there`` are those at the keys of ``leaving`` and of ``coming``, in this order. Who takes an
    element away and makes it anew in one batch leaves no packet without it.
    """
    marks = {row.mark for row, _ in (*leaving, *coming)}
    wanted = {_key(piece): (row, piece) for row, piece in coming}
    found: dict[_Key, tuple[Resource, SetElement, Element | None]] = {}
    for (row, piece), element in zip((*leaving, *coming), there, strict=True):
        if element is None or element.comment == row.mark or _key(piece) not in found:
            found[_key(piece)] = row, piece, element  # by whose mark it carries, if it is one's
    taken: list[Command] = []
    made: list[Command] = []
    for key, (row, piece, element) in found.items():
        if element is not None and element.comment not in marks:
            if key not in wanted and _is_anothers(row, element.comment):
                continue
            raise _in_the_way(row, piece, element.comment or "no mark of hvtx")
        if key not in wanted:
            if element is not None and element.data != piece.data:
                raise _in_the_way(row, piece, "its mark, but was changed")
            taken += [] if element is None else [delete_element(piece)]
            continue
        owner, right = wanted[key]
        if element is None or element.comment != owner.mark or not _is(element, right):
            taken += [] if element is None else [delete_element(right)]
            made.append(add_element(right, owner.mark))
    return [*taken, *made]


def _is_anothers(row: Resource, comment: str | None) -> bool:
    """Whether what has the place of a row that goes is nothing of it, and may stay (pure).

    Its row was never made (an undo leaves alone what kept it from that), or another of ours has
    taken the place since. Else somebody took the mark off, and what is to go would go on.
    """
    if "elements" not in nftables_observed(row):
        return True
    theirs, own = parse_mark(comment), parse_mark(row.mark)
    return theirs is not None and own is not None and theirs.installation == own.installation


def _is(element: Element, piece: SetElement) -> bool:
    return element.data == piece.data and not counts_others(element, piece)


def _in_the_way(row: Resource, piece: SetElement, carries: str) -> Conflict:
    return Conflict(
        f"{row.key}: {describe(piece)} is there, and carries {carries}",
        hint=f"nothing was changed; `hvtx explain {row.key}` shows its owner",
    )
