"""The help of each command, as a terminal of 80 columns shows it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest

from hvtx.cli.root import root


def every(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """The command and all below it, by their paths."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from every(below, f"{path} {name}")


COMMANDS = dict(every(root, "hvtx"))


def shown(path: str) -> str:
    context = click.Context(COMMANDS[path], info_name=path, terminal_width=80)
    return COMMANDS[path].get_help(context)


@pytest.mark.parametrize("path", COMMANDS)
def test_nothing_is_cut_or_broken(path: str) -> None:
    """No sentence ends in dots, no option is torn at a hyphen, no line is longer."""
    lines = shown(path).splitlines()
    assert [line for line in lines[1:] if line.endswith("...")] == []
    assert [line for line in lines if re.search(r"-[a-z]+-$|\(--$", line)] == []
    assert [line for line in lines if len(line) > 80] == []


def test_what_is_said_in_brackets_is_so() -> None:
    """Without an option `set` leaves all as it is; `create` says what it then does."""
    for group in ("vm", "network"):
        assert re.findall(r"\[[^]]*default|\[vm_user|\[1\]", shown(f"hvtx {group} set")) == []
    made = re.sub(r"\s+", " ", shown("hvtx vm create"))
    for words in ("[default: 1]", "[default: vm_user as configured]", "[default: its networks']"):
        assert words in made
    made = re.sub(r"\s+", " ", shown("hvtx network create"))
    for words in ("[default: nat]", "[default: passage]", "[default: as configured, or open]"):
        assert words in made
    assert "[default: 30]" in shown("hvtx vm stop")


def test_each_command_takes_json() -> None:
    """The interface says so of every command that prints, and all do."""
    for path, command in COMMANDS.items():
        if not isinstance(command, click.Group):
            assert any("--json" in param.opts for param in command.params), path
