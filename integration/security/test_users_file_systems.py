"""File systems that users mount (FUSE): their word about owners, and their silence."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvtx.host import installation_processes, lock_holder, named_files, paths
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
        server = fuse.Server(at, STRANGER, str(target), others=True)
        assert (at / "link").lstat().st_uid == 0
        with pytest.raises(paths.UnsafeError, match=f"user {STRANGER}"):
            named_files.open_file(str(at / "link"))
        assert f"user {STRANGER} mounted" in str(paths.problem(str(at / "link")))
        with pytest.raises(paths.UnsafeError, match=f"user {STRANGER} mounted"):
            paths.open_believed(str(at / "link"))
        server.close()

    fuse.apart(test)


def test_what_root_mounted_is(place: Path) -> None:
    target, at = place / "target", place / "roots"
    target.write_bytes(b"image")
    at.mkdir()

    def test() -> None:
        server = fuse.Server(at, 0, str(target))
        assert named_files.read(str(at / "link"), 10) == b"image"
        server.close()

    fuse.apart(test)


def works_there(at: Path) -> subprocess.Popen[bytes]:
    """A process of the stranger that works in the file system, and has a file of it open."""
    script = 'cd "$0" && exec 8<. && echo here && exec sleep 60'
    who = (
        "setpriv",
        "--reuid",
        str(STRANGER),
        "--regid",
        str(STRANGER),
        "--clear-groups",
        "--pdeathsig",
        "KILL",
    )
    process = subprocess.Popen([*who, "sh", "-c", script, str(at)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"here\n"
    return process


@pytest.mark.parametrize("silent", [False, True], ids=["refused", "silent"])
@pytest.mark.parametrize("which", ["processes", "locks"])
def test_who_works_there_holds_nobody_up(place: Path, which: str, silent: bool) -> None:
    """A look at such a file is refused, also to root; where nobody answers it never ends."""
    at, own = place / "theirs", place / "vm"
    at.mkdir()
    own.mkdir()
    os.chown(at, STRANGER, STRANGER)

    def test() -> None:
        server = fuse.Server(at, STRANGER, "nowhere", owner=STRANGER, others=silent)
        process = works_there(at)
        try:
            if silent:
                server.fall_silent()
            if which == "processes":
                seen = installation_processes.at(str(own))
                assert not [each for each in seen.unseen if f"pid {process.pid}" in each]
                assert seen.found == ()
            else:
                assert lock_holder.of_file(str(own)) is None
        finally:
            server.close()
            process.kill()
            process.wait()

    fuse.apart(test)


def test_who_works_in_it_by_another_mount_is_found(place: Path) -> None:
    """By the list of mounts that the process itself has, below a root of its own too."""
    own, other = place / "vm", place / "other"
    (own / "below").mkdir(parents=True)
    (other / "within").mkdir(parents=True)

    def test() -> None:
        script = 'mount --bind "$0" "$1/within" && cd "$1/within/$2" && echo here && exec sleep 60'
        for below in ("", "below"):
            argv = ("unshare", "-m", "sh", "-c", script, str(own), str(other), below)
            process = subprocess.Popen(argv, stdout=subprocess.PIPE)
            assert process.stdout is not None
            try:
                assert process.stdout.readline() == b"here\n"
                found = installation_processes.at(str(own)).found
                assert found == (f"sleep (pid {process.pid})",)
            finally:
                process.kill()
                process.wait()

    fuse.apart(test)
