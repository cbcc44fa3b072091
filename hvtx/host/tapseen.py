"""Whether the filters on a TAP (:mod:`hvtx.host.tapguard`) are there, and are what they were.

Of an eBPF program the kernel shows no more than its tag, a digest of its instructions.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from hvtx.host import sumfilter, sums
from hvtx.host.links import Links
from hvtx.host.netlink import Channel, attribute_map, legible
from hvtx.model.resource import Resource
from hvtx.rulesets.port_filter import port_program

_GETFILTER, _OPTIONS, _BPF_TAG, _HEADER = 46, 2, 10, 20
_NONE = frozenset({errno.ENOENT, errno.EINVAL, errno.ENODEV, errno.EOPNOTSUPP})


def missing(row: Resource, links: Links, spec: Mapping[str, Any]) -> str | None:
    """What is gone of the filters of a device that has to hold to ``spec``, in words. OSError.

    What could not be had at the start is missing once it can be.
    """
    if row.observed.get("guarded") is False:  # this kernel has none
        return None
    if links.guarding(row.spec["ifindex"]) != port_program(spec):
        return "its filter, which holds when rules are flushed, was gone or another"
    if not summed(row.spec["ifindex"]) and can_be_had():
        return "its filter, which keeps the host from writing into frames, was gone or another"
    return None


def tags() -> tuple[bytes, ...]:
    """What the kernel may call the program (pure): of SHA-256 since Linux 6.18, of SHA-1 before."""
    raw = sumfilter.program()
    return tuple(
        hashlib.new(name, raw, usedforsecurity=False).digest()[:8] for name in ("sha256", "sha1")
    )


def summed(ifindex: int) -> bool:
    """Whether a TAP has the second filter. Raises OSError."""
    with closing(Channel(0)) as channel:
        try:
            found = channel.get(_GETFILTER, sums.filter_of(ifindex))
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
    with sums.program() as descriptor:
        return descriptor is not None
