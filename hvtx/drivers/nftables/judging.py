"""Decisions of the nftables driver: the owner of an element, and what is missing. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from hvtx.host import store_location
from hvtx.host.nfanswers import Element, Rule
from hvtx.host.nftshape import digest
from hvtx.model.firewall import NftablesObserved, chain_key, digests_in, firewall_spec
from hvtx.model.hook import SetElement
from hvtx.model.resource import GONE, Outcome, Resource
from hvtx.rulesets.nftables_layout import FAMILIES, HOOKS, LAYOUTS, SETS

_COMMENT = " comment "


def digests(rules: Iterable[Rule], mark: str) -> dict[str, list[str]]:
    """``{"inet raw": [digest, …]}`` of the rules with this mark, in order."""
    found: dict[str, list[str]] = {}
    for rule in rules:
        if rule.comment == mark:
            found.setdefault(chain_key(rule.family, rule.chain), []).append(digest(rule))
    return found


def describe(piece: SetElement) -> str:
    """A wanted element in words, for messages."""
    from hvtx.host.nfttext import render
    from hvtx.model.place import nft_place

    text = render(piece.family, piece.set, piece.key, piece.data)
    return f"`{text}` in {nft_place(piece.family, piece.table, piece.set)}"


def judge(piece: SetElement, there: Element | None, mark: str) -> Outcome | None:
    """What becomes of one element at release: None to delete it, else an outcome."""
    if there is None:
        return GONE
    if there.comment is None:
        return Outcome(False, "mark-stripped", f"{describe(piece)} has no comment")
    if there.comment != mark:
        return Outcome(False, "mark-mismatch", f"{describe(piece)} carries {there.comment!r}")
    if there.data != piece.data:
        return Outcome(False, "edited-copy", f"{describe(piece)} was changed")
    return None


def foreign_objects(
    family: str,
    mark: str,
    named: Iterable[tuple[str, str]],
    rules: Iterable[Rule],
    sets: Iterable[tuple[str, Sequence[Element]]],
) -> str:
    """What in a table of ours is not the base row's, in words; empty if nothing.

    ``named`` holds kind and name of every chain, set and object in it, ``sets`` the elements.
    """
    from hvtx.host.nfttext import render

    ours = {("chain", chain) for where, chain in HOOKS if where == family}
    ours |= {("set", name) for name in SETS.get(family, ())}
    ours |= {("chain", store_location.CHAIN)} if family == store_location.CHAIN_FAMILY else set()
    for kind, name in named:
        if (kind, name) not in ours:
            return f"{kind} {name}"
    for rule in rules:
        if rule.comment != mark:
            return f"a rule in chain {rule.chain} (handle {rule.handle})"
    for name, elements in sets:
        for element in elements:
            text = render(family, name, element.key, element.data)
            return f"`{text}` in {name} ({element.comment or 'no comment'})"
    return ""


def surplus(rules: Sequence[Rule], mark: str) -> list[Rule]:
    """Rules with ``mark`` that repeat an earlier one of the same chain, expressions and all."""
    seen: set[tuple[str, str, bytes]] = set()
    found = []
    for rule in rules:
        if rule.comment == mark:
            key = (rule.family, rule.chain, rule.expressions)
            if key in seen:
                found.append(rule)
            seen.add(key)
    return found


def families_of(row: Resource) -> tuple[str, ...]:
    """The families of the tables that a base row stands for.

    One table each; rows of earlier versions, which do not say, stand for both.
    """
    return tuple(firewall_spec(row).get("families") or FAMILIES)


def layouts_of(row: Resource) -> dict[str, str]:
    """What this version makes of a base row's tables."""
    return {family: LAYOUTS[family] for family in families_of(row)}


def damaged(
    rules: Sequence[Rule],
    observed: NftablesObserved,
    mark: str,
    families: Collection[str] = FAMILIES,
) -> set[tuple[str, str]]:
    """Family and name of the static chains whose marked rules are not those on record."""
    recorded = {key: digests_in(kept) for key, kept in observed.get("rules", {}).items()}
    there = digests(rules, mark)
    return {
        (family, chain)
        for family, chain in HOOKS
        if family in families
        and there.get(key := chain_key(family, chain)) != recorded.get(key, [])
    }


def without_comment(text: str) -> str:
    """A rule's text without the comment: that is in the entry's mark."""
    before, quote, _ = text[:-1].rpartition('"')
    ends = bool(quote) and text.endswith('"') and before.endswith(_COMMENT)
    return before.removesuffix(_COMMENT) if ends else text


def counts_others(element: Element, piece: SetElement) -> bool:
    """Whether an element lets other numbers of flows pass than ours."""
    return piece.flows > 0 and element.flows != piece.flows
