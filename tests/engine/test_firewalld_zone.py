"""What is said of a zone that firewalld does not know yet, without asking it once more."""

from __future__ import annotations

import pytest

from hvtx.engine import firewalld_zone, notice
from hvtx.host import firewalld
from hvtx.model.resource import Resource


def row(bridge: str, elements: int, backend: str = "firewalld") -> Resource:
    """A row as its commit left it."""
    spec = {"backend": backend, "what": "passage", "bridge": bridge}
    mark = "hvtx:1:abcdefghij:1.aaaabbbbccccdddd"
    seen = {"elements": elements}
    return Resource(1, "filter", bridge, "committed", mark, spec, seen, 1, 1, None, None)


def never() -> None:
    """What stands in the place of a look for firewalld."""
    raise AssertionError("the bus was asked")


def test_a_reload_is_asked_for_by_what_the_driver_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rows that firewalld has in force, and of other accepts, there is nothing to say."""
    monkeypatch.setattr(firewalld, "running", never)
    told: list[tuple[str, str]] = []
    with notice.told_to(lambda level, words: told.append((level, words))):
        firewalld_zone.warn_unknown([row("hv1", 2), row("hv2", 1, "nftables")])
        assert told == []
        firewalld_zone.warn_unknown([row("hv1", 2), row("hv3", 1), row("hv4", 1)])
    ((level, words),) = told
    assert level == "warning"
    assert "hv3, hv4: firewall-cmd --reload" in words
    assert "hv1" not in words
