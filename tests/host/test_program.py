"""Programs of the host, run to their end, and what they wrote."""

from __future__ import annotations

import os
from typing import Any

import pytest

from hvtx.host import children, program


def test_all_that_a_program_writes_is_captured_and_its_errors_apart() -> None:
    script = "head -c 300000 /dev/zero; echo wrong >&2; exit 3"
    done = program.capture(("/bin/sh", "-c", script), 30)
    assert (done.status, len(done.output), done.errors) == (3, 300000, b"wrong\n")


def test_a_program_that_does_not_end_is_killed_when_its_output_is_captured() -> None:
    assert program.capture(("/bin/sh", "-c", "exec sleep 60"), 0.05).status is None


def test_no_other_thread_prepares_a_child_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a moment sockets of ports are inheritable, and limits those of a service."""
    spawn, alone = os.posix_spawn, []

    def watched(*words: Any, **more: Any) -> int:
        alone.append(children.spawning._is_owned())
        return spawn(*words, **more)

    monkeypatch.setattr(os, "posix_spawn", watched)
    argv = ("/bin/sh", "-c", "exit 0")
    assert program.run(argv, 10).status == 0
    assert program.run(argv, 10, enough=lambda said: False).status == 0
    assert program.capture(argv, 10).status == 0
    assert alone == [True, True, True]
