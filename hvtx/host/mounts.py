"""The file system of a path, by the kernel's list of mounts."""

from __future__ import annotations

import errno
import os

from hvtx.model.typed import NamedTuple

_LOCAL = frozenset(
    ("tmpfs", "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "overlay", "f2fs", "bcachefs", "ramfs")
)


class Place(NamedTuple):
    """A directory by its file system, whatever it is mounted at."""

    device: str  # major:minor
    path: str  # from the root of the file system


def filesystem_of(path: str) -> str:
    """The type of the file system that ``path`` is on (``ext4``); empty if it cannot be told."""
    return _find(path)[0]


def is_local(path: str) -> bool:
    """Whether a path is on a file system of this host, by its name alone: nobody else answers.

    False where that cannot be told.
    """
    try:
        with open("/proc/thread-self/mountinfo", encoding="utf-8", errors="replace") as file:
            return find_mount(file.read(), os.path.normpath(path))[0] in _LOCAL
    except OSError:
        return False


def mount_of(path: str) -> str:
    """Where the file system of ``path`` is mounted; ``/`` if it cannot be told."""
    return _find(path)[1]


def _find(path: str) -> tuple[str, str]:
    try:
        with open("/proc/thread-self/mountinfo", encoding="utf-8", errors="replace") as file:
            return find_mount(file.read(), os.path.realpath(path))
    except OSError:
        return "", "/"


def find_mount(mountinfo: str, path: str) -> tuple[str, str]:
    """The type and place of a path's mount, from a text in the form of proc(5), mountinfo.

    Of several mounts the last counts. Pure.
    """
    found = _mount_of(mountinfo, path)
    return ("", "/") if found is None else (found[1].split(" ")[0], unescaped(found[0][4]))


def find_place(mountinfo: str, path: str) -> Place | None:
    """Where a path leads, by such a text and by nothing else: no file system is asked (pure)."""
    found = _mount_of(mountinfo, path)
    if found is None:
        return None
    fields = found[0]
    top, below = unescaped(fields[3]), path[len(unescaped(fields[4]).rstrip("/")) :]
    return Place(fields[2], f"{top.rstrip('/')}{below}".rstrip("/") or "/")


def _mount_of(mountinfo: str, path: str) -> tuple[list[str], str] | None:
    """The line of a path's mount: what stands before its optional fields, and behind them."""
    found, longest = None, -1
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 5 or not right:
            continue
        place = unescaped(fields[4])
        if _is_below(path, place) and len(place) >= longest:
            found, longest = (fields, right), len(place)
    return found


class Mounts:
    """The mounts that processes see, read once for all that see the same; nothing is asked of them.

    Looking at a file itself waits without an end where its server is gone, and is refused where
    another user mounted it (FUSE).
    """

    def __init__(self) -> None:
        """Nothing is read yet."""
        self._read: dict[tuple[str, str], str] = {}
        self._with: dict[tuple[tuple[str, str], str], tuple[str, ...]] = {}

    def place(self, path: str) -> Place | None:
        """Where ``path`` leads, one without links; None: it is not known. Raises OSError."""
        return find_place(self._text("thread-self")[1], path)

    def place_of(self, process: str, path: str, device: str) -> Place | None:
        """Where ``path`` leads, a link of a ``process`` in /proc, if that is on ``device``.

        Raises OSError.
        """
        seen, text = self._text(process)
        root = seen[1].rstrip("/")  # the process's own, below which it sees its mounts
        if root and path != root and not path.startswith(f"{root}/"):
            return None
        path = path[len(root) :] or "/"
        if (seen, device) not in self._with:
            self._with[seen, device] = mounted(text, device)
        if not any(_is_below(path, place) for place in self._with[seen, device]):
            return None
        found = find_place(text, path)
        return found if found is not None and found.device == device else None

    def _text(self, process: str) -> tuple[tuple[str, str], str]:
        """Which mounts a process sees, by their namespace and its root; and the text of them."""
        seen = os.readlink(f"/proc/{process}/ns/mnt"), os.readlink(f"/proc/{process}/root")
        if seen not in self._read:
            name = f"/proc/{process}/mountinfo"
            try:
                with open(name, encoding="utf-8", errors="surrogateescape") as file:
                    self._read[seen] = file.read()
            except OSError as problem:
                if problem.errno != errno.EINVAL:  # it is ending, and sees none any more
                    raise
                return seen, ""
        return seen, self._read[seen]


def mounted(mountinfo: str, device: str) -> tuple[str, ...]:
    """Where a file system, ``major:minor``, is mounted, by a text of mountinfo (pure)."""
    lines = (line.split(" ", 5) for line in mountinfo.splitlines())
    return tuple(unescaped(one[4]) for one in lines if len(one) > 5 and one[2] == device)


def _is_below(path: str, place: str) -> bool:
    return place in ("/", path) or path.startswith(f"{place}/")


def unescaped(place: str) -> str:
    """A path as it is, of one in mountinfo, where four characters stand as their codes (pure)."""
    for code, letter in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        place = place.replace(code, letter)
    return place
