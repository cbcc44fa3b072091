"""Programs of the host, run to their end, and what they wrote."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
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
