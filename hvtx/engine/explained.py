"""Values of `explain`."""

from __future__ import annotations

from hvtx.model.history import Line
from hvtx.model.typed import NamedTuple


class OnRecord(NamedTuple):
    """The row of a thing, and the operation that wrote it."""

    id: int
    state: str
    mark: str
    operation: int
    verb: str | None  # None, as the next two: the operation is not kept any more
    since: str | None  # RFC 3339 in UTC: when it began
    result: str | None  # None, too: it has not ended


class Other(NamedTuple):
    """A further thing of the same name."""

    kind: str
    key: str
    owner: str
    vm: str | None
    message: str


class Explanation(NamedTuple):
    """The answer about a thing."""

    object: str  # as it was asked for
    kind: str
    key: str
    owner: str  # hvtx, foreign, other-installation or unknown
    vm: str | None
    network: str | None
    since: str | None
    record: OnRecord | None
    evidence: tuple[str, ...]
    action: str  # gc's
    reason: str
    why: str
    message: str
    history: tuple[Line, ...]
    also: tuple[Other, ...]
