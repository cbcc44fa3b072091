"""The entries that stand for a row: what plans and repairs compare, and no start."""

from __future__ import annotations

from hvtx.drivers.base import PASSAGE
from hvtx.drivers.nftables.judging import families_of
from hvtx.drivers.nftables.ruleset import TABLE_TEXT
from hvtx.host.nfttext import renderer
from hvtx.model.firewall import chain_rules, firewall_spec
from hvtx.model.place import nft_place, parse_place
from hvtx.model.resource import Entry, Resource
from hvtx.rulesets.nftables_elements import unplaced
from hvtx.rulesets.nftables_layout import BACKEND

IMPORTED = "imported"  # somebody else's rule that was taken over: `place`, `native` (docs/adr/0008)


def entries(resource: Resource, table: str) -> tuple[Entry, ...]:
    """The entries of a row, in the installation's ``table``."""
    mark = resource.mark
    if resource.role == IMPORTED:
        spec = resource.spec
        return (Entry(BACKEND, parse_place(spec["place"]), spec["native"], mark),)
    if resource.role == PASSAGE:
        from hvtx.drivers.nftables import passages  # with the rules of iptables-nft: most have none

        return passages.expected(resource)
    if resource.role != "base":
        return tuple(
            [
                Entry(BACKEND, nft_place(family, table, name), text(key, data), mark)
                for family, _, name, key, data, *_ in unplaced(firewall_spec(resource))
                for text in [renderer(family, name)]
            ]
        )
    found = [
        Entry(BACKEND, nft_place(family, table), TABLE_TEXT, mark)
        for family in families_of(resource)
    ]
    for family, chain, texts in chain_rules(resource):
        where = nft_place(family, table, chain)
        found += [Entry(BACKEND, where, text, mark) for text in texts]
    return tuple(found)
