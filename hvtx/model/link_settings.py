"""Settings of a device beyond those of a dump of links. Values only."""

from __future__ import annotations

from collections.abc import Mapping

from hvtx.model.typed import NamedTuple

FORWARDING = 3  # BR_STATE_FORWARDING: the state of a port that works


class LinkSettings(NamedTuple):
    """The settings of a link; the names are those of ``ip -d link`` and ``bridge -d link``."""

    addrgenmode: int | None  # IN6_ADDR_GEN_MODE_*; None where the kernel has no IPv6
    arp: bool
    carrier: bool
    port: Mapping[str, int]  # of its port in a bridge; empty if it is none
    bridge: Mapping[str, int]  # of a bridge
    txqueuelen: int | None = None


class WantedSettings(NamedTuple):
    """What is to be set, and what was found there, in words; all empty where nothing is wrong."""

    words: tuple[str, ...] = ()
    silent: bool = False  # addrgenmode is to be none
    arp: bool = False  # ARP is to be on
    port: Mapping[str, int] = {}
    bridge: Mapping[str, int] = {}
    queue: int = 0  # the txqueuelen to be set, 0 for none
