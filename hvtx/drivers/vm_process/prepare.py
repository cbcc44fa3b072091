"""The run-time directory of a VM before its start: files, no left-over sockets, a log."""

from __future__ import annotations

import contextlib
import os

from hvtx.errors import HostRefused
from hvtx.host import capabilities, logger, paths
from hvtx.hypervisors.base import Launch
from hvtx.model.user import User


def prepare(launch: Launch, directory: str, log_path: str, user: User | None = None) -> None:
    """Make the run-time ``directory`` (which exists) ready: files, no left-over sockets, a log.

    The directory and what is in it becomes the VM's ``user``'s, and stays closed to others. hvtx
    reads nothing there afterwards. Raises HostRefused, naming the file.
    """
    try:
        for name in launch.sockets:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, name))
        for name, content in launch.files.items():
            _write(os.path.join(directory, name), content, user)
        if user is not None:
            _give(directory, user)
        shorten(log_path)
    except OSError as problem:
        raise HostRefused(
            f"{problem.filename or directory} cannot be written: {problem.strerror}",
            hint="look at the permissions and the free space of the run and state directories",
        ) from problem


def _give(directory: str, user: User) -> None:
    """Make the run-time directory its user's; without CAP_DAC_OVERRIDE ours as a group, too."""
    if capabilities.has("CAP_DAC_OVERRIDE"):
        os.chown(directory, user.uid, user.gid)
    else:
        os.chmod(directory, 0o2770)  # noqa: S103 - sockets in it are for that group
        os.chown(directory, user.uid, os.getegid())


def shorten(path: str, limit: int = logger.HALF) -> None:
    """Cut a log that is longer than ``limit`` bytes down to whole lines of its last half."""
    try:
        if os.stat(path).st_size <= limit:
            return
    except FileNotFoundError:
        return
    with os.fdopen(paths.open_regular(path), "rb") as log:
        log.seek(-(limit // 2), os.SEEK_END)
        kept = log.read()
    _write(path, kept[kept.find(b"\n") + 1 :])


def _write(path: str, content: bytes, user: User | None = None) -> None:
    """Put ``content`` where ``path`` is in one step, readable by its owner (``user``) only."""
    draft = path + ".new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(draft)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(draft, flags, 0o600), "wb") as file:
        if user is not None:
            os.fchown(file.fileno(), user.uid, user.gid)
        file.write(content)
    os.rename(draft, path)
