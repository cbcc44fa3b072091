"""The man pages that scripts/make-man makes: one a command, and none that roff complains of."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hvtx.cli.main import COMMANDS

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
    assert ".TP\n\\fB75\\fP\n" in first


def test_no_page_has_a_fault(made: Path) -> None:
    """As mandoc sees it."""
    assert shutil.which("mandoc"), "the Debian package mandoc is missing"
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", *map(str, sorted(made.iterdir()))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == ""
