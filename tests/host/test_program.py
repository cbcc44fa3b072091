"""Programs of the host, run to their end, and what they wrote."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hvtx.host import children, program


def test_all_that_a_program_writes_is_captured_and_its_errors_apart() -> None:
    script = "head -c 300000 /dev/zero; echo wrong >&2; exit 3"
    done = program.capture(("/bin/sh", "-c", script), 30)
    assert (done.status, len(done.output), done.errors) == (3, 300000, b"wrong\n")


def test_a_program_that_does_not_end_is_killed_when_its_output_is_captured() -> None:
    assert program.capture(("/bin/sh", "-c", "exec sleep 60"), 0.05).status is None


@pytest.mark.parametrize("runs", [program.run, program.capture])
def test_it_has_nothing_that_another_thread_hands_to_its_own_child(
    runs: Callable[[tuple[str, ...], float], program.Ended | program.Captured],
) -> None:
    theirs, held, about_to = os.memfd_create("theirs"), threading.Event(), threading.Event()

    def hand_over() -> None:
        with children.spawning:
            os.set_inheritable(theirs, True)
            held.set()
            about_to.wait(10)
            os.set_inheritable(theirs, False)

    other = threading.Thread(target=hand_over)
    other.start()
    held.wait(10)
    threading.Timer(0.05, about_to.set).start()
    try:
        done = runs(("/bin/sh", "-c", f"test ! -e /proc/self/fd/{theirs}"), 30)
    finally:
        other.join()
        os.close(theirs)
    assert done.status == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("runs", [program.run, program.capture])
def test_one_that_is_spawned_as_a_signal_comes_is_ended_with_it(
    monkeypatch: pytest.MonkeyPatch,
    runs: Callable[[tuple[str, ...], float], program.Ended | program.Captured],
    number: signal.Signals,
) -> None:
    spawn, spawned = os.posix_spawn, list[int]()

    def struck(*words: Any, **options: Any) -> int:
        spawned.append(spawn(*words, **options))
        signal.raise_signal(number)  # to this thread: a worker of pytest has others
        return spawned[-1]

    monkeypatch.setattr(os, "posix_spawn", struck)
    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            runs(("/bin/sleep", "5"), 30)
    finally:
        signal.signal(number, before)
    with pytest.raises(ChildProcessError):  # killed and waited for
        os.waitpid(spawned[0], os.WNOHANG)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.parametrize("runs", [program.run, program.capture])
def test_a_program_has_the_signals_of_its_starter(
    runs: Callable[[tuple[str, ...], float], program.Ended | program.Captured],
) -> None:
    def blocked() -> int:
        output = runs(("/bin/grep", "SigBlk", "/proc/self/status"), 30).output
        return int(output.split()[1], 16)

    assert blocked() == 0
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        assert blocked() == 1 << (signal.SIGTERM - 1)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# -- in a program that waits for its children itself -------------------------------------------------

_RUNS = [program.run, program.capture]


@pytest.fixture(params=["ignores SIGCHLD", "waits for all"])
def who_waits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A program that uses the library, which may do either (docs/library.md)."""
    if request.param == "ignores SIGCHLD":
        before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        yield
        signal.signal(signal.SIGCHLD, before)
        return
    spawn, wait, waiting = os.posix_spawn, os.waitpid, list[threading.Thread]()

    def reaped(*words: Any, **options: Any) -> int:
        pid = spawn(*words, **options)
        waiting.append(threading.Thread(target=wait, args=(pid, 0)))
        waiting[-1].start()
        return pid

    def too_late(pid: int, options: int) -> tuple[int, int]:
        waiting[-1].join()
        return wait(pid, options)

    monkeypatch.setattr(os, "posix_spawn", reaped)
    monkeypatch.setattr(os, "waitpid", too_late)
    yield


@pytest.mark.usefixtures("who_waits")
@pytest.mark.parametrize("runs", _RUNS)
def test_what_it_wrote_counts_where_nobody_knows_how_it_ended(
    runs: Callable[[tuple[str, ...], float], program.Ended | program.Captured],
) -> None:
    done = runs(("/bin/sh", "-c", "sleep 0.1; echo done; exit 3"), 30)
    assert (done.status, len(done.output)) == (program.UNTOLD, 5)


@pytest.mark.usefixtures("who_waits")
@pytest.mark.parametrize("runs", _RUNS)
def test_one_that_does_not_end_is_killed_whoever_waits_for_it(
    runs: Callable[[tuple[str, ...], float], program.Ended | program.Captured],
) -> None:
    assert runs(("/bin/sh", "-c", "exec sleep 60"), 0.05).status is None


@pytest.mark.parametrize("runs", _RUNS)
def test_a_number_that_may_be_anothers_by_now_is_sent_no_signal(
    monkeypatch: pytest.MonkeyPatch,
    runs: Callable[[tuple[str, ...], float], program.Ended | program.Captured],
) -> None:
    """It has ended, and was waited for, before it could be looked at."""
    spawn, killed = os.posix_spawn, list[tuple[int, int]]()

    def reaped(*words: Any, **options: Any) -> int:
        pid = spawn(*words, **options)
        os.waitpid(pid, 0)
        return pid

    monkeypatch.setattr(os, "posix_spawn", reaped)
    monkeypatch.setattr(os, "kill", lambda *call: killed.append(call))
    assert runs(("/bin/echo", "done"), 30).status == program.UNTOLD
    assert not killed


def test_a_program_learns_of_its_own_children_whatever_its_starter_ignores() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        said = program.run(("/bin/grep", "SigIgn", "/proc/self/status"), 30).output
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert not int(said.split()[1], 16) & 1 << (signal.SIGCHLD - 1)


def test_a_status_that_nobody_knows_is_what_was_shown() -> None:
    assert program.ended_well(program.UNTOLD, shown=True)
    assert not program.ended_well(program.UNTOLD, shown=False)
    assert program.ended_well(0, shown=False)
    assert not program.ended_well(1, shown=True)
    assert not program.ended_well(None, shown=True)
