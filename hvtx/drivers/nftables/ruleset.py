"""The ruleset as entries: ours whole, of others what is marked or translates."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence

from hvtx.drivers.nftables.judging import (
    without_comment,
)
from hvtx.drivers.nftables.session import Session, Stale
from hvtx.errors import HostRefused
from hvtx.host import libnftables
from hvtx.host.nfanswers import Named, Rule, all_elements, translates, xt_comment
from hvtx.host.nfbulk import read_bulk
from hvtx.host.nfnumbers import SET_ANONYMOUS
from hvtx.host.nftshape import digest
from hvtx.model.firewall import firewall_spec
from hvtx.model.mark import FAMILY as MARKED
from hvtx.model.resource import Entry, Resource
from hvtx.model.typed import TYPE_CHECKING
from hvtx.rulesets.nftables_egress import COUNTED
from hvtx.rulesets.nftables_elements import pieces
from hvtx.rulesets.nftables_layout import BACKEND, FAMILIES, PASSING

if TYPE_CHECKING:
    from hvtx.drivers.nftables.own_elements import OwnElements
    from hvtx.model.place import Place

_RULE_LINE = r"(?s)\t\t(.*) # handle (\d+)"  # compiled only where others' rules are read
_CHAIN_LINE = r"\tchain (\S+) \{"
_RULES = 1024  # of tables like ours, whose entries are kept
TABLE_TEXT = "table"


def rule_mark(rule: Rule) -> str | None:
    """A rule's mark, from its comment or an xtables comment match."""
    comment = rule.comment or xt_comment(rule)
    return comment if comment and comment.startswith(MARKED) else None


def listed_rules(listing: str) -> dict[tuple[str, int], str]:
    """``{(chain, handle): text}`` from what ``nft -a list table`` prints."""
    import re

    found: dict[tuple[str, int], str] = {}
    chain = ""
    for line in libnftables.lines_of(listing):
        if opened := re.match(_CHAIN_LINE, line):
            chain = opened[1]
        elif rule := re.fullmatch(_RULE_LINE, line):
            found[chain, int(rule[2])] = rule[1]
    return found


def read(session: Session, own: OwnElements | None = None) -> tuple[Entry, ...]:
    """Every element, rule and table that concerns us; raises Stale where it changed meanwhile.

    With ``own``, the elements of our own sets go there instead.
    """
    from hvtx.model.place import nft_place

    tables = session.socket.tables()
    if not tables:
        return ()
    found = []
    for table in tables:
        comment = table.comment or ""
        mark = comment if comment.startswith(MARKED) else None
        if mark or (table.name == session.table and table.family in FAMILIES):
            place = nft_place(table.family, table.name)
            found.append(Entry(BACKEND, place, TABLE_TEXT, mark))
    found += [entry for _, entry in rule_entries(session, session.socket.rules())]
    for named in session.socket.sets():
        if not named.flags & SET_ANONYMOUS:
            _read_set(session, named, found, own)
    return tuple(found)


def rule_entries(session: Session, rules: Iterable[Rule]) -> Iterator[tuple[Rule, Entry]]:
    """The rules that concern us, with their entries.

    nft is asked for text only where a rule is marked outside tables like ours, translates
    addresses, or stands in our table without a mark.
    """
    listings: dict[tuple[str, str], dict[tuple[str, int], str]] = {}
    for rule in rules:
        if rule.table.startswith("hvtx-") and (own := _own_entry(rule)) is not None:
            yield rule, own
            continue
        mark, where = rule_mark(rule), _place_of(rule)
        if mark and rule.comment is None and (words := _words_of(rule)):
            yield rule, Entry(BACKEND, where, words, mark, rule.handle)  # of a row `passage`
            continue
        nat = translates(rule.expressions)
        if not (mark or nat or rule.table == session.table):
            continue
        of = (rule.family, rule.table)
        if of not in listings:
            listings[of] = listing(*of)
        text = listings[of].get((rule.chain, rule.handle))
        if text is None and mark:
            raise Stale  # nft read the table at another moment
        if text is None:  # or prints it in a form that nobody can read
            text = digest(rule)
        yield rule, Entry(BACKEND, where, without_comment(text), mark, rule.handle, nat)


@functools.lru_cache(_RULES)
def _own_entry(rule: Rule) -> Entry | None:
    """The entry of a rule with a mark in a table like ours."""
    mark = rule_mark(rule)
    if mark is None:
        return None
    return Entry(BACKEND, _place_of(rule), digest(rule), mark, rule.handle)


def _place_of(rule: Rule) -> Place:
    from hvtx.model.place import nft_place

    return nft_place(rule.family, rule.table, rule.chain)


def listing(family: str, table: str) -> dict[tuple[str, int], str]:
    """Texts of the rules of a table, by chain and handle, as nft prints them."""
    command = (
        f'list table {family} "{table}"' if not _plain(table) else (f"list table {family} {table}")
    )
    try:
        return listed_rules(libnftables.run(command, handles=True, stateless=True, terse=True))
    except HostRefused as problem:
        if "No such file" in problem.message:
            raise Stale from problem
        raise


def _read_set(session: Session, named: Named, found: list[Entry], own: OwnElements | None) -> None:
    """Append the entries of one set: all of ours, only marked ones of others."""
    from hvtx.host.nfttext import rendered
    from hvtx.model.place import nft_place

    family, table, name, *_ = named
    ours = table == session.table and family in FAMILIES
    if ours and (family, name) in PASSING:
        return
    bodies = session.socket.dump_elements(family, table, name)
    if not ours:
        needle = MARKED.encode()
        bodies = [body for body in bodies if needle in body]
    if not bodies:
        return
    if ours and own is not None:
        if not own.add(family, name, read_bulk(bodies)):
            raise Stale
        return
    elements = [
        (key, data, comment if comment and comment.startswith(MARKED) else None)
        for key, data, comment, *_ in all_elements(bodies)
    ]
    if not ours:
        elements = [element for element in elements if element[2] is not None]
    where, texts = nft_place(family, table, name), rendered(family, name, elements)
    found += [
        Entry(BACKEND, where, text, mark)
        for text, (_, _, mark) in zip(texts, elements, strict=True)
    ]
    if ours and len({key for key, *_ in elements}) != len(elements):
        # a hash table that grew during the walk repeats some elements, and so may lack others
        raise Stale


def _plain(name: str) -> bool:
    import re

    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./\-]*", name) is not None


def counted(session: Session, resources: Sequence[Resource]) -> dict[int, tuple[int, int]]:
    """Packets and bytes in the counters of rows, as far as they are there and have one."""
    wanted = [
        (row, piece)
        for row in resources
        for piece in pieces(session.installation, firewall_spec(row))
        if piece.set in COUNTED
    ]
    there = session.socket.lookup([piece for _, piece in wanted])
    return {
        row.id: element.counted
        for (row, _), element in zip(wanted, there, strict=True)
        if element is not None and element.counted is not None and element.comment == row.mark
    }


def _words_of(rule: Rule) -> str | None:
    from hvtx.host.nfxt import words_of  # most hosts have no such rule

    return words_of(rule)
