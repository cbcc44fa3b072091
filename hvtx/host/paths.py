"""Paths walked component by component, to see whether another user could change them.

Each directory is opened below the one before (``O_PATH``, no link followed), so what was looked at
is what is used, whoever renames things meanwhile. A link is followed only if root or the caller
made it, in a directory that nobody else may write: else somebody else chooses where it leads.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from hvtx.host import trust
from hvtx.model.typed import NamedTuple

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKS = 40  # as many as the kernel follows, path_resolution(7)
_NAMELESS = ("pipe:", "socket:", "anon_inode:")  # what descriptors in /proc lead to
PARENTS = 0o755
_KINDS = (
    (stat.S_ISFIFO, "a pipe (FIFO)"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISLNK, "a link"),
)


class UnsafeError(PermissionError):
    """Others could put another thing in the place of what was named; ``strerror`` says how."""

    def __init__(self, why: str, path: str) -> None:
        """``why`` is a sentence, without the ``path`` that was named."""
        super().__init__(errno.EPERM, why, path)


class NotRegularError(OSError):
    """What was to be read is a pipe, a device, a socket or a directory."""


class Parent(NamedTuple):
    """The last directory of a path, and what is named in it."""

    descriptor: int  # O_PATH
    name: str  # one name, there or not; "." for the directory itself
    directory: str  # without links
    shared: bool  # others may put something into it, or could make it another directory

    @property
    def path(self) -> str:
        """What was named, without links on the way to it."""
        return os.path.normpath(os.path.join(self.directory, self.name))


class Walk:
    """A directory, and how far it can be relied upon to be the one that was named."""

    def __init__(self, path: str, *, strict: bool, groups: bool) -> None:
        """Begin at the root."""
        self.named = path
        self.strict, self.groups = strict, groups
        self.directory = "/"
        self.sound = True  # nobody else could make it another one
        self.shared = False
        self.device = -1
        self.mounter: int | None = None  # a user whose word is all that says whose things are here
        self.descriptor = -1
        self.enter(os.open("/", _DIRECTORY), "/")

    def enter(self, descriptor: int, directory: str) -> None:
        """Go on in a directory that was opened; raises UnsafeError."""
        before = self.descriptor
        self.descriptor, self.directory = descriptor, directory
        if before >= 0:
            os.close(before)
        seen = os.fstat(descriptor)
        if seen.st_dev != self.device:
            self.device, self.mounter = seen.st_dev, trust.mounter_of(seen.st_dev)
        problem = trust.problem_of(seen, descriptor, groups=self.groups)
        if self.mounter is not None and self.mounter != os.geteuid():
            problem = f"user {self.mounter} mounted it"
        if problem is not None and self.strict:
            raise UnsafeError(f"its directory {directory} is not safe: {problem}", self.named)
        self.sound = self.sound and problem is None
        # what is sticky and open is sound, and shared
        self.shared = not self.sound or bool(
            seen.st_mode & stat.S_ISVTX
            and trust.open_to_others(seen, descriptor, groups=self.groups)
        )

    def down(self, name: str) -> None:
        """Enter what has that name and is a directory; raises OSError."""
        place = os.path.dirname(self.directory) if name == ".." else self.below(name)
        self.enter(self._open(name), place)

    def enters(self, name: str, *, make: bool) -> bool:
        """Enter a directory of that name, made if it is not there; False if it is none."""
        try:
            descriptor = self._open(name)
        except NotADirectoryError:  # a link, too
            return False
        except FileNotFoundError:
            if not make:
                raise
            make_directory(name, PARENTS, dir_fd=self.descriptor)
            descriptor = self._open(name)
        self.enter(descriptor, self.below(name))
        return True

    def _open(self, name: str) -> int:
        try:
            return os.open(name, _DIRECTORY, dir_fd=self.descriptor)
        except OSError as problem:
            problem.filename = self.below(name)
            raise

    def passes(self, name: str) -> None:
        """Hear that ``name`` is looked up here, whatever it is; raises OSError to end the walk."""

    def follow(self, name: str, seen: os.stat_result) -> str:
        """Where a link leads, if it may be followed; raises UnsafeError."""
        link = self.below(name)
        problem = trust.foreign_owner(seen)
        if problem is not None and self.strict:
            raise UnsafeError(f"its link {link} is not safe: {problem}", self.named)
        if problem is not None:
            raise UnsafeError(f"{link} is a link that user {seen.st_uid} made", self.named)
        if self.shared:
            raise UnsafeError(
                f"{link} is a link in a directory where others may put one", self.named
            )
        return self.led(name)

    def ends(self, name: str, seen: os.stat_result) -> bool:  # noqa: ARG002
        """Whether the walk ends at a link, the last name of the path: it is not followed here."""
        return False

    def led(self, name: str) -> str:
        """Where a link leads, which goes on from here; raises NotRegularError, OSError."""
        to = os.readlink(name, dir_fd=self.descriptor)
        if to.startswith(_NAMELESS):
            raise NotRegularError(
                errno.EINVAL, f"it is a {to.partition(':')[0]}, and not a regular file", self.named
            )
        if to.startswith("/"):
            self.enter(os.open("/", _DIRECTORY), "/")
        return to

    def below(self, name: str) -> str:
        """The path of ``name`` here."""
        return os.path.join(self.directory, name)

    def close(self) -> None:
        """Give the directory back."""
        descriptor, self.descriptor = self.descriptor, -1  # Ctrl-C may come as it is closed
        if descriptor >= 0:
            os.close(descriptor)


def _parts(path: str) -> list[str]:
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


def last_name(walk: Walk, *, make: bool = False) -> str:
    """Go to the last directory of the path; gives the name in it, no link but where ``ends`` says.

    ``make``: directories on the way that are missing are made, mode 0755 whatever the umask.
    """
    whole = walk.named if os.path.isabs(walk.named) else os.path.join(os.getcwd(), walk.named)
    todo = _parts(whole)
    links = 0
    while todo:
        name = todo.pop()
        if name == "..":
            walk.down(name)
            continue
        walk.passes(name)
        if todo and walk.enters(name, make=make):
            continue
        try:
            seen = os.stat(name, dir_fd=walk.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            if todo:
                raise
            return name
        if not stat.S_ISLNK(seen.st_mode):
            if todo:
                walk.down(name)  # it was replaced meanwhile, or it is no directory
                continue
            return name
        links += 1
        if links > _LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), walk.named)
        if not todo and walk.ends(name, seen):
            return name
        todo += _parts(walk.follow(name, seen))
    return "."


@contextmanager
def parent(
    path: str, *, strict: bool = False, groups: bool = False, make: bool = False
) -> Iterator[Parent]:
    """The opened directory of what ``path`` names, and its name there.

    Not ``strict``, directories may be anybody's, and what is done must be safe in such; else each
    must be one in which nobody else can replace things. Raises UnsafeError, OSError.
    """
    walk = Walk(path, strict=strict, groups=groups)
    try:
        name = last_name(walk, make=make)
        yield Parent(walk.descriptor, name, walk.directory, walk.shared)
    finally:
        walk.close()


def problem(path: str, *, groups: bool = False) -> str | None:
    """Why others could change or replace what ``path`` leads to, in words; None if they could not.

    Raises OSError: FileNotFoundError where it leads to nothing.
    """
    try:
        with parent(path, strict=True, groups=groups) as place:
            seen = os.stat(place.name, dir_fd=place.descriptor, follow_symlinks=False)
            return trust.problem_of(seen, place.path, groups=groups)
    except UnsafeError as unsafe:
        return unsafe.strerror


def nearest(path: str) -> str:
    """It, or the directory above that is there."""
    path = os.path.abspath(path)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def open_believed(path: str) -> int:
    """Open a regular file for reading that nobody else could have written or replaced.

    Raises UnsafeError, NotRegularError, OSError.
    """
    with parent(path, strict=True) as place:
        return open_regular(place.name, dir_fd=place.descriptor, named=path, believed=True)


def open_regular(
    path: str, *, dir_fd: int | None = None, named: str | None = None, believed: bool = False
) -> int:
    """Open a regular file for reading, without waiting and without touching anything else.

    Opening a pipe waits for its writer, and opening a device may do something; so it is looked at
    first, and what was looked at is opened. ``named`` is its path for messages. What is to be
    ``believed`` is no link and nobody else's to write. Raises UnsafeError, NotRegularError,
    OSError.
    """
    named = path if named is None else named
    flags = os.O_PATH | os.O_CLOEXEC | (os.O_NOFOLLOW if believed else 0)
    try:
        looked = os.open(path, flags, dir_fd=dir_fd)
        try:
            seen = os.fstat(looked)
            need_regular(seen, named)
            if believed and not is_null(seen):  # it has nothing that anybody could write
                need_trusted(seen, looked, named)
            return _reopen(looked, path, dir_fd, seen)
        finally:
            os.close(looked)
    except OSError as problem:
        problem.filename = named
        raise


def need_regular(seen: os.stat_result, named: str) -> None:
    """Raises NotRegularError, which says what it is; ``/dev/null`` will do as an empty file."""
    if not stat.S_ISREG(seen.st_mode) and not is_null(seen):
        raise NotRegularError(errno.EINVAL, f"it is {kind_of(seen)}, and not a regular file", named)


def no_image(seen: os.stat_result, *, disk: bool) -> str | None:
    """In words, why something is no file to boot from; None if it may be one (pure).

    A disk may be a block device. ``/dev/null`` is an empty file to whoever reads it, as a kernel is
    read, and no disk.
    """
    regular = stat.S_ISREG(seen.st_mode)
    if regular or (stat.S_ISBLK(seen.st_mode) if disk else is_null(seen)):
        return None
    return f"it is {kind_of(seen)}, and not a regular file" + " or a block device" * disk


def is_null(seen: os.stat_result) -> bool:
    """Whether it is ``/dev/null``: nothing to be read, and nothing keeps."""
    return stat.S_ISCHR(seen.st_mode) and seen.st_rdev == os.makedev(1, 3)


def need_trusted(seen: os.stat_result, descriptor: int, named: str) -> None:
    """Raises UnsafeError if others could have written what was opened."""
    why = trust.problem_of(seen, descriptor)
    if why is not None:
        raise UnsafeError(why, named)


def kind_of(seen: os.stat_result) -> str:
    """What something is, with its article."""
    return next((words for fits, words in _KINDS if fits(seen.st_mode)), "a regular file")


def _reopen(looked: int, path: str, dir_fd: int | None, seen: os.stat_result) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    with suppress(FileNotFoundError):  # no /proc here
        return os.open(f"/proc/self/fd/{looked}", flags)
    descriptor = os.open(path, flags, dir_fd=dir_fd)
    again = os.fstat(descriptor)
    if (again.st_dev, again.st_ino) != (seen.st_dev, seen.st_ino):
        os.close(descriptor)
        raise OSError(errno.ESTALE, "it was replaced while it was inspected")
    return descriptor


def read(descriptor: int, most: int, named: str) -> bytes:
    """All of a file, which is closed; raises OSError for one of more than ``most`` bytes."""
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most} bytes", named)
    return data


def read_regular(path: str, most: int) -> bytes:
    """All of a regular file of anybody's; raises NotRegularError, OSError."""
    return read(open_regular(path), most, path)


def read_believed(path: str, most: int) -> bytes:
    """All of a regular file that nobody else could have written; raises as opening it does."""
    return read(open_believed(path), most, path)


def make_directory(path: str, mode: int, *, dir_fd: int | None = None) -> bool:
    """Make a directory with that very mode, whatever the umask; False if it was there."""
    try:
        os.mkdir(path, mode, dir_fd=dir_fd)
    except FileExistsError:
        return False
    made = os.open(path, _DIRECTORY, dir_fd=dir_fd)
    try:
        seen = os.fstat(made)
        if seen.st_uid == os.geteuid() and seen.st_mode & 0o777 != mode:
            os.chmod(f"/proc/self/fd/{made}", mode | stat.S_IMODE(seen.st_mode) & ~0o777)
    finally:
        os.close(made)
    return True


def make_directories(path: str, mode: int = PARENTS) -> bool:
    """Make a directory with ``mode`` and its missing parents with 0755, whatever the umask.

    False if it was there. Nobody else may have a hand in where it is: raises UnsafeError, OSError.
    """
    with parent(path, strict=True, make=True) as place:
        if place.name != "." and make_directory(place.name, mode, dir_fd=place.descriptor):
            return True
        seen = os.stat(place.name, dir_fd=place.descriptor, follow_symlinks=False)
        if not stat.S_ISDIR(seen.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        return False
