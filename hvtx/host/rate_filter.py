"""The filters of a TAP that hold its guest to a rate (:mod:`hvtx.host.rate_program`).

Each stands beside hvtx's other filters, of the same priority, and goes with the device. What it is
called says the rate, so that a look at it is enough; the kernel shows no more of the program than a
digest, which is another one for each map that it was loaded with.
"""

from __future__ import annotations

import errno
import os
import struct
from contextlib import closing

from hvtx.errors import HostRefused, NotPermitted
from hvtx.host import bpf, rate_program
from hvtx.host.netlink import CREATE, Channel, attribute_map, legible, nested, text, u32
from hvtx.host.rate_program import Rate
from hvtx.host.tc import EGRESS, INGRESS, OWN_PRIORITY, RATE_HANDLE

_NEWFILTER, _DELFILTER, _GETFILTER = 44, 45, 46
_TCMSG = struct.Struct("=BxxxiIII")
_TCA_KIND, _TCA_OPTIONS = 1, 2
_BPF_FD, _BPF_NAME, _BPF_FLAGS, _ACT_DIRECT = 6, 7, 8, 1
_ETH_P_ALL = 0x0300  # in the network's order
_SIDES = {"in": EGRESS, "out": INGRESS}  # of the device, by what it is for the guest
_ABSENT = frozenset({errno.ENOENT, errno.EINVAL, errno.ENODEV, errno.EOPNOTSUPP})


def name_of(rate: Rate) -> str:
    """What `tc filter show` calls the filter (pure)."""
    return f"hvtx-rate {rate.bits or 0}bit {rate.frames or 0}pps"


def put(ifindex: int, side: str, rate: Rate) -> None:
    """Hold one direction of a TAP, ``in`` or ``out``, to a rate, in the place of another.

    There is a filter all along. The device has hvtx's first filter already. Raises OSError,
    HostRefused where this kernel has no such programs, NotPermitted without the capability.
    """
    descriptor = _loaded(rate)
    try:
        options = u32(_BPF_FD, descriptor) + text(_BPF_NAME, name_of(rate))
        options += u32(_BPF_FLAGS, _ACT_DIRECT)
        body = _filter_of(ifindex, side) + text(_TCA_KIND, "bpf") + nested(_TCA_OPTIONS, options)
        with closing(Channel(0)) as channel:
            channel.request(_NEWFILTER, CREATE, body)
    except OSError as problem:
        if problem.errno in (errno.ENOENT, errno.EOPNOTSUPP):
            raise _lacking() from problem
        raise
    finally:
        os.close(descriptor)


def take(ifindex: int, side: str) -> None:
    """Let one direction pass as the device does; absent is gone. Raises OSError."""
    with closing(Channel(0)) as channel:
        try:
            channel.request(_DELFILTER, 0, _filter_of(ifindex, side))
        except OSError as problem:
            if problem.errno not in _ABSENT:
                raise


def seen(ifindex: int, side: str) -> str | None:
    """What the filter of one direction is called; None where there is none. Raises OSError."""
    with closing(Channel(0)) as channel:
        try:
            found = channel.get(_GETFILTER, _filter_of(ifindex, side))
        except OSError as problem:
            if problem.errno in _ABSENT:
                return None
            raise
    return _name(found)


@legible
def _name(filter_: bytes) -> str:
    options = attribute_map(filter_, _TCMSG.size).get(_TCA_OPTIONS, b"")
    return attribute_map(options).get(_BPF_NAME, b"").rstrip(b"\0").decode(errors="replace")


def _filter_of(ifindex: int, side: str) -> bytes:
    return _TCMSG.pack(0, ifindex, RATE_HANDLE, _SIDES[side], OWN_PRIORITY << 16 | _ETH_P_ALL)


def _loaded(rate: Rate) -> int:
    """A descriptor of the program, with a map of its own, which stays as long as it does."""
    moments = bpf.value_map(rate_program.MAP_SIZE)
    descriptor = None
    if moments is not None:
        try:
            descriptor = bpf.load(rate_program.program(rate, moments), "hvtx_rate")
        finally:
            os.close(moments)
    if descriptor is None:
        raise _lacking()
    return descriptor


def _lacking() -> HostRefused | NotPermitted:
    if not bpf.permitted():
        return NotPermitted(
            "not permitted to limit what a TAP device carries: it takes a program of eBPF",
            hint="run hvtx as root, with CAP_BPF or CAP_SYS_ADMIN, or leave --limit out",
        )
    return HostRefused(
        "this kernel refuses the eBPF program that limits what a TAP device carries",
        hint="Linux 5.8 has what it takes (CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_BPF); or leave"
        " --limit out: hvtx vm set NAME --limit none",
    )
