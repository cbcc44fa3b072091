"""Which devices stand on one, as the kernel itself keeps it: ``upper_NAME`` in sysfs.

rtnetlink tells only of each device what it stands on (IFLA_LINK), so that all have to be listed to
learn what stands on one of them, and VXLAN says nothing of the kind. The kernel keeps the other
direction too, and shows it in ``/sys/class/net/NAME``: every device that it would take away with
that one (net/core/dev.c, netdev_upper_dev_link). The sysfs at ``/sys`` shows the namespace of
whoever mounted it; so one of our own is asked for, of this thread's namespace, which is attached
nowhere and goes with its descriptor (fsopen(2), fsmount(2)).
"""

from __future__ import annotations

import errno
import os

from hvtx.host import capabilities, system_call

# the same numbers on every machine that has them (arch/*/syscall.tbl, since Linux 5.2)
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_CLOEXEC, _CREATE = 1, 6  # FSOPEN_CLOEXEC and FSMOUNT_CLOEXEC, FSCONFIG_CMD_CREATE
_ATTRIBUTES = 0x1 | 0x2 | 0x4 | 0x8  # MOUNT_ATTR_RDONLY, _NOSUID, _NODEV, _NOEXEC
_LACKS = frozenset({errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EINVAL, errno.ENODEV})
_UPPER = "upper_"


class Uppers:
    """What stands on devices of the network namespace of the thread that opened it."""

    def __init__(self, root: int) -> None:
        """Use :func:`look_up`; ``root`` is a descriptor of a sysfs."""
        self._root = root

    def close(self) -> None:
        """Let go of the sysfs, which goes with it."""
        os.close(self._root)

    def on(self, ifindex: int, name: str) -> list[str]:
        """Names of the devices of this namespace that stand on one, but for its own master.

        Raises OSError; ENODEV where the device is another by now.
        """
        path, flags = f"class/net/{name}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        directory = os.open(path, flags, dir_fd=self._root)
        try:
            found = {entry for entry in os.listdir(directory) if entry.startswith(_UPPER)}
            found -= {_UPPER + _master(directory)}
            if _number(directory) != ifindex:
                raise OSError(errno.ENODEV, f"{name} is another device by now")
        finally:
            os.close(directory)
        return sorted(entry.removeprefix(_UPPER) for entry in found)


def _master(directory: int) -> str:
    """The name of what a device is a port of; empty where it is of nothing."""
    try:
        return os.path.basename(os.readlink("master", dir_fd=directory))
    except OSError as problem:
        if problem.errno == errno.ENOENT:
            return ""
        raise


def _number(directory: int) -> int:
    shown = os.open("ifindex", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return int(os.read(shown, 32))
    finally:
        os.close(shown)


def look_up() -> Uppers | None:
    """A sysfs of this thread's network namespace; None where there is none to be had.

    It takes CAP_SYS_ADMIN, and is not asked for without: a filter of system calls may end who asks.
    Raises OSError for what is wrong with this process (no descriptor, no memory).
    """
    if not capabilities.has("CAP_SYS_ADMIN"):
        return None
    try:
        return Uppers(_sysfs())
    except OSError as problem:
        if problem.errno in _LACKS:
            return None
        raise


def _sysfs() -> int:
    context = _call(_FSOPEN, b"sysfs", _CLOEXEC)
    try:
        _call(_FSCONFIG, context, _CREATE, None, None, 0)
        return _call(_FSMOUNT, context, _CLOEXEC, _ATTRIBUTES)
    finally:
        os.close(context)


def _call(number: int, *arguments: int | bytes | None) -> int:
    call, last_error = system_call.found()
    made: int = call(number, *arguments)
    if made < 0:
        code = last_error()
        raise OSError(code, os.strerror(code))
    return made
