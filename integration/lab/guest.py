"""A guest for tests: the process of a `command` VM, with a network namespace as its inside.

Run as ``hvtx vm create … -- python integration/lab/guest.py``. It opens its TAP devices as a hypervisor
does, gives itself a user and a network namespace with one interface per TAP (``eth0``, ``eth1`` …) that carries
the leased MAC and addresses, and moves frames between the two. Ordinary tools run inside by
``nsenter -t PID -n``. Everything that it needs to know is in its ``HVTX_*`` environment.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import struct
import subprocess
import sys
from pathlib import Path

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000


def tap(name: str) -> int:
    """A descriptor of a TAP device; it is made if it does not exist."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return descriptor


def told(what: str, number: int) -> str:
    """A value of the nth interface; empty if it has none."""
    return os.environ.get(f"HVTX_{what}" if number == 1 else f"HVTX_{what}_{number}", "")


def configured(number: int) -> list[str]:
    """What `ip` is told to give ``eth<number - 1>``: MAC, addresses; the first, default routes."""
    device = f"eth{number - 1}"
    # duplicate detection is the kernel's own, but an answer is waited for 50 ms and not a second
    Path(f"/proc/sys/net/ipv6/conf/{device}/router_solicitation_delay").write_text("0")
    lines = [
        f"ntable change name ndisc_cache dev {device} retrans 50",
        f"link set {device} address {told('MAC', number)}",
        f"link set {device} up",
    ]
    if "--bare" in sys.argv:
        return lines
    if told("IP", number):
        lines.append(f"addr add {told('IP', number)}/{told('NETMASK', number)} dev {device}")
        if number == 1:
            lines.append(f"route add default via {told('GATEWAY', number)}")
    if told("IP6", number):
        lines.append(f"addr add {told('IP6', number)}/64 dev {device}")  # with duplicate detection
        if number == 1:
            lines.append(f"route add default via {told('GATEWAY6', number)}")
    return lines


def pump(pairs: list[tuple[int, int]]) -> None:
    """Move frames between descriptors until the process is ended."""
    other = {**dict(pairs), **{b: a for a, b in pairs}}
    while True:
        for source in select.select(list(other), [], [])[0]:
            with contextlib.suppress(BlockingIOError):
                for _ in range(64):
                    frame = os.read(source, 70000)
                    with contextlib.suppress(OSError):  # a device that is down, or a full queue
                        os.write(other[source], frame)


def enter() -> None:
    """Become root of a user namespace, where a VM's user may have a network namespace."""
    user = os.getuid()
    flags = CLONE_NEWNET | (CLONE_NEWUSER if user else 0)
    if ctypes.CDLL(None, use_errno=True).unshare(flags):
        raise OSError(ctypes.get_errno(), "unshare")
    if user:
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")


def main() -> None:
    """Become the guest."""
    numbers = [n for n in range(1, 9) if told("TAP", n)]
    outer = [tap(told("TAP", n)) for n in numbers]
    enter()
    bare = "--bare" in sys.argv
    Path("/proc/sys/net/ipv6/conf/default/accept_ra").write_text("2" if bare else "0")
    inner = [tap(f"eth{n - 1}") for n in numbers]
    lines = ["link set lo up", *(line for number in numbers for line in configured(number))]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)
    sys.stdout.write("the guest is ready\n")
    sys.stdout.flush()
    pump(list(zip(outer, inner, strict=True)))


if __name__ == "__main__":
    main()
