"""Ctrl-C in the middle of a command is an error like others, with the exit code of a shell."""

from __future__ import annotations

import pytest

from hvtx.cli.interrupts import interruptible
from hvtx.errors import HvtxError


@pytest.mark.parametrize(
    "ended", [KeyboardInterrupt(), RuntimeError("Event loop stopped before Future completed.")]
)
def test_it_is_told(ended: BaseException) -> None:
    with pytest.raises(HvtxError) as told, interruptible():
        raise ended
    assert (told.value.code, told.value.exit_code) == ("interrupted", 130)
    for words in ("taken back", "a removal that was begun waits", "`hvtx recover` ends it"):
        assert words in (told.value.hint or "")


def test_other_errors_are_their_own() -> None:
    with pytest.raises(RuntimeError, match="another"), interruptible():
        raise RuntimeError("another")
