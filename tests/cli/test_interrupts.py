"""Ctrl-C in the middle of a command is an error like others, with the exit code of a shell."""

from __future__ import annotations

import signal

import pytest

from hvtx.cli.interrupts import exit_code, interruptible
from hvtx.errors import HvtxError
from hvtx.host import children


@pytest.mark.parametrize(
    "ended", [KeyboardInterrupt(), RuntimeError("Event loop stopped before Future completed.")]
)
def test_it_is_told(ended: BaseException) -> None:
    with pytest.raises(HvtxError) as told, interruptible():
        raise ended
    assert (told.value.code, told.value.exit_code) == ("interrupted", 130)
    for words in ("taken back", "a removal that was begun waits", "`hvtx recover` ends it"):
        assert words in (told.value.hint or "")


@pytest.mark.parametrize(("number", "name"), [(1, "SIGHUP"), (15, "SIGTERM")])
def test_a_signal_that_says_the_same_is_named(
    monkeypatch: pytest.MonkeyPatch, number: int, name: str
) -> None:
    monkeypatch.setattr(children, "_ended_by", [number, signal.SIGTERM])  # the first one counts
    with pytest.raises(HvtxError) as told, interruptible():
        raise KeyboardInterrupt
    assert told.value.message == f"interrupted by {name}"
    assert (told.value.code, told.value.exit_code) == ("interrupted", 128 + number)
    assert "`hvtx recover` ends it" in (told.value.hint or "")
    assert exit_code() == 128 + number


def test_other_errors_are_their_own() -> None:
    with pytest.raises(RuntimeError, match="another"), interruptible():
        raise RuntimeError("another")
