"""Locks fall with their process, and with no other."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from hvtx.host.locks import LockFile


def test_a_lock_that_a_child_was_forked_with_falls_with_the_parent(tmp_path: Path) -> None:
    """A child that does not exec would keep it for its life: it gives its copy back at once."""
    path = str(tmp_path / "lock")
    ready, tell = os.pipe()
    parent = os.fork()
    if parent == 0:
        file = LockFile(path)
        assert file.try_lock(7)
        child = os.fork()
        if child == 0:
            os.write(tell, b"%d " % os.getpid())
            signal.pause()
        signal.pause()
    os.close(tell)
    child = int(os.read(ready, 100))
    here = LockFile(path)
    try:
        assert here.held_elsewhere(7), "the child took nothing away"
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        assert not here.held_elsewhere(7), "the child, which lives, keeps nothing"
        os.kill(child, 0)
        assert here.try_lock(7)
    finally:
        os.kill(child, signal.SIGKILL)
        here.close()
        os.close(ready)


def test_a_lock_stays_when_another_descriptor_of_its_file_is_closed(tmp_path: Path) -> None:
    """Unlike POSIX locks, which any close of the file in the process would drop."""
    path = str(tmp_path / "lock")
    file, other = LockFile(path), LockFile(path)
    assert file.try_lock(7)
    os.close(os.open(path, os.O_RDWR))
    assert other.held_elsewhere(7)
    file.close()
    assert not other.held_elsewhere(7)
    other.close()


def test_a_program_that_was_executed_has_no_lock(tmp_path: Path) -> None:
    """The descriptors are closed by exec."""
    path = str(tmp_path / "lock")
    file, other = LockFile(path), LockFile(path)
    assert file.try_lock(7)
    pid = os.posix_spawnp("sleep", ["sleep", "60"], dict(os.environ))
    try:
        file.close()
        # the kernel lets the parent go on in the middle of the exec, before it closes descriptors
        for _ in range(2000):
            if not other.held_elsewhere(7):
                break
            time.sleep(0.005)
        assert not other.held_elsewhere(7)
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the program runs, and keeps nothing"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        other.close()


def test_a_byte_that_was_taken_twice_is_given_back_twice(tmp_path: Path) -> None:
    """What takes it for a while does not give back what its caller holds."""
    outer, other = LockFile(str(tmp_path / "lock")), LockFile(str(tmp_path / "lock"))
    try:
        assert outer.try_lock(7)
        assert outer.try_lock(7)
        outer.unlock(7)
        assert other.held_elsewhere(7)
        assert not other.try_lock(7)
        outer.unlock(7)
        assert other.try_lock(7)
        assert not outer.try_lock(7)
        other.unlock(7)
        assert outer.try_lock(7)
    finally:
        outer.close()
        other.close()
