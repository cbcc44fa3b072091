"""Errors that show outside of the functions that know them.

Of the store's library, such as a page that cannot be read; and lists of the kernel that changed for
as long as they were asked for.
"""

from __future__ import annotations

from hvtx.errors import Contended
from hvtx.host.netlink import DumpInterrupted
from hvtx.store import errors

CHANGES_TOO_FAST = "the host changed faster than it could be read"


def explain(problem: Exception) -> Exception | None:
    """What an error of these means to people; None for all others."""
    if isinstance(problem, DumpInterrupted):
        return Contended(CHANGES_TOO_FAST, hint="try again")
    return errors.explain(problem)
