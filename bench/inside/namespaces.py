"""Network namespaces of this process, and commands in them."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
_HERE = "/proc/thread-self/ns/net"


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def current() -> int:
    """A descriptor of the namespace of this thread."""
    return os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)


def enter(namespace: int) -> None:
    """Let this thread, and what it spawns, be there."""
    _check(_LIBC.setns(namespace, _NEWNET))


def fresh() -> int:
    """Make a namespace with a loopback device that is up, and be in it; its descriptor."""
    _check(_LIBC.unshare(_NEWNET))
    run("ip", "link", "set", "lo", "up")
    return current()


@contextmanager
def within(namespace: int) -> Iterator[None]:
    """Be in another namespace for a while."""
    before = current()
    try:
        enter(namespace)
        yield
    finally:
        enter(before)
        os.close(before)


def run(*argv: str, text: str | None = None) -> str:
    """One command; its output. Raises RuntimeError with what it said."""
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def own_mounts() -> None:
    """A /sys of this network namespace, and a /run/netns that nobody else sees."""
    run("mount", "-t", "sysfs", "sysfs", "/sys")
    os.makedirs("/run/netns", exist_ok=True)
    run("mount", "-t", "tmpfs", "tmpfs", "/run/netns")


def uplink() -> int:
    """A veth pair into a new namespace, the default route by it; the namespace's descriptor.

    The host is 198.18.0.1, what is outside is 198.18.0.2 and knows no route back but by NAT.
    """
    home = current()
    outside = fresh()
    enter(home)
    run("ip", "link", "add", "uplink", "type", "veth", "peer", "name", "far")
    run("ip", "link", "set", "far", "netns", f"/proc/{os.getpid()}/fd/{outside}")
    run("ip", "addr", "add", "198.18.0.1/24", "dev", "uplink")
    run("ip", "link", "set", "uplink", "up")
    with within(outside):
        run("ip", "addr", "add", "198.18.0.2/24", "dev", "far")
        run("ip", "link", "set", "far", "up")
    run("ip", "route", "add", "default", "via", "198.18.0.2")
    os.close(home)
    return outside
