"""The file system of a path, by the kernel's list of mounts."""

from __future__ import annotations

import os


def filesystem_of(path: str) -> str:
    """The type of the file system that ``path`` is on (``ext4``); empty if it cannot be told."""
    return _find(path)[0]


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
    found, longest, where = "", -1, "/"
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 5 or not right:
            continue
        place = unescaped(fields[4])
        below = place in ("/", path) or path.startswith(place + "/")
        if below and len(place) >= longest:
            found, longest, where = right.split(" ")[0], len(place), place
    return found, where


def unescaped(place: str) -> str:
    """A path as it is, of one in mountinfo, where four characters stand as their codes (pure)."""
    for code, letter in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        place = place.replace(code, letter)
    return place
