"""How chains of nf_tables are called."""

from __future__ import annotations

from typing import NamedTuple

DORMANT = 0x1  # NFT_TABLE_F_DORMANT: none of the table's chains is asked


class Hook(NamedTuple):
    """How a base chain is called: numbers are those of the kernel."""

    type: str
    number: int
    priority: int
    policy: int = 1  # NF_ACCEPT
    devices: tuple[str, ...] = ()
