"""Pages that lead from a symptom to a command name checks, verbs and options that there are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from hvtx.cli.root import root
from hvtx.commands.doctor import CHECKS
from hvtx.model.guest import Guest
from hvtx.planner.states import VmState

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ("troubleshooting", "hypervisors", "requirements")


def commands(page: str) -> Iterator[list[str]]:
    """The words of each `hvtx …` of a page: of a code span, or of a line of a block."""
    text = (DOCS / f"{page}.md").read_text()
    spans = re.findall(r"(?<!`)`(hvtx [^`]+)`(?!`)", text)
    blocks = re.findall(r"```\w+\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in re.sub(r"\\\n", " ", block).splitlines()]
    typed = [
        found
        for line in lines
        for found in re.findall(r"\bhvtx [^|)\"]+", line.partition(" # ")[0])
    ]
    for one in (*spans, *typed):
        yield one.split()[1:]


def resolved(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that words name, and what is left of them."""
    command: click.Command = root
    while words and isinstance(command, click.Group) and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, words
        command, words = found, words[1:]
    return command, words


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_there_with_their_options(page: str) -> None:
    seen = 0
    for words in commands(page):
        seen += 1
        command, rest = resolved(words)
        known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
        assert not isinstance(command, click.Group) or command is root, words
        assert [one for one in rest if one.startswith("--") and one not in known] == [], words
    assert seen > 2


def test_checks_that_are_named_are_those_of_doctor() -> None:
    """Each that there is has a symptom; what stands behind `hvtx doctor`: is one."""
    text = (DOCS / "troubleshooting.md").read_text()
    behind = re.findall(r"`hvtx doctor`: ((?:`\w+`(?:, )?)+)", text)
    named = {name for found in behind for name in re.findall(r"`(\w+)`", found)}
    assert named - CHECKS.keys() == set()
    assert [name for name in CHECKS if f"`{name}`" not in text] == []


def test_states_that_are_named_are_those_of_vms_and_guests() -> None:
    text = (DOCS / "troubleshooting.md").read_text()
    states = re.findall(r"^\| state `([\w-]+)`", text, re.MULTILINE)
    assert states
    assert set(states) <= {state.value for state in VmState}
    (guests,) = re.findall(r"^\| GUEST ((?:`[\w-]+`(?:, )?)+)", text, re.MULTILINE)
    assert set(re.findall(r"`([\w-]+)`", guests)) <= {guest.value for guest in Guest}
