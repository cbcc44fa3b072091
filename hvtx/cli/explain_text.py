"""An answer of `explain` as a terminal shows it."""

from __future__ import annotations

from hvtx.cli import render
from hvtx.model.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from hvtx import Explanation, HistoryLine, OnRecord


def show_explanation(told: Explanation) -> None:
    """Whose it is, and then each thing that is known of it."""
    render.say(render.wrapped(render.plain(told.message), ""), "bold")
    pairs = [("owner", told.owner), ("kind", told.kind)]
    if told.key != told.object:
        pairs.append(("name", told.key))
    pairs += [(name, word) for name, word in (("vm", told.vm), ("network", told.network)) if word]
    if told.since:
        pairs.append(("since", render.moment(told.since)))
    if told.record:
        row = told.record
        pairs.append(("record", f"row {row.id}, {row.state}, mark {row.mark}"))
        pairs.append(("operation", _operation(row)))
    pairs += [("evidence", line) for line in told.evidence]
    pairs.append(("gc", f"{told.action} ({told.reason}): {told.why}"))
    pairs += [("history", _event(line)) for line in told.history]
    pairs += [("also", f"{other.kind} {other.key}: {other.message}") for other in told.also]
    render.paragraphs(pairs)


def _operation(record: OnRecord) -> str:
    words = f"{record.operation} ({record.verb})"
    words += f", begun {render.moment(record.since)}" if record.since else ""
    return words + (f", {record.result}" if record.result else ", not ended")


def _event(line: HistoryLine) -> str:
    when = render.moment(line.time)
    words = f"{when} {line.event} by operation {line.operation} ({line.verb})"
    return words + (f": {line.reason}" if line.reason else "")
