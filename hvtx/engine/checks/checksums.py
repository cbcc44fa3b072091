"""`doctor`'s check of what keeps guests from having the host write into frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from hvtx.engine.finding import Finding
from hvtx.engine.runtime import Runtime
from hvtx.host import tapseen
from hvtx.model.resource import Kind, Resource, State
from hvtx.store import records

Query = Callable[[Any], list[Resource]]

_HINT = (
    "run hvtx with CAP_BPF, or as root, on a kernel with CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_BPF;"
    " `hvtx repair` gives it to VMs that run (docs/security.md)"
)


def check_checksums(runtime: Runtime) -> Iterator[Finding]:
    """Of doctor. OSError."""
    yield from findings(runtime.read)


def findings(read: Callable[[Query], list[Resource]]) -> Iterator[Finding]:
    """Whether the filter of checksums can be had here, and which devices are without it. OSError.

    A device that could have it is an error of another check, and `repair` gives it to it.
    """
    if tapseen.can_be_had():
        yield Finding("checksums", "ok", "no guest has the host write into what was checked")
        return
    taps = read(lambda sql: records.resources_of_kind(sql, Kind.TAP))
    up = [row for row in taps if row.state == State.COMMITTED]
    bare = tuple(row.key for row in up if not tapseen.summed(row.ifindex))
    words = (
        "the filter that keeps a guest from having the host write into frames cannot be loaded:"
        " two bytes of a sender may change behind the rules"
    )
    yield Finding("checksums", "warning", words, tuple(f"{name} has none" for name in bare), _HINT)
