"""Results of `repair`: values."""

from __future__ import annotations

from hvtx.model.typed import NamedTuple


class Repaired(NamedTuple):
    """A thing that is as it should be again."""

    kind: str
    key: str
    missing: str  # what was wrong


class Failed(NamedTuple):
    """A thing that is not, and why."""

    kind: str
    key: str
    why: str
    missing: str | None = None  # what is wrong, where that is known


class Repair(NamedTuple):
    """A whole run."""

    repaired: tuple[Repaired, ...] = ()
    failed: tuple[Failed, ...] = ()
