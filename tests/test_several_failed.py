"""The exit code of a verb for several things."""

from __future__ import annotations

import pytest

from hvtx.errors import Busy, Conflict, HvtxError, NotFound, SeveralFailed

NONE, TAKEN = NotFound("no VM"), Conflict("taken")


@pytest.mark.parametrize(
    ("parts", "done", "code", "word"),
    [
        ([NONE], True, 9, "partial"),
        ([NONE, TAKEN], True, 9, "partial"),
        ([NONE, NONE], False, 3, "not-found"),
        ([Busy("held")], False, 75, "busy"),
        ([NONE, TAKEN], False, 1, "failed"),
    ],
)
def test_nine_where_others_are_done(
    parts: list[HvtxError], done: bool, code: int, word: str
) -> None:
    """Else what all of them failed of; 1 where that differs."""
    problem = SeveralFailed("some failed", parts, done=done)
    assert (problem.exit_code, problem.code) == (code, word)
    assert problem.parts == tuple(parts)
