"""`scripts/check`: what it runs, what it prints of it, and how it ends."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys

import pytest

from tests.structure.source import TOP

CHECK = runpy.run_path(str(TOP / "scripts/check"))


def test_each_check_is_told_and_what_a_failed_one_printed_is_shown_whole(
    capsys: pytest.CaptureFixture[str],
) -> None:
    commands = {
        "types": "echo not shown",
        "lint": "echo first; echo second >&2; exit 3",
        "tests": "echo dots; echo '== 7 passed in 1.00s =='",
    }
    assert CHECK["_run"](commands) == ["lint"]
    out = capsys.readouterr().out
    assert "types   passed" in out
    assert "lint    FAILED" in out
    assert "first\nsecond\n" in out
    assert "(7 passed in 1.00s)" in out
    assert "not shown" not in out


def test_what_is_killed_has_failed(capsys: pytest.CaptureFixture[str]) -> None:
    assert CHECK["_run"]({"lint": "kill -9 $$"}) == ["lint"]
    assert "lint    FAILED" in capsys.readouterr().out


def test_slow_tests_are_left_out_unless_pytest_is_told_otherwise() -> None:
    plain, chosen = CHECK["_commands"]([])["tests"], CHECK["_commands"](["-m", "", "-k", "a b"])
    cores = len(os.sched_getaffinity(0))
    assert f"-n {cores} -m 'not slow' --dist worksteal" in plain
    assert chosen["tests"].endswith("-n 0 -m 'not slow' -m '' -k 'a b'")
    assert set(chosen) == set(CHECK["CHECKS"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], "scripts/check tests -- -k addresses"),
        (["unit"], "no check is called 'unit'; there are lint, types, layers, tests"),
        (["lint", "--", "-k", "x"], "name the check `tests` with them"),
    ],
)
def test_arguments_that_are_wrong_are_told_before_anything_is_run(
    arguments: list[str], words: str
) -> None:
    done = subprocess.run(
        [sys.executable, str(TOP / "scripts/check"), *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == (0 if arguments == ["--help"] else 2)
    assert words in done.stdout + done.stderr
