"""What is noted of an error is told after its hint, in text and in JSON."""

from __future__ import annotations

import json

import pytest

from hvtx.cli import main
from hvtx.errors import Conflict, HvtxError


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (Conflict("taken", hint="choose another"), "choose another; two stayed"),
        (HvtxError("failed"), "two stayed"),
    ],
)
def test_the_notes_of_an_error_follow_its_hint(
    problem: HvtxError, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    problem.add_note("two stayed")
    code = main._tell(problem, as_json=True, debug=False)
    assert code == problem.exit_code
    assert json.loads(capsys.readouterr().err)["error"]["hint"] == told
