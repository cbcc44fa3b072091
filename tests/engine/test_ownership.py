"""What root would run at boot, and who else could change it."""

from __future__ import annotations

import os
import sys

import pytest

from hvtx.engine import ownership
from hvtx.engine.ownership import problem_of_program


@pytest.fixture
def script(tmp_path, monkeypatch):
    """A program in `bin`, an interpreter in `python`, a module path of `lib` and nothing else."""
    for name in ("bin", "python", "lib/package/__pycache__", "path"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("python/python3", "lib/package/__init__.py", "lib/module.py", "lib/data.txt"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "lib/package/__pycache__/x.pyc").write_text("")
    path = tmp_path / "bin" / "hvtx"
    path.write_text(f"#!{tmp_path}/python/python3 -I\n")
    path.chmod(0o755)
    (tmp_path / "link").symlink_to(path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path / "lib"), str(tmp_path / "absent.zip")])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python/python3"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(ownership, "_of_modules", lambda: None)
    monkeypatch.setattr(ownership, "__file__", str(tmp_path / "lib/package/a.py"))
    return path


def test_what_nobody_else_may_write_is_run(script, tmp_path):
    assert problem_of_program((str(script),)) is None
    assert problem_of_program((str(tmp_path / "link"),)) is None
    assert problem_of_program((sys.executable, "-m", "hvtx")) is None


@pytest.mark.parametrize(
    "open_to_all",
    [
        "bin/hvtx", "bin", ".", "python/python3", "python", "lib", "lib/package",
        "lib/package/__init__.py", "lib/package/__pycache__", "lib/package/__pycache__/x.pyc",
        "lib/module.py",
    ],
)  # fmt: skip
def test_what_everybody_may_write_is_not(script, tmp_path, open_to_all):
    (tmp_path / open_to_all).chmod(0o777)
    problem = problem_of_program((str(script),))
    assert "it is world-writable" in (problem or "")
    assert str(tmp_path / open_to_all) in problem


@pytest.mark.parametrize("sticky", ["lib", "lib/package"])
def test_a_sticky_place_of_modules_takes_more_modules(script, tmp_path, sticky):
    (tmp_path / sticky).chmod(0o1777)
    assert "it is world-writable" in (problem_of_program((str(script),)) or "")


def test_an_interpreter_that_env_finds(script, tmp_path, monkeypatch):
    script.write_text("#!/usr/bin/env -S other -I\n")
    other = tmp_path / "path" / "other"
    other.write_text("")
    other.chmod(0o777)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert problem_of_program((str(script),)) is None, "what others may write is not found by name"
    script.write_text(f"#! {other}\n")
    assert str(other) in (problem_of_program((str(script),)) or "")


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
@pytest.mark.parametrize("theirs", ["bin/hvtx", "bin", "link", "python/python3", "lib/module.py"])
def test_what_is_somebody_elses_is_not(script, tmp_path, theirs):
    os.chown(tmp_path / theirs, 54321, 54321, follow_symlinks=False)
    problem = problem_of_program((str(tmp_path / "link"),))
    assert "belongs to user 54321" in (problem or "")


def test_other_files_beside_the_program_do_not_count(script, tmp_path, monkeypatch):
    """A script's directory comes first on the module path, and holds other programs too."""
    monkeypatch.setattr(sys, "path", [str(tmp_path / "bin")])
    (tmp_path / "bin/other").write_text("")
    (tmp_path / "bin/other").chmod(0o777)
    assert problem_of_program((str(script),)) is None
    (tmp_path / "bin/json.py").write_text("")
    (tmp_path / "bin/json.py").chmod(0o666)
    assert "json.py" in (problem_of_program((str(script),)) or "")


def test_this_very_installation_is_judged_whole():
    """Whatever it is: nothing is raised, and a module of it that others may write is seen."""
    problem_of_program((sys.executable, "-m", "hvtx"))
