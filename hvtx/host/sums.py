"""hvtx's second filter on a TAP (:mod:`hvtx.host.sumfilter`): putting it there, and looking for it.

It stands at the ingress beside the first, of the same priority, whichever is asked first: each of
them only drops, or leaves it to the next. It goes with the device.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager

from hvtx.host import sumfilter
from hvtx.host.links import INGRESS, OWN_PRIORITY, SUM_HANDLE
from hvtx.host.netlink import CREATE, Channel, attribute_map, legible, nested, text, u32

_NEWFILTER, _GETFILTER = 44, 46
_TCMSG = struct.Struct("=BxxxiIII")
_TCA_KIND, _TCA_OPTIONS = 1, 2
_BPF_FD, _BPF_NAME, _BPF_FLAGS, _BPF_TAG, _ACT_DIRECT = 6, 7, 8, 10, 1
_ETH_P_ALL = 0x0300  # in the network's order
_NONE = frozenset({errno.ENOENT, errno.EINVAL, errno.ENODEV, errno.EOPNOTSUPP})
_CANNOT = frozenset({errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL})


@contextmanager
def program() -> Iterator[int | None]:
    """A descriptor of the program; None where the kernel, or this user, cannot have it. OSError."""
    from hvtx.host import bpf

    descriptor = bpf.load(sumfilter.program(), "hvtx_sums")
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
    options = u32(_BPF_FD, descriptor) + text(_BPF_NAME, sumfilter.NAME)
    options += u32(_BPF_FLAGS, _ACT_DIRECT)
    body = _filter(ifindex) + text(_TCA_KIND, "bpf") + nested(_TCA_OPTIONS, options)
    with closing(Channel(0)) as channel:
        try:
            channel.request(_NEWFILTER, CREATE, body)
        except OSError as problem:
            if problem.errno not in _CANNOT:
                raise
            return False
    return True


@legible
def there(ifindex: int) -> bool:
    """Whether a TAP has the filter. Raises OSError."""
    with closing(Channel(0)) as channel:
        try:
            found = channel.get(_GETFILTER, _filter(ifindex))
        except OSError as problem:
            if problem.errno in _NONE:
                return False
            raise
    options = attribute_map(attribute_map(found, _TCMSG.size).get(_TCA_OPTIONS, b""))
    return options.get(_BPF_TAG) in sumfilter.tags()


def can_be_had() -> bool:
    """Whether this kernel takes the program from this process. Raises OSError."""
    with program() as descriptor:
        return descriptor is not None


def _filter(ifindex: int) -> bytes:
    return _TCMSG.pack(0, ifindex, SUM_HANDLE, INGRESS, OWN_PRIORITY << 16 | _ETH_P_ALL)
