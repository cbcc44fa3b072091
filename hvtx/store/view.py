"""The view as a file: what a group may read beside a store that only its owner may.

``<run-dir>/view/<store>.json``, mode 0640, of the configured group, in a directory 0750, where
``<store>`` is a hash of the state directory's path: a reader does not know the installation.

Invariants
1. A view is derived: losing it loses nothing, and nothing is ever decided from it.
2. It is replaced whole (another name, then rename), by one publisher at a time.
3. ``<store>.seq`` holds the number of the newest change of the store, which is raised *before* each
   commit, and that of the published view: where they differ the view may be stale, and where they
   are equal it is not. Who publishes nothing raises it as well, once it is there.
4. A reader believes only what belongs to root or to the store's owner, is no link, and cannot be
   written by anybody else.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from struct import Struct
from zlib import crc32

from hvtx.errors import NotPermitted, StoreError
from hvtx.host import failpoint, paths
from hvtx.model.typed import NamedTuple

DIRECTORY = "view"
_FOR_MEMBERS, _PASSABLE = 0o750, 0o011


class Place(NamedTuple):
    """Where the view of a store is."""

    directory: str
    document: str
    numbers: str  # of the newest change and of the published view, 8 bytes each, little-endian


def place(state_directory: str, run_directory: str) -> Place:
    """Where the view of the store in ``state_directory`` is (pure)."""
    directory = os.path.join(run_directory, DIRECTORY)
    name = f"{crc32(os.fsencode(state_directory)):08x}"
    return Place(
        directory,
        os.path.join(directory, f"{name}.json"),
        os.path.join(directory, f"{name}.seq"),
    )


_NUMBERS = Struct("<QQ")


def note_change(where: Place, seq: int) -> None:
    """Say that the store is about to have change ``seq``, where a view of it is published.

    Raises OSError, as where none is.
    """
    flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(where.numbers, flags)
    try:
        seen = os.fstat(descriptor)
        paths.need_regular(seen, where.numbers)
        if seen.st_uid in (0, os.geteuid()):
            os.pwrite(descriptor, seq.to_bytes(8, "little"), 0)
    finally:
        os.close(descriptor)


class Publisher:
    """Writes the view of one store for the members of a group, in one directory that it opened."""

    def __init__(self, where: Place, group: int) -> None:
        """``group`` is an id; nothing is made before the first change."""
        self._where = where
        self._group = group
        self._directory: int | None = None
        self._numbers: int | None = None

    def close(self) -> None:
        """Give back the descriptors."""
        for descriptor in (self._numbers, self._directory):
            if descriptor is not None:
                os.close(descriptor)
        self._numbers = self._directory = None

    def note(self, seq: int) -> None:
        """Say that the store is about to have change ``seq``; OSError if that cannot be said."""
        os.pwrite(self._open_numbers(), seq.to_bytes(8, "little"), 0)

    def is_fresh(self, newest: int) -> bool:
        """Whether the view is there and has change ``newest``, the store's, and says so."""
        seen = os.pread(self._open_numbers(), _NUMBERS.size, 0)
        try:
            os.stat(self._document, dir_fd=self._directory, follow_symlinks=False)
        except OSError:
            return False
        if len(seen) < _NUMBERS.size:
            return False
        changed, published = _NUMBERS.unpack(seen)
        return bool(changed == published == newest)

    def publish(self, text: bytes, seq: int) -> None:
        """Put ``text``, which has change ``seq``, in the view's place, whole. Raises OSError."""
        numbers = self._open_numbers()
        here, draft = self._directory, f"{self._document}.new"
        with suppress(FileNotFoundError):
            os.unlink(draft, dir_fd=here)  # of a publisher that was killed; there is one at a time
        with os.fdopen(self._open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            file.write(text)
        failpoint.reach("drafted:view")
        os.rename(draft, self._document, src_dir_fd=here, dst_dir_fd=here)
        failpoint.reach("renamed:view")
        os.pwrite(numbers, seq.to_bytes(8, "little"), 8)

    @property
    def _document(self) -> str:
        return os.path.basename(self._where.document)

    def _open_numbers(self) -> int:
        if self._numbers is None:
            self._directory = self._open_directory()
            name = os.path.basename(self._where.numbers)
            self._numbers = self._open(name, os.O_RDWR | os.O_CREAT)
        return self._numbers

    def _open(self, name: str, flags: int) -> int:
        flags |= os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(name, flags, 0o600, dir_fd=self._directory)
        try:
            paths.need_regular(os.fstat(descriptor), name)
            os.fchown(descriptor, -1, self._group)
            os.fchmod(descriptor, 0o640)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _open_directory(self) -> int:
        """The directory, and a way to it for the members: others see names in the run directory."""
        if self._directory is not None:
            return self._directory
        run_directory, name = os.path.split(self._where.directory)
        paths.make_directories(run_directory)
        with paths.parent(self._where.directory, strict=True) as place:
            paths.make_directory(name, 0o700, dir_fd=place.descriptor)
            opened = _directory(name, place.descriptor)
            try:
                self._let_members_in(opened)
                above = _directory(".", place.descriptor)
                try:
                    mode = stat.S_IMODE(os.fstat(above).st_mode)
                    if mode & _PASSABLE != _PASSABLE:
                        os.fchmod(above, mode | _PASSABLE)
                finally:
                    os.close(above)
            except BaseException:
                os.close(opened)
                raise
        return opened

    def _let_members_in(self, opened: int) -> None:
        seen = os.fstat(opened)
        if seen.st_uid != os.geteuid():
            raise StoreError(
                f"{self._where.directory} is not a directory of this user's",
                hint="remove it, or choose another place with --run-dir",
            )
        if (stat.S_IMODE(seen.st_mode), seen.st_gid) != (_FOR_MEMBERS, self._group):
            os.fchown(opened, -1, self._group)
            os.fchmod(opened, _FOR_MEMBERS)


def _directory(name: str, above: int) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, dir_fd=above)


def read(where: Place, state_directory: str) -> tuple[bytes, int]:
    """The view's text, and the number of the store's newest change (-1 if that is not told).

    Raises FileNotFoundError, PermissionError; NotPermitted for a view that is not to be believed.
    """
    friends = {0, os.geteuid()}
    with suppress(OSError):
        friends.add(os.lstat(state_directory).st_uid)
    _check(where.directory, os.lstat(where.directory), friends)
    text = _read(where.document, friends)
    try:
        numbers = _read(where.numbers, friends)
    except FileNotFoundError:
        numbers = b""
    return text, _NUMBERS.unpack(numbers)[0] if len(numbers) == _NUMBERS.size else -1


def _read(path: str, friends: set[int]) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as problem:
        raise _unbelieved(path, problem.strerror or "it cannot be opened") from problem
    with os.fdopen(descriptor, "rb") as file:
        seen = os.fstat(descriptor)
        if not stat.S_ISREG(seen.st_mode):
            raise _unbelieved(path, "it is not a regular file")
        _check(path, seen, friends)
        return file.read()


def _check(path: str, seen: os.stat_result, friends: set[int]) -> None:
    if seen.st_uid not in friends:
        raise _unbelieved(path, f"it belongs to user {seen.st_uid}")
    if stat.S_IMODE(seen.st_mode) & 0o022:
        raise _unbelieved(path, "others may write it")
    if stat.S_ISLNK(seen.st_mode):
        raise _unbelieved(path, "it is a link")


def _unbelieved(path: str, why: str) -> NotPermitted:
    return NotPermitted(
        f"refusing to use {path}: {why}", hint="root removes it, and `hvtx recover` makes a new one"
    )
