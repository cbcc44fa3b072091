"""Programs of the host, run to their end, and what they wrote."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

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
