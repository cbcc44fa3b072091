"""A store that lost commits, or is a copy, is not believed."""

from __future__ import annotations

import multiprocessing
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from hvtx.errors import Refused
from hvtx.store import trust
from hvtx.store.backup import copy, fill
from hvtx.store.database import FILE

from .shelf import Shelf, enter, high_water, seq

ALONE = ("unshare", "-m", "sh", "-c")
_FORK = multiprocessing.get_context("fork")


def put_back(shelf: Shelf, data: bytes) -> None:
    for suffix in ("-wal", "-shm"):
        Path(str(shelf.file) + suffix).unlink(missing_ok=True)
    shelf.file.write_bytes(data)


def rolled_back(shelf: Shelf) -> None:
    """An earlier copy of the store is put back over it."""
    with shelf.opened() as store:
        enter(store)
    old = shelf.file.read_bytes()
    with shelf.opened() as store:
        enter(store)
    put_back(shelf, old)


def trusted(shelf: Shelf, *, writable: bool = True) -> str:
    with shelf.opened(writable=writable) as store:
        try:
            trust.check_trust(store)
        except Refused as refusal:
            assert refusal.exit_code == 7
            assert refusal.hint
            return refusal.code
        return "trusted"


@pytest.mark.parametrize("writable", [True, False])
def test_a_store_behind_its_mark_has_lost_commits(shelf: Shelf, writable: bool) -> None:
    """store-rolled-back, for readers and writers."""
    rolled_back(shelf)
    assert trusted(shelf, writable=writable) == "store-rolled-back"


@pytest.mark.parametrize("evidence", [None, b"", b"\xff" * 7, b"\xff" * 9])
def test_without_a_whole_mark_there_is_no_evidence(shelf: Shelf, evidence: bytes | None) -> None:
    """Missing or of another length (a reboot empties the run directory): trusted."""
    rolled_back(shelf)
    with shelf.opened(writable=False) as store:
        path = Path(store.run_directory, "hwm")
    path.unlink()
    if evidence is not None:
        path.write_bytes(evidence)
    assert trusted(shelf) == "trusted"


def test_a_person_may_accept_the_rollback(shelf: Shelf) -> None:
    """From then on the store as it is counts, and later losses are found again."""
    rolled_back(shelf)
    with shelf.opened() as store:
        trust.accept_rollback(store)
        trust.check_trust(store)
        assert high_water(store) == seq(store)
    assert trusted(shelf) == "trusted"
    rolled_back(shelf)
    assert trusted(shelf) == "store-rolled-back"


def test_a_copy_beside_its_original_is_a_clone(shelf: Shelf, tmp_path: Path) -> None:
    """store-cloned: two stores would give out the same marks."""
    with shelf.opened() as store:
        enter(store)
    copy = Shelf(tmp_path / "copy")
    copy.state.mkdir(parents=True, mode=0o700)
    copy.file.write_bytes(shelf.file.read_bytes())
    assert trusted(copy) == "store-cloned"
    assert trusted(shelf) == "trusted"
    shelf.file.unlink()
    assert trusted(copy) == "trusted", "without the original it was moved"
    with copy.opened() as store:
        trust.accept_rollback(store)


def test_a_moved_store_is_the_same_store(shelf: Shelf) -> None:
    """By rename, by copy and removal; and it remembers its new place."""
    with shelf.opened() as store:
        enter(store)
        name = store.installation
    shelf.state.rename(shelf.base / "moved")
    shelf.state = shelf.base / "moved"
    shelf.file = shelf.state / FILE
    assert trusted(shelf) == "trusted"
    with shelf.opened() as store:
        trust.note_place(store)
        assert store.installation == name
        known = store.connection.execute("SELECT path, inode FROM meta").fetchone()
        assert known == (str(shelf.file), shelf.file.stat().st_ino)
        before = seq(store)
        trust.note_place(store)
        assert seq(store) == before, "nothing to remember, nothing to write"


def test_a_newest_copy_put_back_in_place_is_trusted(shelf: Shelf) -> None:
    """Another inode under the same path, no commit lost: restored, not cloned."""
    with shelf.opened() as store:
        enter(store)
    data = shelf.file.read_bytes()
    shelf.file.unlink()
    put_back(shelf, data)
    shelf.file.chmod(0o600)
    assert trusted(shelf) == "trusted"


def test_an_accepted_clone_is_a_store_of_its_own_place(shelf: Shelf, tmp_path: Path) -> None:
    """What a person decided is not asked again."""
    with shelf.opened() as store:
        enter(store)
    copy = Shelf(tmp_path / "copy")
    copy.state.mkdir(parents=True, mode=0o700)
    copy.file.write_bytes(shelf.file.read_bytes())
    with copy.opened() as store:
        trust.accept_rollback(store)
    assert trusted(copy) == "trusted"


@pytest.mark.parametrize("later", [1, 3])
def test_who_opened_the_store_before_a_restore_writes_no_more(shelf: Shelf, later: int) -> None:
    """What was read is not there any more, whichever of the two has the higher number."""
    with shelf.opened() as store:
        for _ in range(2):
            enter(store)
    backup, aside = shelf.base / "backup", shelf.base / "aside"
    with shelf.opened() as store:
        copy(store.connection, str(backup))
    with closing(sqlite3.connect(backup)) as sql:
        sql.execute("UPDATE meta SET seq = ?", (later,))
        sql.commit()
    with shelf.opened() as before, shelf.opened() as by:
        for one in (before, by):
            trust.check_trust(one)
        by.mark.note_restored()
        fill(str(backup), by, str(aside))
        with pytest.raises(Refused, match=r"restored to .* while this command worked") as caught:
            enter(before)
        assert (caught.value.code, seq(before)) == ("store-rolled-back", later)
    with shelf.opened() as store:
        if later == 1:
            with pytest.raises(Refused, match="older than what this host has seen"):
                trust.check_trust(store)
            trust.accept_rollback(store)
        trust.check_trust(store)
        assert enter(store)
        assert seq(store) == store.mark.last_seen()


def test_commits_that_are_lost_under_an_open_store(shelf: Shelf) -> None:
    """A copy that another program put into the same file, by SQLite."""
    backup = shelf.base / "backup"
    with shelf.opened() as store:
        enter(store)
        copy(store.connection, str(backup))
        enter(store)
        trust.check_trust(store)
        fill(str(backup), store, str(shelf.base / "aside"))
        with pytest.raises(Refused, match="older than what this host has seen"):
            enter(store)
        assert seq(store) == 1
