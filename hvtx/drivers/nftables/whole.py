"""All that concerns an installation, read at once: for plans and for doctor."""

from __future__ import annotations

from hvtx.drivers.nftables.own_elements import OwnElements
from hvtx.drivers.nftables.ruleset import listing, read
from hvtx.drivers.nftables.session import NoNftables, Session
from hvtx.host import nftseen
from hvtx.model.typed import TYPE_CHECKING
from hvtx.rulesets.nftables_layout import FAMILIES, PASSING

if TYPE_CHECKING:
    from hvtx.model.resource import Entry
    from hvtx.model.ruleset import SeenTable


def own_tables(session: Session) -> tuple[SeenTable, ...]:
    """Our tables as they are; none without nf_tables. Raises Contended, NotPermitted."""
    try:
        return session.consistently(
            lambda _: nftseen.seen(
                session.socket, session.table, listing, families=FAMILIES, passing=PASSING
            ),
            "our tables",
        )
    except NoNftables:
        return ()


def observe_bulk(session: Session) -> tuple[tuple[Entry, ...], OwnElements]:
    """Every rule and table that concerns us, and apart from them the elements of our own sets.

    All under one generation. Raises Contended, NotPermitted; empty without nf_tables.
    """

    def look(_: int) -> tuple[tuple[Entry, ...], OwnElements]:
        own = OwnElements(session.table)
        return read(session, own), own

    try:
        return session.consistently(look, "the ruleset")
    except NoNftables:
        return (), OwnElements(session.table)
