"""Warnings and notes beside an answer; with ``--json`` they break no reader of standard error."""

from __future__ import annotations

import json

import pytest

from hvtx.cli import verbs
from hvtx.cli.main import run
from hvtx.cli.streams import say_beside
from hvtx.errors import Conflict
from hvtx.model.typed import Any


def _list(*, fails: bool) -> Any:
    def told(options: Any, *, json_: bool) -> None:
        say_beside("warning", "others had access\n to it")
        say_beside("note", "one was made")
        if fails:
            raise Conflict("taken", hint="choose another")

    return told


def test_who_fails_with_json_says_one_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(verbs, "list_vms", _list(fails=True))
    assert run(["vm", "ls", "--json"]) == 4
    assert json.loads(capsys.readouterr().err) == {
        "error": {"code": "conflict", "message": "taken", "hint": "choose another"},
        "notices": [
            {"level": "warning", "message": "others had access? to it"},
            {"level": "note", "message": "one was made"},
        ],
    }


@pytest.mark.parametrize(
    ("words", "fails", "code", "told"),
    [
        (["vm", "ls", "--json"], False, 0, []),
        (["vm", "ls"], False, 0, []),
        (["vm", "ls"], True, 4, ["error: taken", "hint: choose another"]),
    ],
)
def test_else_they_are_said_as_text(
    words: list[str],
    fails: bool,
    code: int,
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing is lost, and nothing is kept for the next command."""
    monkeypatch.setattr(verbs, "list_vms", _list(fails=fails))
    own = ["warning: others had access? to it", "note: one was made"]
    for _ in range(2):
        assert run(words) == code
        assert capsys.readouterr().err.splitlines() == [*own, *told]


def test_an_interrupt_has_what_was_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(options: Any, *, json_: bool) -> None:
        say_beside("warning", "half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(verbs, "list_vms", told)
    assert run(["vm", "ls", "--json"]) > 128
    told_ = json.loads(capsys.readouterr().err)
    assert told_["error"]["code"] == "interrupted"
    assert told_["notices"] == [{"level": "warning", "message": "half of it"}]
