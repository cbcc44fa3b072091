"""The file system of a path, by the kernel's list of mounts."""

from __future__ import annotations

import os


def filesystem_of(path: str) -> str:
    """The type of the file system that ``path`` is on (``ext4``); empty if it cannot be told."""
    try:
        with open("/proc/thread-self/mountinfo", encoding="utf-8", errors="replace") as file:
            return find_filesystem(file.read(), os.path.realpath(path))
    except OSError:
        return ""


def find_filesystem(mountinfo: str, path: str) -> str:
    """The same from a text in the form of proc(5), mountinfo; of several mounts the last counts."""
    found, longest = "", -1
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 5 or not right:
            continue
        place = unescaped(fields[4])
        below = place in ("/", path) or path.startswith(place + "/")
        if below and len(place) >= longest:
            found, longest = right.split(" ")[0], len(place)
    return found


def unescaped(place: str) -> str:
    """A path as it is, of one in mountinfo, where four characters stand as their codes (pure)."""
    for code, letter in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        place = place.replace(code, letter)
    return place
