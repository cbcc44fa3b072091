"""The tables of an installation as they are: whose they are, made by which version, asked or not.

They are made and put back in :mod:`hvtx.drivers.nftables.making`, which no start needs.
"""

from __future__ import annotations

import functools

from hvtx.drivers.nftables.judging import layouts_of
from hvtx.drivers.nftables.session import NoNftables, Session
from hvtx.errors import HostRefused
from hvtx.host import nftshape, store_location
from hvtx.host.nfanswers import parse_table
from hvtx.host.nfnumbers import GETCHAIN, GETTABLE
from hvtx.model.firewall import nftables_observed
from hvtx.model.hook import DORMANT
from hvtx.model.resource import Resource
from hvtx.rulesets.nftables_layout import HOOKS


def outdated(row: Resource) -> bool:
    """Whether a base row's tables were made by a version that made them otherwise."""
    return row.role == "base" and nftables_observed(row).get("layout") != layouts_of(row)


def traces(session: Session) -> dict[str, str]:
    """What installations' tables say of where their stores are; empty without nf_tables.

    Raises Contended, NotPermitted.
    """
    try:
        found = session.consistently(
            lambda _: session.socket.chain_comments(store_location.CHAIN), "the list of chains"
        )
    except NoNftables:
        return {}
    return {
        chain.name.removeprefix("hvtx-"): chain.comment or ""
        for chain in found
        if chain.family == store_location.CHAIN_FAMILY and chain.name.startswith("hvtx-")
    }


def known(session: Session) -> frozenset[tuple[str, str]]:
    """Family and name of every table here; none without nf_tables.

    Raises Contended, NotPermitted.
    """
    try:
        (bodies,) = session.listed("the list of tables", GETTABLE)
    except NoNftables:
        return frozenset()
    return frozenset((table.family, table.name) for table in map(parse_table, bodies))


def may_translate(session: Session) -> bool:
    """Whether others may give packets a destination (:mod:`hvtx.host.nat_detection`).

    Raises OSError, HvtxError.
    """
    from hvtx.host import nat_detection

    try:
        (chains,) = session.listed("the list of chains", GETCHAIN)
    except NoNftables:
        chains = []
    return nat_detection.may_among(chains, session.rules_of)


def refuse_unguarded(session: Session) -> None:
    """Nobody is called guarded by chains that the kernel does not ask."""
    own = session.table.encode()  # others' may be tens of thousands, and change all the time
    tables, chains = (
        tuple(body for body in bodies if own in body)
        for bodies in session.listed("our chains", GETTABLE, GETCHAIN)
    )
    problem = _unguarded(tables, chains, session.table)
    if problem is not None:
        raise HostRefused(problem, hint="`hvtx repair` puts it back")


@functools.lru_cache(8)  # while nobody changes ours, they are told by the same bytes
def _unguarded(tables: tuple[bytes, ...], chains: tuple[bytes, ...], table: str) -> str | None:
    """Why the kernel does not ask our chains, in words; None if it does (pure)."""
    flags = nftshape.flags_in(tables, table)
    hooks = nftshape.hooks_in(chains, table)
    for (family, name), hook in HOOKS.items():
        what = f"hvtx's table {family} {table}"
        if flags.get(family, 0) & DORMANT:
            return f"{what} is dormant: its rules do not restrict any guest"
        if hook and family in flags and hooks.get(family, {}).get(name) != hook:
            return (
                f"chain {name} of {what} is missing or was replaced: its rules do not "
                "restrict any guest"
            )
    return None
