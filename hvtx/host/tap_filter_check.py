"""Verification of a TAP's checksum filter (:mod:`hvtx.host.checksum_filter`).

Of an eBPF program the kernel shows no more than its tag, a digest of its instructions.
"""

from __future__ import annotations

import errno
import hashlib
from contextlib import closing

from hvtx.host import checksum_filter, checksum_program
from hvtx.host.netlink import Channel, attribute_map, legible

_GETFILTER, _OPTIONS, _BPF_TAG, _HEADER = 46, 2, 10, 20
_NONE = frozenset({errno.ENOENT, errno.EINVAL, errno.ENODEV, errno.EOPNOTSUPP})


def tags() -> tuple[bytes, ...]:
    """What the kernel may call the program (pure): of SHA-256 since Linux 6.18, of SHA-1 before."""
    raw = checksum_program.program()
    return tuple(
        hashlib.new(name, raw, usedforsecurity=False).digest()[:8] for name in ("sha256", "sha1")
    )


def summed(ifindex: int) -> bool:
    """Whether a TAP has the second filter. Raises OSError."""
    with closing(Channel(0)) as channel:
        try:
            found = channel.get(_GETFILTER, checksum_filter.filter_of(ifindex))
        except OSError as problem:
            if problem.errno in _NONE:
                return False
            raise
    return _tag(found) in tags()


@legible
def _tag(filter_: bytes) -> bytes | None:
    """The tag of a filter's program; None of what has none. Raises Garbled."""
    options = attribute_map(filter_, _HEADER).get(_OPTIONS, b"")
    return attribute_map(options).get(_BPF_TAG)


def can_be_had() -> bool:
    """Whether this kernel takes the program from this process. Raises OSError."""
    with checksum_filter.program() as descriptor:
        return descriptor is not None
