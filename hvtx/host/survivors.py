"""Remaining processes of a VM's own user after its VM process ended.

A hypervisor that was broken into forks. What it forked goes on when the hypervisor is ended: it
keeps the TAP open, sends as the guest, or writes into the run-time directory without an end. Such
processes cannot be followed by their parents, which they change, nor ended one by one: they fork
sooner than they are found. kill(2) with -1 reaches all at once, and while the kernel goes through
its list nothing is forked (fork(2) gives up where a signal waits, ``copy_process``). Whoever calls
it must be that user and nobody else in effect, without any capability; a real user id that no
process has keeps those that are to be ended from ending the caller before.

Sources: kernel/signal.c (kill_something_info, kill_ok_by_cred), kernel/sys.c (getpriority).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Iterable
from contextlib import suppress

from hvtx.host import openfiles, procfs, signals
from hvtx.host.program import run
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Identity

NOBODY = 0xFFFFFFFD  # in no table of user ids, and of no process
_TRIES, _SECONDS, _PAUSE = 3, 2.0, 0.005
# Refuses to go on unless it is that user, and can do nothing more: -1 is everybody for the mighty.
_KILL = """
import ctypes, os, sys
user, nobody = int(sys.argv[1]), int(sys.argv[2])
os.setresuid(nobody, user, nobody)
ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
with open("/proc/self/status") as status:
    sets = [int(l.split()[1], 16) for l in status if l.startswith(("CapEff:", "CapPrm:"))]
if user < 1000 or os.getresuid() != (nobody, user, nobody) or sets != [0, 0]:
    sys.exit("not that user alone")
os.kill(-1, int(sys.argv[3]))
"""


class Survivors(NamedTuple):
    """How many processes were seen and ended, and how many are still there."""

    ended: int = 0
    left: int = 0


def end(user: int, main: Identity, devices: Collection[str], *, force: bool = False) -> Survivors:
    """End every process of ``user``, whose id is one VM's alone: TERM (not with ``force``), KILL.

    ``main`` is the VM process, which has ended, ``devices`` are its TAPs. Where a process is older,
    or has another TAP open, which no process of this VM can have but in a network namespace that it
    made itself, two VMs have one user id (of two installations, say): all are left alone. A system
    call where there is none.
    """
    seen: set[int] = set()
    found: list[Identity] = []
    for number in (*(() if force else (signals.SIGTERM,)), *(signals.SIGKILL,) * _TRIES):
        if not _has_any(user):
            break
        found, fled = _look(user, main)
        if not (found or fled) or any(_is_anothers(one, user, main, devices) for one in found):
            break
        seen |= {one.pid for one in found}
        _signal_all(user, found, number)
        found = _wait(user, main)
        if number == signals.SIGKILL and not found:
            break
    left = {one.pid for one in found}
    return Survivors(len(seen - left), len(left))


def _is_anothers(one: Identity, user: int, main: Identity, devices: Collection[str]) -> bool:
    """Whether a process cannot be of that VM; one that cannot be inspected counts as another's."""
    if one.start < main.start:
        return True
    try:
        return not openfiles.open_devices(one.pid, user) <= set(devices)
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        return True


def _has_any(user: int) -> bool:
    """Whether a process has that real user id; one that has ended and is not reaped counts."""
    try:
        os.getpriority(os.PRIO_USER, user)
    except ProcessLookupError:
        return False
    except OSError:  # it cannot be told
        return True
    return True


def _look(user: int, main: Identity) -> tuple[list[Identity], bool]:
    """The living processes of the user, and whether there may be more: one has just gone.

    The kernel lists by number and gives out ever greater ones, so who forks and ends without a
    pause is listed, and is another when it is looked at. The VM process itself may have ended and
    not be reaped yet.
    """
    found, fled = [], False
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            if entry.stat().st_uid == user and int(entry.name) != main.pid:
                found.append(procfs.identify(int(entry.name)))
        except (FileNotFoundError, ProcessLookupError):
            fled = fled or _began(entry.path) >= main.start
        except OSError:
            continue
    return found, fled


def _began(path: str) -> float:
    """When what has ended began, while it waits to be reaped: what is older is of another start."""
    try:
        with open(f"{path}/stat", "rb", buffering=0) as stat:
            return procfs.start_time(stat.read())
    except (OSError, ValueError):
        return float("inf")


def _signal_all(user: int, found: Iterable[Identity], number: int) -> None:
    """Signal all at once; without CAP_SETUID those that were found, one by one."""
    program = sys.executable or "/usr/bin/python3"
    words = (str(user), str(NOBODY), str(int(number)))
    if run([program, "-I", "-S", "-c", _KILL, *words], seconds=_SECONDS).status != 0:
        for one in found:
            with suppress(OSError):
                procfs.signal(one, number)


def _wait(user: int, main: Identity) -> list[Identity]:
    """Who is still there once the others have gone."""
    ends = time.monotonic() + _SECONDS
    while _has_any(user):
        found, _ = _look(user, main)
        if not found or time.monotonic() >= ends:
            return found
        time.sleep(_PAUSE)
    return []
