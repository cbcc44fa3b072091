"""Files that people name: a configuration, plans, pages."""

from __future__ import annotations

import errno
import os

from hvtx.errors import HvtxError, NotFound, NotPermitted, UsageError, room_hint
from hvtx.host import paths
from hvtx.model.shell import word

CONFIGURATION_MOST = 1 << 20  # bytes
PLAN_MOST = 1 << 28  # bytes: a plan of 10,000 VMs has some ten million
SET_MOST = 1 << 24  # bytes of a described set: 5,000 VMs have some million
PRIVATE = 0o600
FOR_ALL = 0o644
# What is named is too large, or no regular file (EINVAL for a pipe or a device), and stays so.
_NO_FILE = frozenset(
    (errno.EFBIG, errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR)
)


def read_configuration(path: str) -> bytes:
    """A configuration that nobody else could have written.

    It says where the store is, and with it what root starts. Raises NotPermitted, OSError.
    """
    try:
        return paths.read_believed(path, CONFIGURATION_MOST)
    except paths.UnsafeError as unsafe:
        raise NotPermitted(
            f"refusing to use the configuration {path}: {unsafe.strerror}",
            hint="make it and its directories writable by you alone (chown, chmod go-w, "
            f"setfacl -b {word(path)}), or name another with --config",
        ) from unsafe


def read_plan(path: str) -> str:
    """The text of a saved plan, which is anybody's: it only chooses. Raises OSError, ValueError."""
    return paths.read_regular(path, PLAN_MOST).decode()


def read_set(path: str) -> bytes:
    """A described set that nobody else could have written. Raises NotPermitted, OSError.

    What it names is started by root.
    """
    return _believed(path, SET_MOST, "hand it over by standard input: hvtx vm apply -f - <")


def read_believed_plan(path: str) -> str:
    """A saved plan of one, likewise. Raises NotPermitted, OSError, ValueError."""
    return _believed(path, PLAN_MOST, "or make a plan of your own from").decode()


def is_no_file(problem: OSError) -> bool:
    """Whether it is what was named that cannot be read, ever, and not the system that refuses."""
    return problem.errno in _NO_FILE


def _believed(path: str, most: int, otherwise: str) -> bytes:
    try:
        return paths.read_believed(path, most)
    except paths.UnsafeError as unsafe:
        raise NotPermitted(
            f"refusing to use {path}, which says what is started: {unsafe.strerror}",
            hint="make it and its directories writable by you alone (chown, chmod go-w); or"
            f" {otherwise} {word(path)}",
        ) from unsafe


def write_out(path: str, text: str, *, mode: int = PRIVATE) -> None:
    """Put ``text`` at ``path``, whole, with ``mode`` whatever the umask; raises OSError.

    :mod:`hvtx.host.output` says what may be there already, and what is refused.
    """
    from hvtx.host import output

    output.write_out(path, text.encode(), mode=mode)


def write_for_all(path: str, text: str) -> None:
    """The same for what everybody may read; raises as :func:`unwritten` says."""
    try:
        write_out(path, text, mode=FOR_ALL)
    except OSError as problem:
        hint = "give a file in the directory that node_exporter's textfile collector reads"
        raise unwritten(f"{path} cannot be written", path, problem, hint) from problem


def unwritten_option(what: str, path: str, problem: OSError, command: str) -> HvtxError:
    """The error of a file that ``command`` was given behind its last word; the hint is whole."""
    unsafe = isinstance(problem, paths.UnsafeError)
    where = "of your own" if unsafe else "that is there and may be written"
    example = "~/plan.html" if command.endswith("--html") else "~/plan.json"
    hint = f"give a file in a directory {where}: {command} {example}"
    return unwritten(f"the {what} cannot be written to {path}", path, problem, hint)


def unwritten(words: str, path: str, problem: OSError, hint: str) -> HvtxError:
    """The error of a file, ``path``, that a person named and that could not be written.

    NotFound where there is no such directory, NotPermitted, UsageError for what is no file. Never
    the last for the others: with --detailed-exitcode a plan's exit 2 says that it is not empty.
    """
    told = f"{words}: {problem.strerror}"
    if isinstance(problem, FileNotFoundError | NotADirectoryError):
        return NotFound(told, hint=f"{_made(os.path.dirname(path))}{hint}")
    if isinstance(problem, PermissionError):
        return NotPermitted(told, hint=hint)
    if is_no_file(problem) and problem.errno != errno.EFBIG:
        return UsageError(told, hint=hint)
    return HvtxError(told, hint=room_hint(problem, hint))


def _made(directory: str) -> str:
    """How a directory that is missing comes to be; empty where it is there, or cannot be made."""
    from shlex import quote

    there = directory
    while there and not os.path.lexists(there):
        there = os.path.dirname(there)
    if there == directory or not os.path.isdir(there or "."):
        return ""
    return f"make its directory first: mkdir -p {quote(directory)}; or "
