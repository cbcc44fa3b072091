"""File systems that users mount (FUSE): their word about owners, and their silence."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvtx.host import named_files, paths
from integration.lab import fuse

STRANGER = 54321
pytestmark = pytest.mark.skipif(not fuse.DEVICE.exists(), reason="this kernel has no FUSE")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of root's that everybody may enter, in one where all may make some."""
    made = Path(tempfile.mkdtemp(prefix="hvtx-fuse-", dir="/var/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def test_that_all_is_roots_is_not_believed(place: Path) -> None:
    """With `allow_other` root can look, and is told that directory and link are root's."""
    target, at = place / "target", place / "theirs"
    target.write_bytes(b"secret")
    target.chmod(0o600)
    at.mkdir()

    def test() -> None:
        fuse.Server(at, STRANGER, str(target), others=True)
        assert (at / "link").lstat().st_uid == 0
        with pytest.raises(paths.UnsafeError, match=f"user {STRANGER}"):
            named_files.open_file(str(at / "link"))
        assert f"user {STRANGER} mounted" in str(paths.problem(str(at / "link")))
        with pytest.raises(paths.UnsafeError, match=f"user {STRANGER} mounted"):
            paths.open_believed(str(at / "link"))

    fuse.apart(test)


def test_what_root_mounted_is(place: Path) -> None:
    target, at = place / "target", place / "roots"
    target.write_bytes(b"image")
    at.mkdir()

    def test() -> None:
        fuse.Server(at, 0, str(target))
        assert named_files.read(str(at / "link"), 10) == b"image"

    fuse.apart(test)
