"""Files whose absence means something."""

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
