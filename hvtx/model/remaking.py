"""A bridge that somebody deleted and `repair` makes anew: its row says so from before to after.

Such a row stays committed, and in between its object is what that of an intended row is: made, and
without its mark for a message.
"""

from __future__ import annotations

from hvtx.model.resource import Resource, State

ANEW = "anew"  # in ``observed`` of a bridge's row: it is being made anew, or what stood on it


def is_remade(row: Resource) -> bool:
    """Whether somebody began to make it anew, and did not put back all that stood on it."""
    return ANEW in row.observed


def awaits_mark(row: Resource) -> bool:
    """Whether its object may be there without its mark, as it is between two messages."""
    return row.state != State.COMMITTED or is_remade(row)
