"""Rules of some rows take the place of those of others: one commit a table, nat last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from hvtx.drivers.base import stand_for
from hvtx.drivers.iptables.judging import entry_of, index, judge
from hvtx.drivers.iptables.release import Site
from hvtx.errors import Conflict, Contended, HostRefused
from hvtx.host import xtables, xtlock, xtnames, xtsaved
from hvtx.model.firewall import iptables_observed
from hvtx.model.resource import Resource
from hvtx.model.typed import Any, NamedTuple
from hvtx.rulesets.iptables_rules import Rule, made_chains, rules_of

Wanted = Sequence[tuple[Resource, Sequence[Rule]]]
_REPAIR = "`hvtx repair` puts back what someone removed"
_Place = tuple[int, str]  # family, table


class _Changes(NamedTuple):
    """What is done in one table: chains with entries, as the kernel has them."""

    taken: list[tuple[str, bytes]]
    made: list[tuple[Rule, bytes]]


def exchange(
    site: Site, gone: Sequence[Resource], made: Sequence[Resource]
) -> Mapping[int, dict[str, Any]]:
    """See :meth:`hvtx.drivers.base.ExchangingDriver.exchange`; of rows that bring no chains.

    Between two tables no packet gets more than before or after: what lets pass is in one of them
    alone, and what translates comes last.
    """
    coming = [(row, stand_for(row, rules_of(site.installation, row))) for row in made]
    leaving = [(row, rules_of(site.installation, row)) for row in gone]
    families = sorted({r.family for _, rules in (*coming, *leaving) for r in rules})
    marks = {row.mark for row in (*gone, *made)}
    changes: dict[_Place, _Changes] = {}
    for family in families:
        view, entries = xtables.matching(family, marks, site.prefix)
        _refuse_stripped(leaving, {family: view})
        _take(family, leaving, entries, changes)
        _make(family, coming, view, changes)
    for (family, table), change in sorted(changes.items()):
        _commit(site, family, table, change)
    for family in families:
        _confirm(family, coming, leaving)
    return {
        row.id: {"rules": [[str(rule.place), rule.text, rule.first] for rule in rules]}
        for row, rules in coming
    }


def _refuse_stripped(leaving: Wanted, views: Mapping[int, xtsaved.Saved]) -> None:
    sights = index(views)
    for row, rules in leaving:
        if not iptables_observed(row).get("rules"):
            continue  # it was never made: an undo leaves alone what is like it
        kept = judge(row, rules, sights).keep
        if not kept.gone:
            raise Conflict(
                f"{row.key}: {kept.message}",
                hint=f"nothing was changed; `hvtx explain {row.key}` shows its owner",
            )


def _take(
    family: int,
    leaving: Wanted,
    entries: Mapping[tuple[str, str, str, str], list[bytes]],
    changes: dict[_Place, _Changes],
) -> None:
    for row, rules in leaving:
        for rule in rules:
            if rule.family != family:
                continue
            copies = entries.get((rule.table, rule.chain, row.mark, rule.text), [])
            place = changes.setdefault((family, rule.table), _Changes([], []))
            place.taken.extend((rule.chain, entry) for entry in copies)


def _make(
    family: int, coming: Wanted, view: xtsaved.Saved, changes: dict[_Place, _Changes]
) -> None:
    there = {(seen.table, seen.chain, seen.text, seen.mark) for seen in view.rules}
    for row, rules in coming:
        for rule in rules:
            if rule.family != family:
                continue
            place = changes.setdefault((family, rule.table), _Changes([], []))
            if (rule.table, rule.chain, rule.text, row.mark) not in there:
                place.made.append((rule, entry_of(rule, row.mark)))


def _commit(site: Site, family: int, table: str, change: _Changes) -> None:
    if not change.taken and not change.made:
        return
    chains = made_chains(site.installation, table)
    if table not in xtnames.listed(family):
        raise HostRefused(f"the {xtnames.TOOLS[family]} table {table} is gone", hint=_REPAIR)

    def work(edit: xtables.Edit) -> bool:
        for chain in chains:
            if change.made and not edit.has(chain):
                tool = xtnames.TOOLS[family]
                raise HostRefused(f"the {tool} chain {chain} is gone", hint=_REPAIR)
        for chain, entry in change.taken:
            edit.delete_rule(chain, entry)
        # Each of those that go to the head is put before the one put there last.
        for rule, entry in reversed([each for each in change.made if each[0].first]):
            edit.add(rule.chain, entry, first=True)
        for rule, entry in (each for each in change.made if not each[0].first):
            edit.add(rule.chain, entry, first=False)
        return True

    if xtables.edit(family, table, site.timeout, work) is xtables.Edited.OTHERWISE:
        raise _contended(f"the {xtnames.TOOLS[family]} table {table} changed under its lock")


def _confirm(family: int, coming: Wanted, leaving: Wanted) -> None:
    """Read back, independently of libiptc: the new are there once, the old are not."""
    seen = Counter((r.table, r.chain, r.text, r.mark) for r in xtsaved.saved(family).rules)
    for copies, wanted in ((1, coming), (0, leaving)):
        for row, rules in wanted:
            for rule in rules:
                own = (rule.table, rule.chain, rule.text, row.mark)
                if rule.family == family and (times := seen[own]) != copies:
                    raise _contended(f"{rule.place}: {rule.text} is there {times} times")


def _contended(words: str) -> Contended:
    return Contended(words, hint=f"some program writes rules without taking {xtlock.lock_path()}")
