"""What installs files is killed wherever it changes something: files are whole or absent.

`systemd install`, `cni install` and their `uninstall` write no store and touch no device, so
`integration.lab.crash_matrix` has nothing to look at. Their state is a tree of files below ``root``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from integration.lab.program import Forked, preload
from integration.lab.stepper import run_stepped
from integration.lab.syscalls import Call

PROGRAM, CONF = "bin/hvtx", "net.d/10-hvtx.conflist"
Tree = dict[str, str]  # path below the root: content, or where a link points


@dataclass(frozen=True)
class Installer:
    """A command with the verbs install and uninstall."""

    word: str
    options: Callable[[Path], tuple[str, ...]]
    looks: str  # at each of the thousands of files that it imports, and changes nothing
    files: Callable[[str], bool]  # the files that must be whole or absent


INSTALLERS = {
    i.word: i
    for i in (
        Installer(
            "systemd",
            lambda root: ("--root", str(root)),
            "hvtx.commands.systemd.refuse_changeable",
            lambda name: name.endswith((".service", ".timer")),
        ),
        Installer(
            "cni",
            lambda root: ("--dir", str(root / "bin"), "--conf", str(root / CONF)),
            "hvtx.commands.cni_install.changeable",
            lambda name: name in (PROGRAM, CONF),
        ),
    )
}


def tree(root: Path) -> Tree:
    """Every file and link with its content."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(root))] = f"-> {path.readlink()}"
        elif path.is_file():
            found[str(path.relative_to(root))] = path.read_text()
    return found


@pytest.mark.parametrize("verb", ["install", "uninstall"])
@pytest.mark.parametrize("word", INSTALLERS)
def test_files_are_whole_or_absent(
    word: str, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed anywhere: each file is as before or as after, and the command given again ends it.

    A runtime that reads the CNI configuration meanwhile finds the executable as well: it is written
    first, and removed last.
    """
    preload()
    installer = INSTALLERS[word]
    monkeypatch.setattr(installer.looks, lambda *_: None)
    hvtx, root = Forked(), tmp_path / "root"
    options = installer.options(root)
    argv = (word, verb, *options)

    def prepare() -> Tree:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        if verb == "uninstall":
            hvtx(word, "install", *options)
        return tree(root)

    before = prepare()
    seen: list[Tree] = []

    def look(_: Call) -> bool:
        seen.append(tree(root))
        return False

    whole = run_stepped(argv, hvtx.environment, watch=look)
    assert whole.ran.code == 0, whole.ran
    after = tree(root)
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    assert len(list(filter(installer.files, changed))) >= 2
    places = [n for n in range(len(seen)) if n == 0 or seen[n] != seen[n - 1]]
    assert len(places) >= min(len(changed), 4)
    for place in places:
        prepare()
        counted = iter(range(len(seen) + 1))
        run = run_stepped(argv, hvtx.environment, watch=lambda _, c=counted, p=place: next(c) == p)
        assert run.killed
        there = tree(root)
        for name in filter(installer.files, {*before, *after, *there}):
            assert there.get(name) in (before.get(name), after.get(name)), (place, name)
        assert CONF not in there or PROGRAM in there, place
        hvtx(*argv)
        assert tree(root) == after, place
