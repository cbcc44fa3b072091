"""The version: of the build where there was one, asked for by nobody who does not print it."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hvtx

TOP = Path(__file__).parents[1]


def test_what_was_not_built_has_the_version_that_a_build_without_git_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    assert project["tool"]["setuptools_scm"]["fallback_version"] == hvtx.UNBUILT
    monkeypatch.setitem(sys.modules, "hvtx._version", None)
    monkeypatch.delitem(hvtx.__dict__, "__version__", raising=False)
    assert hvtx.__version__ == hvtx.UNBUILT
    monkeypatch.delitem(hvtx.__dict__, "__version__")
    with pytest.raises(AttributeError):
        _ = hvtx.no_such_name


@pytest.mark.parametrize(("words", "asked"), [("--version", True), ("vm ls", False)])
def test_only_who_prints_the_version_looks_it_up(words: str, asked: bool, tmp_path: Path) -> None:
    """And nobody reads the metadata of installed packages, which costs more than the command."""
    script = (
        "import sys; sys.argv = ['hvtx', *sys.argv[1:]]; from hvtx.cli.main import run;"
        "code = run(sys.argv[1:]); print(code, *sorted(sys.modules), file=sys.stderr)"
    )
    where = ("--state-dir", str(tmp_path), "--run-dir", str(tmp_path), "--config", "/dev/null")
    done = subprocess.run(
        [sys.executable, "-c", script, *where, *words.split()],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    code, *modules = done.stderr.splitlines()[-1].split()
    assert code == "0", done.stderr
    assert ("hvtx._version" in modules) is (asked and (TOP / "hvtx/_version.py").exists())
    assert "importlib.metadata" not in modules
