"""Whether somebody else could have put a thing where it is: owners and modes along its path.

Root, and whoever runs this, are trusted; so is a group whose id is 0 or the caller's own. A
directory that everybody may write counts as safe where it is sticky (``/tmp``): nobody can replace
another's file there, so the file's own owner decides.
"""

from __future__ import annotations

import os
import stat


def file_problem(path: str, descriptor: int) -> str | None:
    """Why the file that was opened at ``path`` is not to be believed, in words; None if it is.

    Looks at the open file, then at every directory above it.
    """
    seen = os.fstat(descriptor)
    if (problem := _stranger(seen)) is not None:
        return problem
    if stat.S_ISREG(seen.st_mode) and (problem := _open_to_others(seen)) is not None:
        return problem
    return above_problem(os.path.realpath(path))


def above_problem(path: str) -> str | None:
    """Why one of the directories above ``path`` (without links) is not safe; None if all are."""
    directory = os.path.dirname(path)
    while True:
        try:
            problem = directory_problem(directory)
        except FileNotFoundError:
            problem = None  # the caller will make it
        if problem is not None:
            return f"its directory {directory} is not safe: {problem}"
        if directory in ("/", ""):
            return None
        directory = os.path.dirname(directory)


def directory_problem(path: str) -> str | None:
    """Why others could replace things in the directory ``path``; None if they could not.

    Raises FileNotFoundError.
    """
    seen = os.lstat(path)
    if (problem := _stranger(seen)) is not None:
        return problem
    if stat.S_ISLNK(seen.st_mode):
        seen = os.stat(path)  # a link that root or the caller made
        if (problem := _stranger(seen)) is not None:
            return problem
    if not stat.S_ISDIR(seen.st_mode):
        return "it is not a directory"
    return None if seen.st_mode & stat.S_ISVTX else _open_to_others(seen)


def place_of_programs(path: str) -> bool:
    """Whether programs of a directory on PATH may be run: absolute, and nobody else's to fill.

    Groups may write it, as on Debian ``staff`` may write ``/usr/local/bin``.
    """
    if not path.startswith("/"):
        return False
    try:
        seen = os.stat(path)
    except OSError:
        return False
    return _stranger(seen) is None and not seen.st_mode & stat.S_IWOTH


def _stranger(seen: os.stat_result) -> str | None:
    if seen.st_uid in (0, os.geteuid()):
        return None
    return f"it belongs to user {seen.st_uid}"


def _open_to_others(seen: os.stat_result) -> str | None:
    mode = stat.S_IMODE(seen.st_mode)
    if mode & stat.S_IWOTH:
        return f"everybody may write it (mode {mode:04o})"
    if mode & stat.S_IWGRP and seen.st_gid not in (0, os.getegid()):
        return f"group {seen.st_gid} may write it (mode {mode:04o})"
    return None
