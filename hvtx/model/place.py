"""Places in a firewall: a chain, a set or a map, or a table as a whole.

As text, in what people read and in the store, it is ``nft inet mine forward``, ``nft inet mine``,
``iptables nat POSTROUTING`` or ``ip6tables nat``.
"""

from __future__ import annotations

from functools import lru_cache

from hvtx.model.typed import NamedTuple

NFT = "nft"
_LEGACY = frozenset({"iptables", "ip6tables"})
_KEPT = 4096  # places that are made once; a host has a few chains and sets, and many entries


class Place(NamedTuple):
    """Made by :func:`nft_place`, :func:`legacy_place` and :func:`parse_place`."""

    tool: str  # "nft", or "iptables" or "ip6tables" for the legacy tables
    family: str  # of nf_tables: "inet", "bridge" …; empty for the legacy tables
    table: str
    chain: str  # or a set or map; empty for the table itself

    def __str__(self) -> str:
        """As entries are shown, and as the store has them."""
        return " ".join(filter(None, self))

    @property
    def is_table(self) -> bool:
        """Whether it is a table as a whole."""
        return not self.chain

    @property
    def name(self) -> str:
        """The name of the chain or set, or else of the table."""
        return self.chain or self.table

    @property
    def whole(self) -> Place:
        """The table that it is in, or is."""
        return self._replace(chain="")

    def holds(self, other: Place) -> bool:
        """Whether ``other`` is this place, or is in this table."""
        return self in (other, other.whole)


@lru_cache(_KEPT)
def nft_place(family: str, table: str, chain: str = "") -> Place:
    """A table of nf_tables, or a chain, set or map in it."""
    return Place(NFT, family, table, chain)


@lru_cache(_KEPT)
def legacy_place(tool: str, table: str, chain: str = "") -> Place:
    """A legacy table of ``iptables`` or ``ip6tables``, or a chain in it."""
    return Place(tool, "", table, chain)


def parse_place(text: str) -> Place:
    """A place from its text. Raises ValueError for what is none.

    Blanks may be in the name of a chain: nf_tables takes any by netlink.
    """
    tool, _, rest = text.partition(" ")
    names = rest.split(" ", 2 if tool == NFT else 1)
    if all(names):
        if tool == NFT and len(names) > 1:
            return nft_place(*names)
        if tool in _LEGACY:
            return legacy_place(tool, *names)
    raise ValueError(f"{text!r} is no place in a firewall")
