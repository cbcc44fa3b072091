"""Removal of rules that carry a row's mark, with all copies, and of empty chains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from hvtx.drivers.iptables.judging import dependents, idle, index, judge, together
from hvtx.errors import Busy, HvtxError
from hvtx.host import xtables, xtblob, xtnames, xtsaved
from hvtx.model.resource import GONE, Entry, Outcome, Resource
from hvtx.model.typed import Any, NamedTuple
from hvtx.rulesets.iptables_rules import TABLES, Rule, own_chains, rules_of


class Site(NamedTuple):
    """Whose rules these are, and how long to wait for the lock."""

    installation: str
    timeout: float  # seconds
    prefix: str  # of the marks of all its rows


def release(site: Site, resources: Sequence[Resource]) -> Mapping[int, Outcome]:
    """Remove what carries each row's mark in its words, with all copies.

    Reasons to stay: ``mark-stripped``, ``foreign-dependents`` (for the chains),
    ``contended``, ``observe-failed``. Never raises for one item.
    """
    try:
        return _release(site, resources)
    except HvtxError as problem:
        contended = isinstance(problem, Busy) or problem.code == "contended"
        reason = "contended" if contended else "observe-failed"
        return {row.id: Outcome(False, reason, problem.message) for row in resources}


def _release(site: Site, resources: Sequence[Resource]) -> dict[int, Outcome]:
    marks = {row.mark for row in resources}
    read = {family: xtables.matching(family, marks, site.prefix) for family in xtnames.TOOLS}
    views = {family: view for family, (view, _) in read.items()}
    outcomes, take = _judged(site, resources, views)
    doomed: dict[tuple[int, str], list[tuple[Resource, str, bytes]]] = {}
    for row, rule in take:
        entries = read[rule.family][1].get((rule.table, rule.chain, row.mark, rule.text), [])
        doomed.setdefault((rule.family, rule.table), []).extend(
            (row, rule.chain, entry) for entry in entries
        )
    for (family, table), items in sorted(doomed.items(), reverse=True):
        for row_id, outcome in take_from(site, family, table, items).items():
            if outcomes[row_id].gone:
                outcomes[row_id] = outcome
    _drop_orphans(site, resources, views, doomed)
    return outcomes


def _judged(
    site: Site, resources: Sequence[Resource], views: Mapping[int, xtsaved.Saved]
) -> tuple[dict[int, Outcome], list[tuple[Resource, Rule]]]:
    """Outcomes before acting, and the rules to take; the base is judged last."""
    outcomes: dict[int, Outcome] = {}
    take: list[tuple[Resource, Rule]] = []
    sights = index(views)
    for row in sorted(resources, key=lambda row: row.role == "base"):
        verdict = judge(row, rules_of(site.installation, row), sights)
        mine = [(row, rule) for rule in verdict.take]
        if row.role == "base":
            taken = frozenset(
                (rule.family, rule.table, rule.chain, rule.text, by.mark)
                for by, rule in take + mine
            )
            needed = dependents(site.installation, views, taken)
            if needed is not None:
                keep = verdict.keep
                if keep.gone:
                    keep = Outcome(False, "foreign-dependents", needed)
                outcomes[row.id] = keep
                continue
        outcomes[row.id] = verdict.keep
        take += mine
    return outcomes, take


def take_from(
    site: Site, family: int, table: str, items: Sequence[tuple[Resource, str, bytes]]
) -> dict[int, Outcome]:
    """Take entries from one table, and the chains that then are empty and not reached."""
    chains = own_chains(site.installation, table)
    base = [item for item in items if item[0].role == "base"]
    others = [item for item in items if item[0].role != "base"]
    kept: dict[int, Outcome] = {}

    def change(edit: xtables.Edit) -> bool:
        kept.clear()
        taken = sum(edit.delete_rule(chain, entry) for _, chain, entry in others)
        busy = [c for c in chains if edit.has(c) and not edit.empty(c)]
        if base and busy:  # someone was quicker since the rules were judged
            message = f"{xtnames.TOOLS[family]} {table}: rules are left in {', '.join(busy)}"
            kept[base[0][0].id] = Outcome(False, "foreign-dependents", message)
        else:
            taken += sum(edit.delete_rule(chain, entry) for _, chain, entry in base)
        return _sweep(edit, chains) or taken > 0

    xtables.edit(family, table, site.timeout, change)
    blob = xtblob.read(family, table)
    marks = frozenset(row.mark for row, _, _ in items)
    there = blob is not None and xtblob.has_any(blob, marks)
    left = {
        (seen.chain, seen.data)
        for seen in (xtblob.marked(family, blob, site.prefix, marks) if blob and there else ())
    }
    for row, chain, entry in items:
        if (chain, entry) in left and row.id not in kept:
            message = f"{xtnames.TOOLS[family]} {table} {chain}: a rule came back"
            kept[row.id] = Outcome(False, "contended", message)
    return kept


def _drop_orphans(
    site: Site,
    resources: Sequence[Resource],
    views: Mapping[int, xtsaved.Saved],
    done: Iterable[tuple[int, str]],
) -> None:
    """Chains of a base or network whose rules and jumps someone else flushed before."""
    if not any(row.role in ("base", "network") for row in resources):
        return
    for family in xtnames.TOOLS:
        for table in TABLES:
            own = own_chains(site.installation, table)
            # where there is none the lock is left alone: whoever could not have it to make
            # something needs it not to undo nothing
            if (family, table) in done or not idle(views[family], table, own):
                continue
            xtables.edit(family, table, site.timeout, partial(_sweep, chains=own))


def remove(site: Site, entry: Entry) -> Outcome:
    """Remove one rule that was seen, if it is still exactly that; of copies, the last.

    Chains of ours that are left empty go with the last rule. Never raises.
    """
    if entry.mark is None:
        return Outcome(False, "foreign", f"`{entry.text}` in {entry.place} carries no mark")
    tool, _, table, chain = entry.place
    family = next(number for number, name in xtnames.TOOLS.items() if name == tool)

    def change(edit: xtables.Edit) -> bool:
        taken = bool(copies) and edit.delete_rule(chain, copies[-1])
        return _sweep(edit, own_chains(site.installation, table)) or bool(taken)

    try:
        _, entries = xtables.matching(family, (entry.mark,), site.prefix)
        copies = entries.get((table, chain, entry.mark, entry.text), [])
        xtables.edit(family, table, site.timeout, change)
    except HvtxError as problem:
        contended = isinstance(problem, Busy) or problem.code == "contended"
        return Outcome(False, "contended" if contended else "observe-failed", problem.message)
    return GONE


def remove_copies(site: Site, resource: Resource) -> Outcome:
    """Leave one of each of a row's rules where there are identical copies.

    ``gone`` means that no surplus copy is left. Never raises; see :meth:`release`.
    """
    try:
        rules = rules_of(site.installation, resource)
        for family in sorted({rule.family for rule in rules}):
            _thin(site, family, resource, [rule for rule in rules if rule.family == family])
    except HvtxError as problem:
        contended = isinstance(problem, Busy) or problem.code == "contended"
        return Outcome(False, "contended" if contended else "observe-failed", problem.message)
    return GONE


def _thin(site: Site, family: int, resource: Resource, rules: Sequence[Rule]) -> None:
    _, entries = xtables.matching(family, (resource.mark,), site.prefix)
    for table in TABLES:
        surplus = []
        for rule in rules:
            copies = entries.get((table, rule.chain, resource.mark, rule.text), [])
            if rule.table == table and len(copies) > 1:
                surplus.append((rule, copies))
        if not surplus:
            continue

        def change(edit: xtables.Edit, surplus: list[Any] = surplus) -> bool:
            # All go and one is put back, so that it stands where a new one would; in the order
            # of _create_in, as each of those that go to the head is put before the last.
            ahead = [item for item in surplus if item[0].first]
            behind = [item for item in surplus if not item[0].first]
            for rule, copies in [*reversed(ahead), *behind]:
                if sum(edit.delete_rule(rule.chain, entry) for entry in copies):
                    edit.add(rule.chain, copies[0], first=rule.first)
            return True

        xtables.edit(family, table, site.timeout, change)


def _sweep(edit: xtables.Edit, chains: Iterable[str]) -> bool:
    """Drop those chains that are empty and that nothing jumps to; whether there were any."""
    there = [chain for chain in chains if edit.has(chain)]
    idle = [chain for chain in there if edit.empty(chain) and not edit.references(chain)]
    doomed = together(idle, there)
    for chain in doomed:
        edit.drop_chain(chain)
    return bool(doomed)
