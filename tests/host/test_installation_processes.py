"""Processes that show what nothing was started with: read to a bounded size, in a bounded time."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hvtx.host import installation_processes, procfs

# A process says that its arguments and its environment are a terabyte, as anybody may: the fields
# are struct prctl_mm_map's of include/uapi/linux/prctl.h, their values those of its own stat line.
ENDLESS = """
import ctypes, struct, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.sbrk.restype = ctypes.c_void_p
size = 1 << 40
words = [ctypes.c_void_p(None), ctypes.c_size_t(size), 1, 0x4022, -1, ctypes.c_long(0)]
at = libc.mmap(*words)  # PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
field = open("/proc/self/stat").read().rsplit(")", 1)[1].split()
seen = [int(field[n - 3]) for n in (26, 27, 45, 46, 47, 28)]
places = [*seen[:5], libc.sbrk(0), seen[5], at, at + size, at, at + size, 0]
fields = ctypes.create_string_buffer(struct.pack("=12QIi", *places, 0, -1), 104)
print(libc.prctl(35, 14, fields, ctypes.c_ulong(104), ctypes.c_ulong(0)), flush=True)
time.sleep(60)
"""
ROOM = 512 << 20  # bytes, more than this process has; a terabyte is not to be had


@pytest.fixture
def endless() -> Iterator[int]:
    child = subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        if child.stdout.readline() != b"0\n":
            pytest.skip("this kernel has no PR_SET_MM_MAP (CONFIG_CHECKPOINT_RESTORE)")
        yield child.pid
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


@contextmanager
def little_room() -> Iterator[None]:
    """What reads without an end finds an end."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_words_without_an_end_are_read_to_a_bounded_size(
    endless: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the one that shows them nothing is told; who is at a directory is found all the same."""
    own = {"HVTX_TAP_2": "tap-off-record", "PATH": os.environ["PATH"]}
    user = subprocess.Popen(["sleep", "60"], cwd=tmp_path, env=own)
    monkeypatch.setattr(os, "listdir", _listing({1, endless, user.pid}))
    try:
        found = installation_processes.Users((f"sleep (pid {user.pid})",), True)
        with little_room():
            assert installation_processes.at(str(tmp_path)) == found
            assert installation_processes.with_other_taps({"tap0"}) == found
            assert installation_processes.of("a" * 10, {"tap-off-record"}) == found
            assert installation_processes.with_other_taps({"tap-off-record"}).found == ()
    finally:
        user.kill()
        user.wait()


def test_a_command_line_without_an_end_is_read_to_a_bounded_size(endless: int) -> None:
    with little_room():
        assert set(procfs.command_line(endless)) == {""}


def test_only_what_a_vm_is_told_is_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting of hvtx's own has a name that begins so; one without a value names no device."""
    own = {"HVTX_TAP_USER": "kvm", "HVTX_TAP": "", "HVTX_TAPS": "tap7"}
    user = subprocess.Popen(["/bin/sleep", "60"], env=own)
    monkeypatch.setattr(os, "listdir", _listing({1, user.pid}))
    try:
        assert installation_processes.with_other_taps({"tap0"}).found == ()
        assert installation_processes.of("a" * 10, {"kvm", "tap7", ""}).found == ()
    finally:
        user.kill()
        user.wait()


@pytest.mark.parametrize("hidden", [False, True], ids=["another's /proc", "hidepid"])
def test_a_proc_that_does_not_show_all_processes_is_not_complete(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hidden: bool
) -> None:
    """Whom it does not list may be the one that is asked for."""
    monkeypatch.setattr(os, "listdir", _listing({2} if hidden else {1, 2}))
    monkeypatch.setattr(installation_processes, "proc_is_foreign", lambda: not hidden)
    assert not installation_processes.of("a" * 10, {"tap0"}).complete
    assert not installation_processes.at(str(tmp_path)).complete
    assert not installation_processes.with_other_taps({"tap0"}).complete


def _listing(pids: set[int]):
    """A /proc with no other processes, so that those of the machine's do not matter."""
    real = os.listdir
    return lambda path: [str(pid) for pid in pids] if path == "/proc" else real(path)
