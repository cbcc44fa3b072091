"""Filters of traffic control (tc) that decide before hvtx's own on its devices."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from contextlib import closing
from functools import partial

from hvtx.host.netlink import Channel, legible
from hvtx.host.retry import retry_transient
from hvtx.host.tc import OWN_PRIORITY

_GETFILTER = 46
_TCMSG = struct.Struct("=BxxxiIII")  # family, ifindex, handle, parent, info


def ahead(sides: Mapping[int, int]) -> list[tuple[int, int]]:
    """Index and preference of filters of others at the side of a link where hvtx's own stands.

    ``sides`` are tc.INGRESS or tc.EGRESS by index. Raises OSError, DumpInterrupted.
    """
    found = set()
    with closing(Channel(0)) as channel:
        for ifindex, side in sides.items():
            asked = partial(channel.dump, _GETFILTER, _TCMSG.pack(0, ifindex, 0, side, 0))
            for body in retry_transient(asked):
                preference = _preference(body)
                if 0 < preference < OWN_PRIORITY:
                    found.add((ifindex, preference))
    return sorted(found)


@legible
def _preference(body: bytes) -> int:
    info: int = _TCMSG.unpack_from(body)[4]
    return info >> 16
