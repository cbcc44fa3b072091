"""The man pages that scripts/make-man makes: one a command, and none that roff complains of."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from hvtx.cli.root import COMMANDS, root

TOP = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("man")
    subprocess.run(
        [sys.executable, str(TOP / "scripts/make-man"), str(directory)], check=True, cwd=TOP
    )
    return directory


def test_every_command_has_its_page(made: Path) -> None:
    """And the first one names them all, with exit codes, environment and files."""
    names = {path.name for path in made.iterdir()}
    assert {"hvtx.1", "hvtx-vm.1", "hvtx-vm-start.1", "hvtx-gc.1"} <= names
    assert {f"hvtx-{name}.1" for name in COMMANDS} <= names
    first = (made / "hvtx.1").read_text()
    for title in ("NAME", "SYNOPSIS", "OPTIONS", "EXIT STATUS", "ENVIRONMENT", "FILES"):
        assert f".SH {title}\n" in first
    assert "HVTX_STATE_DIR" in first
    status = first.partition(".SH EXIT STATUS\n")[2].partition("\n.SH")[0]
    codes = re.findall(r"^\\fB(\d+)\\fP$", status, re.MULTILINE)
    assert codes == ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "75", "130"]
    for name in ("vm-create", "vm-run"):
        text = (made / f"hvtx-{name}.1").read_text()
        for word in ("{ip}", "{gateway6}", "{netmask}", "HVTX_TAP", "HVTX_IP6"):
            assert word in text


def test_no_page_has_a_fault(made: Path) -> None:
    """As mandoc sees it."""
    assert shutil.which("mandoc"), "the Debian package mandoc is missing"
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", *map(str, sorted(made.iterdir()))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == ""


def options(command: click.Command, path: str) -> Iterator[tuple[str, click.Option]]:
    context = click.Context(command, info_name=path)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from options(child, f"{path} {name}")
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield path, parameter


def test_every_option_is_described() -> None:
    found = list(options(root, "hvtx"))
    assert len(found) > 50
    assert [(path, option.opts) for path, option in found if not option.help] == []
