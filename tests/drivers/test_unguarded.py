"""Whether the kernel asks our chains is judged by our own tables and chains alone."""

from __future__ import annotations

from typing import Any

import pytest

from hvtx.drivers.nftables import tables
from hvtx.errors import HostRefused
from hvtx.host.netlink import attribute, text
from hvtx.model.hook import DORMANT

_INET = 1
TABLE = "hvtx-0123456789"


def table(name: str, flags: int = 0) -> bytes:
    return bytes((_INET, 0, 0, 0)) + text(1, name) + attribute(2, flags.to_bytes(4, "big"))


def chain(of: str, name: str) -> bytes:
    return bytes((_INET, 0, 0, 0)) + text(1, of) + text(3, name)


class _Session:
    """A session with the answers of the kernel."""

    table = TABLE

    def __init__(self, *answers: list[bytes]) -> None:
        self.answers = answers

    def listed(self, *_: object) -> list[list[bytes]]:
        return list(self.answers)


def guarded(*answers: list[bytes]) -> None:
    session: Any = _Session(*answers)
    tables.refuse_unguarded(session)


def test_what_others_change_is_neither_judged_nor_kept() -> None:
    """A host may have tens of thousands of chains: a program that lives long keeps none of them."""
    tables._unguarded.cache_clear()
    for number in range(5):
        guarded([table("filter")], [chain("filter", f"KUBE-SVC-{number}")] * number)
    assert tables._unguarded.cache_info().misses == 1


def test_ours_is_found_among_those_of_others() -> None:
    with pytest.raises(HostRefused, match="is dormant"):
        guarded([table("filter"), table(TABLE, DORMANT), table("nat")], [])
    with pytest.raises(HostRefused, match="is missing or was replaced"):
        guarded([table("filter"), table(TABLE)], [chain("filter", "x"), chain(TABLE, "x")])
