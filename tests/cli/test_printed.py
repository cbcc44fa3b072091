"""Printed commands act on the store of the command line that they answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hvtx.cli import applying, render, verbs
from hvtx.cli.main import run
from hvtx.cli.names import printed


def test_a_hint_names_the_store_that_was_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In text and in JSON; what another command line named is forgotten."""
    places = ["--state-dir", str(tmp_path / "my state"), "--run-dir", str(tmp_path / "run")]
    named = f"--state-dir '{tmp_path}/my state' --run-dir {tmp_path}/run "
    assert run([*places, "gc", "--apply", "--yes"]) == 2
    assert f"hvtx {named}gc --apply" in capsys.readouterr().err
    assert run([*places, "gc", "--apply", "--yes", "--json"]) == 2
    assert f"hvtx {named}gc --apply" in json.loads(capsys.readouterr().err)["error"]["hint"]
    assert run(["gc", "--apply", "--yes"]) == 2
    assert "here: hvtx gc --apply" in capsys.readouterr().err
    assert printed("hvtx gc") == "hvtx gc"


def test_each_text_on_the_screen_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hvtx.cli.names._ways", [lambda text: text.replace("hvtx ", "hvtx -x ")])
    render.say("now run: hvtx recover")
    render.say(render.wrapped("run `hvtx gc --apply`", "  "))
    render.fields([("why", "`hvtx repair`")])
    render.paragraphs([("why", "`hvtx repair`")])
    render.tell("hvtx vm ls")
    verbs.tell_notes(["hvtx vm ls"])
    told = "".join(capsys.readouterr())
    assert told.count("hvtx -x ") == told.count("hvtx ") == 6


@pytest.mark.parametrize(
    ("given", "command"),
    [
        ({"files": ["vms.toml"]}, "hvtx vm apply -f vms.toml"),
        (
            {"files": ["a b.toml", "c"], "no_start": True, "replace": True},
            "hvtx vm apply --replace --no-start -f 'a b.toml' -f c",
        ),
        ({"files": ["-"], "restart": True}, "hvtx vm apply --restart --yes -f -"),
        ({"files": ["c"], "restart": True, "out": "my plan"}, "hvtx vm apply 'my plan'"),
    ],
)
def test_the_command_below_a_plan_does_what_the_plan_says(
    given: dict[str, object], command: str
) -> None:
    """With the options that it was made with; a saved plan holds them."""
    unsaid = {"out": None, "restart": False, "replace": False, "no_start": False}
    assert applying._same_plan({**unsaid, **given}) == command


def test_a_saved_plan_is_named_below_it() -> None:
    assert verbs.saved_as(None) == ""
    assert verbs.saved_as("my plan") == " 'my plan'"
