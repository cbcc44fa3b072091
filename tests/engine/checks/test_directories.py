"""What doctor says of the state and run directory: what would refuse every change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hvtx.engine.checks.directories import judge_mount, judge_place
from hvtx.host import paths

WANTED = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories away")


def test_a_sound_place_and_one_that_is_not_there_yet(tmp_path: Path) -> None:
    """Nothing is said of what the first change makes."""
    for place in (tmp_path, tmp_path / "later" / "run"):
        assert list(judge_place(str(place))) == []
        assert list(judge_mount(str(place), "--run-dir")) == []


@pytest.mark.parametrize("below", [".", "hvtx", "hvtx/run"])
def test_what_everybody_may_write_is_named_with_its_end(tmp_path: Path, below: str) -> None:
    """The directory that is open is named, wherever below it the place is; its fix is one."""
    shared = tmp_path / "with a space"
    (shared / "hvtx").mkdir(parents=True)
    shared.chmod(0o777)
    place = str(shared / below)
    (found,) = judge_place(place)
    assert found.level == "error"
    assert found.message == f"{shared} is not safe: it is world-writable (mode 0777)"
    assert found.hint == f"chmod go-w '{shared}'"
    assert os.system(found.hint) == 0
    assert list(judge_place(place)) == []


@WANTED
def test_what_is_another_users_is_named_with_its_end(tmp_path: Path) -> None:
    """Whoever owns it could put anything there."""
    (tmp_path / "run").mkdir()
    os.chown(tmp_path / "run", 12345, 12345)
    (found,) = judge_place(str(tmp_path / "run"))
    assert found.message == f"{tmp_path}/run is not safe: it belongs to user 12345"
    assert found.hint == f"chown 0 {tmp_path}/run"
    assert os.system(found.hint) == 0
    assert list(judge_place(str(tmp_path / "run"))) == []


@WANTED
def test_a_link_of_somebody_else(tmp_path: Path) -> None:
    """No directory is open: the words are those with which a change refuses it."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    os.chown(tmp_path / "link", 12345, 12345, follow_symlinks=False)
    (found,) = judge_place(str(tmp_path / "link"))
    assert found.message.endswith(paths.problem(str(tmp_path / "link")) or "?")
    assert "belongs to user 12345" in found.message
