"""What is read without click is what click would have read: the same function, told the same."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from hvtx.cli import by_click, quick, verbs
from hvtx.errors import HvtxError

WORDS = (
    "vm",
    "gc",
    "explain",
    "start",
    "stop",
    "rm",
    "show",
    "ls",
    "--plan",
    "web",
    "--json",
    "--force",
    "-x",
    "",
    "--",
)
VERBS = ("start", "stop", "remove", "show", "list_vms", "plan", "explain")


@pytest.fixture(name="calls")
def fixture_calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was called, and what it was told but for the global options."""
    calls: list[Any] = []

    def recorder(verb: str) -> Any:
        def record(_options: Any, *words: str, **given: Any) -> None:
            calls.append((verb, words, given))

        return record

    for verb in VERBS:
        monkeypatch.setattr(verbs, verb, recorder(verb))
    return calls


# What `gc` is told beside `--json` on a line that says no more than `--plan`.
_PLAIN = {
    "everything": False,
    "evidence": False,
    "detailed_exitcode": False,
    "out": None,
    "html": None,
    "mode": 0o600,
}


def _by_click(words: tuple[str, ...], calls: list[Any]) -> Any:
    calls.clear()
    try:
        by_click.answer(words)
    except HvtxError:
        return None
    return calls[0] if calls else None


@pytest.mark.parametrize("length", [2, 3, 4])
def test_each_line_that_is_read_without_click_means_the_same_to_click(
    length: int, calls: list[Any]
) -> None:
    read = 0
    for words in product(WORDS, repeat=length):
        command = quick.command(words)
        if command is None:
            continue
        read += 1
        calls.clear()
        command()
        ((verb, names, given),) = calls
        if verb == "plan":
            given = {**_PLAIN, **given}
        assert _by_click(words, calls) == (verb, names, given), words
    assert read > 1


@pytest.mark.parametrize(
    "line",
    [
        "", "vm", "gc", "vm start", "vm start a b", "vm start --help", "vm start -h a", "vm start -- a",
        "--state-dir d vm start a", "vm --help", "gc --plan --out f", "gc --apply", "vm stop a --timeout 3",
        "vm start a --force", "vm ls a", "vm stat a", "gc --plan --plan", "--version",
        "explain", "explain a b", "explain --help", "explain -- a", "explain -t nat",
    ],
)  # fmt: skip
def test_what_leaves_something_to_be_read_is_clicks(line: str) -> None:
    assert quick.command(line.split()) is None


def test_the_time_to_power_down_is_the_option_s_default(calls: list[Any]) -> None:
    command = quick.command(("vm", "stop", "web", "--force", "--json"))
    assert command is not None
    command()
    assert calls == [
        ("stop", ("web",), {"force": True, "json_": True, "timeout": quick.POWER_DOWN})
    ]
