"""A file that a person named is written: whole, for its owner, and through nothing of others.

Its directory is opened once and all is done there: one look at what has the name decides. A file
of root's or the caller's is replaced by a new one; a pipe or a device of theirs is written to;
what belongs to somebody else is left alone, and so is a link that somebody else may have put there
(:mod:`hvtx.host.paths`).
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress

from hvtx.host import paths, trust
from hvtx.host.failpoint import reach

PRIVATE = 0o600
_OWN = re.compile(
    r"/dev/(?:(?P<name>stdin|stdout|stderr)|fd/(?P<fd>\d{1,7}))"
    r"|/proc/(?:self|thread-self|(?P<pid>\d+))/fd/(?P<number>\d{1,7})"
)
OF_STORE = "it is a file of a state store"
# What lies in a directory of hvtx, and the names that are its own there.
_OF_STORES = {
    "queue.lock": r"hvtx\.db(-wal|-shm|-journal|\.new)?|queue\.lock|reserve(\.\d)?|logs",
    "../queue.lock": r".*\.log(\.\d+)?",
    "operations.lock": r"operations\.lock|names\.lock|hwm",
}
_STREAMS = {"stdin": 0, "stdout": 1, "stderr": 2}


def write_out(
    path: str,
    data: bytes,
    *,
    mode: int = PRIVATE,
    replace: bool = True,
    sync: bool = False,
    make: bool = False,
    draft: str = "",
) -> None:
    """Put ``data`` at ``path``, whole, with ``mode`` whatever the umask.

    ``replace``: a regular file may be there. ``sync``: it outlasts a power cut. ``make``: missing
    directories are made. ``draft``: what its name has more while it is written, where a killed call
    is to be cleaned up by the next; else that is a name of its own. Raises FileExistsError,
    UnsafeError (it is somebody else's to change or to read), OSError.
    """
    number = _own_descriptor(path)
    if number is not None:
        _pour(os.dup(number), data)
        return
    with paths.parent(path, make=make) as place:
        if _is_of_store(place):
            raise OSError(errno.EINVAL, OF_STORE, path)
        seen = _look(place, path)
        if seen is not None and not stat.S_ISREG(seen.st_mode):
            _pour(_open_special(place, path), data)
            return
        if seen is not None and not replace:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        name = place.name + draft if draft else f".hvtx-{os.urandom(6).hex()}.new"
        if draft:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=place.descriptor)
        descriptor = _create(place, name, data, mode)
        try:
            if sync:
                os.fsync(descriptor)
            reach("drafted:output")
            _name(place, name, replace=replace)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=place.descriptor)
            raise
        finally:
            os.close(descriptor)
        if sync:
            sync_directory(place.descriptor)


def refusal(path: str) -> str | None:
    """Why nothing would be written at ``path`` now, since others have a hand in it; else None."""
    try:
        with paths.parent(path) as place:
            _look(place, path)
    except paths.UnsafeError as unsafe:
        return unsafe.strerror
    except OSError:
        pass  # it may be made yet, and is looked at each time
    return None


def is_own(path: str) -> bool:
    """Whether ``path`` is such as ``/dev/stdout``: a descriptor that the caller opened for us."""
    try:
        return _own_descriptor(path) is not None
    except OSError:
        return False


def is_of_store(path: str) -> bool:
    """Whether ``path`` names a file by which a state store, or its VMs, work. Raises OSError."""
    with paths.parent(os.path.realpath(path)) as place:
        return _is_of_store(place)


def _is_of_store(place: paths.Parent) -> bool:
    """Told by what lies beside it, whichever store that is: its name alone could be anything."""

    def beside(name: str) -> bool:
        try:
            os.stat(name, dir_fd=place.descriptor, follow_symlinks=False)
        except OSError:
            return False
        return True

    return any(
        beside(key) and re.fullmatch(names, place.name) is not None
        for key, names in _OF_STORES.items()
    )


def _look(place: paths.Parent, path: str) -> os.stat_result | None:
    """What is there, if anything; raises UnsafeError, OSError for what must not be written to."""
    try:
        seen = os.stat(place.name, dir_fd=place.descriptor, follow_symlinks=False)
    except FileNotFoundError:
        return None
    _refuse(seen, path)
    return seen


def _own_descriptor(path: str) -> int | None:
    """The descriptor that a path like ``/dev/stdout`` names, if whoever started us opened it.

    That may be anybody's pipe or terminal: it is where the caller said that output goes.
    """
    found = _OWN.fullmatch(path)
    if found is None or found["pid"] not in (None, str(os.getpid())):
        return None
    number = _STREAMS[found["name"]] if found["name"] else int(found["fd"] or found["number"])
    if not os.get_inheritable(number):
        raise OSError(errno.EBADF, "nobody opened it for hvtx", path)
    return number


def _refuse(seen: os.stat_result, path: str) -> None:
    """Refuse what is there, if it is not for us to write; raises UnsafeError, OSError.

    The null device keeps nothing, whosever it is: tcpdump 4.99 gives the node to its own user.
    """
    if paths.is_null(seen):
        return
    if (problem := trust.foreign_owner(seen)) is not None:
        raise paths.UnsafeError(problem, path)
    if stat.S_ISDIR(seen.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if stat.S_ISBLK(seen.st_mode) or stat.S_ISSOCK(seen.st_mode):
        raise OSError(errno.EINVAL, f"it is {paths.kind_of(seen)}", path)
    if stat.S_ISFIFO(seen.st_mode) and seen.st_mode & 0o077:
        words = f"it is a pipe that others may open (mode {seen.st_mode & 0o777:04o})"
        raise paths.UnsafeError(words, path)


def _open_special(place: paths.Parent, path: str) -> int:
    """Open a pipe or a device of ours for writing: the very one that was looked at.

    As with any program, a pipe waits for its reader.
    """
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    looked = os.open(place.name, flags, dir_fd=place.descriptor)
    try:
        seen = os.fstat(looked)
        _refuse(seen, path)
        if stat.S_ISREG(seen.st_mode) or stat.S_ISLNK(seen.st_mode):
            raise OSError(errno.ESTALE, "it was replaced while it was inspected", path)
        return os.open(f"/proc/self/fd/{looked}", os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
    finally:
        os.close(looked)


def _pour(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        left = memoryview(data)
        while left:
            left = left[file.write(left) or 0 :]


def _create(place: paths.Parent, name: str, data: bytes, mode: int) -> int:
    """Write a new file in the opened directory; raises OSError, and then nothing of it is left."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, PRIVATE, dir_fd=place.descriptor)
    try:
        os.fchmod(descriptor, mode)
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
    except BaseException:
        os.close(descriptor)
        os.unlink(name, dir_fd=place.descriptor)
        raise
    return descriptor


def _name(place: paths.Parent, draft: str, *, replace: bool) -> None:
    """Give the draft its name; where it may not ``replace`` anything, raises FileExistsError."""
    here = place.descriptor
    if not replace:
        try:
            os.link(draft, place.name, src_dir_fd=here, dst_dir_fd=here, follow_symlinks=False)
        except PermissionError:  # no hard links on this file system
            with suppress(FileNotFoundError):
                os.stat(place.name, dir_fd=here, follow_symlinks=False)
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), place.path) from None
        else:
            os.unlink(draft, dir_fd=here)
            return
    os.rename(draft, place.name, src_dir_fd=here, dst_dir_fd=here)


def sync_directory(descriptor: int) -> None:
    """Make names that were given or taken in a directory (``O_PATH``) last; raises OSError."""
    opened = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=descriptor)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
