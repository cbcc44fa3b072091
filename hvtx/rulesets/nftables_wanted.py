"""The expected content of hvtx's tables for the rows on record. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from hvtx.model.firewall import chain_rules, firewall_spec
from hvtx.model.resource import Resource
from hvtx.model.ruleset import SeenTable, WantedElement, WantedTable
from hvtx.rulesets.nftables_base import SKELETONS, hook_of
from hvtx.rulesets.nftables_elements import unplaced
from hvtx.rulesets.nftables_layout import FAMILIES


def wanted_tables(
    rows: Iterable[Resource],
    seen: Iterable[SeenTable],
    known: frozenset[str],
    older: Collection[int],
) -> list[tuple[WantedTable, SeenTable]]:
    """Each table that was seen beside what it should be; those of no row are left out.

    ``known`` are marks that others judge. Of base rows in ``older``, which another version made,
    no chain and no set is expected: what that version had is not known here.
    """
    bases: dict[str, Resource] = {}
    elements: dict[str, dict[tuple[str, bytes], WantedElement]] = {f: {} for f in FAMILIES}
    marks = set(known)
    for row in rows:
        if row.role == "base":
            bases.update(dict.fromkeys(firewall_spec(row).get("families") or FAMILIES, row))
            continue
        for piece in unplaced(firewall_spec(row)):
            there = WantedElement(row.id, row.mark, piece.data, piece.flows)
            elements[piece.family][piece.set, piece.key] = there
        if older:
            marks.add(row.mark)
    found = []
    for table in seen:
        base = bases.get(table.family)
        if base is not None:
            one = _table(base, table, elements[table.family], old=base.id in older)
            found.append((one._replace(known=frozenset(marks)), table))
    return found


def _table(
    base: Resource,
    seen: SeenTable,
    elements: Mapping[tuple[str, bytes], WantedElement],
    *,
    old: bool,
) -> WantedTable:
    family = seen.family
    digests = {one.chain: list(one.digests) for one in chain_rules(base) if one.family == family}
    skeleton = SKELETONS[family]
    if old:
        hooks, sets = seen.hooks, frozenset(seen.sets)
        digests = {r.chain: [] for r in seen.rules} | digests
    else:
        hooks = {chain.name: hook_of(chain.hook) for chain in skeleton.chains}
        sets = frozenset(skeleton.sets)
    texts = {chain.name: chain.rules for chain in skeleton.chains}
    rules = {}
    for chain, listed in digests.items():
        words = texts.get(chain, ())
        known = len(words) == len(listed) and not old
        rules[chain] = tuple(zip(listed, words if known else listed, strict=True))
    return WantedTable(base.id, base.mark, hooks, rules, sets, elements, frozenset())
