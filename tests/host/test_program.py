"""Programs of the host, run to their end, and what they wrote."""

from __future__ import annotations

from hvtx.host import program


def test_all_that_a_program_writes_is_captured_and_its_errors_apart() -> None:
    script = "head -c 300000 /dev/zero; echo wrong >&2; exit 3"
    done = program.capture(("/bin/sh", "-c", script), 30)
    assert (done.status, len(done.output), done.errors) == (3, 300000, b"wrong\n")


def test_a_program_that_does_not_end_is_killed_when_its_output_is_captured() -> None:
    assert program.capture(("/bin/sh", "-c", "exec sleep 60"), 0.05).status is None
