"""Answers of a bus or of a firewalld that are none: each is an error of hvtx's, which names it."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hvtx.host import firewalld, firewalld_zones, program
from hvtx.host.firewalld import Firewalld, NotAnswered
from hvtx.model.firewalld_zone import Zone, with_interface

ODD = [
    b"",
    b"{}",
    b"5",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"data":null}',
    b'{"data":[]}',
    b'{"data":[[1]]}',
    b'{"data":[NaN]}',
    b'{"data":[1e400]}',
    b'{"data":[true, 1]}',
    b'{"data":[{"public":["interfaces"]}]}',
    b'{"data":[{"public":{"interfaces":"virbr0"}}]}',
]
MADE = with_interface(None, "hvbr0", "hvtx:1:aaaaaaaaaa:1.b")
ASKED: dict[str, Callable[[Firewalld], object]] = {
    "zones": Firewalld.zones,
    "zone of": lambda daemon: daemon.permanent_zone_of("hvbr0"),
    "lasting": Firewalld.lasting,
    "keep": lambda daemon: daemon.keep(Zone(("hvbr0",), "")),
    "forget": lambda daemon: daemon.forget(MADE),
}


def answer(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    """Whatever is asked, this is said."""
    monkeypatch.setattr(program, "find", lambda names: "/usr/bin/busctl")
    monkeypatch.setattr(program, "capture", lambda argv, seconds: program.Captured(0, said, b""))


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("said", ODD, ids=range(len(ODD)))
def test_an_odd_answer_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch, said: bytes, asked: str
) -> None:
    answer(monkeypatch, said)
    with pytest.raises(NotAnswered) as caught:
        ASKED[asked](Firewalld("/usr/bin/busctl"))
    assert caught.value.message.startswith("firewalld: ")
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("said", ODD, ids=range(len(ODD)))
def test_who_gives_no_pid_is_no_firewalld(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    answer(monkeypatch, said)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(firewalld, "_is_here", lambda pid: pytest.fail(f"{pid} is no pid"))
    assert firewalld.running() is None


@pytest.mark.parametrize(
    ("said", "errors", "answered"),
    [(b'{"data":[["public"]]}', b"", True), (b"", b"Call failed: no such method\n", False)],
)
def test_its_answer_counts_where_nobody_knows_how_busctl_ended(
    monkeypatch: pytest.MonkeyPatch, said: bytes, errors: bytes, answered: bool
) -> None:
    ended = program.Captured(program.UNTOLD, said, errors)
    monkeypatch.setattr(program, "capture", lambda argv, seconds: ended)
    if answered:
        assert firewalld._call("/usr/bin/busctl", ("a", "b", "c", "getZones")) == ["public"]
        return
    with pytest.raises(NotAnswered, match="no such method"):
        firewalld._call("/usr/bin/busctl", ("a", "b", "c", "getZones"))


# -- its lock --------------------------------------------------------------------------------------


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Firewalld's directory, as upstream makes it, and the lock beside it."""
    made = Path(tempfile.mkdtemp(prefix="hvtx-zones-", dir="/var/tmp"))
    made.chmod(0o755)
    (made / "etc/zones").mkdir(parents=True)
    monkeypatch.setattr(firewalld_zones, "ZONES", str(made / "etc/zones"))
    monkeypatch.setattr(firewalld_zones, "LOCK", str(made / "lock"), raising=False)
    yield made
    shutil.rmtree(made)


@contextmanager
def holding(path: Path, user: int) -> Iterator[tuple[int, str]]:
    """A process of a user that has locked what it can open of a path; what came of it."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setresuid(user, user, user)
            descriptor = os.open(path, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(write, b"held")
        except OSError as problem:
            os.write(write, errno.errorcode[problem.errno].encode())
        signal.pause()
    try:
        yield pid, os.read(read, 20).decode()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read)
        os.close(write)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_no_other_user_holds_up_who_changes_the_zone(place: Path) -> None:
    """Any user may lock what it can open to read, as firewalld's directory, and wait."""
    with holding(place / "etc", 54321) as (_, said), firewalld.locked(0.1):
        assert said == "held"
    lock = place / "lock"
    assert stat.S_IMODE(lock.stat().st_mode) == 0o600
    with holding(lock, 54321) as (_, said), firewalld.locked(0.1):
        assert said == "EACCES"
    lock.chmod(0o644)
    with firewalld.locked(0.1):
        assert stat.S_IMODE(lock.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_who_does_change_it_is_waited_for_and_named(place: Path) -> None:
    (place / "lock").touch(0o600)
    with holding(place / "lock", 0) as (pid, said):
        assert said == "held"
        with pytest.raises(NotAnswered, match=f"pid {pid} "), firewalld.locked(0.1):
            pass
        with firewalld.locked(0.1, "/srv/another"):  # there nobody runs
            pass
    with firewalld.locked(0.1), pytest.raises(NotAnswered, match="is held by another"):
        firewalld.locked(0.05).__enter__()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
@pytest.mark.parametrize("what", ["link", "pipe", "theirs"])
def test_what_others_put_in_the_place_of_the_lock_is_none(place: Path, what: str) -> None:
    lock, victim = place / "lock", place / "victim"
    victim.touch(0o644)
    {
        "link": lambda: lock.symlink_to(victim),
        "pipe": lambda: os.mkfifo(lock),
        "theirs": lock.touch,
    }[what]()
    os.chown(lock, 54321, 54321, follow_symlinks=False)
    with pytest.raises(NotAnswered, match="cannot be opened"), firewalld.locked(0.1):
        pass
    assert stat.S_IMODE(victim.stat().st_mode) == 0o644


def test_without_firewalld_nothing_is_made(place: Path) -> None:
    shutil.rmtree(place / "etc")
    with firewalld.locked(0.1):
        assert not (place / "lock").exists()


def test_what_may_not_be_looked_at_is_not_absent(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where SELinux or a unit's sandbox refuses it: no lock is done without, no row forgotten."""

    def refused(path: object, *_: object, **__: object) -> object:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os, "lstat", refused)
    monkeypatch.setattr(os.path, "realpath", str)
    assert firewalld_zones.has_file()
    with pytest.raises(NotAnswered, match="cannot be looked at"), firewalld.locked(0.1):
        pass
    monkeypatch.undo()
    monkeypatch.setattr(firewalld_zones, "ZONES", str(place / "none"))
    assert not firewalld_zones.has_file()
