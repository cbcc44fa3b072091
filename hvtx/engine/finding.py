"""The result of one of doctor's checks."""

from __future__ import annotations

from hvtx.model.typed import NamedTuple

# what to do where nothing better is known
AS_ROOT = "run hvtx as root, for instance with sudo, and look at the kernel's log"
NOWHERE = "/nonexistent"  # where no store is, so that an empty one is read


class Finding(NamedTuple):
    """One check's result: ``level`` is ok, warning or error."""

    check: str
    level: str
    message: str
    evidence: tuple[str, ...] = ()
    hint: str | None = None
