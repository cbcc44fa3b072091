"""The lock that iptables takes, and its queue."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from hvtx.errors import Busy, HostRefused, NotPermitted
from hvtx.host import lock_holder
from hvtx.host.job_control import going_on

_LOCK = "/run/xtables.lock"


def lock_path() -> str:
    """The file that iptables locks (it has one for all network namespaces)."""
    return os.environ.get("XTABLES_LOCKFILE") or _LOCK


@contextlib.contextmanager
def locked(timeout: float) -> Iterator[None]:
    """Hold the lock of iptables; nothing that can block may stand inside.

    Raises Busy when ``timeout`` seconds were not enough, NotPermitted or HostRefused when the
    file cannot be opened.
    """
    path = lock_path()
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError as problem:
        raise NotPermitted(
            f"cannot open {path} without the capability CAP_DAC_READ_SEARCH",
            hint="run hvtx as root, or with that capability, or set XTABLES_LOCKFILE for all",
        ) from problem
    except OSError as problem:
        raise HostRefused(
            f"cannot open {path}: {problem.strerror}", hint="set XTABLES_LOCKFILE to a usable path"
        ) from problem
    with going_on():  # everybody who runs iptables would wait for a Ctrl-Z in here to end
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not _stand_in_line(descriptor, timeout):
                raise _busy(path, timeout) from None
        try:
            yield
        finally:
            os.close(descriptor)


def _busy(path: str, timeout: float) -> Busy:
    found = lock_holder.of_file(path)
    words = f"another program holds {path} for more than {timeout:g} s"
    if found is None:
        return Busy(words, hint=f"see who with `fuser {path}`, or raise --lock-timeout")
    stands = f", which is stopped ({found.state})" if found.stands else ""
    return Busy(
        f"{words}: pid {found.pid} ({found.command}){stands}",
        hint=f"kill -CONT {found.pid} lets it go on" if stands else "--lock-timeout waits longer",
    )


def _stand_in_line(descriptor: int, timeout: float) -> bool:
    """Wait for the lock in the kernel's queue; False (and ``descriptor`` closed) if too long.

    Asking again and again without standing in the queue would starve beside programs that do.
    A thread waits, because a blocking flock cannot be given a time limit.
    """
    import threading

    guard, arrived = threading.Lock(), threading.Event()
    state = {"held": False, "abandoned": False}

    def wait() -> None:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with guard:
                state["held"] = not state["abandoned"]
        if not state["held"]:
            os.close(descriptor)
        arrived.set()

    waiter = threading.Thread(target=wait, name="xtables-lock", daemon=True)
    try:
        waiter.start()
    except RuntimeError as problem:
        os.close(descriptor)
        raise HostRefused(
            f"nothing can wait for {lock_path()}: {problem}",
            hint="raise the limit of tasks, or free memory",
        ) from problem
    try:
        arrived.wait(timeout)
    except BaseException:  # interrupted: nobody would ever give the lock back
        with guard:
            state["abandoned"] = True
            if state["held"]:
                os.close(descriptor)
        raise
    with guard:
        state["abandoned"] = not state["held"]
    return state["held"]
