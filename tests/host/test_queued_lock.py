"""Turns at a lock: first come, first served, and nobody who waits holds the others up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvtx.errors import Busy
from hvtx.host import queued_lock
from hvtx.host.locks import LockFile
from hvtx.host.queued_lock import PLACES, take

WAITERS = 6


class Seen(LockFile):
    """A file that tells when a place in the line was taken."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.lined_up = threading.Event()

    def try_lock(self, offset: int, *, shared: bool = False) -> bool:
        taken = super().try_lock(offset, shared=shared)
        if taken and offset >= PLACES:
            self.lined_up.set()
        return taken


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "queue.lock")


@pytest.fixture
def holder(path: str) -> Iterator[LockFile]:
    file = LockFile(path)
    take(file, 0, 0, "it")
    yield file
    file.close()


def waiting(path: str, number: int, order: list[int], files: list[Seen]) -> threading.Thread:
    """Somebody who asks now, and gives back at once what it got."""
    file = Seen(path)
    files.append(file)

    def wait() -> None:
        take(file, 0, 30, "it")
        order.append(number)
        file.unlock(0)

    thread = threading.Thread(target=wait)
    thread.start()
    assert file.lined_up.wait(30)
    return thread


def test_it_goes_round_in_the_order_of_asking(path: str, holder: LockFile) -> None:
    """Six wait, one after the other; each gets it once, in that order."""
    order: list[int] = []
    files: list[Seen] = []
    threads = [waiting(path, number, order, files) for number in range(WAITERS)]
    holder.unlock(0)
    for thread in threads:
        thread.join(30)
    assert order == list(range(WAITERS))
    assert not any(file.held_within(0, 1 << 62) for file in files)


def test_a_newcomer_does_not_pass_who_waits(path: str, holder: LockFile) -> None:
    """A lock that is free is not for the taking while somebody has a place in the line."""
    holder.unlock(0)
    waiter, newcomer = LockFile(path), LockFile(path)
    assert waiter.try_lock(PLACES + 1)
    with pytest.raises(Busy, match="the store"):
        take(newcomer, 0, 0, "the store")
    take(waiter, 0, 0, "the store")  # its own place is no reason for it to wait
    waiter.unlock(PLACES + 1)
    waiter.unlock(0)
    take(newcomer, 0, 0, "the store")


def test_who_waits_and_does_not_come_is_passed(
    path: str, holder: LockFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped waiter costs the others a bounded number of looks, and not the whole time."""
    holder.unlock(0)
    stopped, other = LockFile(path), LockFile(path)
    assert stopped.try_lock(PLACES + 1)
    looks: list[float] = []
    monkeypatch.setattr(queued_lock.time, "sleep", looks.append)
    take(other, 0, 3600, "it")
    assert len(looks) == queued_lock.PATIENCE


def test_a_place_falls_with_its_process(path: str, holder: LockFile) -> None:
    """Who died in the line is in nobody's way."""
    holder.unlock(0)
    dead, other = LockFile(path), LockFile(path)
    assert dead.try_lock(PLACES + 1)
    dead.close()
    take(other, 0, 0, "it")


def test_who_has_waited_too_long_leaves_the_line(path: str, holder: LockFile) -> None:
    """Busy, as ever; and nobody waits for it any more."""
    late = LockFile(path)
    with pytest.raises(Busy, match="the state store"):
        take(late, 0, 0, "the state store")
    assert not holder.held_within(PLACES, 1 << 62)
