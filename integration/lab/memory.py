"""Temporary files of the tests in memory: a store syncs what it writes, and a disk takes time for it.

No test cuts the power of this machine: what a sync is worth is shown with a disk of its own
(`tox -e powercut`) and from recorded writes (`tests/store`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import tempfile
from pathlib import Path

from integration.lab.unprivileged import mount_in_memory

ENOUGH = 4 << 20  # KiB that must be available
_PREFIX = "hvtx-tests-"
_MNT_DETACH = 2


def available() -> int:
    """The memory that programs can have without swapping, in KiB."""
    found = re.search(r"^MemAvailable: +(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def mounted() -> Path | None:
    """Mount a file system in memory for this process and its children; where temporary files are.

    None, and nothing done, where there is too little memory.
    """
    if available() < ENOUGH:
        return None
    place = Path(tempfile.mkdtemp(prefix=_PREFIX))
    mount_in_memory(str(place), "1777")
    os.environ["TMPDIR"] = tempfile.tempdir = str(place)
    return place


def unmounted(place: Path) -> None:
    """Take it away again, with all that is in it."""
    del os.environ["TMPDIR"]
    tempfile.tempdir = None
    ctypes.CDLL(None).umount2(bytes(place), _MNT_DETACH)
    with contextlib.suppress(OSError):
        place.rmdir()


def holds(place: Path) -> bool:
    """Whether a directory is in a file system that `mounted` made, here or in a process above."""
    return any(above.name.startswith(_PREFIX) for above in place.parents)


def emptied(place: str | Path) -> None:
    """Remove a directory with all that is in it, but nothing that is mounted there."""
    with contextlib.suppress(OSError):
        device = os.lstat(place).st_dev
        for entry in list(os.scandir(place)):
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
            elif entry.stat(follow_symlinks=False).st_dev == device:
                emptied(entry.path)
        os.rmdir(place)
