"""The tun character device: the ioctls by which TAP devices come, are held, and go.

Constants are those of include/uapi/linux/if_tun.h. ``OSError`` carries the kernel's errno.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import time
from contextlib import suppress

from hvtx.errors import HostRefused

DEVICE = "/dev/net/tun"
IFF_TUN, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_MULTI_QUEUE = 0x1, 0x2, 0x1000, 0x4000, 0x100
_TUNSETIFF, _TUNSETPERSIST, _TUNSETIFINDEX = 0x400454CA, 0x400454CB, 0x400454DA
_TUNSETOWNER, _TUNSETGROUP, _TUNGETFEATURES = 0x400454CC, 0x400454CE, 0x800454CF
_NUMBER = (10, 200)  # Documentation/admin-guide/devices.txt: misc, tun
_IFF_TUN_EXCL = 0x8000
_NO_OFFLOAD = bytes(10)  # struct virtio_net_hdr: a whole frame, with its checksum
_IFREQ = struct.Struct("=16sH22x")
_LATE_SECONDS, _PAUSE, _BETWEEN_LOOKS = 3.0, 0.002, 0.05


def open_device() -> int:
    """A descriptor of the tun device, not yet of any interface."""
    return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)


def check() -> None:
    """Raise OSError if there is no tun device to be opened, whatever stands in its place."""
    descriptor = open_device()
    try:
        _call(descriptor, _TUNGETFEATURES, bytes(4))
    finally:
        os.close(descriptor)


def refusal(problem: OSError, why: str = "") -> HostRefused | None:
    """The error where ``problem`` says that there is no tun device; None if it says another thing.

    ``why`` says what it is needed for.
    """
    if problem.filename != DEVICE or problem.errno in (errno.EPERM, errno.EACCES):
        return None
    what, fix = _in_its_place(problem)
    return HostRefused(f"{what}{why}", hint=fix, code="no-tun")


def _in_its_place(problem: OSError) -> tuple[str, str]:
    """What is there instead of the device, and the fix."""
    make = f"mknod -m 666 {DEVICE} c {_NUMBER[0]} {_NUMBER[1]}"
    try:
        found = os.stat(DEVICE)
    except OSError:
        return f"this host has no {DEVICE}", "load the module: modprobe tun"
    if _is_tun(found):
        if problem.errno in (errno.ENXIO, errno.ENODEV):
            words = f"this kernel has no driver for {DEVICE}"
            return words, "load the module: modprobe tun"
        words = f"{DEVICE} cannot be used: {problem.strerror}"
        return words, "in a container, allow the device: --device /dev/net/tun"
    number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    kinds = (
        (stat.S_ISREG, "a regular file"),
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISCHR, f"the character device {number}"),
        (stat.S_ISBLK, f"the block device {number}"),
        (stat.S_ISFIFO, "a FIFO"),
    )
    kind = next((words for test, words in kinds if test(found.st_mode)), "something else")
    remove = "rmdir" if stat.S_ISDIR(found.st_mode) else "rm"
    return f"{DEVICE} is {kind}, not the tun device", f"{remove} {DEVICE}; {make}"


def mode() -> int | None:
    """The permission bits of the tun device; None where it is not, or something else is there."""
    with suppress(OSError):
        found = os.stat(DEVICE)
        if _is_tun(found):
            return stat.S_IMODE(found.st_mode)
    return None


def _is_tun(found: os.stat_result) -> bool:
    number = (os.major(found.st_rdev), os.minor(found.st_rdev))
    return stat.S_ISCHR(found.st_mode) and number == _NUMBER


def _call(descriptor: int, request: int, argument: bytes) -> bytes:
    """An ioctl; where it fails since this is no tun device, the error names the file."""
    try:
        return fcntl.ioctl(descriptor, request, argument)
    except OSError as problem:
        with suppress(OSError):  # only here: a call more for what hardly ever happens
            if not _is_tun(os.fstat(descriptor)):
                problem.filename = DEVICE
        raise


def tap_flags(queues: int) -> int:
    """With which a TAP of hvtx's is made and attached to; one queue is no multi-queue device."""
    return IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (IFF_MULTI_QUEUE if queues > 1 else 0)


def create(
    descriptor: int, name: str, ifindex: int, flags: int = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
) -> None:
    """A new device that lives as long as the descriptor; EBUSY if name or index exists."""
    _call(descriptor, _TUNSETIFINDEX, struct.pack("=I", ifindex))
    attach(descriptor, name, flags | _IFF_TUN_EXCL)


def attach(descriptor: int, name: str, flags: int) -> str:
    """Hold an existing TAP (EBUSY while another holds it), or make one; its name."""
    answer = _call(descriptor, _TUNSETIFF, _IFREQ.pack(name.encode(), flags))
    return answer[:16].rstrip(b"\0").decode()


def attach_free(descriptor: int, name: str, flags: int) -> None:
    """Hold an existing TAP, for which those who only look at it are waited for.

    Whoever reads ``/proc/<pid>/fdinfo`` of a process that closes its descriptor, or ends, has it
    for a moment longer than the process (fs/proc/fd.c), and no process shows it then. hvtx itself
    takes a copy to ask the device for its namespace, and lets go of it at once. So use is what two
    looks find. Raises OSError: EBUSY where it is used, or nobody is seen and it does not end.
    """
    deadline, used = 0.0, 0
    while True:
        try:
            attach(descriptor, name, flags)
            return
        except OSError as problem:
            if problem.errno != errno.EBUSY:
                raise
            from hvtx.host import openfiles  # hardly ever needed

            deadline = deadline or time.monotonic() + _LATE_SECONDS
            used = used + 1 if openfiles.tap_holders({name}).found else 0
            if used > 1 or time.monotonic() >= deadline:
                raise
        time.sleep(_BETWEEN_LOOKS if used else _PAUSE)


def set_owner(descriptor: int, user: int) -> None:
    """Who may attach to the held device without CAP_NET_ADMIN; without an owner everybody may."""
    signed = user - (1 << 32) if user >> 31 else user  # the same 32 bits, as Python wants them
    fcntl.ioctl(descriptor, _TUNSETOWNER, signed)


def set_group(descriptor: int, group: int) -> None:
    """Which group may attach to the held device without CAP_NET_ADMIN."""
    signed = group - (1 << 32) if group >> 31 else group
    fcntl.ioctl(descriptor, _TUNSETGROUP, signed)


def set_persistent(descriptor: int, wanted: bool) -> None:
    """Whether the held device outlives its descriptor."""
    fcntl.ioctl(descriptor, _TUNSETPERSIST, int(wanted))


def send(descriptor: int, frame: bytes) -> None:
    """Send a frame by the held device, which has a virtio-net header (of its first length).

    It comes in as from the guest, through the filters at the device's ingress. Raises OSError: EIO
    where the device is down.
    """
    os.write(descriptor, _NO_OFFLOAD + frame)


def passing_tap() -> tuple[int, int]:
    """``(descriptor, ifindex)`` of a nameless TAP that goes when the descriptor is closed."""
    import _socket as socket

    descriptor = open_device()
    try:
        name = attach(descriptor, "hvpass%d", IFF_TAP | IFF_NO_PI)
        return descriptor, socket.if_nametoindex(name)
    except BaseException:
        os.close(descriptor)
        raise
