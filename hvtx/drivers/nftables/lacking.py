"""Which rows do not stand as on record, each looked up by its keys: however many guests there are.

Who plans compares all that is there (:mod:`ruleset`); who asks about a network reads its elements,
and the tables and rules that every network stands on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hvtx.drivers.nftables.judging import digests, families_of
from hvtx.drivers.nftables.session import NoNftables, Session
from hvtx.model.firewall import chain_key, chain_rules, firewall_spec
from hvtx.model.resource import Resource
from hvtx.rulesets.nftables_elements import pieces


def lacking(session: Session, rows: Sequence[Resource]) -> list[Resource]:
    """Base rows and rows of elements of which something is gone, changed or carries no mark.

    All under one generation. Raises Contended, NotPermitted; without nf_tables all of them are.
    """
    try:
        gone = session.consistently(lambda _: {*_gone(session, rows)}, "our elements")
    except NoNftables:
        return list(rows)
    return [row for row in rows if row.id in gone]


def _gone(session: Session, rows: Sequence[Resource]) -> Iterator[int]:
    """The rows' ids, some perhaps several times. Raises OSError."""
    bases = [row for row in rows if row.role == "base"]
    wanted = [
        (row, piece)
        for row in rows
        if row.role != "base"
        for piece in pieces(session.installation, firewall_spec(row))
    ]
    there = session.socket.lookup([piece for _, piece in wanted])
    for (row, piece), element in zip(wanted, there, strict=True):
        if element is None or (element.comment, element.data) != (row.mark, piece.data):
            yield row.id
    if not bases:
        return
    tables = {(t.family, t.comment) for t in session.socket.tables() if t.name == session.table}
    rules = session.own_rules()
    for row in bases:
        marked = digests(rules, row.mark)
        if not {(family, row.mark) for family in families_of(row)} <= tables or any(
            not {*texts} <= {*marked.get(chain_key(family, chain), ())}
            for family, chain, texts in chain_rules(row)
        ):
            yield row.id
