"""A VM process under systemd: in a scope of its own, so that the end of a unit ends no VM."""

from __future__ import annotations

import os
import time

from hvtx.host import logger, systemd

SYSTEMD = "/run/systemd/system"  # there where systemd is the init, sd_booted(3)
_SCOPE_SECONDS = 5.0
_TAKEN = " already "  # "Unit … already exists", "… was already loaded or has a fragment file"


def scope_call(unit: str, vm: str, *pids: int) -> tuple[str, ...]:
    """Arguments of busctl that put processes of a VM into the scope ``unit`` (pure).

    org.freedesktop.systemd1(5): StartTransientUnit(name, mode, properties, aux).
    """
    return (
        *("call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1"),
        *("org.freedesktop.systemd1.Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))"),
        *(unit, "fail"),
        *("3", "Description", "s", f"VM {vm} of hvtx"),
        *("CollectMode", "s", "inactive-or-failed"),
        *("PIDs", "au", str(len(pids)), *map(str, pids)),
        "0",
    )


def enter_scope(vm: str, *pids: int) -> str | None:
    """Move a gate, its logger and the holder of its ports into a scope of their own.

    In that order; ``vm`` names the scope: ``hvtx-<vm>.scope``, or ``hvtx-<vm>.<pid>.scope`` with
    the first of ``pids`` where another VM of that name has the first, of another installation, or
    what an earlier start of this one has left. So the end of a unit or of a login ends no VM.

    Returns None if done, or if systemd does not run here; else a warning in words.
    """
    if not _systemd_is_ours():
        return None
    from hvtx.host import program

    unit = f"hvtx-{vm}.scope"
    warning = f"VM {vm} stays in the caller's control group: {{}} was not created"
    busctl = program.find(("busctl", "/usr/bin/busctl"))
    if busctl is None:
        return f"{warning.format(unit)} (busctl is missing)"
    try:
        ended = program.run((busctl, *scope_call(unit, vm, *pids)), _SCOPE_SECONDS)
        if ended.status != 0 and _TAKEN in ended.output:
            unit = f"hvtx-{vm}.{pids[0]}.scope"
            ended = program.run((busctl, *scope_call(unit, vm, *pids)), _SCOPE_SECONDS)
    except OSError as problem:
        return f"{warning.format(unit)} ({problem})"
    # where that is not known, the group that they are in tells it
    if not program.ended_well(ended.status, shown=True):
        return f"{warning.format(unit)} ({ended.output.strip() or 'busctl failed'})"
    if not all(_in_unit(pid, unit) for pid in pids):
        return f"{warning.format(unit)} in time"
    for pid in pids[1:2]:
        logger.renew(pid)  # what it had started before stays in the caller's group
    return None


def _systemd_is_ours() -> bool:
    """Whether systemd is the first process of our own pid namespace.

    In a container that sees the host's /run, the host's systemd would take our pid for a process of
    its own namespace and move that one.
    """
    return os.path.isdir(SYSTEMD) and systemd.is_first_process()


def _in_unit(pid: int, unit: str) -> bool:
    """Wait until systemd's job has moved the process (the call only queues it)."""
    deadline = time.monotonic() + _SCOPE_SECONDS
    while time.monotonic() < deadline:
        try:
            if systemd.is_in_unit(pid, unit):
                return True
        except OSError:
            return False
        time.sleep(0.005)
    return False
