"""Run-time directories of VMs: sockets and rendered configuration, gone with the VM's resources.

The directory's name is the VM's id below a directory that only hvtx writes to; a file ``mark`` in
it carries the row's mark.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hvtx.drivers.base import Host
from hvtx.errors import HostRefused
from hvtx.host.files import is_there
from hvtx.model.resource import GONE, FileSpec, Kind, Outcome, Resource


class FileDriver:
    """Makes and removes run-time directories (``FileSpec``)."""

    kinds = frozenset({Kind.FILE})

    def __init__(self, host: Host) -> None:
        """Everything lies below the host's run directory."""
        self._host = host

    def create(self, resources: Sequence[Resource]) -> Mapping[int, dict[str, Any]]:
        """Make the directories, mode 0700; returns ``{}`` each."""
        return {row.id: _create(row) for row in resources}

    def release(self, resources: Sequence[Resource]) -> Mapping[int, Outcome]:
        """Remove the directories that carry their mark."""
        return {row.id: _release(row) for row in resources}


def _create(row: Resource) -> dict[str, Any]:
    spec: FileSpec = row.spec  # type: ignore[assignment]
    path = Path(spec["path"])
    draft = Path(spec["path"] + ".new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _clear(str(draft))
        draft.mkdir(mode=0o700)
        (draft / "mark").write_text(row.mark)
        os.rename(draft, path)  # an existing directory with anything in it refuses
    except OSError as problem:
        raise HostRefused(
            f"the run-time directory {path} cannot be made: {problem.strerror}",
            hint="look at the run directory's permissions and space, or choose another --run-dir",
        ) from problem
    return {}


def mark_of(path: str) -> str | None:
    """The mark that a run-time directory carries; None without one. OSError if it is unreadable."""
    try:
        return Path(path, "mark").read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _release(row: Resource) -> Outcome:
    spec: FileSpec = row.spec  # type: ignore[assignment]
    path, draft = Path(spec["path"]), Path(spec["path"] + ".new")
    _clear(str(draft))
    try:
        if not is_there(spec["path"]):
            return GONE
        carried = None if path.is_symlink() else mark_of(spec["path"])
    except OSError as problem:
        return Outcome(False, "observe-failed", f"{path} cannot be seen: {problem.strerror}")
    if carried != row.mark:
        return Outcome(False, "mark-mismatch", f"{path} does not carry the mark {row.mark}")
    try:
        for inside in path.iterdir():
            if inside.name != "mark":
                inside.unlink()
        # out of the way in one step: killed here, it is what `_clear` finds, and never unmarked
        os.rename(path, draft)
        (draft / "mark").unlink()
        draft.rmdir()
    except OSError as problem:
        return Outcome(False, "host-refused", f"{path} cannot be removed: {problem.strerror}")
    return GONE


def _clear(path: str) -> None:
    """Remove what a killed start may have left half made; nothing is there nearly always."""
    if os.path.lexists(path):
        import shutil

        shutil.rmtree(path, ignore_errors=True)
