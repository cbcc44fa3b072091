"""`systemd install` and `uninstall` killed wherever they change something: files whole or absent.

They write no store and touch no device, so `integration.lab.crash_matrix` has nothing to look at. Their state
is a tree of files below `--root`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from integration.lab.program import Forked, preload
from integration.lab.stepper import run_stepped
from integration.lab.syscalls import Call

UNITS = "etc/systemd/system"


def tree(root: Path) -> dict[str, str]:
    """Every file and link with its content."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(root))] = f"-> {path.readlink()}"
        elif path.is_file():
            found[str(path.relative_to(root))] = path.read_text()
    return found


@pytest.mark.parametrize("verb", ["install", "uninstall"])
def test_units_are_whole_or_absent(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed anywhere: each unit is as before or as after, and the command given again ends it."""
    preload()
    # it looks at each of the thousands of files that it imports, and changes nothing
    monkeypatch.setattr("hvtx.commands.systemd.refuse_changeable", lambda _: None)
    hvtx, root = Forked(), tmp_path / "root"
    argv = ("systemd", verb, "--root", str(root))

    def prepare() -> dict[str, str]:
        shutil.rmtree(root, ignore_errors=True)
        (root / UNITS).mkdir(parents=True)
        if verb == "uninstall":
            hvtx("systemd", "install", "--root", str(root))
        return tree(root)

    before = prepare()
    seen: list[dict[str, str]] = []

    def look(_: Call) -> bool:
        seen.append(tree(root))
        return False

    whole = run_stepped(argv, hvtx.environment, watch=look)
    assert whole.ran.code == 0, whole.ran
    after = tree(root)
    assert before != after
    places = [n for n in range(1, len(seen)) if seen[n] != seen[n - 1]]
    assert len(places) > 2
    for place in places:
        prepare()
        counted = iter(range(len(seen) + 1))
        run = run_stepped(argv, hvtx.environment, watch=lambda _, c=counted, p=place: next(c) == p)
        assert run.killed
        for name, content in tree(root).items():
            if name.endswith((".service", ".timer")):
                assert content in (before.get(name), after.get(name)), (place, name)
        hvtx(*argv)
        assert tree(root) == after, place
