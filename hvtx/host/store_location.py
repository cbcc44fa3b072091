"""The location of an installation's store, from what it left on the host.

A trace is one line, ``<device>:<device above>:<path of the database>``: in the marker of the run
directory, and as the comment of a chain in the installation's own table, so that it is found from
another run directory too. Device numbers (of the state directory, and of the directory above it)
tell a store that is gone from one whose disk is not mounted here, or that is seen from another
container.
"""

from __future__ import annotations

import os

from hvtx.model.typed import NamedTuple

CHAIN_FAMILY, CHAIN = "bridge", "store"  # in the table hvtx-<installation>, of every backend
STORE = "hvtx.db"
_MOST = 128  # bytes of a comment of nft
_LONGEST = 4096  # of a path, with its two numbers: markers are files, which may hold anything
_PLAIN = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._+@=,~ -"
)  # letters of a path that a comment can have


class Found(NamedTuple):
    """What is at the place that a trace names: ``there``, ``gone`` or ``unseen``, and the path."""

    verdict: str
    path: str


def trace_of(state_directory: str) -> str:
    """The trace of the store in a state directory; empty if it cannot be told."""
    return trace_at(os.path.realpath(os.path.join(state_directory, STORE)))


def trace_at(path: str) -> str:
    """The same of the store at a path without links."""
    above = os.path.dirname(path)
    try:
        text = f"{os.stat(above).st_dev}:{os.stat(os.path.dirname(above)).st_dev}:{path}"
    except OSError:
        return ""
    return text if len(text) <= _MOST and _PLAIN.issuperset(path) else ""


def follow(trace: str) -> Found:
    """Look where a trace leads. What cannot be inspected is ``unseen``, never ``gone``."""
    first, _, rest = trace.partition(":")
    second, _, path = rest.partition(":")
    numbers = all(text.isascii() and text.isdigit() for text in (first, second))
    legible = numbers and path.startswith("/") and "\n" not in path and "\0" not in path
    if not legible or len(trace) > _LONGEST:
        return Found("unseen", "")
    device, device_above = int(first), int(second)
    directory = os.path.dirname(path)
    try:
        if _exists(path):
            return Found("there", path)
        if _exists(directory):
            same = os.stat(directory).st_dev == device
        else:
            above = os.path.dirname(directory)
            while not _exists(above):
                above = os.path.dirname(above)
            same = device == device_above == os.stat(above).st_dev
    except (OSError, UnicodeEncodeError):
        return Found("unseen", path)
    return Found("gone" if same else "unseen", path)


def _exists(path: str) -> bool:
    """Raises OSError where that cannot be told."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True
