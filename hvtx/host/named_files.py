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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from hvtx.errors import NotPermitted
from hvtx.host import paths, trust
from hvtx.model.typed import NamedTuple
from hvtx.model.user import User

READ, WRITE, EXECUTE = 4, 2, 1  # the bits of a mode
_THING = os.O_PATH | os.O_CLOEXEC
_ANYBODY = _NO_GROUP = -1  # nobody's number
_FIX = "name what it leads to, if that is meant, or a link of root's in a directory of root's"


class Walk(paths.Walk):
    """A walk that keeps who chose where it leads, and whether they could have gone there."""

    def __init__(self, path: str, makers: Mapping[int, str] | None = None) -> None:
        """Begin at the root; ``makers`` is who chose the path itself, if not who runs hvtx."""
        self.owners: set[int] = set()  # of directories on the way that are others'
        self.exposed = False  # others could change a directory on the way that is not theirs
        # who chose where it leads, and how each did: the first link, or the first line, in words
        self.makers = dict(makers or {})
        self.beyond: list[os.stat_result] = []  # directories that the first of these led through
        self.nameless = False  # the last name is a link of /proc, and is opened by that
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
        self._chosen_by_link(name, seen)
        return self.led(name)

    def led(self, name: str) -> str:
        """Where a link leads; one of /proc that leads elsewhere than it reads is gone through."""
        if not self._leads_to_a_thing(name):
            return super().led(name)
        self.enter(os.open(name, _THING | os.O_DIRECTORY, dir_fd=self.descriptor), self.below(name))
        return ""

    def ends(self, name: str, seen: os.stat_result) -> bool:
        """Whether it is such a link, to something that is no directory."""
        if not self._leads_to_a_thing(name):
            return False
        if stat.S_ISDIR(os.stat(name, dir_fd=self.descriptor).st_mode):
            return False
        self._chosen_by_link(name, seen)
        self.nameless = True
        return True

    def _leads_to_a_thing(self, name: str) -> bool:
        """Whether a link of /proc leads to what no path of ours does, proc(5).

        That is what was deleted or never had a name, and what is in another mount namespace.
        """
        try:
            if self.device != os.stat("/proc").st_dev:
                return False
            to = os.readlink(name, dir_fd=self.descriptor)
            there = _identity(name, self.descriptor)
        except OSError:
            return False
        if not to.startswith("/"):
            return False
        try:
            return there != _identity(to)
        except OSError:
            return True

    def _chosen_by_link(self, name: str, seen: os.stat_result) -> None:
        for maker in self.masters(seen):
            how = f"{self.below(name)} is a link that {_who(maker)} could make, and leads"
            self.makers.setdefault(maker, how)

    def masters(self, seen: os.stat_result) -> set[int]:
        """Who could have put what was ``seen`` where it is, beside root and who runs hvtx."""
        found = set(self.owners)
        if trust.foreign_owner(seen) is not None:
            found.add(seen.st_uid)
        elif self.exposed:
            found.add(_ANYBODY)
        return found

    def need_allowed(self, seen: os.stat_result | None = None, bits: int = 0) -> None:
        """Raises UnsafeError where who made a link could not have gone here.

        Nor opened what was ``seen``, whose mode must grant ``bits``.
        """
        for maker, how in self.makers.items():
            if seen is not None and seen.st_uid == maker:
                continue
            who = _user(maker)
            if not all(_grants(who, one, EXECUTE) for one in self.beyond) or (
                seen is not None and not _grants(who, seen, bits)
            ):
                raise paths.UnsafeError(f"{how} to what {_who(maker)} may not open", self.named)


def _identity(path: str, directory: int | None = None) -> tuple[int, int, bytes]:
    """What a path leads to, and by which mount: the root of a container may be the same directory.

    The third is the line of proc_pid_fdinfo(5) that begins with ``mnt_id``. Raises OSError.
    """
    descriptor = os.open(path, _THING, dir_fd=directory)
    try:
        seen = os.fstat(descriptor)
        with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
            mount = next((line for line in file if line.startswith(b"mnt_id")), b"")
        return seen.st_dev, seen.st_ino, mount
    finally:
        os.close(descriptor)


def _user(maker: int) -> User:
    """The maker of a link, with the groups that a login would give."""
    import pwd

    try:
        known = pwd.getpwuid(maker) if maker != _ANYBODY else None
    except KeyError:
        known = None
    if known is None:
        return User(maker, _NO_GROUP)
    return User(maker, known.pw_gid, tuple(os.getgrouplist(known.pw_name, known.pw_gid)))


def _who(maker: int) -> str:
    return "others" if maker == _ANYBODY else f"user {maker}"


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
def _found(path: str, makers: Mapping[int, str] | None = None) -> Iterator[_Found]:
    walk = Walk(path, makers)
    try:
        name = paths.last_name(walk)
        flags = _THING if walk.nameless else _THING | os.O_NOFOLLOW
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


def makers_of_script(path: str, makers: Mapping[int, str]) -> dict[int, str]:
    """Who chose the interpreter that a script's first line names, and how each did, in words.

    Who led to the script (``makers``), and who could write or replace it. Raises OSError.
    """
    with _found(path, makers) as place:
        found = place.walk.makers  # and who made a link on the way to it
        masters = place.walk.masters(place.seen)
        if trust.open_to_others(place.seen, place.descriptor, groups=True):
            masters.add(_ANYBODY)
        for maker in masters:
            how = (
                f"{place.path} is a script that {_who(maker)} could write, and its first line leads"
            )
            found.setdefault(maker, how)
        return found


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
