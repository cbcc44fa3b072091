"""Chains of nf_tables: how they are called, and what stands in them; elements of sets."""

from __future__ import annotations

from collections.abc import Mapping

from hvtx.model.typed import NamedTuple

DORMANT = 0x1  # NFT_TABLE_F_DORMANT: none of the table's chains is asked


HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4, "ingress": 5}


class Hook(NamedTuple):
    """How a base chain is called: numbers are those of the kernel."""

    type: str
    number: int
    priority: int
    policy: int = 1  # NF_ACCEPT
    devices: tuple[str, ...] = ()


class Chain(NamedTuple):
    """A static chain: its hook (empty for one that is jumped to) and its rules, in order."""

    name: str
    hook: str
    rules: tuple[str, ...]


class BaseRuleset(NamedTuple):
    """The static part of one table: declarations of sets by name, and chains."""

    sets: Mapping[str, str]
    chains: tuple[Chain, ...]


class SetElement(NamedTuple):
    """An element that is wanted: where it belongs, and its raw key and data.

    ``interval``: of a set with ranges; its key is the first of each part, then the last of each.

    ``flows``: it matches only beyond so many tracked connections (of a set with ``ct count``).
    """

    family: str
    table: str
    set: str
    key: bytes
    data: bytes = b""
    verdict: bool = False
    flows: int = 0
    interval: bool = False
