"""The laboratory itself: what a dump shows, and what it waits for."""

from __future__ import annotations

import fcntl
import gc
import os
import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest

from integration import lab

TUNSETIFF, IFF_TAP_NO_PI = 0x400454CA, 0x1002


@pytest.fixture
def hold() -> Callable[[], int]:
    """Opens an idle device; the descriptor."""
    lab.run("ip", "tuntap", "add", "dev", "tap-x", "mode", "tap")
    lab.run("ip", "link", "set", "tap-x", "addrgenmode", "none", "up")

    def held() -> int:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        request = struct.pack("16sH22x", b"tap-x", IFF_TAP_NO_PI)
        fcntl.ioctl(descriptor, TUNSETIFF, request)
        return descriptor

    first = held()
    for _ in range(400):  # the kernel adds a route at the first carrier, and keeps it
        if "ff00::/8" in lab.run("ip", "-6", "route", "show", "table", "all", "dev", "tap-x"):
            break
        time.sleep(0.01)
    os.close(first)
    return held


def test_a_passing_look_at_a_device_is_waited_for(hold: Callable[[], int]) -> None:
    """As a reader of `/proc/*/fdinfo` makes it: open in no process, and yet not closed."""
    before = lab.dump()
    here, there = socket.socketpair()
    descriptor = hold()
    socket.send_fds(here, [b"x"], [descriptor])
    os.close(descriptor)
    closing = threading.Timer(0.7, there.close)  # and what is under way with it
    closing.start()
    after = lab.dump()
    closing.join()
    here.close()
    assert lab.difference(before, after) == ""


def test_a_device_that_is_held_is_seen(hold: Callable[[], int]) -> None:
    """Its holder does not go away, and the dump ends all the same."""
    before = lab.dump()
    descriptor = hold()
    assert "NO-CARRIER" in lab.difference(before, lab.dump())
    os.close(descriptor)


def test_a_namespace_is_left_by_its_end_and_by_nothing_else() -> None:
    """A test that failed within one keeps it in its traceback, which goes during another test."""
    begun = os.stat("/proc/thread-self/ns/net").st_ino
    with lab.private_network():
        inside = os.stat("/proc/thread-self/ns/net").st_ino
        assert inside != begun
        dropped = lab.private_network()
        dropped.__enter__()
        there = os.stat("/proc/thread-self/ns/net").st_ino
        descriptor = dropped._before
        del dropped
        gc.collect()
        assert os.stat("/proc/thread-self/ns/net").st_ino == there
        os.close(descriptor)
    assert os.stat("/proc/thread-self/ns/net").st_ino == begun
