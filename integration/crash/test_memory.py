"""Memory runs out anywhere: a failed allocation is no more than a crash, and is told as what it is."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from integration import lab
from integration.crash.test_failpoints import COMMANDS, end_everything, given, host
from integration.lab.program import Forked, Program, Ran, child, preload, text_of

HOARD: list[bytes] = []

# Bytes beyond what the program has when it begins; with the least it can do nothing at all, with
# the most it nearly ends.
LIMITS = (1 << 16, 1 << 18, 1 << 19, 1 << 20)


def starved(arguments: Sequence[str], hvtx: Program, more: int) -> Ran:
    """Run a command line in a child that may have ``more`` bytes than it has now."""
    out, err = os.memfd_create("out"), os.memfd_create("err")
    pid = os.fork()
    if pid == 0:
        threading.stack_size(1 << 30)  # no limit here leaves room for a thread
        _hoard(more)
        child(arguments, hvtx.environment, out, err)
    _, status = os.waitpid(pid, 0)
    return Ran(os.waitstatus_to_exitcode(status), text_of(out), text_of(err))


def _hoard(more: int) -> None:
    """Take what the heap has to give, and let it grow by ``more`` bytes and no further."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
    for piece in (1 << 16, 1 << 12, 1 << 9, 1 << 7):
        with contextlib.suppress(MemoryError):
            while True:
                HOARD.append(bytes(piece))
    resource.setrlimit(resource.RLIMIT_AS, (size + more, size + more))


def is_told(ran: Ran, where: str) -> None:
    """Neither a bug of ours nor a store that somebody should replace."""
    assert "bug" not in ran.err, where
    assert "cannot be trusted" not in ran.err, where


@pytest.mark.parametrize("name", ["vm run", "vm stop"])
def test_out_of_memory_is_as_a_crash(name: str) -> None:
    """Wherever an allocation fails: after `recover` the host is as before or as after."""
    preload()
    hvtx = Forked(HVTX_FIREWALL="nftables")
    COMMANDS[name].prepare(hvtx)
    before = host()
    hvtx(*given(name))
    after = host()
    end_everything(hvtx)
    codes = set()
    for more in LIMITS:
        COMMANDS[name].prepare(hvtx)
        ran = starved(given(name), hvtx, more)
        where = f"{name} with {more} bytes more: {ran}"
        is_told(ran, where)
        codes.add(ran.code)
        hvtx("recover")
        hvtx("gc", "--apply")
        assert hvtx.is_clean(), where
        now = host()
        if ran.code == 0:
            assert lab.difference(after, now) == "", where
        elif lab.difference(before, now):
            crashed = name == "vm stop"  # its process had ended, and gc took the rest
            assert crashed, f"{where}\n{lab.difference(before, now)}"
            assert lab.difference(after, now) == "", where
        end_everything(hvtx)
    assert codes - {0}, "some limit must hurt"


def test_without_threads_everything_is_collected() -> None:
    """The system gives no thread: the one that there is does the work; nothing is left out."""
    preload()
    hvtx = Forked(HVTX_FIREWALL="nftables")
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    before = host()
    for more in (1 << 19, 1 << 28):
        for name in ("a", "b", "c"):
            hvtx("vm", "run", name, "--network", "net", "--", "sleep", "600")
            lab.end(hvtx.vm(name)["pid"])
        ran = starved(("gc", "--apply"), hvtx, more)
        is_told(ran, f"{more}: {ran}")
        hvtx("recover")
        hvtx("gc", "--apply")
        assert hvtx.is_clean()
        for name in ("a", "b", "c"):
            hvtx("vm", "rm", name)
        assert lab.difference(before, host()) == ""
    assert ran.code == 0, ran
    end_everything(hvtx)
