"""Children are reaped once they have ended, and nobody else's are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from hvtx.host import children, signals


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    children._known.clear()
    children._fresh.pids = []
    yield
    children._known.clear()
    children._fresh.pids = []


def spawn(script: str, *, ours: bool = True) -> int:
    pid = os.posix_spawn("/bin/sh", ["/bin/sh", "-c", script], {})
    if ours:
        children.started(pid)
    return pid


def ended(pid: int) -> None:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def is_there(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def test_what_has_ended_is_reaped_when_a_verb_is_over() -> None:
    gone, stays = spawn("exit 0"), spawn("read line <&-; exec sleep 60")
    ended(gone)
    children.settle()
    assert not is_there(gone)
    assert is_there(stays)
    os.kill(stays, 9)
    ended(stays)
    children.settle()
    assert not is_there(stays)


def test_a_verb_learns_how_its_own_ended_though_others_settle_meanwhile() -> None:
    pid = spawn("exit 7")
    ended(pid)
    other = threading.Thread(target=children.settle)
    other.start()
    other.join()
    assert is_there(pid)
    assert children.reap(pid) == 7
    assert not is_there(pid)


def test_what_the_program_started_itself_is_left_to_it() -> None:
    theirs, ours = spawn("exit 3", ours=False), spawn("exit 0")
    ended(theirs)
    ended(ours)
    children.settle()
    assert not is_there(ours), "one of the program's own hid it"
    assert children.reap(theirs) is None
    assert os.waitstatus_to_exitcode(os.waitpid(theirs, 0)[1]) == 3


def test_one_that_runs_has_no_exit_status_yet() -> None:
    pid = spawn("exec sleep 60")
    assert children.reap(pid) is None
    os.kill(pid, 9)
    assert children.wait(pid) == -9
    assert children.reap(pid) is None


def test_a_program_that_waits_for_all_itself_disturbs_nothing() -> None:
    pid = spawn("exit 0")
    os.waitpid(pid, 0)
    children.settle()
    children.settle()
    assert children.reap(pid) is None


def test_what_the_kernel_reaped_itself_is_forgotten() -> None:
    """Where the program ignores SIGCHLD; the others stay known, later too."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        gone, late, stays = spawn("exit 0"), spawn("exec sleep 60"), spawn("exec sleep 60")
        while is_there(gone):
            time.sleep(0.01)
        children.settle()
        assert children._known == {late, stays}
        for pid in (late, stays):
            os.kill(pid, 9)
            while is_there(pid):
                time.sleep(0.01)
    finally:
        signal.signal(signal.SIGCHLD, before)
    children.settle()
    assert children._known == set()


def test_a_forked_process_has_none_of_them_and_no_lock() -> None:
    pid = spawn("exec sleep 60")
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with children.spawning:
            held.set()
            release.wait(10)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(10)
    threading.Timer(0.05, release.set).start()  # a fork waits: what is inheritable must be gone
    forked = os.fork()
    if not forked:
        with children.spawning:
            os._exit(len(children._known) + len(children._fresh.pids))
    other.join()
    assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 0
    os.kill(pid, 9)
    deadline = time.monotonic() + 10
    while children.reap(pid) is None and time.monotonic() < deadline:
        time.sleep(0.001)
    assert not is_there(pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_the_child_is_known(number: signal.Signals) -> None:
    before, known = signal.signal(number, signal.default_int_handler), False
    try:
        with pytest.raises(KeyboardInterrupt), children.uninterrupted() as mask:
            assert mask == set()
            signal.raise_signal(number)  # to this thread: a worker of pytest has others
            known = True
    finally:
        signal.signal(number, before)
    assert known
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_signal_that_comes_before_leaves_none_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """pthread_sigmask(3) of Python runs the handlers when it has changed the mask."""

    def late(how: int, numbers: tuple[int, ...]) -> set[int]:
        signal.pthread_sigmask(how, numbers)
        if how == signal.SIG_BLOCK:
            raise KeyboardInterrupt
        return set()

    monkeypatch.setattr(signals, "pthread_sigmask", late)
    with pytest.raises(KeyboardInterrupt), children.uninterrupted():
        pytest.fail("it was raised before")
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_how_a_child_ends_is_told_whatever_our_starter_ignores() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        children.await_ends()
        assert os.waitstatus_to_exitcode(os.waitpid(spawn("exit 7"), 0)[1]) == 7
        signal.signal(signal.SIGCHLD, handler := lambda *_: None)
        children.await_ends()
        assert signal.getsignal(signal.SIGCHLD) is handler
    finally:
        signal.signal(signal.SIGCHLD, before)


# -- what ends a program of hvtx's own ---------------------------------------------------------------

_PROGRAM = """
import os, signal, sys
from hvtx.host import children
number, code, ignored = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
if ignored:
    signal.signal(number, signal.SIG_IGN)
children.interrupt_at_ends()
try:
    os.kill(os.getpid(), number)
    print("goes on", flush=True)
except KeyboardInterrupt:
    print("interrupted by", children.ended_by(), flush=True)
children.end_as_told(code)
os._exit(7)
"""


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
@pytest.mark.parametrize(
    ("code", "more", "said", "ended"),
    [("its own", [], "interrupted by {}", "by it"), ("0", [], "interrupted by {}", "exits"),
     ("its own", ["ignored"], "goes on", "exits")],
    ids=["interrupted", "too late", "ignored by the caller"],
)  # fmt: skip
def test_a_signal_interrupts_and_is_what_ends_the_program(
    number: int, code: str, more: list[str], said: str, ended: str
) -> None:
    """As without a handler for who waits; what was done in spite of it ends with its own code."""
    wanted = str(128 + number) if code == "its own" else code
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(int(number)), wanted, *more],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (said.format(int(number)) + "\n", "")
    assert done.returncode == (-number if ended == "by it" else 7)


def test_what_ends_a_command_is_held_back_while_a_process_is_started() -> None:
    held = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}
    with children.uninterrupted():
        assert held <= signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert not held & signal.pthread_sigmask(signal.SIG_BLOCK, [])
