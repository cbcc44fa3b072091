"""The looks of a snapshot at what is asked one by one: processes, holders of devices, files."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence

from hvtx.drivers import reservation
from hvtx.drivers.file import Marks, marks_beside
from hvtx.drivers.vm_process.gate import is_gate
from hvtx.engine.processes import namespace_facts
from hvtx.host import openfiles, procfs
from hvtx.host.files import is_there
from hvtx.host.many_processes import look_at_all
from hvtx.model.mark import installation_of
from hvtx.model.plan import UnrecordedFile
from hvtx.model.resource import PORTS, Kind, Link, Resource, State, file_spec
from hvtx.model.seed import directory_of
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
    with Marks() as marks:
        for row in rows:
            if row.kind == Kind.FILE:
                path = file_spec(row)["path"]
                try:
                    mark = _mark_of(row, path, marks)
                except OSError as problem:
                    failures[path] = f"{path} could not be read: {problem.strerror}"
                    continue
                if mark is not None:
                    found[path] = mark
    return found


def unrecorded_files(
    run_directory: str,
    known: set[str],
    on_record: Callable[[Collection[str]], set[str]],
    taps: Callable[[], set[str]],
) -> dict[str, UnrecordedFile]:
    """What has a mark in the run directory and is not on record, by path; ``known`` paths are.

    A mark is there no longer than its row: one that was read, then not found ``on_record``, and
    then is there still, has none. ``taps``: as :func:`known_taps` says.
    """
    try:
        carried = marks_beside(run_directory, known)
        recorded = on_record(carried.values()) if carried else set()
        lost = {path: mark for path, mark in carried.items() if mark not in recorded}
        still = marks_beside(run_directory, known) if lost else {}
    except OSError:
        return {}  # what cannot be looked at is not told: nothing follows from it
    found: dict[str, UnrecordedFile] = {}
    if not still:
        return found
    from hvtx.host import installation_processes  # hardly ever needed

    running = installation_processes.with_other_taps(taps())
    for path, mark in lost.items():
        if still.get(path) == mark:
            users = installation_processes.at(directory_of(path))
            told = tuple(dict.fromkeys((*users.found, *running.found)))
            found[path] = UnrecordedFile(mark, told, not (users.complete and running.complete))
    return found


def known_taps(
    installation: str, links: Iterable[Link], rows: Iterable[Resource], settled: Collection[str]
) -> set[str]:
    """Names of devices that no VM off the record has (pure): on record, or not this installation's.

    ``settled`` are marks of further rows.
    """
    own = {row.key: row.mark for row in rows if row.kind in PORTS}
    marks = {*settled, *own.values()}
    return own.keys() | {
        link.name
        for link in links
        if link.alias in marks or installation_of(link.alias) != installation
    }


def _mark_of(row: Resource, path: str, marks: Marks) -> str | None:
    if row.is_reservation:
        return reservation.mark_of(path)
    # of a network's the mark alone, beside it, is not it
    return marks.of(path) if row.vm is not None or is_there(path) else None
