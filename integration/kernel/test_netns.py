"""The laboratory itself: what a dump shows, and what it waits for."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from integration import lab

TOP = Path(__file__).resolve().parents[2]
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
    for _ in range(4000):  # the kernel adds a route at the first carrier, and keeps it
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


# -- however the tests were started ----------------------------------------------------------------

ENDING = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM)


def test_what_tests_start_hears_signals() -> None:
    """Nothing that ends a program is ignored in what a test starts."""
    status = lab.run("cat", "/proc/self/status")
    ignored = int(next(x for x in status.splitlines() if x.startswith("SigIgn")).split()[1], 16)
    assert [n.name for n in ENDING if ignored >> (n - 1) & 1] == []


def test_tests_hear_signals_that_their_caller_ignores() -> None:
    """`nohup scripts/test &` of a shell without job control ignores SIGINT and SIGHUP."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING}
    try:
        node = f"{Path(__file__).relative_to(TOP)}::{test_what_tests_start_hears_signals.__name__}"
        argv = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            node,
        ]
        done = subprocess.run(
            argv, cwd=TOP, capture_output=True, text=True, check=False, timeout=120
        )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_a_closed_home_may_be_passed_in_a_mount_namespace_only(tmp_path: Path) -> None:
    """`scripts/test` below root's home, or one of 0750: tests that act as another user can read."""
    home = tmp_path / "home"
    checkout = home / "inner" / "checkout"
    checkout.mkdir(parents=True)
    (checkout / "file").write_text("words\n")
    (home / "secret").write_text("mine\n")
    (home / "secret").chmod(0o600)
    (home / "link").symlink_to("secret")
    for closed in (tmp_path, home, home / "inner"):
        closed.chmod(0o700)
    above = [path for path in reversed(checkout.parents) if not path.stat().st_mode & 0o001]
    assert above[-2:] == [home, home / "inner"]
    other = ("setpriv", "--reuid=65533", "--regid=65533", "--clear-groups")
    open_ = (str(TOP / "scripts/lib/passable"), *map(str, above), "--")
    assert lab.run(*open_, *other, "cat", str(checkout / "file")) == "words\n"
    for name in (home / "secret", home / "link"):
        with pytest.raises(AssertionError, match="Permission denied"):
            lab.run(*open_, *other, "cat", str(name))
        assert lab.run(*open_, "cat", str(name)) == "mine\n"
    with pytest.raises(AssertionError, match="Permission denied"):
        lab.run(*open_, *other, "ls", str(home))
    # What is made below an entry is there afterwards; the directories are closed as before.
    lab.run(*open_, "sh", "-c", f"echo more >{checkout}/new")
    assert (checkout / "new").read_text() == "more\n"
    with pytest.raises(AssertionError, match="Permission denied"):
        lab.run(*other, "cat", str(checkout / "file"))


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


@pytest.mark.parametrize(
    "argv", [(), ("focal",), ("--keep",), ("--keep", "/x", "trixie", "noble"), ("--", "true")]
)
def test_a_fresh_root_is_of_a_known_release(argv: tuple[str, ...]) -> None:
    """`scripts/fresh-root`: what it cannot make it refuses before anything is installed or made."""
    program = str(TOP / "scripts/fresh-root")
    done = subprocess.run([program, *argv], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "usage: scripts/fresh-root" in done.stderr
