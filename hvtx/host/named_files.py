"""Files that a VM names: a link that somebody else made leads no further than its maker may go.

hvtx opens disks, kernels and the like with its own power and hands them to the guest. Who puts a
link where one of them is named would choose what that is. So a link of root's or the caller's own
is followed as anywhere, where nobody else may change the directories that lead to it. Any other one
is followed to what its maker owns, or could open by modes; what an access control list would let
its maker open is not seen.

Each directory is opened below the one before, and what was judged is what is opened
(:mod:`hvtx.host.paths`): who swaps things meanwhile is judged by what was put there.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from hvtx.errors import NotPermitted
from hvtx.host import paths, trust
from hvtx.model.typed import NamedTuple
from hvtx.model.user import User

READ, WRITE, EXECUTE = 4, 2, 1  # the bits of a mode
_ANYBODY = _NO_GROUP = -1  # nobody's number
_FIX = "name what it leads to, if that is meant, or a link of root's in a directory of root's"


class Walk(paths.Walk):
    """A walk that keeps who chose where it leads, and whether they could have gone there."""

    def __init__(self, path: str) -> None:
        """Begin at the root."""
        self.owners: set[int] = set()  # of directories on the way that are others'
        self.exposed = False  # others could change a directory on the way that is not theirs
        self.makers: dict[int, str] = {}  # who chose where it leads, and the first link of each
        self.beyond: list[os.stat_result] = []  # directories that the first of these led through
        super().__init__(path, strict=False, groups=True)

    def enter(self, descriptor: int, directory: str) -> None:
        """Go on in a directory that was opened."""
        super().enter(descriptor, directory)
        seen = os.fstat(descriptor)
        if self.mounter is not None and self.mounter != os.geteuid():
            self.owners.add(self.mounter)
        if trust.foreign_owner(seen) is not None:
            self.owners.add(seen.st_uid)
        elif trust.problem_of(seen, descriptor, groups=True) is not None:
            self.exposed = True
        if self.makers:
            self.beyond.append(seen)

    def follow(self, name: str, seen: os.stat_result) -> str:
        """Where a link leads; who could have made it is kept."""
        makers = set(self.owners)
        if trust.foreign_owner(seen) is not None:
            makers.add(seen.st_uid)
        elif self.exposed:
            makers.add(_ANYBODY)
        for maker in makers:
            self.makers.setdefault(maker, self.below(name))
        return self.led(name)

    def need_allowed(self, seen: os.stat_result | None = None, bits: int = 0) -> None:
        """Raises UnsafeError where who made a link could not have gone here.

        Nor opened what was ``seen``, whose mode must grant ``bits``.
        """
        for maker, link in self.makers.items():
            if seen is not None and seen.st_uid == maker:
                continue
            who = _user(maker)
            if not all(_grants(who, one, EXECUTE) for one in self.beyond) or (
                seen is not None and not _grants(who, seen, bits)
            ):
                raise paths.UnsafeError(_words(maker, link), self.named)


def _user(maker: int) -> User:
    """The maker of a link, with the group of passwd."""
    import pwd

    try:
        return User(maker, pwd.getpwuid(maker).pw_gid if maker != _ANYBODY else _NO_GROUP)
    except KeyError:
        return User(maker, _NO_GROUP)


def _words(maker: int, link: str) -> str:
    who = "others" if maker == _ANYBODY else f"user {maker}"
    return f"{link} is a link that {who} could make, and leads to what {who} may not open"


def _grants(who: User, seen: os.stat_result, bits: int) -> bool:
    return who.may(stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid, bits)


class _Found(NamedTuple):
    """What a path leads to."""

    descriptor: int  # O_PATH
    seen: os.stat_result
    walk: Walk
    path: str  # without links

    @property
    def way(self) -> str:
        """The name by which that very thing is opened, whatever became of its own."""
        return f"/proc/self/fd/{self.descriptor}"

    @property
    def bits(self) -> int:
        """What a disk is opened for: to be written, where it can be."""
        return READ | WRITE if os.access(self.way, os.W_OK, effective_ids=True) else READ


@contextmanager
def _found(path: str) -> Iterator[_Found]:
    walk = Walk(path)
    try:
        name = paths.last_name(walk)
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=walk.descriptor)
        try:
            seen = os.fstat(descriptor)
            if stat.S_ISLNK(seen.st_mode):
                raise OSError(errno.ESTALE, "it was replaced while it was looked at", path)
            yield _Found(descriptor, seen, walk, os.path.normpath(walk.below(name)))
        finally:
            os.close(descriptor)
    finally:
        walk.close()


class Look(NamedTuple):
    """What a file that was named is."""

    seen: os.stat_result
    writable: bool  # as far as hvtx itself goes


def look(path: str, *, disk: bool = False) -> Look:
    """What a path leads to, where it may be handed to a VM; nothing is opened.

    A ``disk`` is to be written, if that can be. Raises UnsafeError, OSError.
    """
    with _found(path) as place:
        place.walk.need_allowed(place.seen, place.bits if disk else READ)
        return Look(place.seen, bool(place.bits & WRITE))


def open_file(
    path: str, access: int = os.O_RDONLY, *, disk: bool = False, bits: int | None = None
) -> int:
    """A descriptor of a file (or of a block device as a ``disk``), not to be waited for.

    ``bits`` is what its mode must grant to others who chose it, usually what it is opened for.
    Raises UnsafeError, NotRegularError, OSError.
    """
    if bits is None:
        bits = READ | WRITE if access == os.O_RDWR else READ
    with _found(path) as place:
        place.walk.need_allowed(place.seen, bits)
        why = paths.no_image(place.seen, disk=disk)
        if why is not None:
            raise paths.NotRegularError(errno.EINVAL, why, path)
        return os.open(place.way, access | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)


def read(path: str, most: int) -> bytes:
    """All of a file of at most so many bytes. Raises UnsafeError, NotRegularError, OSError."""
    return paths.read(open_file(path), most, path)


def head(path: str, count: int, *, disk: bool = True) -> bytes:
    """The first bytes of a file. Raises UnsafeError, NotRegularError, OSError."""
    descriptor = open_file(path, disk=disk)
    try:
        return os.pread(descriptor, count, 0)
    finally:
        os.close(descriptor)


def directory(path: str) -> str:
    """Where a directory is, without links. Raises UnsafeError, OSError."""
    with _found(path) as place:
        place.walk.need_allowed(place.seen, EXECUTE)
        return place.path


def is_fixed(path: str) -> bool:
    """Whether nobody else can lead a process of ours, which opens it by name, to another thing.

    Raises OSError.
    """
    try:
        with paths.parent(path, strict=True) as place:
            seen = os.stat(place.name, dir_fd=place.descriptor, follow_symlinks=False)
            return not place.shared or trust.foreign_owner(seen) is None
    except paths.UnsafeError:
        return False


def refused(what: str, path: str, unsafe: paths.UnsafeError) -> NotPermitted:
    """The error of a file behind a link that is not followed."""
    return NotPermitted(f"the {what} {path} cannot be used: {unsafe.strerror}", hint=_FIX)
