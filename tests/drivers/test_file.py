"""Run-time directories of VMs: made whole, removed whole, whenever somebody is killed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hvtx.drivers.base import Host
from hvtx.drivers.file import FileDriver
from hvtx.model.resource import GONE, Kind, Resource, State

MARK = "hvtx:1:aaaaaaaaaa:7.bbbbbbbbbbbbbbbb"


class Killed(BaseException):
    """What ends the driver in the middle."""


@pytest.mark.parametrize("call", range(1, 7))
def test_a_removal_that_was_killed_is_carried_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Before each of its changes: the next release knows the directory as ours, and removes it."""
    path = tmp_path / "vms" / "id"
    driver = FileDriver(Host("aaaaaaaaaa", str(tmp_path), str(tmp_path), 1.0))
    row = Resource(
        7, Kind.FILE, str(path), State.RELEASING, MARK, {"path": str(path)}, {}, 1, 1, "id", None
    )
    driver.create([row])
    (path / "qmp").touch()
    calls = 0

    def deadly(name: str) -> None:
        real = getattr(os, name)

        def one(*values: object, **more: object) -> object:
            nonlocal calls
            calls += 1
            if calls == call:
                raise Killed
            return real(*values, **more)

        monkeypatch.setattr(os, name, one)

    with monkeypatch.context() as patched:
        monkeypatch = patched
        for name in ("unlink", "rmdir", "rename"):
            deadly(name)
        try:
            driver.release([row])
        except Killed:
            assert calls == call
        else:
            assert calls < call, "every change was met"
    assert driver.release([row]) == {7: GONE}
    assert [p for name in ("vms", "marks") for p in (tmp_path / name).iterdir()] == []
