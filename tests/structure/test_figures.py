"""`scripts/measure`: what it prints of a small program, and what it lowers."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests.structure.figures import figures
from tests.structure.laws import LAWS
from tests.structure.source import TOP

MEASURE = runpy.run_path(str(TOP / "scripts/measure"))
FILES = {
    "hvtx/__init__.py": "",
    "hvtx/engine/__init__.py": "",
    "hvtx/engine/vm_launch.py": (
        "from hvtx.engine import network_build\nfrom hvtx.host import links\n"
        "def start(runtime):\n    import json\n    sql.execute('SELECT a FROM vm')\n"
    ),
    "hvtx/engine/network_build.py": (
        "def make(runtime, text):\n    from hvtx.engine import vm_launch\n    return ':' in text\n"
    ),
    "hvtx/commands/__init__.py": "",
    "hvtx/commands/recover.py": "from hvtx.commands import vm_start\n",
    "hvtx/host/links.py": "class Links:\n    def all(self): ...\n" + "\n" * 500,
    "hvtx/_version.py": "__version__ = '1'\n",
    "tests/host/test_links.py": "def test_a(): ...\ndef test_b(): ...\ndef helper(): ...\n",
    "integration/test_a.py": "",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_program_in_figures(checkout: Path) -> None:
    found = dict(figures(checkout))
    expected = {
        "modules, lines, functions": "7, 511, 3",
        "modules > 400 / 500 / 700 lines": "1 / 1 / 0: host/links 502",
        "functions > 50 / 60 lines": "0 / 0",
        "engine: files, lines": "2, 8",
        "engine: arrows between its files": "2",
        "engine: floors (imports at the top)": "2",
        "engine: files that import host": "1 of 2",
        "commands that import commands": "1",
        "functions that take `runtime`": "2 in 1 rooms",
        "SQL run outside store": "1 in 1 files",
        '`":" in` text tells the family': "1 in 1 files",
        "imports inside functions; of hvtx's own": "2; 1 in 1 files",
        "modules with a test of their name": "1 of 4",
        "tests/: files of tests, functions": "1, 2",
        "integration/: files of tests, functions": "1, 0",
    }
    assert {name: found[name] for name in expected} == expected


def test_lowering_writes_what_there_is_and_says_how_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a list in which one number is too large and one line is of a file that is gone."""
    law = next(law for law in LAWS if law.name == "imports-in-functions")
    (path, count), *_ = law.counted().items()
    (listed := tmp_path / "allowed.toml").write_text(
        f'[imports-in-functions]\n"{path}" = {count + 1}\n"engine/gone.py" = 1\n'
    )
    monkeypatch.setitem(MEASURE["_lower"].__globals__, "ALLOWED", listed)
    assert MEASURE["_lower"]() == 0
    assert listed.read_text() == f'[imports-in-functions]\n"{path}" = {count}\n'
    assert capsys.readouterr().out.endswith("1 lines gone, 1 numbers lowered\n")
