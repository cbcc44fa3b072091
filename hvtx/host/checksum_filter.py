"""The checksum filter of a TAP (:mod:`hvtx.host.checksum_program`): loading and attaching it.

It stands at the ingress beside the first, of the same priority, whichever is asked first: each of
them only drops, or leaves it to the next. It goes with the device.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager

from hvtx.host import bpf, checksum_program
from hvtx.host.netlink import CREATE, Channel, nested, text, u32
from hvtx.host.tc import INGRESS, OWN_PRIORITY, SUM_HANDLE

_NEWFILTER = 44
_TCMSG = struct.Struct("=BxxxiIII")
_TCA_KIND, _TCA_OPTIONS = 1, 2
_BPF_FD, _BPF_NAME, _BPF_FLAGS, _ACT_DIRECT = 6, 7, 8, 1
_ETH_P_ALL = 0x0300  # in the network's order
_CANNOT = frozenset({errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL})


@contextmanager
def program() -> Iterator[int | None]:
    """A descriptor of the program; None where the kernel, or this user, cannot have it. OSError."""
    descriptor = bpf.load(checksum_program.program(), "hvtx_sums")
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def put(ifindex: int, descriptor: int | None) -> bool:
    """Give a TAP that has the first filter the second; False where it cannot be had.

    ``descriptor`` is of :func:`program`. Raises OSError.
    """
    if descriptor is None:
        return False
    options = u32(_BPF_FD, descriptor) + text(_BPF_NAME, checksum_program.NAME)
    options += u32(_BPF_FLAGS, _ACT_DIRECT)
    body = filter_of(ifindex) + text(_TCA_KIND, "bpf") + nested(_TCA_OPTIONS, options)
    with closing(Channel(0)) as channel:
        try:
            channel.request(_NEWFILTER, CREATE, body)
        except OSError as problem:
            if problem.errno not in _CANNOT:
                raise
            return False
    return True


def filter_of(ifindex: int) -> bytes:
    """The struct tcmsg by which it is known on a device (pure)."""
    priority = OWN_PRIORITY << 16 | _ETH_P_ALL
    return _TCMSG.pack(0, ifindex, SUM_HANDLE, INGRESS, priority)
