"""Rows `passage`: accepts of ours in the chains of iptables-nft, made and put where they belong.

The tables are others'. Only rules with a row's own mark are touched, by compare-and-swap, and each
is one that iptables-nft itself could have made (:mod:`hvtx.host.nfxt`), so that it goes on reading
the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hvtx.drivers.nftables.session import Acted, Session
from hvtx.errors import HostRefused
from hvtx.host.filter_chains import FAMILIES, TABLE, nft_chains
from hvtx.host.nfanswers import Rule
from hvtx.host.nfmessages import Command, add_rule, delete_rule, insert_rule
from hvtx.host.nfxt import expressions_of
from hvtx.model.filter_chain import ChainRule, FilterChain
from hvtx.model.firewall import firewall_spec
from hvtx.model.place import nft_place
from hvtx.model.resource import GONE, Entry, Outcome, Resource
from hvtx.model.typed import Any
from hvtx.rulesets.filter_ends import end_of, in_place
from hvtx.rulesets.nftables_layout import BACKEND


def expected(row: Resource) -> tuple[Entry, ...]:
    """The entries that stand for a row (pure)."""
    spec = firewall_spec(row)
    where = nft_place(FAMILIES[spec["family"]], TABLE, spec["hook"])
    return tuple(Entry(BACKEND, where, words, row.mark) for words in spec["accepts"])


def put(session: Session, rows: Sequence[Resource]) -> dict[int, dict[str, Any]]:
    """Make what is missing of the rows, all in one batch; what is not in its place is moved.

    Returns ``{"elements": n}`` by row. Raises HostRefused (no such chain), NotPermitted, Contended.
    """

    def swap(generation: int) -> Acted:
        chains = nft_chains(session.socket)
        commands = [command for row in rows for command in _commands(row, chains)]
        return session.act(generation, 0, commands, GONE)

    if rows:
        session.consistently(swap, "our accepts in the table of iptables-nft")
    return {row.id: {"elements": len(firewall_spec(row)["accepts"])} for row in rows}


def _commands(row: Resource, chains: Mapping[tuple[int, str], FilterChain]) -> list[Command]:
    spec = firewall_spec(row)
    number, hook, accepts = spec["family"], spec["hook"], spec["accepts"]
    chain = chains.get((number, hook))
    if chain is None:
        raise HostRefused(
            f"the chain {hook} of {FAMILIES[number]} {TABLE} is gone",
            hint="`hvtx repair` looks again at what others drop",
        )
    own = [rule for rule in chain.rules if rule.mark == row.mark]
    known = [rule for rule in own if rule.words in accepts]
    if [rule.words for rule in known] == accepts and in_place(chain, row.mark):
        return []
    found = [delete_rule(_rule(number, hook, rule)) for rule in known]
    end, _ = end_of(chain)
    for words in accepts:
        made = Rule(FAMILIES[number], TABLE, hook, 0, expressions_of(words, row.mark), None)
        before = chain.rules[end].handle if end < len(chain.rules) else 0
        found.append(insert_rule(made, before) if before else add_rule(made))
    return found


def _rule(family: int, hook: str, rule: ChainRule) -> Rule:
    return Rule(FAMILIES[family], TABLE, hook, rule.handle, b"", None)


def taken(session: Session, rows: Sequence[Resource]) -> Mapping[int, Outcome]:
    """Remove what carries a row's mark in the row's words, with all copies, in one batch.

    A changed copy is no obstacle: it stays, and the plan shows it by the mark of the tombstone.
    """

    def swap(generation: int) -> Acted:
        chains = nft_chains(session.socket)
        outcomes: dict[int, Outcome] = {}
        commands: list[Command] = []
        for row in rows:
            spec = firewall_spec(row)
            chain = chains.get((spec["family"], spec["hook"]))
            there = chain.rules if chain is not None else ()
            doomed = [r for r in there if r.mark == row.mark and r.words in spec["accepts"]]
            commands += [delete_rule(_rule(spec["family"], spec["hook"], r)) for r in doomed]
            outcomes[row.id] = GONE
        session.act(generation, 0, commands, GONE)
        return Acted(outcomes)

    return session.consistently(swap, "the release of our accepts").outcomes


def one_each(session: Session, row: Resource) -> Mapping[int, Outcome]:
    """Leave one of each of a row's rules, where it belongs."""
    put(session, [row])
    return {row.id: GONE}
