"""The looks of a snapshot at what is asked one by one: processes, holders of devices, files."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from hvtx.drivers import reservation
from hvtx.drivers.file import mark_of
from hvtx.drivers.vm_process.gate import is_gate
from hvtx.engine.processes import namespace_facts
from hvtx.host import openfiles, procfs
from hvtx.host.files import is_there
from hvtx.host.many_processes import look_at_all
from hvtx.model.resource import Kind, Link, Resource, State, file_spec
from hvtx.model.vm import Identity, ProcessFacts
from hvtx.planner.states import identity_of

_GATE_SECONDS = 5.0
_PROCESS, _INTENDED = Kind.PROCESS.value, State.INTENDED.value


def processes(rows: Sequence[Resource], underway: set[int]) -> dict[int, ProcessFacts]:
    """Look at every process and namespace on record, by row.

    Dead operations' gates, which soon exit, are waited for.
    """
    known: dict[int, Identity] = {}
    for row in rows:
        identity = identity_of(row) if row.kind == _PROCESS else None
        if identity is None:
            continue
        if row.state == _INTENDED and row.operation not in underway:
            _await_gate(identity.pid)
        known[row.id] = identity
    seen = look_at_all(list(known.values()))
    return dict(zip(known, seen, strict=True)) | namespace_facts(rows)


def _await_gate(pid: int) -> None:
    deadline = time.monotonic() + _GATE_SECONDS
    while time.monotonic() < deadline:
        try:
            if not is_gate(pid) or procfs.look(pid).ended:
                return
        except OSError:
            return
        time.sleep(0.002)


def holders(suspects: set[str], links: Iterable[Link]) -> tuple[dict[str, tuple[str, ...]], bool]:
    """Who holds TAP devices that no live VM of ours accounts for, and whether some may be unseen.

    What is not seen here (a process that may not be looked into) the attaching release still meets.
    """
    suspected = [link for link in links if link.name in suspects]
    seen = openfiles.tap_holders({link.name for link in suspected})
    found = {
        name: tuple(f"{holder.command} (pid {holder.pid})" for holder in each)
        for name, each in seen.found.items()
    }
    for link in suspected:  # the kernel counts the queues of a device with several, whosever
        if link.queues:
            found.setdefault(link.name, (f"some process ({link.queues} of its queues)",))
    return found, not seen.complete


def files(rows: Iterable[Resource], failures: dict[str, str]) -> dict[str, str]:
    """The marks of files on record that are there, by path; what cannot be read is in failures."""
    found = {}
    for row in rows:
        if row.kind == Kind.FILE:
            try:
                mark = _mark_of(row)
            except OSError as problem:
                path = file_spec(row)["path"]
                failures[path] = f"{path} could not be read: {problem.strerror}"
                continue
            if mark is not None:
                found[file_spec(row)["path"]] = mark
    return found


def _mark_of(row: Resource) -> str | None:
    if not row.is_reservation:
        path = file_spec(row)["path"]  # of a network's the mark alone, beside it, is not it
        return mark_of(path) if row.vm is not None or is_there(path) else None
    return reservation.mark_of(file_spec(row)["path"])
