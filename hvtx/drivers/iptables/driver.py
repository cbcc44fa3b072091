"""The iptables backend as the engine calls it: rules are made, put back, and told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from hvtx.drivers.base import PASSAGE, Host, not_among, of_passages, stand_for
from hvtx.drivers.iptables import passages, release
from hvtx.drivers.iptables.judging import entries_of, entry_of
from hvtx.drivers.iptables.policy import place_in_forward
from hvtx.drivers.iptables.release import Site, take_from
from hvtx.errors import Contended, HostRefused
from hvtx.host import xtables, xtblob, xtlock, xtnames, xtsaved
from hvtx.model.mark import FAMILY
from hvtx.model.resource import Entry, Outcome, Resource
from hvtx.model.typed import Any
from hvtx.rulesets.iptables_rules import (
    BACKEND,
    GUARDS,
    Rule,
    brings_chains,
    made_chains,
    outdated,
    rules_of,
)

_REPAIR = "`hvtx repair` puts back what someone removed"


class IptablesDriver:
    """Rows with backend ``iptables``; not for use by two threads at a time."""

    def __init__(self, host: Host) -> None:
        """Work for ``host.installation``; nothing is read or loaded yet."""
        self._site = Site(host.installation, host.lock_timeout, f"{FAMILY}1:{host.installation}:")

    def close(self) -> None:
        """Nothing is held between calls."""

    def expected(self, resource: Resource) -> tuple[Entry, ...]:
        """The entries that stand for a row (pure)."""
        return tuple(
            Entry(BACKEND, rule.place, rule.text, resource.mark)
            for rule in rules_of(self._site.installation, resource)
        )

    def observe(self) -> tuple[Entry, ...]:
        """Our chains' rules, all marked rules, and others' NAT rules.

        A table that the kernel does not list is not read, which would make it. Raises
        NotPermitted or HostRefused (``cannot-observe``).
        """
        found: list[Entry] = []
        for family in xtnames.TOOLS:
            found += entries_of(self._site.installation, xtsaved.saved(family), family)
        return tuple(found)

    def lacking(self, resources: Sequence[Resource]) -> list[Resource]:
        """Those rows of which a rule is not there. Raises as :meth:`observe`."""
        return not_among(self.observe(), self.expected, resources)

    def create(self, resources: Sequence[Resource]) -> Mapping[int, dict[str, Any]]:
        """Put every row's rules where they are not there yet, one commit per table.

        Rules with the row's own mark and words stay as they are, so the same call puts back
        what someone flushed. Returns ``{"rules": [[place, text, first], ...]}`` by row. Raises
        Busy, NotPermitted, HostRefused, Contended.
        """
        wanted = {
            row.id: stand_for(row, rules_of(self._site.installation, row)) for row in resources
        }
        accepting, others = of_passages(resources)
        for family, table in _tables(wanted[row.id] for row in others):
            self._create_in(family, table, others, wanted)
        for row in accepting:
            passages.put(self._site, row)
        for family in sorted({rule.family for rules in wanted.values() for rule in rules}):
            self._confirm(family, resources, wanted)
        return {
            row: {"rules": [[str(rule.place), rule.text, rule.first] for rule in rules]}
            for row, rules in wanted.items()
        }

    def _create_in(
        self,
        family: int,
        table: str,
        resources: Sequence[Resource],
        wanted: Mapping[int, Sequence[Rule]],
    ) -> None:
        makes = any(brings_chains(row, family, table) for row in resources)
        if not makes and table not in xtnames.listed(family):
            raise HostRefused(f"the {xtnames.TOOLS[family]} table {table} is gone", hint=_REPAIR)
        there = self._there(family, table, {row.mark for row in resources})
        todo = [
            (rule, entry_of(rule, row.mark))
            for row in resources
            for rule in wanted[row.id]
            if (rule.family, rule.table) == (family, table)
            and (rule.chain, rule.text, row.mark) not in there
        ]
        chains = made_chains(self._site.installation, table)

        def change(edit: xtables.Edit) -> bool:
            for chain in chains:
                if not edit.has(chain):
                    # those of filter only accept: that the ones which drop are there is seen to
                    if not makes and table != "filter":
                        tool = xtnames.TOOLS[family]
                        raise HostRefused(f"the {tool} chain {chain} is gone", hint=_REPAIR)
                    edit.make_chain(chain)
            # Each of those that go to the head is put before the one put there last.
            for rule, entry in reversed([item for item in todo if item[0].first]):
                edit.add(rule.chain, entry, first=True)
            for rule, entry in (item for item in todo if not item[0].first):
                edit.add(rule.chain, entry, first=False)
            return True

        if xtables.edit(family, table, self._site.timeout, change) is xtables.Edited.OTHERWISE:
            raise Contended(
                f"the {xtnames.TOOLS[family]} table {table} changed although its lock was held",
                hint=f"some program writes rules without taking {xtlock.lock_path()}",
            )

    def _there(self, family: int, table: str, marks: set[str]) -> set[tuple[str, str, str]]:
        """``(chain, text, mark)`` of rules with one of ``marks``; cheap when there are none."""
        blob = xtblob.read(family, table)
        if blob is None or not any(mark.encode() in blob.data for mark in marks):
            return set()
        return {
            (seen.chain, seen.text, seen.mark)
            for seen in xtsaved.saved(family).rules
            if seen.table == table and seen.mark in marks
        }

    def _confirm(
        self, family: int, resources: Sequence[Resource], wanted: Mapping[int, Sequence[Rule]]
    ) -> None:
        """Read back, independently of libiptc: every rule must be there, once."""
        seen = Counter(
            (rule.table, rule.chain, rule.text, rule.mark) for rule in xtsaved.saved(family).rules
        )
        for row in resources:
            for rule in wanted[row.id]:
                if rule.family != family:
                    continue
                copies = seen[rule.table, rule.chain, rule.text, row.mark]
                if copies != 1:
                    times = "is not there" if not copies else f"is there {copies} times"
                    raise Contended(
                        f"{rule.place}: {rule.text} ({row.mark}) {times} after it was made",
                        hint=f"some program writes rules without taking {xtlock.lock_path()}",
                    )

    def exchange(
        self, gone: Sequence[Resource], made: Sequence[Resource]
    ) -> Mapping[int, dict[str, Any]]:
        """Rules of ``made`` take the place of those of ``gone``, in one commit a table.

        See :class:`hvtx.drivers.base.ExchangingDriver`.
        """
        from hvtx.drivers.iptables.exchange import exchange  # no start needs it

        return exchange(self._site, gone, made)

    def release(self, resources: Sequence[Resource]) -> Mapping[int, Outcome]:
        """Remove what carries each row's mark in its words, with all copies.

        Reasons to stay: ``mark-stripped``, ``foreign-dependents`` (for the chains),
        ``contended``, ``observe-failed``. Never raises for one item.
        """
        return release.release(self._site, resources)

    def remove(self, entry: Entry) -> Outcome:
        """Remove one rule that was seen, if it is still exactly that; of copies, the last.

        Chains of ours that are left empty go with the last rule. Never raises.
        """
        return release.remove(self._site, entry)

    def repair(self, resources: Sequence[Resource]) -> Mapping[int, dict[str, Any]]:
        """Put back what is missing of the rows; :meth:`create` adds just that.

        What an earlier version made otherwise goes when that of this one is there. A row `pass`
        goes behind what others have put behind it.
        """
        older = [row for row in resources if outdated(row)]
        bare = {row.id: row._replace(observed={}) for row in older}
        observed = self.create([bare.get(row.id, row) for row in resources])
        for row in older:
            self._drop_superseded(row, rules_of(self._site.installation, bare[row.id]))
        for row in resources:
            if row.role == "pass" and place_in_forward(row) == "before":
                self._put_last(row)
            self._put_first(row)
        return observed

    def _put_first(self, row: Resource) -> None:
        """Move a row's rules that drop, or lead there, before what others have put there."""
        rules = [r for r in rules_of(self._site.installation, row) if (r.table, r.chain) in GUARDS]
        for family, table in sorted({(rule.family, rule.table) for rule in rules}):
            own = [
                (rule.chain, entry_of(rule, row.mark))
                for rule in rules
                if (rule.family, rule.table) == (family, table)
            ]

            def change(edit: xtables.Edit, own: list[tuple[str, bytes]] = own) -> bool:
                for chain, entry in reversed(own):
                    if edit.delete_rule(chain, entry):
                        edit.add(chain, entry, first=True)
                return True

            xtables.edit(family, table, self._site.timeout, change)

    def _put_last(self, row: Resource) -> None:
        jump = rules_of(self._site.installation, row)[-1]
        entry = entry_of(jump, row.mark)

        def change(edit: xtables.Edit) -> bool:
            return edit.put_last(jump.chain, entry)

        xtables.edit(jump.family, jump.table, self._site.timeout, change)

    def _drop_superseded(self, row: Resource, rules: Sequence[Rule]) -> None:
        """Take rules of an earlier version that are not among ``rules``."""
        wanted = {(rule.place, rule.text) for rule in rules}
        row_ = row._replace(spec={**row.spec, "what": "superseded"})
        for rule in rules_of(self._site.installation, row):
            if (rule.place, rule.text) in wanted:
                continue
            _, entries = xtables.matching(rule.family, (row.mark,), self._site.prefix)
            found = entries.get((rule.table, rule.chain, row.mark, rule.text), [])
            items = [(row_, rule.chain, entry) for entry in found]
            if items:
                take_from(self._site, rule.family, rule.table, items)

    def remove_copies(self, resource: Resource) -> Outcome:
        """Leave one of each of a row's rules where there are identical copies.

        ``gone`` means that no surplus copy is left. Never raises; see :meth:`release`.
        """
        found = release.remove_copies(self._site, resource)
        if found.gone and resource.role == PASSAGE:
            self.repair([resource])
        return found


def _tables(rules: Iterable[Sequence[Rule]]) -> list[tuple[int, str]]:
    """The tables of all rules; nat comes last, so that nothing is reached before its guard."""
    return sorted({(rule.family, rule.table) for group in rules for rule in group})
