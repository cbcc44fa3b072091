"""Foreign firewall rules, as the emergency mode and `import` read them."""

from __future__ import annotations

from hvtx.model.place import Place
from hvtx.model.typed import NamedTuple


class ForeignRule(NamedTuple):
    """A firewall rule as it was seen, with what is needed to find it again and to put it back.

    ``text`` is the rule in the words of ``iptables-save`` (also for those that iptables-nft made)
    or else of ``nft list``, with its comment. ``identity`` is what must be unchanged before the
    rule may be touched: its raw expressions, or its entry in the legacy table.
    """

    backend: str  # "nftables" or "iptables" (the legacy tables)
    place: Place
    text: str
    mark: str | None  # its comment if that begins like a mark
    restore: str  # the command that makes it again, at the end of its chain
    position: int  # 1 for the first of its chain
    handle: int = 0
    identity: bytes = b""
    native: str = ""  # of nf_tables: the rule as `nft list` prints it, without its comment
    doubt: str = ""  # why `text` is not proven, where the rule may be one that iptables made
    printed: str = ""  # with a doubt: what iptables-nft-save says of it, if anything

    @property
    def key(self) -> str:
        """How the rule is named to people."""
        return f"{self.place}: {self.text}"

    @property
    def table(self) -> str:
        """The name of its table."""
        return self.place.table

    @property
    def chain(self) -> str:
        """The name of its chain."""
        return self.place.chain
