"""Files that people name: a configuration that is read, plans and pages that are written."""

from __future__ import annotations

import os
import stat

from hvtx.errors import NotPermitted
from hvtx.host import trust


def check_configuration(path: str, descriptor: int) -> None:
    """Refuse a configuration that somebody else could have written; raises NotPermitted.

    It says where the store is, and with it what root starts.
    """
    problem = trust.file_problem(path, descriptor)
    if problem is not None:
        raise NotPermitted(
            f"the configuration {path} is not believed: {problem}",
            hint=f"make it and its directories yours alone (chown, chmod go-w {path}), or name"
            " another with --config",
        )


def write_out(path: str, text: str, *, mode: int) -> None:
    """Put ``text`` at ``path``, whole, with ``mode`` less the umask; raises OSError.

    A link is followed if it is root's or the caller's own: in a directory like ``/tmp`` others may
    have put one in the way. Devices and pipes are written to.
    """
    seen = None
    try:
        seen = os.lstat(path)
        if stat.S_ISLNK(seen.st_mode):
            if seen.st_uid not in (0, os.geteuid()):
                raise PermissionError(1, f"it is a link that user {seen.st_uid} made", path)
            seen = os.stat(path)
    except FileNotFoundError:
        pass
    place = os.path.realpath(path)
    special = seen is not None and not stat.S_ISREG(seen.st_mode)
    if special or path.startswith(("/dev/", "/proc/")):
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return
    draft = f"{place}.{os.getpid()}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(draft, flags, mode), "w", encoding="utf-8") as file:
        try:
            file.write(text)
            file.flush()
            os.rename(draft, place)
        except BaseException:
            os.unlink(draft)
            raise
