"""Rows `passage`: accepts of ours in the legacy chains INPUT and FORWARD of others."""

from __future__ import annotations

from hvtx.drivers.iptables.judging import entry_of
from hvtx.drivers.iptables.release import Site
from hvtx.errors import Contended, HostRefused
from hvtx.host import xtables, xtblob, xtlock, xtnames
from hvtx.host.filter_chains import TABLE, legacy_chains
from hvtx.model.firewall import firewall_spec
from hvtx.model.resource import Resource
from hvtx.rulesets.filter_ends import end_of, in_place
from hvtx.rulesets.iptables_rules import rules_of


def put(site: Site, row: Resource) -> None:
    """Make what is missing of a row, in one commit; what is not in its place is moved.

    Raises HostRefused (no such table), NotPermitted, Busy, Contended.
    """
    spec = firewall_spec(row)
    family, hook, tool = spec["family"], spec["hook"], xtnames.TOOLS[spec["family"]]
    own = [entry_of(rule, row.mark) for rule in rules_of(site.installation, row)]

    def change(edit: xtables.Edit) -> bool:
        blob = xtblob.read(family, TABLE)
        there = xtblob.entries(family, blob).get(hook, []) if blob is not None else []
        chain = legacy_chains(family)[family, hook]
        mine = [number for number, entry in enumerate(there) if entry in own]
        if [there[number] for number in mine] == own and in_place(chain, row.mark):
            return False
        for number in mine:
            edit.delete_rule(hook, there[number])
        left = tuple(rule for n, rule in enumerate(chain.rules) if n not in mine)
        end, _ = end_of(chain._replace(rules=left))
        for place, entry in enumerate(own, end):
            edit.put_at(hook, entry, place)
        return True

    if TABLE not in xtnames.listed(family):  # to edit it would make it
        raise HostRefused(
            f"the {tool} table {TABLE} is gone",
            hint="`hvtx repair` looks again at what others drop",
        )
    if xtables.edit(family, TABLE, site.timeout, change) is xtables.Edited.OTHERWISE:
        raise Contended(
            f"the {tool} table {TABLE} changed although its lock was held",
            hint=f"some program writes rules without taking {xtlock.lock_path()}",
        )
