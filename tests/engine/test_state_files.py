"""Which state files are found in a directory, whatever others put below it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvtx.engine.state_files import find_states, read_states
from hvtx.errors import NotFound
from hvtx.planner.adoption import Why

STRANGER = 54321
LEVELS = 1100  # more than Python goes down by functions that call themselves


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="hvtx-states-", dir="/var/tmp"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def state(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "state.json").write_text("{}")
    return directory / "state.json"


def deep(at: Path, owner: int) -> None:
    """Directories in directories, with a state file in the last one; made as a stranger makes them."""
    directory = os.open(at, os.O_RDONLY)
    for _ in range(LEVELS):
        os.mkdir("a", dir_fd=directory)
        os.chown("a", owner, owner, dir_fd=directory)
        below = os.open("a", os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = below
    os.close(os.open("state.json", os.O_WRONLY | os.O_CREAT, dir_fd=directory))
    os.close(directory)


def removed(at: Path) -> None:
    """What is too deep for shutil.rmtree."""
    while (at / "a/a").is_dir():
        (at / "a/a").rename(at / "b")
        (at / "a").rmdir()
        (at / "b").rename(at / "a")


def test_all_are_found_and_no_link_to_a_directory_is_followed(place: Path) -> None:
    wanted = [state(place / name) for name in ("", "one", "one/below", "two")][1:]
    (place / "link").symlink_to(place / "one")
    (place / "three").mkdir()
    (place / "three/state.json").symlink_to(place / "two/state.json")
    (place / "four").mkdir()
    (place / "four/state.json").symlink_to("nowhere")
    found = find_states([str(place)])
    assert found == sorted([place / "state.json", *wanted, place / "three/state.json"])
    assert find_states([str(place / "link")]) == [
        place / "link/below/state.json",
        place / "link/state.json",
    ]
    with pytest.raises(NotFound):
        find_states([str(place / "four")])


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_a_strangers_directories_keep_nobody_from_the_others(place: Path) -> None:
    good = state(place / "web")
    theirs = place / "theirs"
    near = state(theirs / "vms/db")
    for each in (theirs, theirs / "vms", theirs / "vms/db"):
        os.chown(each, STRANGER, STRANGER)
    deep(theirs, STRANGER)
    try:
        found = find_states([str(place)])
        assert found == [near, good]
        assert [each.reason for each in read_states(found)[1]] == [Why.NOT_BELIEVED, Why.UNREADABLE]
    finally:
        removed(theirs)


def test_ones_own_may_be_as_deep_as_a_path_is_long(place: Path) -> None:
    good = state(place / "web")
    deep(place, os.geteuid())
    try:
        assert good in find_states([str(place)])
    finally:
        removed(place)
