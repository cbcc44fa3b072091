"""A word that is unknown where it stands: the hint says which was probably meant, or where it goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvtx.cli.main import run


def err(capsys: pytest.CaptureFixture[str], place: Path, *words: str) -> str:
    """What is said on standard error by a command line that is refused (2), with no store made."""
    assert run(["--state-dir", str(place / "state"), "--run-dir", str(place), *words]) == 2
    assert not (place / "state").exists()
    return capsys.readouterr().err


MEANT = [
    (("statr",), "`hvtx vm start`"),
    (("net", "ls"), "`hvtx network`"),
    (("ls",), "`hvtx vm ls`"),
    (("list",), "`hvtx vm ls`"),
    (("ps",), "`hvtx vm ls`"),
    (("help",), "`hvtx --help`"),
    (("version",), "`hvtx --version`"),
    (("vm", "star"), "`hvtx vm start`"),
    (("apply",), "`hvtx vm apply`"),
    (("vm", "aply"), "`hvtx vm apply`"),
    (("vm", "list"), "`hvtx vm ls`"),
    (("vm", "help"), "`hvtx vm --help`"),
    (("network", "lst"), "`hvtx network ls`"),
    (("vm", "stop", "--forse", "web"), "--force"),
]


@pytest.mark.parametrize(("words", "likely"), MEANT)
def test_a_command_that_was_meant_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...], likely: str
) -> None:
    """Exit 2, and the hint asks."""
    assert f"did you mean {likely}?" in err(capsys, tmp_path, *words).splitlines()[1]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--json", "vm", "ls"), "--json belongs after the command: hvtx vm ls --json"),
        (
            ("vm", "ls", "--state-dir", "X"),
            "--state-dir belongs before the command: hvtx --state-dir DIR vm ls",
        ),
        (("vm", "ls", "--debug"), "--debug belongs before the command: hvtx --debug vm ls"),
    ],
)
def test_an_option_in_another_place(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...], hint: str
) -> None:
    """The hint says where it belongs."""
    assert hint in err(capsys, tmp_path, *words)
