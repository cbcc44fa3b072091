"""The store as a file: who may read it, what is refused, what a refusal leaves alone."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hvtx.migrations import APPLICATION_ID, SCHEMA

from hvtx.errors import HvtxError, NotPermitted, Refused, StoreError
from hvtx.store import records, trust
from hvtx.store.opening import open_store

from .shelf import Shelf, add_network, enter, network


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def refusal(shelf: Shelf, *, writable: bool = True) -> HvtxError:
    with pytest.raises(HvtxError) as caught, shelf.opened(writable=writable):
        pass
    assert caught.value.hint
    return caught.value


# -- a fresh store -----------------------------------------------------------------------------------


def test_a_fresh_store_is_private_and_whole(shelf: Shelf) -> None:
    """0600 in a 0700 directory, whatever the umask; WAL, FULL, our application id and version."""
    before = os.umask(0)
    try:
        with shelf.opened() as store:
            enter(store)
            for name in shelf.state.iterdir():
                assert mode(name) == 0o600, name
            pragmas = {
                name: store.connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in (
                    "journal_mode",
                    "synchronous",
                    "application_id",
                    "user_version",
                    "foreign_keys",
                    "trusted_schema",
                )
            }
            assert mode(Path(store.run_directory)) == 0o700
            assert mode(Path(store.run_directory, "hwm")) == 0o600
    finally:
        os.umask(before)
    assert mode(shelf.state) == 0o700
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 2,
        "application_id": APPLICATION_ID,
        "user_version": SCHEMA,
        "foreign_keys": 1,
        "trusted_schema": 0,
    }
    assert APPLICATION_ID == 0x68767478


def test_every_store_is_an_installation_of_its_own(tmp_path: Path) -> None:
    """Ten letters of base32, different for two stores, the same when opened again."""
    found = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shelf = Shelf(tmp_path / name)
        for _ in range(2):
            with shelf.opened() as store:
                found.add(store.installation)
                assert len(store.installation) == 10
    assert len(found) == 2


def test_readers_do_not_make_a_store(shelf: Shelf) -> None:
    """A missing store reads as an empty one; not even the directory is made."""
    with shelf.opened(writable=False) as store:
        assert store.missing
        assert store.installation == ""
        assert records.vms(store.connection) == []
        assert records.resources(store.connection) == []
        assert records.current_life(store.connection) is None
        trust.check_trust(store)
    assert list(shelf.base.iterdir()) == []
    shelf.state.mkdir()
    with shelf.opened(writable=False) as store:
        assert store.missing
    assert list(shelf.state.iterdir()) == []


def test_readers_leave_the_content_alone(shelf: Shelf) -> None:
    """They open read-only: the database's bytes stay, and a write is refused by SQLite itself."""
    with shelf.opened() as store:
        add_network(store, network())
    before = shelf.file.read_bytes()
    with shelf.opened(writable=False) as store:
        assert [n.name for n in records.networks(store.connection)] == ["lan"]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            store.connection.execute("DELETE FROM network")
    assert shelf.file.read_bytes() == before


def test_a_reader_sees_what_a_writer_has_committed(shelf: Shelf) -> None:
    """Also what still stands in the write-ahead log."""
    with shelf.opened() as writer:
        add_network(writer, network())
        with shelf.opened(writable=False) as reader:
            assert [n.name for n in records.networks(reader.connection)] == ["lan"]


@pytest.mark.parametrize("name", ["a b", "a%20b", "a?b", "a#b", "ä", "a'b", "a;b"])
def test_any_directory_name_will_do(tmp_path: Path, name: str) -> None:
    """The path goes into a URI: what means something there is written as it must be."""
    (tmp_path / name).mkdir()
    shelf = Shelf(tmp_path / name)
    with shelf.opened() as store:
        enter(store)
    assert shelf.file.exists()
    assert {entry.name for entry in tmp_path.iterdir()} == {name}


def test_a_path_with_two_slashes_is_a_path(shelf: Shelf) -> None:
    """``//dir`` is not the host ``dir`` of a URI."""
    store = open_store("/" + str(shelf.state), str(shelf.run), writable=True)
    store.close()
    assert shelf.file.exists()


def test_a_crashed_first_start_leaves_nothing_in_the_way(shelf: Shelf) -> None:
    """A draft of a store, whole or torn, is not the store."""
    shelf.state.mkdir(mode=0o700)
    for suffix in ("", "-wal", "-shm", "-journal"):
        (shelf.state / f"hvtx.db.new{suffix}").write_bytes(b"torn")
    with shelf.opened(writable=False) as store:
        assert store.missing
    with shelf.opened() as store:
        enter(store)
    assert not list(shelf.state.glob("*.new*"))


# -- directories that are not ours ---------------------------------------------------------------------


def test_an_empty_directory_is_made_private(shelf: Shelf) -> None:
    """The admin made it with the usual modes."""
    shelf.state.mkdir(mode=0o755)
    with shelf.opened():
        pass
    assert mode(shelf.state) == 0o700


def test_a_directory_that_others_use_is_not_taken(shelf: Shelf) -> None:
    """`--state-dir /tmp` must not make /tmp private."""
    shelf.state.mkdir()
    shelf.state.chmod(0o1777)
    (shelf.state / "somebodys").write_text("thing")
    problem = refusal(shelf)
    assert isinstance(problem, StoreError)
    assert "somebodys" in problem.message
    assert mode(shelf.state) == 0o1777
    assert [entry.name for entry in shelf.state.iterdir()] == ["somebodys"]


def test_a_private_directory_may_hold_other_things(shelf: Shelf) -> None:
    """Nobody else can look into it."""
    shelf.state.mkdir(mode=0o700)
    (shelf.state / "notes").write_text("mine")
    with shelf.opened():
        pass
    assert (shelf.state / "notes").read_text() == "mine"


def test_wider_modes_are_taken_back(shelf: Shelf) -> None:
    """A store put back by `cp` or `tar` is made private by the next writer, not by a reader."""
    with shelf.opened():
        pass
    shelf.file.chmod(0o644)
    shelf.state.chmod(0o755)
    with shelf.opened(writable=False):
        pass
    assert (mode(shelf.file), mode(shelf.state)) == (0o644, 0o755)
    with shelf.opened():
        pass
    assert (mode(shelf.file), mode(shelf.state)) == (0o600, 0o700)


# -- links, and things that are not files --------------------------------------------------------------

Bend = Callable[[Shelf], None]


def _link_directory(shelf: Shelf) -> None:
    shelf.state.rename(shelf.base / "real")
    shelf.state.symlink_to(shelf.base / "real")


def _link_file(suffix: str) -> Bend:
    def bend(shelf: Shelf) -> None:
        target = shelf.base / "target"
        path = Path(str(shelf.file) + suffix)
        if path.exists():
            path.rename(target)
        else:
            target.write_bytes(b"precious")
        path.symlink_to(target)

    return bend


def _fifo(shelf: Shelf) -> None:
    shelf.file.unlink()
    os.mkfifo(shelf.file)


def _directory(shelf: Shelf) -> None:
    shelf.file.unlink()
    shelf.file.mkdir()


def _dangling(shelf: Shelf) -> None:
    shelf.file.unlink()
    shelf.file.symlink_to(shelf.base / "nowhere")


@pytest.mark.parametrize("writable", [True, False])
@pytest.mark.parametrize(
    "bend",
    [
        _link_directory,
        _link_file(""),
        _link_file("-wal"),
        _link_file("-shm"),
        _fifo,
        _directory,
        _dangling,
    ],
    ids=["directory", "db", "wal", "shm", "fifo", "a directory for the db", "dangling"],
)
def test_links_and_other_things_are_not_followed(shelf: Shelf, bend: Bend, writable: bool) -> None:
    """store-untrusted, and what the link points to is as it was."""
    with shelf.opened():
        pass
    bend(shelf)
    target = shelf.base / "target"
    before = target.read_bytes() if target.exists() else None
    problem = refusal(shelf, writable=writable)
    assert (problem.code, problem.exit_code) == ("store-untrusted", 7)
    if before is not None:
        assert target.read_bytes() == before
    assert not (shelf.base / "nowhere").exists()


def test_a_linked_lock_is_not_followed(shelf: Shelf) -> None:
    """The write queue's file neither."""
    with shelf.opened() as store:
        enter(store)
    (shelf.state / "queue.lock").unlink()
    (shelf.state / "queue.lock").symlink_to(shelf.base / "elsewhere")
    with shelf.opened() as store, pytest.raises(StoreError):
        enter(store)
    assert not (shelf.base / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("what", ["file", "directory"])
def test_a_store_of_another_user_is_not_believed(shelf: Shelf, what: str) -> None:
    """Whoever owns it could have written anything into it."""
    with shelf.opened():
        pass
    os.chown(shelf.file if what == "file" else shelf.state, 12345, 12345)
    theirs = shelf.file if what == "file" else shelf.state
    for writable in (True, False):
        problem = refusal(shelf, writable=writable)
        assert problem.code == "store-untrusted"
        assert problem.message == f"{theirs} cannot be trusted: it belongs to user 12345"
        assert (problem.hint or "").startswith(f"chown 0 {theirs}, if ")


def test_each_refusal_says_how_it_is_mended(shelf: Shelf) -> None:
    """A link is named by what it leads to; without a copy, the directory that is moved is named."""
    with shelf.opened():
        pass
    shelf.file.write_bytes(b"")
    assert f"; without one: mv {shelf.state} {shelf.state}.bad;" in (refusal(shelf).hint or "")
    _link_directory(shelf)
    target = os.path.realpath(shelf.state)
    assert (refusal(shelf).hint or "").startswith(
        f"name the directory itself: --state-dir {target} before the command"
    )


# -- content that is not a store -----------------------------------------------------------------------


def _empty(shelf: Shelf) -> None:
    shelf.file.write_bytes(b"")


def _garbage(shelf: Shelf) -> None:
    shelf.file.write_bytes(os.urandom(20_000))


def _short(shelf: Shelf) -> None:
    shelf.file.write_bytes(shelf.file.read_bytes()[:50])


def _truncated(shelf: Shelf) -> None:
    data = shelf.file.read_bytes()
    assert len(data) > 3 * 4096
    shelf.file.write_bytes(data[:4096])


def _foreign(shelf: Shelf) -> None:
    shelf.file.unlink()
    connection = sqlite3.connect(shelf.file)
    connection.execute("CREATE TABLE precious (x)")
    connection.close()


def _foreign_with_log(shelf: Shelf) -> None:
    """Somebody else's database, killed with its last commits in the write-ahead log only."""
    shelf.file.unlink()
    words = (
        "import os, sqlite3; c = sqlite3.connect(os.sys.argv[1], isolation_level=None);"
        "c.execute('PRAGMA journal_mode=WAL'); c.execute('CREATE TABLE precious (x)');"
        "os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", words, str(shelf.file)], check=False)


def _without_installation(shelf: Shelf) -> None:
    edit(shelf, "DELETE FROM meta")


def _unfinished(shelf: Shelf) -> None:
    edit(shelf, "PRAGMA user_version=0")


def edit(shelf: Shelf, *statements: str) -> None:
    connection = sqlite3.connect(shelf.file, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def _of_another_program(shelf: Shelf) -> None:
    edit(shelf, "PRAGMA application_id=1")


BAD = [
    _of_another_program,
    _empty,
    _garbage,
    _short,
    _truncated,
    _foreign,
    _foreign_with_log,
    _without_installation,
    _unfinished,
]


@pytest.mark.parametrize("writable", [True, False])
@pytest.mark.parametrize("bend", BAD, ids=lambda bend: bend.__name__.strip("_"))
def test_what_is_no_store_is_refused_and_left_alone(
    shelf: Shelf, bend: Bend, writable: bool
) -> None:
    """store-untrusted, exit 7, not a byte changed: neither in the file nor in its log."""
    with shelf.opened():
        pass
    bend(shelf)
    shelf.state.chmod(0o755)
    before = shelf.bytes()
    problem = refusal(shelf, writable=writable)
    assert isinstance(problem, Refused)
    assert (problem.code, problem.exit_code) == ("store-untrusted", 7)
    assert str(shelf.file) in problem.message
    after = shelf.bytes()
    assert {name: after[name] for name in before if not name.endswith("-shm")} == {
        name: data for name, data in before.items() if not name.endswith("-shm")
    }
    assert mode(shelf.state) == 0o755


@pytest.mark.parametrize("writable", [True, False])
@pytest.mark.parametrize("bend", BAD, ids=lambda bend: bend.__name__.strip("_"))
def test_what_is_refused_is_not_kept_open(shelf: Shelf, bend: Bend, writable: bool) -> None:
    """Not even as long as the error is: an open file would keep a disk from being unmounted."""
    with shelf.opened():
        pass
    bend(shelf)
    problem = refusal(shelf, writable=writable)
    assert problem.__traceback__ is not None  # its frames live as long, with what they hold
    held = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            held.add(os.readlink(f"/proc/self/fd/{number}"))
    assert [path for path in held if path.startswith(str(shelf.state))] == []


def test_a_newer_store_is_refused_and_left_alone(shelf: Shelf) -> None:
    """store-newer, exit 7, and the file byte-equal, though its log was not checkpointed."""
    with shelf.opened() as store:
        enter(store)
    words = (
        "import os, sqlite3; c = sqlite3.connect(os.sys.argv[1], isolation_level=None);"
        f"c.execute('PRAGMA user_version={SCHEMA + 1}');"
        "c.execute('CREATE TABLE tomorrow (x)'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", words, str(shelf.file)], check=False)
    before = shelf.bytes()
    assert before["hvtx.db-wal"]
    for writable in (True, False):
        problem = refusal(shelf, writable=writable)
        assert (problem.code, problem.exit_code) == ("store-newer", 7)
        assert "upgrade" in (problem.hint or "")
    after = shelf.bytes()
    for name in ("hvtx.db", "hvtx.db-wal"):
        assert after[name] == before[name]


def test_damage_further_in_is_found_before_anything_is_collected(shelf: Shelf) -> None:
    """The header is fine, a page is not: quick_check refuses."""
    with shelf.opened() as store:
        add_network(store, network())
    data = bytearray(shelf.file.read_bytes())
    with closing(sqlite3.connect(shelf.file)) as connection:
        page = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'resource'"
        ).fetchone()[0]
    data[(page - 1) * 4096 : page * 4096] = b"\xff" * 4096
    shelf.file.write_bytes(data)
    with shelf.opened() as store, pytest.raises(Refused) as caught:
        trust.check_pages(store)
    assert caught.value.code == "store-untrusted"


# -- where nothing can be written ----------------------------------------------------------------------


def test_a_directory_that_cannot_be_made_is_a_store_error(shelf: Shelf) -> None:
    """A file stands in the way: exit 7, naming the path."""
    shelf.state.parent.joinpath("file").write_text("x")
    shelf.state = shelf.base / "file" / "state"
    with pytest.raises(HvtxError) as caught:
        shelf.open()
    assert caught.value.exit_code == 7
    assert "file" in caught.value.message


def test_a_run_directory_that_cannot_be_made_is_told_before_anything_is_written(
    shelf: Shelf,
) -> None:
    """The high-water mark's file is opened first: a commit is never reported as failed for it."""
    shelf.run.write_text("a file")
    with shelf.opened() as store:
        with pytest.raises(StoreError) as caught:
            enter(store)
        assert caught.value.exit_code == 7
        assert str(shelf.run) in caught.value.message
        assert store.connection.execute("SELECT seq FROM meta").fetchone()[0] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_another_user_is_told_to_become_root(shelf: Shelf) -> None:
    """Not permitted, exit 5, for readers and writers, with or without search permission."""
    with shelf.opened():
        pass
    shelf.base.chmod(0o755)
    for parent in shelf.base.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    words = (
        "import os, sys\n"
        "from hvtx.errors import HvtxError\n"
        "from hvtx.store.opening import open_store\n"
        "os.setgid(12345); os.setuid(12345)\n"
        "for writable in (True, False):\n"
        "    try: open_store(*sys.argv[1:3], writable=writable)\n"
        "    except HvtxError as problem: print(type(problem).__name__, problem.exit_code)\n"
    )
    command = [sys.executable, "-c", words, str(shelf.state), str(shelf.run)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.stdout.splitlines() == [f"{NotPermitted.__name__} 5"] * 2, ran.stderr
