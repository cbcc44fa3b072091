"""`cni install` and `uninstall` killed wherever they change something: files whole or absent.

They write no store and touch no device. A runtime that reads the configuration meanwhile finds the
executable as well: it is written first, and removed last.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from integration.lab.program import Forked, preload
from integration.lab.stepper import run_stepped
from integration.lab.syscalls import Call

PROGRAM, CONF = "bin/hvtx", "net.d/10-hvtx.conflist"


def tree(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): path.read_text()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("verb", ["install", "uninstall"])
def test_files_are_whole_or_absent(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preload()
    # it looks at each of the thousands of files that it imports, and changes nothing
    monkeypatch.setattr("hvtx.commands.cni_install.changeable", lambda: None)
    hvtx, root = Forked(), tmp_path / "root"
    argv = ("cni", verb, "--dir", str(root / "bin"), "--conf", str(root / CONF))

    def prepare() -> dict[str, str]:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        if verb == "uninstall":
            hvtx("cni", "install", *argv[2:])
        return tree(root)

    before = prepare()
    seen: list[dict[str, str]] = []

    def look(_: Call) -> bool:
        seen.append(tree(root))
        return False

    whole = run_stepped(argv, hvtx.environment, watch=look)
    assert whole.ran.code == 0, whole.ran
    after = tree(root)
    assert {PROGRAM, CONF} == set(before) ^ set(after)
    assert len(seen) >= 2
    for place in range(len(seen)):
        prepare()
        counted = iter(range(len(seen) + 1))
        run = run_stepped(argv, hvtx.environment, watch=lambda _, c=counted, p=place: next(c) == p)
        assert run.killed
        there = tree(root)
        for name in (PROGRAM, CONF):
            assert there.get(name) in (before.get(name), after.get(name)), (place, name)
        assert CONF not in there or PROGRAM in there, place
        hvtx(*argv)
        assert tree(root) == after, place
