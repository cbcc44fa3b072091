"""Filters of the host's devices that a replica does not copy."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from hvtx.host.netlink import Channel
from hvtx.host.replica.topology import Device

_GETQDISC, _GETFILTER, _TCMSG = 38, 46, struct.Struct("=BxxxiIII")
_INGRESS_QDISC = 0xFFFF0000  # of ingress and clsact
_SIDES = (0xFFFFFFF2, 0xFFFFFFF3)  # of clsact; those of ingress are listed by the first, too
_OWN_PRIORITY = 0x6876  # of hvtx's own filters, and their handles (hvtx.host.tc)
_OWN_HANDLES = (0, 0x68767478, 0x68767479, 0x6876747A)


def not_carried(devices: Iterable[Device]) -> list[str]:
    """What of these devices decides about frames and is no part of a replica, in words.

    Of the calling thread's namespace. Raises OSError, DumpInterrupted.
    """
    by_index = {device.ifindex: device.name for device in devices}
    found = [f"device {device.name} has an XDP program" for device in devices if device.xdp]
    channel = Channel(0)
    try:
        for body in channel.dump(_GETQDISC, _TCMSG.pack(0, 0, 0, 0, 0)):
            _, ifindex, handle, _, _ = _TCMSG.unpack_from(body)
            if handle == _INGRESS_QDISC and ifindex in by_index and _filtered(channel, ifindex):
                found.append(f"device {by_index[ifindex]} has filters of traffic control (tc)")
    finally:
        channel.close()
    return found


def _filtered(channel: Channel, ifindex: int) -> bool:
    """Whether a device has filters of others than hvtx."""
    for side in _SIDES:
        for body in channel.dump(_GETFILTER, _TCMSG.pack(0, ifindex, 0, side, 0)):
            _, _, handle, _, info = _TCMSG.unpack_from(body)
            if info >> 16 != _OWN_PRIORITY or handle not in _OWN_HANDLES:
                return True
    return False
