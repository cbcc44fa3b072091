"""Absence that is said by an error is no absence."""

from __future__ import annotations

import os

import pytest

from hvtx.drivers.base import Host
from hvtx.drivers.file import FileDriver
from hvtx.errors import StoreError
from hvtx.host.files import is_there
from hvtx.host.locks import LockFile
from hvtx.model.resource import Kind, Resource, State


def test_what_is_there_and_what_is_not(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    assert [is_there(str(tmp_path / name)) for name in ("file", "nowhere", "absent", "file/x")] == [
        True, True, False, False,
    ]  # fmt: skip


def test_what_cannot_be_looked_at(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError, match="symbolic links"):
        is_there(str(tmp_path / "loop" / "x"))
    assert not os.path.lexists(tmp_path / "loop" / "x"), "what Python would say"


def test_a_run_directory_that_cannot_be_looked_at_stays_on_record(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    path = str(tmp_path / "loop" / "x")
    row = Resource(
        id=1, kind=Kind.FILE, key=path, state=State.RELEASING, mark="m", spec={"path": path},
        observed={}, operation=1, life=1, vm="v", network=None,
    )  # fmt: skip
    driver = FileDriver(Host("", str(tmp_path), str(tmp_path), 1.0))
    outcome = driver.release([row])[1]
    assert (outcome.gone, outcome.reason) == (False, "observe-failed")
    assert path in outcome.message


def test_a_file_that_cannot_be_locked_is_named(tmp_path, monkeypatch):
    from hvtx.host import locks

    file = LockFile(str(tmp_path / "lock"))

    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks.fcntl, "fcntl", refuse)
    with pytest.raises(StoreError, match=str(tmp_path / "lock")) as caught:
        file.try_lock(1)
    assert caught.value.hint
    file.unlock(1)  # is no failure of what was done under it
    file.close()


def test_a_lock_file_that_is_only_looked_at_is_not_made(tmp_path):
    with pytest.raises(FileNotFoundError):
        LockFile(str(tmp_path / "lock"), make=False)
    assert not (tmp_path / "lock").exists()
