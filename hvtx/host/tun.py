"""The tun character device: the ioctls by which TAP devices come, are held, and go.

Constants are those of include/uapi/linux/if_tun.h. ``OSError`` carries the kernel's errno.
"""

from __future__ import annotations

import fcntl
import os
import struct

from hvtx.host.links import IFF_NO_PI, IFF_TAP, IFF_VNET_HDR

DEVICE = "/dev/net/tun"
_TUNSETIFF, _TUNSETPERSIST, _TUNSETIFINDEX = 0x400454CA, 0x400454CB, 0x400454DA
_TUNSETOWNER = 0x400454CC
_IFF_TUN_EXCL = 0x8000
_IFREQ = struct.Struct("=16sH22x")


def open_device() -> int:
    """A descriptor of the tun device, not yet of any interface."""
    return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)


def create(descriptor: int, name: str, ifindex: int) -> None:
    """A new TAP that lives as long as the descriptor; EBUSY if name or index exists."""
    fcntl.ioctl(descriptor, _TUNSETIFINDEX, struct.pack("=I", ifindex))
    attach(descriptor, name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | _IFF_TUN_EXCL)


def attach(descriptor: int, name: str, flags: int) -> str:
    """Hold an existing TAP (EBUSY while another holds it), or make one; its name."""
    answer = fcntl.ioctl(descriptor, _TUNSETIFF, _IFREQ.pack(name.encode(), flags))
    return answer[:16].rstrip(b"\0").decode()


def set_owner(descriptor: int, user: int) -> None:
    """Who may attach to the held device without CAP_NET_ADMIN; without an owner everybody may."""
    signed = user - (1 << 32) if user >> 31 else user  # the same 32 bits, as Python wants them
    fcntl.ioctl(descriptor, _TUNSETOWNER, signed)


def set_persistent(descriptor: int, wanted: bool) -> None:
    """Whether the held device outlives its descriptor."""
    fcntl.ioctl(descriptor, _TUNSETPERSIST, int(wanted))


def passing_tap() -> tuple[int, int]:
    """``(descriptor, ifindex)`` of a nameless TAP that goes when the descriptor is closed."""
    import socket

    descriptor = open_device()
    try:
        name = attach(descriptor, "hvpass%d", IFF_TAP | IFF_NO_PI)
        return descriptor, socket.if_nametoindex(name)
    except BaseException:
        os.close(descriptor)
        raise
