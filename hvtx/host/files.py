"""Files whose absence means something, and names of what is open."""

from __future__ import annotations

import os


def is_there(path: str) -> bool:
    """Whether anything has that name; a link counts, wherever it leads.

    Raises OSError where that cannot be told, which ``os.path.lexists`` takes for absence.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def path_of(descriptor: int) -> str:
    """A name for what a descriptor of this process refers to, whatever happens to its own."""
    return f"/proc/self/fd/{descriptor}"
