"""The marker of a run directory, and what it says of an older store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hvtx.engine import run_directory
from hvtx.engine.run_directory import RunDirectory
from hvtx.errors import StoreError
from hvtx.store.high_water_mark import HighWaterMark

TEXT = b"boot 7\n1:2:/var/lib/hvtx/hvtx.db\n"
MOVED = b"boot 7\n1:2:/srv/hvtx.db\n"


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    mark = HighWaterMark(str(tmp_path / "run" / "aaaaaaaaaa"))
    return RunDirectory(lambda: mark)


def marker(directory: RunDirectory) -> bytes:
    return Path(directory.path("marker")).read_bytes()


def test_a_marker_is_written_once(directory: RunDirectory) -> None:
    """With the text alone; what is there already is left alone."""
    assert directory.mark(TEXT) is False
    assert marker(directory) == TEXT
    before = Path(directory.path("marker")).stat().st_mtime_ns
    assert directory.mark(TEXT) is False
    assert Path(directory.path("marker")).stat().st_mtime_ns == before


def test_an_older_store_is_remembered(directory: RunDirectory) -> None:
    """By whoever comes later, also where the store moves, until it is believed."""
    directory.mark(TEXT)
    directory.doubt()
    said = marker(directory)
    assert said.startswith(TEXT)
    assert said != TEXT
    directory.doubt()
    assert marker(directory) == said
    assert directory.mark(TEXT) is True
    assert directory.mark(MOVED) is True
    assert marker(directory) == MOVED + said.removeprefix(TEXT)
    directory.believe()
    assert marker(directory) == MOVED
    directory.believe()
    assert directory.mark(MOVED) is False


@pytest.mark.parametrize("step", ["write", "rename"])
def test_a_marker_that_is_not_rewritten_says_what_it_said(
    directory: RunDirectory, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has no room in the middle of it, or is killed there, takes no doubt away."""
    directory.mark(TEXT)
    directory.doubt()
    said = marker(directory)

    def full(*_: object) -> Any:
        raise OSError(28, "No space left on device")

    if step == "rename":
        monkeypatch.setattr(os, "rename", full)
    else:
        really = open

        def opened(path: str, mode: str, **how: Any) -> Any:
            if mode != "wb":
                return really(path, mode, **how)
            really(path, mode, **how).close()
            return full()

        monkeypatch.setattr(run_directory, "open", opened, raising=False)
    with pytest.raises(StoreError):
        directory.mark(MOVED)
    assert marker(directory) == said
    monkeypatch.undo()
    assert directory.mark(MOVED) is True


def test_without_a_marker_it_is_said_with_the_next(directory: RunDirectory) -> None:
    """A marker tells which life of the host it is: none is made before that is known."""
    directory.doubt()
    directory.believe()
    assert not Path(directory.path("marker")).exists()
    assert directory.mark(TEXT, older=True) is True
    assert directory.mark(TEXT) is True
