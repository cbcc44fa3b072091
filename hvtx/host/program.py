"""Run a small program of the host to its end, bounded in time, without loading subprocess.

(subprocess costs 25 ms at import; posix_spawn is a system call away.)
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hvtx.host import trust

_MOST = 1 << 16  # bytes of output that are kept
_DYING_SECONDS = 5.0


class Ended(NamedTuple):
    """How a program ended: ``status`` as of ``waitstatus_to_exitcode``, None if it was too slow."""

    status: int | None
    output: str  # standard output and error, together


def find(names: Sequence[str]) -> str | None:
    """The first of ``names`` that is an executable file, on PATH or as a path; None if none is.

    Of PATH, only absolute directories count in which nobody else can put a program.
    """
    places = os.environ.get("PATH", os.defpath).split(":")
    for name in names:
        if "/" in name:
            if _executable(name):
                return name
            continue
        for place in places:
            path = os.path.join(place, name)
            if _executable(path) and trust.place_of_programs(place):
                return path
    return None


def _executable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK, effective_ids=True)


def run(argv: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None) -> Ended:
    """Run ``argv`` (a path first) with nothing on standard input, and kill it after ``seconds``.

    Raises OSError if it cannot be started.
    """
    output = os.memfd_create("output")
    try:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
        ]
        variables = os.environ if environment is None else environment
        pid = os.posix_spawn(argv[0], list(argv), dict(variables), file_actions=actions)
        status = _wait(pid, seconds)
        size = min(os.fstat(output).st_size, _MOST)
        return Ended(status, os.pread(output, size, 0).decode(errors="replace"))
    finally:
        os.close(output)


def _wait(pid: int, seconds: float) -> int | None:
    import select

    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if poll.poll(int(seconds * 1000)):
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.kill(pid, signal.SIGKILL)  # our own child, not yet reaped: the pid is still its own
        if poll.poll(int(_DYING_SECONDS * 1000)):
            os.waitpid(pid, 0)
        return None
    finally:
        os.close(descriptor)
