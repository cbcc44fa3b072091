"""The limit of tracked connections of one guest, as a share of the kernel's."""

from __future__ import annotations

from hvtx.host import procfs

_MOST = "/proc/sys/net/netfilter/nf_conntrack_max"
_SHARE, _LEAST, _UNASKED = 16, 4096, 16384


def flow_limit() -> int:
    """A sixteenth of the kernel's own limit, but not so few that an honest guest meets it."""
    try:
        most = int(procfs.read_whole(_MOST))
    except (OSError, ValueError):  # before the first rule that tracks
        return _UNASKED
    return max(_LEAST, most // _SHARE)
