"""Who holds up others is named, and a terminal's Ctrl-Z does not make anybody do so."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from hvtx.errors import Busy
from hvtx.host import forgotten, lock_holder, xtlock
from hvtx.host.job_control import going_on
from hvtx.host.locks import LockFile


@contextmanager
def another(act: Callable[[], object]) -> Iterator[int]:
    """A process in a group of its own that has done ``act``, and then waits to be killed."""
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            os.setpgid(0, 0)
            kept = act()
            os.write(tell, b"x")
            signal.pause()
            del kept
        os._exit(1)
    os.close(tell)
    try:
        assert os.read(ready, 1) == b"x"
        yield pid
    finally:
        os.close(ready)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("stopped", [False, True])
def test_who_holds_a_byte_is_named(tmp_path: Path, stopped: bool) -> None:
    path = str(tmp_path / "names.lock")

    def hold() -> LockFile:
        file = LockFile(path)
        assert file.try_lock(1 << 33)
        return file

    with another(hold) as pid, another(lambda: LockFile(path)):  # the second only has it open
        if stopped:
            os.kill(pid, signal.SIGSTOP)
            os.waitpid(pid, os.WUNTRACED)
        here = LockFile(path)
        here.lock(7, 0, "VM other")
        with pytest.raises(Busy) as refused:
            here.lock(1 << 33, 0, "VM web")
        here.close()
    assert refused.value.message.startswith(f"VM web is held by another operation: pid {pid} (")
    assert refused.value.message.endswith("which is stopped (T)") is stopped
    assert (f"kill -CONT {pid}" in str(refused.value.hint)) is stopped
    assert (f"kill -KILL {pid}" in str(refused.value.hint)) is stopped


def test_who_holds_the_lock_of_iptables_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "xtables.lock"
    path.touch()
    monkeypatch.setenv("XTABLES_LOCKFILE", str(path))

    def hold() -> int:
        descriptor = os.open(path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    with another(hold) as pid:
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)
        with pytest.raises(Busy) as refused, xtlock.locked(0.05):
            pass
    assert f"pid {pid} (" in refused.value.message
    assert "stopped (T)" in refused.value.message
    assert f"kill -CONT {pid}" in str(refused.value.hint)


def test_who_keeps_the_reservations_of_a_network_is_named(tmp_path: Path) -> None:
    path = tmp_path / "forgotten"
    path.touch()

    def hold() -> int:
        descriptor = os.open(path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    with another(hold) as pid, pytest.raises(Busy) as refused, forgotten.locked(str(path), 0.05):
        pass
    assert f"{path} is held by another operation: pid {pid} (" in refused.value.message
    with forgotten.locked(str(path), 0.05) as file:
        os.write(file, b"one\n")
    assert forgotten.read(str(path)) == "one\n"


def test_a_terminal_stops_nobody_who_has_the_reservations_of_a_network(tmp_path: Path) -> None:
    with forgotten.locked(str(tmp_path / "forgotten"), 0):
        assert signal.SIGTSTP in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert signal.SIGTSTP not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_lock_that_nobody_is_seen_to_hold_is_told_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    assert lock_holder.of_byte(str(path), 7) is None
    assert lock_holder.of_byte(str(tmp_path / "absent"), 7) is None
    message, hint = lock_holder.told("VM web", None)
    assert message == "VM web is held by another operation"
    assert "hvtx intents" in hint


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["/usr/bin/python3", "-I", "/usr/bin/hvtx", "vm", "stop", "web"], "hvtx vm stop web"),
        (["python3", "-m", "hvtx", "--state-dir", "/s", "--debug", "vm", "run", "web", "--append",
          "password=x"], "hvtx vm run web"),
        (["hvtx", "--state-dir=/s", "gc", "--apply"], "hvtx gc"),
        (["hvtx", "vm", "set", "web", "secret"], "hvtx vm set web"),
        (["hvtx", "vm", "Secret\x1b[2J"], "hvtx vm"),
        (["/sbin/iptables-restore", "-w"], "iptables-restore"),
        (["\x1b]0;x\x07"], "?]0;x?"),
        ([""], "?"),
    ],
)  # fmt: skip
def test_what_it_does_is_told_without_what_may_be_secret(words: list[str], told: str) -> None:
    assert lock_holder.command_of(words) == told


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_what_a_terminal_sends_waits_until_others_are_not_held_up() -> None:
    """Ctrl-Z in the middle comes at the end; in between the process is never stopped."""
    go, say = os.pipe()
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)  # a group that is orphaned would not be stopped at all
        with going_on(), going_on():
            os.write(tell, b"x")
            os.read(go, 1)
            os.write(tell, b"y")
        os.write(tell, b"z")
        os._exit(0)
    try:
        assert os.read(ready, 1) == b"x"
        for number in (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
            os.kill(pid, number)
        os.write(say, b"x")
        assert os.read(ready, 1) == b"y", "it went on inside"
        assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
        assert state(pid) == "T"
        os.kill(pid, signal.SIGCONT)
        assert os.read(ready, 1) == b"z"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for descriptor in (go, say, ready, tell):
            os.close(descriptor)
