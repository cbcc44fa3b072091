"""The checksum filter of a TAP (:mod:`hvtx.host.checksum_program`): loading and attaching it.

It stands at the ingress beside the first, of the same priority, whichever is asked first: each of
them only drops, or leaves it to the next. It goes with the device.
"""

from __future__ import annotations

import _thread
import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from hvtx.host import bpf, checksum_program, procfs
from hvtx.host.netlink import CREATE, nested, text, u32
from hvtx.host.tc import INGRESS, NEWFILTER, OWN_PRIORITY, SUM_HANDLE

_TCMSG = struct.Struct("=BxxxiIII")
_TCA_KIND, _TCA_OPTIONS = 1, 2
_BPF_FD, _BPF_NAME, _BPF_FLAGS, _ACT_DIRECT = 6, 7, 8, 1
_ETH_P_ALL = 0x0300  # in the network's order
CANNOT = frozenset({errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL})


@contextmanager
def program() -> Iterator[int | None]:
    """A descriptor of the program; None where the kernel, or this user, cannot have it. OSError.

    It is the same for every TAP, so a process has the kernel verify it once and keeps it.
    """
    if not bpf.permitted():
        yield None
        return
    with _lock:
        descriptor = _again()
        kept = descriptor is not None
        if descriptor is None:
            descriptor = bpf.load(checksum_program.program(), "hvtx_sums")
            if descriptor is not None and (number := _number_of(descriptor)):
                _kept.append((descriptor, number))
                kept = True
    try:
        yield descriptor
    finally:
        if descriptor is not None and not kept:  # without /proc it would not be known again
            os.close(descriptor)


_lock = _thread.allocate_lock()
_kept: list[tuple[int, bytes]] = []  # none, or the descriptor and its program's number


def _again() -> int | None:
    """The descriptor that is kept, if it is still the program's: others may have closed it."""
    if _kept and _kept[0][1] != _number_of(_kept[0][0]):
        _kept.clear()
    return _kept[0][0] if _kept else None


def _number_of(descriptor: int) -> bytes:
    """The number of a descriptor's program, which no other has; empty where it is none of one."""
    try:
        told = procfs.read_whole(f"/proc/self/fdinfo/{descriptor}")
    except OSError:
        return b""
    return next((line for line in told.splitlines() if line.startswith(b"prog_id:")), b"")


def put_message(ifindex: int, descriptor: int) -> tuple[int, int, bytes]:
    """The message (type, flags, body) that gives a TAP with the first filter the second (pure).

    ``descriptor`` is of :func:`program`.
    """
    options = u32(_BPF_FD, descriptor) + text(_BPF_NAME, checksum_program.NAME)
    options += u32(_BPF_FLAGS, _ACT_DIRECT)
    body = filter_of(ifindex) + text(_TCA_KIND, "bpf") + nested(_TCA_OPTIONS, options)
    return NEWFILTER, CREATE, body


def filter_of(ifindex: int) -> bytes:
    """The struct tcmsg by which it is known on a device (pure)."""
    priority = OWN_PRIORITY << 16 | _ETH_P_ALL
    return _TCMSG.pack(0, ifindex, SUM_HANDLE, INGRESS, priority)
