"""Messages for errors of SQLite and of the store's files.

Every error that leaves the store is one of the interface's (:mod:`hvtx.errors`).
"""

from __future__ import annotations

import _sqlite3 as sqlite3
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from hvtx.errors import LIFT_FILE_SIZE, Busy, Conflict, NotPermitted, Refused, StoreError
from hvtx.host.paths import UnsafeError
from hvtx.store import reserve

FULL = "store-full"  # the code of what a full disk refuses
KEPT = "locking protocol"  # what SQLITE_PROTOCOL says
_LOCKED = ("locked", KEPT)
_WRITING = frozenset(  # a file that cannot grow: the database, its log, the log's index
    f"SQLITE_IOERR_{what}" for what in ("WRITE", "TRUNCATE", "SHMSIZE", "SHMMAP", "SHMOPEN")
)
_UNREADABLE = (
    "malformed", "not a database", "disk image", "unsupported file format", "Could not decode"
)  # fmt: skip


def untrusted(path: str, why: str, hint: str | None = None) -> Refused:
    """The refusal of a database that is not whole, or not a store."""
    return Refused("store-untrusted", f"{path} cannot be trusted: {why}", hint=hint or _anew(path))


def rolled_back(path: str) -> Refused:
    """The refusal of a store that lost commits."""
    return Refused(
        "store-rolled-back",
        f"{path} is older than what this host has seen of it: an earlier copy was put back",
        hint="put the newest copy back, or `hvtx recover --accept-rollback` goes on with this one",
    )


def restored_meanwhile(path: str) -> Refused:
    """The refusal of a change that was decided from what a restore took the place of."""
    return Refused(
        "store-rolled-back",
        f"a backup was restored to {path} while this command worked: it writes no more",
        hint="look at what the store has now (`hvtx vm ls`), then run it again",
    )


def _quoted(path: str) -> str:
    """A path as a shell reads it; shlex, with re, is loaded for messages only."""
    import shlex

    return shlex.quote(path)


def _anew(path: str) -> str:
    """What to do about a store that is lost: the commands, whole where its directory is known."""
    directory = _quoted(os.path.dirname(path) or "DIR")
    return (
        f"hvtx store restore FILE puts a backup back; without one: mv {directory} {directory}.bad;"
        " then `hvtx gc --plan` shows what is marked (docs/emergency.md)"
    )


def owned_by_another(path: str, user: int) -> Refused:
    """The refusal of a state directory, or a file in it, that is another user's."""
    return untrusted(
        path, f"it belongs to user {user}",
        f"chown {os.geteuid()} {_quoted(path)}, if you trust what that user may have changed there",
    )  # fmt: skip


def not_a_directory(path: str) -> Refused:
    """The refusal of a state directory that is a link, or no directory at all."""
    target = os.path.realpath(path) if os.path.islink(path) else "DIR"
    return untrusted(
        path, "the state directory is a link or not a directory",
        f"name the directory itself: --state-dir {_quoted(target)} before the command, or"
        " state_dir in the configuration",
    )  # fmt: skip


def forbidden(path: str) -> NotPermitted:
    """The refusal of a file that is somebody else's."""
    return NotPermitted(
        f"{path} cannot be opened by this user", hint="run hvtx as root, for instance with sudo"
    )


def not_believed(directory: str, unsafe: UnsafeError) -> StoreError:
    """The error of a state directory that others could replace."""
    return StoreError(
        f"refusing to use the state directory {directory}: {unsafe.strerror}",
        hint="make its directories writable by you alone (chown, chmod go-w, setfacl -b), or "
        "choose another with --state-dir",
    )


def not_writable(path: str, words: str) -> StoreError:
    """The error of a read-only file system."""
    return StoreError(
        f"{path} cannot be written: {words}",
        hint="remount the file system read-write, or choose another --state-dir",
    )


def unwritable(problem: OSError) -> Exception:
    """What an error of a file beside the store means to people."""
    if isinstance(problem, PermissionError):
        return forbidden(str(problem.filename))
    if problem.errno == errno.EFBIG and (limited := _limited(str(problem.filename))) is not None:
        return limited
    return StoreError(
        f"the state store cannot be written: {problem.filename}: {problem.strerror}",
        hint="free or remount the disk, or choose other places with --state-dir and --run-dir",
    )


def too_large(problem: sqlite3.Error, path: str) -> StoreError | None:
    """The error where SQLite may have met the limit on the size of files; None for all others.

    SQLite says no more than SQLITE_IOERR of the EFBIG that it got (setrlimit(2), RLIMIT_FSIZE).
    """
    if getattr(problem, "sqlite_errorname", "") in _WRITING:
        return _limited(path)
    return None


def _limited(path: str) -> StoreError | None:
    """What is said of a file that cannot be written under a limit; None where there is none."""
    import resource

    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if most == resource.RLIM_INFINITY:
        return None
    return StoreError(
        f"{path} cannot be written: this process may make no file larger than"
        f" {most} bytes (RLIMIT_FSIZE)",
        hint=f"{LIFT_FILE_SIZE}; then try again",
    )


def is_full(problem: sqlite3.Error) -> bool:
    """Whether SQLite found no room on the disk."""
    return getattr(problem, "sqlite_errorname", "").startswith("SQLITE_FULL")


def too_full(directory: str) -> StoreError:
    """The refusal to begin something new on a disk that is as good as full."""
    if reserve.lacks_inodes(directory):
        return StoreError(
            f"the disk of the state store is full: {directory} has no inodes left for anything new",
            hint="remove files there that nobody needs (df -i); what ends and frees still works:"
            " vm stop, vm rm, gc --apply",
            code=FULL,
        )
    return StoreError(
        f"the disk of the state store is full: {directory} has too little room left for anything"
        " new",
        hint="free some space; what ends and frees still works: vm stop, vm rm, gc --apply",
        code=FULL,
    )


def full(problem: sqlite3.Error) -> StoreError:
    """The error of a change that had no room, and was not made."""
    return StoreError(
        f"the disk of the state store is full: {problem}",
        hint="free some space; if `hvtx intents` then shows anything, `hvtx recover` resolves it",
        code=FULL,
    )


def translate(
    problem: sqlite3.Error | UnicodeDecodeError, path: str = "the state store"
) -> Exception:
    """The error of the interface for an error of SQLite about the database at ``path``."""
    if isinstance(problem, UnicodeDecodeError):
        # Python's sqlite3 raises it in the place of an error whose message quotes what is no
        # UTF-8 in the database: a name in the schema
        return untrusted(path, "malformed: what SQLite says of it is no text")
    name = getattr(problem, "sqlite_errorname", "") or ""
    words = str(problem)
    if is_full(problem):
        return full(problem)
    # SQLITE_PROTOCOL: whoever has a lock of the log's index kept it for all of SQLite's attempts
    # (ten seconds), because it was stopped there, say (sqlite.org/rescode.html#protocol)
    if name.startswith(("SQLITE_BUSY", "SQLITE_PROTOCOL")) or any(w in words for w in _LOCKED):
        return Busy("the state store is locked by another program", hint="try again")
    if name.startswith("SQLITE_CONSTRAINT"):
        return Conflict(
            f"the record refuses it: {words}",
            hint="another command may have taken it meanwhile: look (hvtx vm ls), and try again",
            code="constraint",
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or any(w in words for w in _UNREADABLE):
        return untrusted(path, words)
    if name.startswith("SQLITE_READONLY"):
        return not_writable(path, words)
    if (limited := too_large(problem, path)) is not None:
        return limited
    return StoreError(f"{path}: {words}", hint="look at the disk and the permissions")


def explain(problem: Exception) -> Exception | None:
    """What an error of SQLite means to people, wherever it came up; None for other errors."""
    return translate(problem) if isinstance(problem, sqlite3.Error) else None


@contextmanager
def translated(path: str = "the state store") -> Iterator[None]:
    """Errors of SQLite inside become ours."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as problem:
        raise translate(problem, path) from problem
