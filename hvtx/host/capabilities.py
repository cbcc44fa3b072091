"""Capabilities of this process (capabilities(7)), as the kernel shows them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator

from hvtx.host import once, procfs

NUMBERS = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_FOWNER": 3,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_BPF": 39,
}
_SETS = "capability sets"  # of this thread, as hvtx.host.once keeps them
_PR_CAP_AMBIENT, _RAISE, _CLEAR_ALL = 47, 2, 4


def has(name: str) -> bool:
    """Whether this thread has a capability in effect; ``name`` is a key of ``NUMBERS``."""
    return bool(sets()["CapEff"] >> NUMBERS[name] & 1)


def sets() -> dict[str, int]:
    """The capability sets of this thread (``CapEff``, ``CapAmb`` …) as bit masks."""
    return once.recall(_SETS, lambda: sets_in(procfs.read_whole("/proc/thread-self/status")))


def sets_in(status: bytes) -> dict[str, int]:
    """The same of the text of a ``status`` (pure). ValueError for a set that is no number."""
    found = {}
    for part in (b"\n" + status).split(b"\nCap")[1:]:  # five of sixty lines
        name, _, value = part.partition(b"\n")[0].partition(b":")
        found[f"Cap{name.decode()}"] = int(value, 16)
    return found


@contextlib.contextmanager
def only_for_children(names: Collection[str] = ()) -> Iterator[None]:
    """What is started inside gets at most these capabilities from this process's ambient set.

    For who runs as root there is no ambient set, and nothing to be done: what root starts has them
    all until it becomes another user.
    """
    ambient = sets().get("CapAmb", 0)
    kept = ambient & sum(1 << NUMBERS[name] for name in names)
    if ambient == kept:
        yield
        return
    _ambient(kept)
    try:
        yield
    finally:
        _ambient(ambient)


def _ambient(wanted: int) -> None:
    once.forget(_SETS)
    _prctl(_CLEAR_ALL, 0)
    for number in range(wanted.bit_length()):
        if wanted >> number & 1:
            _prctl(_RAISE, number)


def _prctl(what: int, number: int) -> None:
    import os

    from hvtx.host import system_call

    prctl, last_error = system_call.found("prctl")
    if prctl(_PR_CAP_AMBIENT, what, number, 0, 0):
        code = last_error()
        raise OSError(code, os.strerror(code))
