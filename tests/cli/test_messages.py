"""The exit code and the answer never depend on whether anybody can be told: closed, full, broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hvtx.cli import render
from hvtx.cli.main import run


def shell(tmp_path: Path, words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command line as a shell runs it, with a store that does not exist."""
    return subprocess.run(
        ["sh", "-c", f'"$0" -m hvtx {words}', sys.executable],
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("HVTX_")},
            "HVTX_STATE_DIR": str(tmp_path / "state"),
            "HVTX_RUN_DIR": str(tmp_path / "run"),
            "HVTX_CONFIG": os.devnull,
            **environment,
        },
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


DEAF = ("2>&-", "2>/dev/full", "2>&- >&-", "2>&- >&- <&-")


@pytest.mark.parametrize("where", DEAF)
@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("vm show nope", 3),
        ("vm show nope --json", 3),
        ("--debug vm show nope", 3),
        ("gc --bogus", 2),
        ("gc", 2),
        ("vm", 2),
        ("network create n --subnet 10.0.0.1/24", 2),
        ("vm ls", 0),
        ("vm show x --nonsense", 2),
    ],
)
def test_a_message_that_nobody_hears_changes_no_exit_code(
    tmp_path: Path, words: str, code: int, where: str
) -> None:
    """Closed, or full; with standard output and input closed as well."""
    assert shell(tmp_path, f"{words} {where}").returncode == code


def test_a_reader_of_messages_that_left_changes_no_exit_code(tmp_path: Path) -> None:
    """A pipe without a reader."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "hvtx", "--state-dir", str(tmp_path / "state"), "vm", "show", "no"],
        stderr=writer, stdout=subprocess.PIPE, check=False, timeout=60,
    )  # fmt: skip
    os.close(writer)
    assert done.returncode == 3


PRINTING = (
    "systemd print", "systemd print --json", "cni print", "cni print --json", "completion bash", "metrics", "vm ls --json",
    "gc --schema", "--version", "--help", "vm --help", "log --json",
)  # fmt: skip


@pytest.mark.parametrize("words", PRINTING)
def test_who_closes_standard_output_wants_no_answer(tmp_path: Path, words: str) -> None:
    """Exit 0, and not a word."""
    done = shell(tmp_path, f"{words} >&-")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", PRINTING)
def test_an_answer_that_is_lost_is_told_alike_by_all(tmp_path: Path, words: str) -> None:
    """A full disk behind standard output is the caller's, and no fault of hvtx's own disks."""
    done = shell(tmp_path, f"{words} >/dev/full")
    assert done.returncode == 1, done
    assert "standard output cannot be written" in done.stderr
    assert done.stderr.count("error") == 1


class Terminal:
    """A standard error that is a terminal."""

    def __init__(self) -> None:
        self.said = ""

    def write(self, text: str) -> int:
        self.said += text
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "dumb"}, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
    ],
)
def test_an_error_is_coloured_where_a_terminal_shows_colours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: dict[str, str], coloured: bool
) -> None:
    """TERM=dumb shows them as rubbish, and NO_COLOR asks for none."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    assert run(["--state-dir", str(tmp_path), "gc"]) == 2
    assert ("\x1b[" in terminal.said) is coloured
    assert "error:" in terminal.said
    monkeypatch.setattr("sys.stdout", terminal)
    assert ("\x1b" in render.coloured("x", "bold")) is coloured
