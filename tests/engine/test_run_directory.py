"""The marker of a run directory, and what it says of an older store."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvtx.engine.run_directory import RunDirectory
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


def test_without_a_marker_it_is_said_with_the_next(directory: RunDirectory) -> None:
    """A marker tells which life of the host it is: none is made before that is known."""
    directory.doubt()
    directory.believe()
    assert not Path(directory.path("marker")).exists()
    assert directory.mark(TEXT, older=True) is True
    assert directory.mark(TEXT) is True
