"""vhost-net: frames between a TAP and a guest are moved by the host's kernel, not by QEMU.

Constants are those of include/uapi/linux/vhost.h.
"""

from __future__ import annotations

import fcntl
import os
import struct

DEVICE = "/dev/vhost-net"
_VHOST_GET_FEATURES = 0x8008AF00  # _IOR(0xAF, 0x00, __u64)
_VHOST_NET_F_VIRTIO_NET_HDR = 1 << 27  # what stands at this path is vhost-net, and no other vhost


def works() -> bool:
    """Whether this process can open vhost-net, whoever it hands that to afterwards.

    Opening it loads the kernel's module where that is not loaded yet.
    """
    try:
        descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        answer = fcntl.ioctl(descriptor, _VHOST_GET_FEATURES, bytes(8))
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return bool(struct.unpack("=Q", answer)[0] & _VHOST_NET_F_VIRTIO_NET_HDR)
