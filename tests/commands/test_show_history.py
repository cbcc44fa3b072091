"""What `log --since` takes for a time."""

from __future__ import annotations

import pytest

from hvtx.commands.show_history import moment
from hvtx.errors import UsageError


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2026", "2026"),
        ("2026-05-01", "2026-05-01"),
        ("2026-05-01T12:30", "2026-05-01T12:30"),
        ("2026-05-01 12:30:00Z", "2026-05-01T12:30:00"),
        ("2026-05-01t12:30:00z", "2026-05-01T12:30:00"),
        ("2026-05-01T12:30:00.25", "2026-05-01T12:30:00.25"),
        ("2026-05-01T12:30:00+02:00", "2026-05-01T10:30:00"),
        ("2026-05-01T12:30+02:00", "2026-05-01T10:30:00"),
        ("2026-05-01 12:30:00-0500", "2026-05-01T17:30:00"),
        ("2026-05-01T00:30:00.250000+01:00", "2026-04-30T23:30:00.250000"),
        ("2026-05-01T12:30:00+00:00", "2026-05-01T12:30:00"),
        ("2026-W18-5", "2026-05-01T00:00:00"),
    ],
)
def test_a_time_is_compared_with_those_of_the_history(text: str, found: str) -> None:
    """They are in UTC: what has an offset is told in it, a beginning stays a beginning."""
    assert moment(text) == found


@pytest.mark.parametrize(
    "text", ["2026-05-01+02:00", "2026-05-01-05:00", "0001-01-01T00:00:00+02:00", "5", ""]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    """A date with an offset would be taken for a date with a time of the day."""
    with pytest.raises(UsageError, match="is not a time"):
        moment(text)
