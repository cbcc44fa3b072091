"""Notification of what an operation did, once it is on record: standard error, or the journal.

What is told is read from the history after the operation's last commit, so that nothing is told
that was rolled back. A listener that fails changes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from hvtx.engine.runtime import Listener
from hvtx.host import journal
from hvtx.model.typed import Any

Entries = Sequence[Mapping[str, Any]]  # of the history, as ``log --json`` has them

_NOTICE, _WARNING, _INFO = 5, 4, 6  # syslog(3)
_PRIORITY = {"removed": _NOTICE, "kept": _WARNING, "failed": _WARNING}
_FIELDS = ("operation", "verb", "vm", "kind", "key", "event", "reason")


def listener(*, verbose: bool) -> Listener | None:
    """Who wants to be told in this process; None if nobody does."""
    if journal.has_stderr():
        return _to_journal
    return _to_stderr if verbose else None


def under_journal() -> bool:
    """Whether standard error is read by the journal."""
    return journal.has_stderr()


def sentence(entry: Mapping[str, Any]) -> str:
    """A line of the history for a person (pure)."""
    who = f" of VM {entry['vm']}" if entry["vm"] and entry["vm"] not in entry["message"] else ""
    why = f" ({entry['reason']})" if entry["reason"] else ""
    return f"{entry['verb']}: {entry['event']} {entry['message']}{who}{why}"


def _to_stderr(entries: Entries) -> None:
    for entry in entries:
        words = "".join(c if c.isprintable() else "?" for c in sentence(entry))
        sys.stderr.write(f"hvtx: {words}\n")


def _to_journal(entries: Entries) -> None:
    journal.send(
        [
            {
                "MESSAGE": sentence(entry),
                "PRIORITY": _PRIORITY.get(entry["event"], _INFO),
                "SYSLOG_IDENTIFIER": "hvtx",
                **{f"HVTX_{name.upper()}": entry[name] for name in _FIELDS},
            }
            for entry in entries
        ]
    )
