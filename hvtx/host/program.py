"""Run a small program of the host to its end, bounded in time, without loading subprocess.

(subprocess costs 25 ms at import; posix_spawn is a system call away.)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from hvtx.host import children, once, paths, signals
from hvtx.model.typed import Any, NamedTuple

_MOST = 1 << 16  # bytes of output that are kept
_DYING_SECONDS = 5.0
_LINE = 4096  # bytes of a script's first line that are read, execve(2) takes 256
_LOOK = 0.02  # seconds between two looks at the output


# The status where this process ignores SIGCHLD, or another of its threads waits for all children.
# Both are open to a program that has hvtx as a library. No status of waitstatus_to_exitcode is it.
UNTOLD = 256


class Ended(NamedTuple):
    """How a program ended."""

    status: int | None  # as of ``waitstatus_to_exitcode``, or UNTOLD; None if it was killed
    output: str  # standard output and error, together


def ended_well(status: int | None, *, shown: bool) -> bool:
    """Whether a program did what it should; where its status is not known, if that is ``shown``."""
    return shown if status == UNTOLD else status == 0


def how(status: int | None) -> str:
    """How a program ended, behind its name in a sentence."""
    if status == UNTOLD:
        return "ended, and nobody knows how"
    return "did not end" if status is None else f"ended with status {status}"


def find(names: Sequence[str]) -> str | None:
    """The first of ``names`` that is an executable file, on PATH or as a path; None if none is.

    By its name only what nobody else could have put there or changed counts, and nothing below a
    relative entry of PATH. While VMs are started it is looked for once (:mod:`hvtx.host.once`).
    """
    path = os.environ.get("PATH", os.defpath)
    return once.recall(("program", path, *names), lambda: _find(names, path.split(":")))


def _find(names: Sequence[str], places: Sequence[str]) -> str | None:
    for name in names:
        if "/" in name:
            if _executable(name):
                return name
            continue
        for place in places:
            path = os.path.join(place, name)
            if place.startswith("/") and _executable(path) and _believed(path):
                return path
    return None


def passed_over(names: Sequence[str]) -> str | None:
    """Of what :func:`find` did not take, the first program and why; None if there was none."""
    for name in names:
        for place in os.environ.get("PATH", os.defpath).split(":"):
            path = os.path.join(place, name)
            if not _executable(path):
                continue
            if not place.startswith("/"):
                return f"{path} is named by a relative entry of PATH"
            with suppress(OSError):
                if (problem := paths.problem(path, groups=True)) is not None:
                    return f"{path}: {problem}"
    return None


def believed_hint(why: str) -> str:
    """What is done about a program that :func:`passed_over` tells of."""
    only = "hvtx runs a program by name only if nobody but root can change it"
    return f"{only} ({why}): give it to root"


def interpreters(path: str) -> tuple[str, ...]:
    """What the first line of a script names, execve(2), and what env(1) then finds on PATH."""
    try:
        descriptor = paths.open_regular(path)
    except OSError:
        return ()
    with os.fdopen(descriptor, "rb") as file:
        line = os.fsdecode(file.read(_LINE).split(b"\n", 1)[0])
    named = line[2:].split() if line.startswith("#!") else []
    if not named or os.path.basename(named[0]) != "env":
        return tuple(named[:1])
    found = find([word for word in named[1:] if not word.startswith("-")][:1])
    return (named[0],) if found is None else (named[0], found)


def _believed(path: str) -> bool:
    """Whether only trusted users and an owning group (Debian's staff) could have made it so."""
    try:
        return paths.problem(path, groups=True) is None
    except OSError:
        return False


def _executable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK, effective_ids=True)


def run(
    argv: Sequence[str],
    seconds: float,
    environment: Mapping[str, str] | None = None,
    *,
    enough: Callable[[str], bool] | None = None,
) -> Ended:
    """Run ``argv`` (a path first) with nothing on standard input, and kill it after ``seconds``.

    With ``enough`` it leads a process group, which is killed as a whole, and is killed as soon as
    that says so of its output so far. Raises OSError if it cannot be started.
    """
    output = os.memfd_create("output")
    try:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
        ]
        variables = os.environ if environment is None else environment
        if enough is None:
            return Ended(_ended(argv, variables, actions, seconds), _read(output))
        status = _ended(argv, variables, actions, seconds, lambda: enough(_read(output)))
        return Ended(status, _read(output))
    finally:
        os.close(output)


class Captured(NamedTuple):
    """How a program ended, and all that it wrote."""

    status: int | None  # as in Ended
    output: bytes
    errors: bytes


def capture(argv: Sequence[str], seconds: float) -> Captured:
    """Run ``argv`` as :func:`run` does, and keep all of its output, and its errors apart."""
    output, errors = os.memfd_create("output"), os.memfd_create("errors")
    try:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, errors, 2),
        ]
        status = _ended(argv, os.environ, actions, seconds)
        return Captured(status, *(os.pread(fd, os.fstat(fd).st_size, 0) for fd in (output, errors)))
    finally:
        os.close(output)
        os.close(errors)


def _read(output: int) -> str:
    size = min(os.fstat(output).st_size, _MOST)
    return os.pread(output, size, 0).decode(errors="replace")


def _ended(
    argv: Sequence[str],
    variables: Mapping[str, str],
    actions: Sequence[Any],
    seconds: float,
    enough: Callable[[], bool] | None = None,
) -> int | None:
    """The status of a program, as in Ended; nothing of it is left, come what may.

    With ``enough`` it leads a process group. Raises OSError if it cannot be started.
    """
    import select

    pid, descriptor, ended = 0, None, False
    poll = select.poll()
    group: dict[str, Any] = {} if enough is None else {"setpgroup": 0}
    try:
        with children.spawning, children.uninterrupted() as mask:
            pid = os.posix_spawn(
                argv[0],
                list(argv),
                dict(variables),
                file_actions=actions,
                setsigmask=mask,
                setsigdef=(signals.SIGCHLD,),  # who ignores it learns nothing of its own children
                **group,
            )
        descriptor = _opened(pid)
        if descriptor is None:
            ended = True
            return UNTOLD
        poll.register(descriptor, select.POLLIN)
        deadline = time.monotonic() + seconds
        while not ended and (left := deadline - time.monotonic()) > 0:
            ended = bool(poll.poll(1000 * (left if enough is None else min(left, _LOOK))))
            if not ended and enough is not None and enough():
                break
        return _status(pid) if ended else None
    finally:
        if pid and not ended and _is_ours(pid):
            os.kill(pid if enough is None else -pid, signals.SIGKILL)
            if descriptor is None or poll.poll(1000 * _DYING_SECONDS):
                _status(pid)
        if descriptor is not None:
            os.close(descriptor)


def _opened(pid: int) -> int | None:
    """A descriptor of a child; None: it has ended, and was waited for. Raises OSError."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if _is_ours(pid):
        return descriptor
    os.close(descriptor)  # of who has the number by now
    return None


def _is_ours(pid: int) -> bool:
    """Whether it is still a child that nobody waited for: then the number is its own."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _status(pid: int) -> int:
    """Wait for a child; its exit status, UNTOLD if it was waited for elsewhere."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return UNTOLD
