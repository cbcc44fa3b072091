"""What `doctor` says of the filter of checksums."""

from __future__ import annotations

import pytest

from hvtx.engine.checks.checksums import findings
from hvtx.engine.finding import Finding
from hvtx.host import tap_filter_check
from hvtx.model.resource import Kind, Resource, State


def tap(number: int, state: State = State.COMMITTED) -> Resource:
    spec = {"ifindex": number}
    return Resource(number, Kind.TAP, f"tap{number}", state, "m", spec, {}, 1, 1, "web", None)


def told(monkeypatch: pytest.MonkeyPatch, *, had: bool) -> Finding:
    rows = [tap(1), tap(2), tap(3, State.RELEASING)]
    monkeypatch.setattr(tap_filter_check, "can_be_had", lambda: had)
    monkeypatch.setattr(tap_filter_check, "summed", lambda ifindex: ifindex == 1)
    (found,) = findings(lambda _: rows)
    return found


def test_it_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, had=True)[:2] == ("checksums", "ok")


def test_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    found = told(monkeypatch, had=False)
    assert (found.check, found.level, found.evidence) == (
        "checksums",
        "warning",
        ("tap2 has none",),
    )
    assert "CAP_BPF" in (found.hint or "")
