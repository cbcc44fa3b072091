"""``spec`` and ``observed`` as they stand in the store: a JSON object each, and back.

The one place where they are written and read. What an object holds is said by the TypedDicts of
:mod:`hvtx.model.resource`; keys that this program does not know are kept, as an older one must
leave what a newer one wrote.
"""

from __future__ import annotations

import _sqlite3 as sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from hvtx.model import json_text
from hvtx.model.typed import Any


def encode(value: Mapping[str, Any]) -> str:
    """The text of one object."""
    return json_text.dumps(dict(value))


def decode(text: str) -> dict[str, Any]:
    """The object of one text, which the schema holds to be JSON."""
    try:
        found: dict[str, Any] = json_text.loads(text)
    except ValueError as problem:
        raise _illegible(problem) from problem
    return found


def decode_all(texts: Sequence[str]) -> list[dict[str, Any]]:
    """The objects of many texts, read as one array: that takes a third of the time."""
    try:
        found: list[dict[str, Any]] = json_text.loads(f"[{','.join(texts)}]")
    except ValueError as problem:
        raise _illegible(problem) from problem
    return found


@contextmanager
def legible() -> Iterator[None]:
    """DatabaseError for a ValueError: SQLite does not see what a disk changed inside a row."""
    try:
        yield
    except ValueError as problem:
        raise _illegible(problem) from problem


def _illegible(problem: ValueError) -> sqlite3.DatabaseError:
    return sqlite3.DatabaseError(f"malformed: a row is no JSON ({problem})")
