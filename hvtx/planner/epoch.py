"""Which life of the host is this? Boot id, namespace cookie and a marker decide; pure."""

from __future__ import annotations

from enum import StrEnum

from hvtx.model.vm import Life


class Epoch(StrEnum):
    """What the present is to a store."""

    FIRST = "first"  # the store has never worked on a host
    SAME = "same"
    NEW = "new"  # rows of earlier lives can be closed, networks are to be rebuilt
    WRONG = "wrong-namespace"


def judge_epoch(
    known: Life | None, *, boot_id: str, netns: int, marker: bool, old_life_moves: bool
) -> Epoch:
    """Judge by the interface's table ("Store").

    ``marker``: the run directory still has its marker. ``old_life_moves``: a VM process or an
    operation of the known life is alive or cannot be told to be dead.
    """
    if known is None:
        return Epoch.FIRST
    if known.boot_id != boot_id:
        return Epoch.NEW
    if known.netns == netns:
        return Epoch.SAME
    if marker or old_life_moves:
        return Epoch.WRONG
    return Epoch.NEW
