"""`doctor`'s check of what keeps guests from having the host write into frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hvtx.engine.finding import Finding
from hvtx.engine.runtime import Runtime
from hvtx.host import tap_filter_check
from hvtx.model.resource import PORTS, Resource, State
from hvtx.model.typed import Any
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
    if tap_filter_check.can_be_had():
        yield Finding(
            "checksums", "ok", "no guest can have the host rewrite checked parts of a frame"
        )
        return
    taps = read(lambda sql: records.resources_of_kind(sql, *PORTS))
    up = [row for row in taps if row.state == State.COMMITTED]
    bare = tuple(row.key for row in up if not tap_filter_check.summed(row.ifindex))
    words = (
        "cannot load the checksum filter of TAP devices: a guest can have the host overwrite "
        "two bytes of a source address after the rules checked it"
    )
    yield Finding("checksums", "warning", words, tuple(f"{name} has none" for name in bare), _HINT)
