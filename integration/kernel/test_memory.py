"""Temporary files of the tests, where they are in memory: what goes with a test, and what does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from integration.lab import memory

MOUNTED = """
import subprocess, sys
from pathlib import Path
from integration.lab import memory
place = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "none", place / "deep" / "other"], check=True)
(place / "deep" / "other" / "file").write_text("another's")
memory.emptied(place)
print(*sorted(str(path.relative_to(place)) for path in place.rglob("*")))
"""


def test_a_directory_goes_with_all_that_is_in_it(tmp_path: Path) -> None:
    place = tmp_path / "place"
    (place / "deep").mkdir(parents=True)
    (place / "deep" / "file").write_text("ours")
    (place / "link").symlink_to(tmp_path)
    memory.emptied(place)
    assert not place.exists()
    assert tmp_path.exists()


def test_what_is_mounted_in_it_stays(tmp_path: Path) -> None:
    (tmp_path / "deep" / "other").mkdir(parents=True)
    (tmp_path / "deep" / "file").write_text("ours")
    argv = ["unshare", "--mount", sys.executable, "-c", MOUNTED, str(tmp_path)]
    said = subprocess.run(
        argv, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    ).stdout
    assert said.split() == ["deep", "deep/other", "deep/other/file"]


def test_what_is_in_memory_is_known() -> None:
    assert memory.holds(Path("/tmp/hvtx-tests-x/pytest-0/test0"))
    assert not memory.holds(Path("/tmp/pytest-0/test0"))
