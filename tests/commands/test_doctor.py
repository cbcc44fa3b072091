"""`doctor`: one check that fails itself is a warning, and keeps no other from being told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hvtx.commands import doctor
from hvtx.engine.finding import Finding
from hvtx.errors import HostRefused
from hvtx.host.netlink import DumpInterrupted


@pytest.mark.parametrize(
    ("problem", "words", "hint"),
    [
        (DumpInterrupted(), "the host changed faster than it could be read", "hvtx doctor"),
        (OSError(24, "Too many open files"), "Too many open files", "ulimit -n 1024"),
        (HostRefused("no", hint="do that"), "no", "do that"),
        (ValueError("odd"), "odd", "root"),
    ],
)
def test_a_check_that_fails_is_a_warning_of_it(problem: Exception, words: str, hint: str) -> None:
    """What it had found by then is told too, and so is the rest."""

    def fails(runtime: Any) -> Iterator[Finding]:
        yield Finding("one", "ok", "so far")
        raise problem

    def works(runtime: Any) -> Iterator[Finding]:
        yield Finding("two", "ok", "fine")

    runtime: Any = None
    found = doctor._findings(runtime, {"one": fails, "two": works})
    assert [(f.check, f.level) for f in found] == [("one", "ok"), ("one", "warning"), ("two", "ok")]
    assert words in found[1].message
    assert hint in (found[1].hint or "")
