"""Processes that this one started: they stay zombies until it waits for them (wait(2)).

A command of the shell ends at once, and init reaps what it started. A program that lives on, with
hvtx as a library, has the VM processes, their loggers, the holders of ports and dnsmasq as its
children for as long as they run. Only those that are noted here are ever waited for: the program's
own children are its own matter.

While a verb runs, what it started is its own (it may want the exit status of a VM process that ends
at once); :func:`settle` gives that up, and reaps what has ended of all earlier ones.
"""

from __future__ import annotations

import os
from _thread import RLock, _local, allocate_lock
from collections.abc import Iterator
from contextlib import contextmanager

from hvtx.host import signals

_ENDING = (signals.SIGHUP, signals.SIGINT, signals.SIGTERM)  # what ends a command


EXIT_OF_SIGNAL = 128  # and its number: what a shell tells of a program that a signal ended


class _Fresh(_local):
    """What the verb of this thread has started."""

    def __init__(self) -> None:
        self.pids: list[int] = []


# Held by who starts a process: limits are set, and sockets inheritable, for the whole of this one
# until the child has them, and another thread's child is to have neither.
spawning = RLock()
_fresh = _Fresh()
_lock = allocate_lock()
_known: set[int] = set()  # children that no verb is at work on
_ended_by: list[int] = []  # the signals that interrupted this program, but for SIGINT


@contextmanager
def uninterrupted() -> Iterator[set[int]]:
    """Hold back what ends a command from this thread until the process that it starts is known.

    Gives the mask that was before, for the child. The end may raise KeyboardInterrupt.
    """
    try:
        before = signals.pthread_sigmask(signals.SIG_BLOCK, _ENDING)
    except BaseException:  # one that came just before is raised once they are blocked
        signals.pthread_sigmask(signals.SIG_UNBLOCK, _ENDING)
        raise
    try:
        yield before
    finally:
        signals.pthread_sigmask(signals.SIG_SETMASK, before)


def await_ends() -> None:
    """Where whoever started this program ignores SIGCHLD, nothing is told of how a child ended.

    For a program of hvtx's own: what a program that uses the library does is its own matter.
    """
    if signals.getsignal(signals.SIGCHLD) == signals.SIG_IGN:
        signals.signal(signals.SIGCHLD, signals.SIG_DFL)


def interrupt_at_ends() -> None:
    """Let SIGHUP and SIGTERM interrupt this program as SIGINT does: what is unfinished is undone.

    What whoever started it ignores (nohup(1)) stays ignored. For a program of hvtx's own, too.
    """
    for number in (signals.SIGHUP, signals.SIGTERM):
        if signals.getsignal(number) == signals.SIG_DFL:
            signals.signal(number, _interrupt)


def _interrupt(number: int, _: object) -> None:
    _ended_by.append(number)
    raise KeyboardInterrupt


def ended_by() -> int:
    """The signal that interrupted this program: SIGHUP, SIGTERM, or else SIGINT."""
    return _ended_by[0] if _ended_by else signals.SIGINT


def end_as_told(code: int) -> None:
    """End by the signal that interrupted this program, if ``code`` is what it is to end with.

    As it would have without a handler: whoever waits for it sees a signal, and no exit code.
    """
    number = ended_by()
    if _ended_by and code == EXIT_OF_SIGNAL + number:
        signals.signal(number, signals.SIG_DFL)
        os.kill(os.getpid(), number)


def started(pid: int) -> None:
    """Note a child that was just started."""
    _fresh.pids.append(pid)


def reap(pid: int) -> int | None:
    """The exit status of an ended child, which is reaped; None if it runs on, or is none of ours.

    (A child that is not reaped keeps its pid, so this can hit no other process.)
    """
    with _lock:
        return _reap(pid, os.WNOHANG)


def wait(pid: int) -> int | None:
    """The same of a child that this thread's verb started, and which is about to end."""
    return _reap(pid, 0)


def _reap(pid: int, options: int) -> int | None:
    if pid not in _known and pid not in _fresh.pids:
        return None
    try:
        found, status = os.waitpid(pid, options)
    except ChildProcessError:  # the program waits for all of its children itself
        found, status = pid, None
    if not found:
        return None
    _known.discard(pid)
    _fresh.pids = [one for one in _fresh.pids if one != pid]
    return None if status is None else os.waitstatus_to_exitcode(status)


def settle() -> None:
    """The verb of this thread is over: reap what has ended of what it and others started.

    One system call while nothing has ended, however many children there are.
    """
    if not _known and not _fresh.pids:
        return
    with _lock:
        _known.update(_fresh.pids)
        _fresh.pids = []
        # a program that ignores SIGCHLD is told of none of them
        while _known and not _is_untold() and (ended := _ended()) is not None:
            if ended in _known:
                _reap(ended, os.WNOHANG)
                continue
            _reap_each()  # one of the program's own hides ours
            return
        if _is_untold():
            _reap_each()


def _is_untold() -> bool:
    return signals.getsignal(signals.SIGCHLD) == signals.SIG_IGN


def _reap_each() -> None:
    for pid in tuple(_known):
        _reap(pid, os.WNOHANG)


def _ended() -> int | None:
    """Some child of this process that has ended and was not waited for; None if there is none."""
    try:
        seen = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # there are no children at all: the program waited for ours
        _known.clear()
        return None
    return None if seen is None else seen.si_pid


def _hold() -> None:
    spawning.acquire()
    _lock.acquire()


def _let_go() -> None:
    _lock.release()
    spawning.release()


def _forget() -> None:
    """In a forked child nothing of it is a child."""
    _let_go()
    _known.clear()
    _fresh.pids = []


os.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_forget)
