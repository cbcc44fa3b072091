"""Decisions of the iptables driver: the owner of an entry, and what stays. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from hvtx.errors import HostRefused
from hvtx.host import xtables, xtnames, xtsaved
from hvtx.model.place import legacy_place
from hvtx.model.resource import GONE, Entry, Outcome, Resource
from hvtx.model.typed import NamedTuple
from hvtx.rulesets.iptables_rules import BACKEND, Rule, own_chains

_WITH = {"WAY": "PASS"}  # a chain that is empty at times, and goes with another
_TRANSLATES = re.compile(r"(?:^| )-j (?:DNAT|SNAT|MASQUERADE|REDIRECT|NETMAP)(?: |$)")
_JUMPS = re.compile(r"(?:^| )-[jg] (\S+)")


class Verdict(NamedTuple):
    """What to do about one row: rules to take with all their copies, and what stays, and why."""

    take: tuple[Rule, ...]
    keep: Outcome  # GONE if nothing stays


class RuleIndex(NamedTuple):
    """What was seen, for looking up: places with words, as ``(family, table, chain, text)``."""

    by_mark: dict[str, list[tuple[int, str, str, str]]]
    bare: frozenset[tuple[int, str, str, str]]  # without a mark


def index(views: Mapping[int, xtsaved.Saved]) -> RuleIndex:
    """Sort what was seen by its marks."""
    by_mark: dict[str, list[tuple[int, str, str, str]]] = {}
    bare = set()
    for family, view in views.items():
        for seen in view.rules:
            key = (family, seen.table, seen.chain, seen.text)
            if seen.mark is None:
                bare.add(key)
            else:
                by_mark.setdefault(seen.mark, []).append(key)
    return RuleIndex(by_mark, frozenset(bare))


def judge(resource: Resource, rules: Sequence[Rule], sights: RuleIndex) -> Verdict:
    """Take what carries the row's mark in the row's words; say if it stands there without.

    A changed copy is no obstacle: it stays, and the plan shows it by the mark of the tombstone.
    """
    expected = {(rule.family, rule.table, rule.chain, rule.text): rule for rule in rules}
    carried = sights.by_mark.get(resource.mark, ())
    take = dict.fromkeys(expected[key] for key in carried if key in expected)
    keep = GONE
    for key, rule in expected.items():
        if key in sights.bare:
            message = f"{rule.place}: {rule.text} has no mark"
            keep = Outcome(False, "mark-stripped", message)
    return Verdict(tuple(take), keep)


def dependents(
    installation: str,
    views: Mapping[int, xtsaved.Saved],
    taken: frozenset[tuple[int, str, str, str, str]],
) -> str | None:
    """A rule that still needs the installation's chains when ``taken`` are gone, or None.

    ``taken`` holds ``(family, table, chain, text, mark)``.
    """
    for family, view in views.items():
        for seen in view.rules:
            key = (family, seen.table, seen.chain, seen.text, seen.mark or "")
            if key not in taken and concerns(installation, seen):
                owner = f" ({seen.mark})" if seen.mark else ""
                place = legacy_place(xtnames.TOOLS[family], seen.table, seen.chain)
                return f"{place}: {seen.text}{owner} is still there"
    return None


def idle(view: xtsaved.Saved, table: str, chains: Iterable[str]) -> list[str]:
    """Those of ``chains`` that are there, empty, and that nothing jumps to (pure)."""
    rules = [rule for rule in view.rules if rule.table == table]
    used = {rule.chain for rule in rules}
    empty = [chain for chain in chains if (table, chain) in view.chains and chain not in used]
    found = [chain for chain in empty if not any(chain in rule.text.split() for rule in rules)]
    return together(found, {chain for where, chain in view.chains if where == table})


def together(found: Sequence[str], there: Collection[str]) -> list[str]:
    """Without those that go with another, where that one stays."""
    kept = []
    for chain in found:
        start, _, part = chain.rpartition("-")
        other = f"{start}-{_WITH[part]}" if part in _WITH else None
        if other is None or other in found or other not in there:
            kept.append(chain)
    return kept


def concerns(installation: str, seen: xtsaved.SavedRule) -> bool:
    """Whether a rule stands in one of the installation's chains or jumps to one."""
    own = own_chains(installation, seen.table)
    jump = _JUMPS.search(seen.text)
    return seen.chain in own or (jump is not None and jump[1] in own)


def entries_of(installation: str, view: xtsaved.Saved, family: int) -> list[Entry]:
    """What is worth seeing of a family: ours, whatever is marked, and others' NAT rules."""
    found = []
    for seen in view.rules:
        place = legacy_place(xtnames.TOOLS[family], seen.table, seen.chain)
        if seen.mark is not None:
            found.append(Entry(BACKEND, place, seen.text, seen.mark))
            continue
        nat = _TRANSLATES.search(seen.text) is not None
        if nat or concerns(installation, seen):
            found.append(Entry(BACKEND, place, seen.text, None, 0, nat))
    return found


def entry_of(rule: Rule, mark: str) -> bytes:
    """A rule with its mark as the kernel keeps it; raises HostRefused for words unknown here."""
    try:
        return xtables.build(rule.family, rule.text, mark)
    except ValueError as problem:
        raise HostRefused(
            f"{rule.place}: {problem}",
            hint="another version of hvtx recorded this rule, and can make it again",
        ) from problem
