"""`store backup` and `store restore`: the state store's content in another file, and back."""

from __future__ import annotations

import os
import stat
from contextlib import closing, suppress
from shlex import quote

from hvtx.engine.files import is_no_file, unwritten
from hvtx.engine.run_directory import RunDirectory
from hvtx.engine.runtime import Runtime, Settings
from hvtx.engine.vm_state import state_of
from hvtx.errors import (
    Conflict,
    HvtxError,
    NotFound,
    NotPermitted,
    Refused,
    UsageError,
)
from hvtx.host import failpoint, output
from hvtx.model.resource import Kind
from hvtx.model.typed import Any, NamedTuple
from hvtx.model.vm import Liveness
from hvtx.store import backup as copies
from hvtx.store import records, trust
from hvtx.store import view as views
from hvtx.store.high_water_mark import HighWaterMark


class Copied(NamedTuple):
    """A backup, and what is in it."""

    file: str
    installation: str
    change: int  # its sequence
    vms: int
    networks: int


class Restored(NamedTuple):
    """A backup that was put back."""

    copied: Copied
    kept: str | None  # where the store is that was there before
    next: str  # the command that goes on from here
    why: str


def backup(settings: Settings, path: str, *, force: bool) -> Copied:
    """Copy the store to ``path``, beside whatever runs; raises NotFound, Conflict, HvtxError.

    A store that was rolled back or cloned is copied too: it may be all there is.
    """
    with closing(Runtime(settings, writable=False)) as runtime:
        if runtime.store.missing:
            raise NotFound(
                f"there is no state store at {runtime.store.path}",
                hint="nothing was written; --state-dir or HVTX_STATE_DIR names another place",
            )
        place = _target(path, runtime.store.path, force=force)
        content, found = copies.content_of(runtime.store, path)
        try:
            output.write_out(path, content, replace=force, sync=True)
        except FileExistsError as problem:
            raise _taken(path) from problem
        except OSError as problem:
            raise _unwritable(path, problem) from problem
    return _copied(place, found)


def _target(path: str, store: str, *, force: bool) -> str:
    """Where the backup is to be; said in words of its own before anything is copied.

    What is written to in the end is decided when it is opened. Raises UsageError, Conflict.
    """
    place = os.path.realpath(path)
    try:
        seen = os.stat(place)
        if os.path.samefile(place, store):
            raise UsageError(f"{path} is the state store itself", hint="name another file")
        if output.is_of_store(place):
            raise UsageError(f"{path}: {output.OF_STORE}", hint="name another file")
        if output.is_own(path):  # the shell has just made or opened it
            return path
        if not stat.S_ISREG(seen.st_mode):
            raise UsageError(f"{path} is not a regular file", hint="name a new file")
        if not force:
            raise _taken(path)
    except FileNotFoundError:
        if output.is_own(path):  # a pipe has no path
            return path
    except OSError as problem:
        raise _unwritable(path, problem) from problem
    return place


def _taken(path: str) -> Conflict:
    again = f"hvtx store backup {quote(path)} --force"
    return Conflict(f"{path} exists already", hint=f"name another file, or overwrite it: {again}")


def _unwritable(path: str, problem: OSError) -> HvtxError:
    hint = "free some space there, or name a file on another disk"
    if isinstance(problem, FileNotFoundError | NotADirectoryError):
        hint = "name a file in a directory that is there"
    elif isinstance(problem, PermissionError):
        hint = "run hvtx as root, or name a file in a directory of yours"
    elif is_no_file(problem):
        hint = "name another file"
    return unwritten(f"{path} cannot be written", path, problem, hint)


def _copied(file: str, found: copies.Facts) -> Copied:
    return Copied(file, found.installation, found.change, found.vms, found.networks)


# -- restoring -------------------------------------------------------------------------------------


def restore(settings: Settings, path: str, *, force: bool) -> Restored:
    """Put a backup into the store's place; what was there is kept, and named.

    Raises NotFound, UsageError, Conflict (VMs run, another installation), Refused, StoreError.
    """
    store = os.path.join(settings.state_directory, "hvtx.db")
    _need_backup(path, store)
    current = _current(settings)
    try:
        with copies.quiet(settings.state_directory, settings.lock_timeout) as draft:
            found = copies.draft_of(path, draft)
            failpoint.reach("drafted:restore")
            aside: str | None = copies.aside_of(store)
            assert aside is not None
            if current is not None:
                _refuse_use(current, found, force=force)
                current.store.mark.note_restored()
            # first: of two stores of one installation a number does not tell which knows more
            _directory(settings, found.installation).doubt()
            if current is None:
                kept = copies.replace(draft, store, aside)
            else:
                copies.fill(draft, current.store, aside)
                kept = True
    except OSError as problem:
        raise HvtxError(
            f"the backup {path} could not be restored: {problem}",
            hint="free or remount the disk of the state directory, and try again",
        ) from problem
    finally:
        if current is not None:
            current.close()
    _forget_view(settings)
    return Restored(_copied(path, found), aside if kept else None, *_next(settings))


def _need_backup(path: str, store: str) -> None:
    try:
        seen = os.stat(path)
        if os.path.exists(store) and os.path.samefile(path, store):
            raise UsageError(f"{path} is the state store itself", hint="name a backup of it")
    except (FileNotFoundError, NotADirectoryError) as problem:
        raise NotFound(
            f"there is no file {path}", hint="`hvtx store backup` makes one"
        ) from problem
    except OSError as problem:
        words = f"{path} cannot be read: {problem.strerror}"
        if is_no_file(problem):
            raise UsageError(words, hint="name a file made by store backup") from problem
        if isinstance(problem, PermissionError):
            raise NotPermitted(words) from problem
        raise HvtxError(words, hint="check the disk or the server that the file is on") from problem
    if not stat.S_ISREG(seen.st_mode):
        raise UsageError(f"{path} is not a regular file", hint="name a file made by store backup")
    if not os.access(path, os.R_OK):
        raise NotPermitted(f"{path} cannot be read by this user", hint="run hvtx as root")
    copies.refuse_others(path)


def _current(settings: Settings) -> Runtime | None:
    """The store that is there now; None if there is none, or it is damaged.

    Raises Refused for a newer program's, NotPermitted, StoreError.
    """
    try:
        runtime = Runtime(settings, writable=True, create=False, spends=True)
    except Refused as refusal:
        if refusal.code != "store-untrusted":
            raise
        return None
    try:
        if not runtime.store.missing:
            trust.check_pages(runtime.store)
            return runtime
    except Refused:
        pass
    runtime.close()
    return None


def _refuse_use(current: Runtime, found: copies.Facts, *, force: bool) -> None:
    """Refuse while the present store is needed; nobody can begin an operation meanwhile."""
    operations = current.read(records.operations)
    running = current.running(operations)
    for operation in operations:
        if running[operation.id]:
            who = operation.vm or operation.network or ""
            raise Conflict(
                f"`{operation.verb} {who}` is running and needs the current store",
                hint="wait for it: `hvtx intents` shows it",
            )
    if force:
        return
    alive = [vm.name for vm in current.read(records.vms) if _may_run(current, vm)]
    if alive:
        raise Conflict(
            f"VMs of the current store are running: {', '.join(alive[:5])}",
            hint="with --force they keep running, and those that are not in the backup become"
            f" `unrecorded`; or stop them first: hvtx vm stop {' '.join(alive)}",
        )
    here = current.read(copies.facts_of)
    if here.installation != found.installation and here.vms + here.networks:
        raise Conflict(
            f"the backup is of another installation ({found.installation}), and the present store"
            f" ({here.installation}) has VMs or networks on record",
            hint="remove them first; with --force they stay in the host, as another installation's",
        )


def _directory(settings: Settings, installation: str) -> RunDirectory:
    mark = HighWaterMark(os.path.join(settings.run_directory, installation))
    return RunDirectory(lambda: mark)


def _may_run(runtime: Runtime, vm: Any) -> bool:
    _, liveness, rows = state_of(runtime, vm)
    return liveness is not Liveness.DEAD and any(row.kind != Kind.LEASE for row in rows)


def _forget_view(settings: Settings) -> None:
    """What a group may read was made of another store; the next change publishes it anew."""
    place = views.place(settings.state_directory, settings.run_directory)
    with suppress(OSError):
        os.unlink(place.document)


def _next(settings: Settings) -> tuple[str, str]:
    """Which command goes on from here, and why."""
    try:
        with closing(Runtime(settings, writable=False)) as runtime:
            refused = runtime.refused
    except HvtxError as problem:
        return "hvtx doctor", problem.message
    if refused is None:
        return "hvtx recover", "it reconciles host and record"
    if refused.code == "store-rolled-back":
        why = "the host has seen changes later than the backup"
        return "hvtx recover --accept-rollback", why
    return "hvtx doctor", f"{refused.message}; {refused.hint}"
