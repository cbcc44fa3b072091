"""Execution of a plan: the steps of an item, their order, and their outcomes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hvtx.model.plan import DONE, Item, ItemResult, Result
from hvtx.model.reason import Reason
from hvtx.model.resource import PORTS, Outcome, Resource, State
from hvtx.model.typed import NamedTuple, StrEnum

CHUNK = 640  # items, of some 128 VMs: 64 devices wait for the kernel at a time

# What keeps a thing from going that is no failure of ours; all else is one.
_LEFT = frozenset(
    {
        "in-use", "foreign", "foreign-dependents", "contended",
        "mark-mismatch", "mark-stripped", "edited-copy",
    }
)  # fmt: skip


class Step(StrEnum):
    """What is done for an item that acts."""

    COMMIT = "commit"  # the record is completed, of what an interrupted start had made
    CARRY_ON = "carry-on"  # an interrupted change of something living: all rows of it at once
    FORGET = "forget"  # the record is closed, of what is proven absent
    END_FLOWS = "end-flows"  # what still flows past a published port ends; the row stays
    RELEASE = "release"  # by its row
    REMOVE = "remove"  # what no row stands for, as it was seen


class Schedule(NamedTuple):
    """Positions of items, in the order in which they are done."""

    early: tuple[int, ...]  # removed one by one, before the rows
    chunks: tuple[tuple[int, ...], ...]  # of items whose rows move together
    late: tuple[int, ...]  # removed one by one, after the rows


def result_of(outcome: Outcome) -> ItemResult:
    """What a driver's outcome means for the item."""
    if outcome.gone:
        return DONE
    left = outcome.reason in _LEFT
    return ItemResult(Result.SKIPPED if left else Result.FAILED, outcome.message)


def in_order(items: Sequence[Item]) -> Schedule:
    """Things that no row stands for, one by one, as the plan has them."""
    return Schedule((), (), tuple(range(len(items))))


def schedule(items: Sequence[Item], rows: Mapping[int, Resource], size: int = CHUNK) -> Schedule:
    """The order of gc's items; ``rows`` by id, as they are now.

    What a saved ruleset brought back stands in tables and chains that rows speak of: it goes before
    them, but for those tables and chains themselves.
    """
    by_row = [n for n, item in enumerate(items) if _is_its_rows(item)]
    others = sorted(set(range(len(items))).difference(by_row), key=lambda n: _depth(items[n]))
    early = tuple(
        n
        for n in others
        if items[n].reason is Reason.STALE_RESTORED and not _is_base(rows.get(items[n].row))
    )
    late = tuple(n for n in others if n not in set(early))
    return Schedule(early, tuple(_chunks(items, by_row, size)), late)


def step_of(item: Item) -> Step:
    """What is done for an item of gc's; its row, if it has one, is as the plan saw it."""
    if not _is_its_rows(item):
        return Step.REMOVE
    if item.reason is Reason.FLOWS_REMAIN and item.state == State.COMMITTED:
        return Step.END_FLOWS
    if item.reason is Reason.IN_USE_BEFORE_COMMIT:
        return Step.COMMIT
    if item.reason in (Reason.CHANGE_INTERRUPTED, Reason.REPLACED):
        return Step.CARRY_ON
    return Step.FORGET if item.reason is Reason.REBOOTED else Step.RELEASE


def _is_its_rows(item: Item) -> bool:
    """Whether the item is its row's own object (not a copy, a leftover, an unrecorded one)."""
    return item.row != 0 and item.entry is None and item.state != State.RELEASED


def _is_base(row: Resource | None) -> bool:
    return row is not None and row.role == "base"


def _chunks(
    items: Sequence[Item], positions: Sequence[int], size: int
) -> Iterator[tuple[int, ...]]:
    """Chunks of at least ``size`` that never part the items of one VM."""
    chunk: list[int] = []
    for n in positions:
        if len(chunk) >= size and items[n].vm != items[chunk[-1]].vm:
            yield tuple(chunk)
            chunk = []
        chunk.append(n)
    if chunk:
        yield tuple(chunk)


def _depth(item: Item) -> int:
    """Guests' devices first, then others and files, then what stands in a table, the table last.

    A TAP that somebody has open cannot be removed: that is known before anything of its VM goes.
    And a bridge goes after its ports.
    """
    places = [entry.place for entry in (item.entry, *item.more) if entry is not None]
    if any(place.is_table for place in places):
        return 3
    return 2 if places else int(item.kind not in PORTS)
