"""Check of the directories that every change writes to: state and run directory."""

from __future__ import annotations

import os
from collections.abc import Iterator

from hvtx.engine.finding import NOWHERE, Finding
from hvtx.engine.runtime import Settings
from hvtx.host import paths, trust
from hvtx.host.mounts import mount_of

_SO = ("hvtx refuses every change: no VM can be started or stopped",)
_OK = "nobody else can replace what is in hvtx's directories, and they can be written"


def check_directories(settings: Settings) -> Iterator[Finding]:
    """Whether the store and the locks would be refused, which reading commands do not meet."""
    found: dict[Finding, None] = {}
    if settings.state_directory != NOWHERE:
        above = os.path.dirname(os.path.abspath(settings.state_directory))
        found.update(dict.fromkeys(judge_place(above)))  # its own mode is put right by a change
        found.update(dict.fromkeys(judge_mount(settings.state_directory, "--state-dir")))
    found.update(dict.fromkeys(judge_place(settings.run_directory)))
    found.update(dict.fromkeys(judge_mount(settings.run_directory, "--run-dir")))
    yield from found
    if not found:
        yield Finding("directories", "ok", _OK)


def judge_place(directory: str) -> Iterator[Finding]:
    """Whether others could replace what is in a directory, and what ends that.

    One that is not there yet is made by the first change. Raises OSError.
    """
    there = paths.nearest(directory)
    why = paths.problem(there)
    if why is None:
        return
    words, mend = f"{there} is not safe: {why}", "choose another place"
    path = os.path.realpath(there)
    while True:
        seen = os.stat(path)
        if (problem := trust.problem_of(seen, path)) is not None:
            words, mend = f"{path} is not safe: {problem}", _mend(path, seen)
        if path == "/":
            break
        path = os.path.dirname(path)
    yield Finding("directories", "error", words, _SO, mend)


def judge_mount(directory: str, option: str) -> Iterator[Finding]:
    """Whether a directory is on a file system that is mounted read-only; raises OSError."""
    path = paths.nearest(directory)
    if not os.statvfs(path).f_flag & os.ST_RDONLY:
        return
    from shlex import quote  # for a refusal only, as below

    mount = mount_of(path)
    yield Finding(
        "directories", "error", f"{path} is on a file system that is mounted read-only", _SO,
        f"mount -o remount,rw {quote(mount)}, or choose another place with {option}",
    )  # fmt: skip


def _mend(path: str, seen: os.stat_result) -> str:
    """The command that makes a directory its user's alone."""
    from shlex import quote

    named = quote(path)
    if trust.foreign_owner(seen) is not None:
        return f"chown {os.geteuid()} {named}"
    listed = "system.posix_acl_access" in os.listxattr(path)  # chmod would change its mask alone
    return f"setfacl -b {named} && chmod go-w {named}" if listed else f"chmod go-w {named}"
