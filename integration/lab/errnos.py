"""Which errors make sense for which system call, and which calls of a run are tried (pure).

A run makes hundreds of calls that are the same to the kernel and to the command: the frames of one
commit, the processes of one look through /proc. Of such a row the first and the last are taken, and
of each site an even sample of so many as :data:`MOST` says; of a thread inside another namespace all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from errno import (
    EACCES,
    EAGAIN,
    EBUSY,
    EINTR,
    EIO,
    EMFILE,
    ENOBUFS,
    ENOLCK,
    ENOMEM,
    ENOSPC,
    ENXIO,
    EPERM,
    EPIPE,
    EROFS,
)  # fmt: skip
from typing import TypeVar

from integration.lab.injector import Fault, Site

T = TypeVar("T")

MOST = 5
FEW = 2  # of what is the same each time: SQLite's own locks and reads, looks at other processes
_MANY = {
    Site("lock", "store"), Site("read", "store"), Site("stat", "store"), Site("list", "proc"),
    Site("open", "proc"), Site("read", "proc"), Site("open", "code"), Site("socket", "xtables"),
    Site("getsockopt", "xtables"), Site("read", "setting"), Site("identify", "process"),
}  # fmt: skip

# deed -> place -> errors: those of the first tuple once, those of the second for good.
_ONCE_AND_FOR_GOOD = tuple[tuple[int, ...], tuple[int, ...]]
_DISK: _ONCE_AND_FOR_GOOD = (ENOSPC, EROFS, EIO, EACCES), (ENOSPC, EROFS, EIO)
_LOOK: _ONCE_AND_FOR_GOOD = (EMFILE, EACCES), (EMFILE,)
_NETLINK: _ONCE_AND_FOR_GOOD = (ENOBUFS, ENOMEM, EPERM, EINTR, EAGAIN), (ENOBUFS, EPERM)
ERRORS: dict[str, dict[str, _ONCE_AND_FOR_GOOD]] = {
    "open": {
        "store": ((EMFILE, EACCES, EIO), (EMFILE, EIO)),
        "run": _LOOK,
        "proc": ((EMFILE, EACCES, ENOMEM), (EMFILE, EACCES)),
        "setting": _LOOK,
        "tun": ((EMFILE, EACCES, ENXIO), (EMFILE, EACCES)),
        "code": ((EMFILE,), (EMFILE,)),
    },
    "create": {
        "store": ((EMFILE, EACCES, ENOSPC, EROFS, EIO), (EMFILE, ENOSPC, EROFS, EIO)),
        "run": ((EMFILE, EACCES, ENOSPC, EROFS), (ENOSPC, EROFS)),
        "xtables-lock": ((EMFILE, EACCES, EROFS), (EROFS,)),
        "setting": ((EACCES, EROFS), (EROFS,)),
    },
    "write": {
        "store": ((ENOSPC, EIO), (ENOSPC, EIO)),
        "run": ((ENOSPC, EIO), (ENOSPC,)),
        "output": ((ENOSPC, EIO, EPIPE), (EPIPE,)),
        "setting": ((EPERM,), (EPERM,)),
        "pipe": ((EIO,), ()),
    },
    "read": {
        "store": ((EIO,), (EIO,)),
        "run": ((EIO,), (EIO,)),
        "proc": ((ENOMEM,), ()),
        "setting": ((EIO,), (EIO,)),
    },
    "sync": {"store": ((EIO, ENOSPC), (EIO,))},
    "resize": {"store": ((ENOSPC, EIO), (ENOSPC,))},
    "map": {"store": ((ENOMEM,), (ENOMEM,))},
    "stat": {"store": ((EIO, EACCES), (EIO,)), "run": ((EIO,), (EIO,))},
    "mkdir": {"store": _DISK, "run": _DISK},
    "rename": {"store": _DISK, "run": _DISK},
    "unlink": {"store": ((EROFS, EIO), (EIO,)), "run": ((EROFS, EIO), (EROFS,))},
    "rmdir": {"run": ((EROFS, EIO), (EROFS,))},
    "chmod": {"store": ((EPERM, EROFS), (EROFS,))},
    "list": {"proc": ((ENOMEM,), (EMFILE,)), "run": ((EIO,), (EIO,))},
    "lock": {
        "store": ((ENOLCK,), (ENOLCK,)),
        "run": ((ENOLCK,), (ENOLCK,)),
        "xtables-lock": ((ENOLCK, EINTR), (ENOLCK,)),
    },
    "socket": {
        "route": ((EMFILE, ENOMEM, EACCES), (EMFILE,)),
        "netfilter": ((EMFILE, ENOMEM, EACCES), (EMFILE,)),
        "xtables": ((EMFILE, EPERM), (EMFILE, EPERM)),
        "local": ((EMFILE,), ()),
    },
    "bind": {"route": ((ENOMEM,), ()), "netfilter": ((ENOMEM,), ())},
    "send": {"route": _NETLINK, "netfilter": _NETLINK},
    "receive": {
        "route": ((ENOBUFS, ENOMEM, EINTR, EAGAIN), (ENOBUFS,)),
        "netfilter": ((ENOBUFS, ENOMEM, EINTR, EAGAIN), (ENOBUFS,)),
    },
    "setsockopt": {
        "xtables": ((EAGAIN, ENOMEM, EPERM), (EAGAIN, ENOMEM)),
        "route": ((ENOMEM,), ()),
        "netfilter": ((EPERM,), (EPERM,)),
    },
    "getsockopt": {"xtables": ((EAGAIN, ENOMEM, EPERM), (EAGAIN, EPERM))},
    "ioctl": {"tun": ((EBUSY, EMFILE, EPERM, ENOMEM, EINTR), (EBUSY, EPERM))},
    "spawn": {"process": ((EAGAIN, ENOMEM), (EAGAIN,))},
    "identify": {"process": ((EMFILE, ENOMEM, EPERM), (EMFILE, EPERM))},
    "bpf": {"kernel": ((EMFILE, ENOMEM, EPERM, EAGAIN), (ENOMEM, EPERM))},
    "signal": {"process": ((EPERM,), (EPERM,))},
    "pipe": {"gate": ((EMFILE,), (EMFILE,))},
    "enter": {"namespace": ((ENOMEM, EPERM), (EPERM,))},
    "duplicate": {"pipe": ((EMFILE,), ()), "store": ((EMFILE,), ()), "route": ((EMFILE,), ())},
}


def faults(calls: Sequence[Site]) -> list[Fault]:
    """What is tried on a command that makes ``calls``, in their order."""
    found = []
    for lasting in (False, True):
        for at, site, nth in _picked(calls, MOST // 2 if lasting else MOST):
            codes = ERRORS.get(site.deed, {}).get(site.to, ((), ()))[lasting]
            found += [(at, Fault(site, nth, code, lasting)) for code in codes]
    found.sort(key=lambda pair: pair[0])
    return [fault for _, fault in found]


def _picked(calls: Sequence[Site], most: int) -> Iterator[tuple[int, Site, int]]:
    """Position, site, and number among the calls of that site."""
    ends: dict[Site, list[tuple[int, int]]] = {}
    counts: dict[Site, int] = {}
    last = len(calls) - 1
    for at, site in enumerate(calls):
        counts[site] = counts.get(site, 0) + 1
        inside = 0 < at < last and calls[at - 1] == site == calls[at + 1]
        if not inside:
            ends.setdefault(site, []).append((at, counts[site]))
    for site, places in ends.items():
        few = min(most, FEW) if site in _MANY else most
        for at, nth in places if site.inside else evenly(places, few):
            yield at, site, nth


def evenly(things: Sequence[T], most: int) -> list[T]:
    """At most ``most`` of ``things``, with both ends."""
    if len(things) <= most:
        return list(things)
    picked = sorted({round(n * (len(things) - 1) / (most - 1)) for n in range(most)})
    return [things[n] for n in picked]
