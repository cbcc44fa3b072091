"""The epoch of the host, from boot id, namespace cookie and marker. Pure."""

from __future__ import annotations

from hvtx.model.typed import StrEnum
from hvtx.model.vm import Epoch


class EpochRelation(StrEnum):
    """What the present is to a store."""

    FIRST = "first"  # the store has never worked on a host
    SAME = "same"
    NEW = "new"  # rows of earlier lives can be closed, networks are to be rebuilt
    WRONG = "wrong-namespace"


def judge_epoch(
    known: Epoch | None, *, boot_id: str, netns: int, marker: bool, old_life_moves: bool
) -> EpochRelation:
    """Judge by the interface's table ("Store").

    ``marker``: the run directory still has its marker. ``old_life_moves``: a VM process or an
    operation of the known life is alive or cannot be told to be dead.
    """
    if known is None:
        return EpochRelation.FIRST
    if known.boot_id != boot_id:
        return EpochRelation.NEW
    if known.netns == netns:
        return EpochRelation.SAME
    if marker or old_life_moves:
        return EpochRelation.WRONG
    return EpochRelation.NEW
