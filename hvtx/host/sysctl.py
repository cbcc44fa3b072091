"""Kernel settings (``sysctl``); those of ``net/`` are of the caller's network namespace.

A setting is named by its path below ``/proc/sys``: ``net/ipv4/ip_forward``.
"""

from __future__ import annotations

import errno
import os

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


def write(name: str, wanted: str) -> None:
    """Set it. Raises OSError."""
    descriptor = os.open(_ROOT + name, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, wanted.encode())
    finally:
        os.close(descriptor)
