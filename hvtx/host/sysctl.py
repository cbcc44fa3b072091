"""Kernel settings (``sysctl``); those of ``net/`` are of the caller's network namespace.

A setting is named by its path below ``/proc/sys``: ``net/ipv4/ip_forward``.
"""

from __future__ import annotations

import errno
import os

from hvtx.errors import HostRefused, HvtxError, NotPermitted
from hvtx.host import procfs

_ROOT = "/proc/sys/"


def value(name: str) -> str:
    """What a setting is. Raises OSError; FileNotFoundError where this kernel has no such one."""
    return procfs.read_whole(_ROOT + name).decode().strip()


def read(name: str) -> str | None:
    """What a setting is; None where there is none, or it cannot be read."""
    try:
        return value(name)
    except OSError:
        return None


def known(name: str) -> str | None:
    """The same, for who decides by it: None where there is none, OSError where it is unknown."""
    try:
        return value(name)
    except OSError as problem:
        if problem.errno != errno.ENOENT:
            raise
        return None


def has_ipv6() -> bool:
    """Whether the kernel has IPv6 at all. Raises OSError where that is unknown."""
    return known("net/ipv6/conf/all/forwarding") is not None


def can_force() -> bool:
    """Whether IPv6 can be forwarded for single devices (since Linux 6.17). Raises as `has_ipv6`."""
    return known("net/ipv6/conf/all/force_forwarding") is not None


def write(name: str, wanted: str) -> None:
    """Set it. Raises OSError."""
    descriptor = os.open(_ROOT + name, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, wanted.encode())
    finally:
        os.close(descriptor)


def refusal(name: str, wanted: str, problem: OSError) -> HvtxError:
    """What is raised where a setting of a bridge could not be made ``wanted``."""
    shown = name.replace("/", ".")
    if problem.errno in (errno.EPERM, errno.EACCES, errno.EROFS):
        return NotPermitted(f"not permitted to set {shown} to {wanted}", hint="run hvtx as root")
    words = f"{shown} cannot be set: {problem.strerror}"
    return HostRefused(words, hint="is /proc/sys of this network mounted?")
