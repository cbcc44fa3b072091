"""Facts about real processes: zombies, threads that outlive their leader, stopped, other ones."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

import hvtx
from hvtx.host import procfs
from hvtx.model.vm import ProcessFacts

# The main thread ends by itself (exit of the thread, not of the process) and another one stays.
LEADERLESS = """
import ctypes, os, threading, time
def stay():
    print("ready", flush=True)
    time.sleep(60)
threading.Thread(target=stay).start()
ctypes.CDLL(None).syscall({number}, 0)
"""
EXIT = {"x86_64": 60, "aarch64": 93}


def python(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["sleep", "60"])
    yield child
    child.kill()
    child.wait()


def until(condition, what: str) -> None:
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError(f"never {what}")


def state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def test_ourselves():
    me = procfs.identify(os.getpid())
    with open("/proc/sys/kernel/random/boot_id") as file:
        assert me.boot_id == file.read().strip() and len(me.boot_id) == 36
    facts = procfs.look(os.getpid())
    assert facts == ProcessFacts(True, me.start, me.inode, ended=False, error="")
    assert procfs.same(me, facts)
    assert me.start > procfs.identify(1).start


def test_inodes_of_pidfds_tell_processes_apart_or_are_not_used(sleeper):
    ours, theirs = procfs.identify(os.getpid()).inode, procfs.identify(sleeper.pid).inode
    assert (ours == theirs == 0) or (ours != theirs and 0 not in (ours, theirs))


def test_the_inode_is_that_of_the_pidfd_where_there_is_pidfs(sleeper):
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    inode = procfs.identify(sleeper.pid).inode
    assert bool(inode) == (release >= (6, 9))


def test_looking_again_shows_the_same(sleeper):
    me = procfs.identify(sleeper.pid)
    for known in (me, me._replace(inode=0), me._replace(inode=me.inode + 1)):
        assert procfs.look_again(known) == procfs.look(sleeper.pid)
    sleeper.kill()
    until(lambda: state(sleeper.pid) == "Z", "a zombie")
    assert procfs.look_again(me) == ProcessFacts(True, me.start, me.inode, ended=True)
    sleeper.wait()
    assert procfs.look_again(me) == ProcessFacts(False)
    assert procfs.look_again(me._replace(pid=0)).error


def test_a_zombie_has_ended(sleeper):
    me = procfs.identify(sleeper.pid)
    sleeper.kill()
    until(lambda: state(sleeper.pid) == "Z", "a zombie")
    facts = procfs.look(sleeper.pid)
    assert facts.exists and facts.ended and not facts.error
    assert procfs.wait_gone(me, 0)
    assert procfs.signal(me, 0) is False
    with pytest.raises(ProcessLookupError):
        procfs.identify(sleeper.pid)
    sleeper.wait()
    assert procfs.look(me.pid) == ProcessFacts(False)
    assert procfs.wait_gone(me, 0)


def test_a_process_whose_leader_thread_has_exited_lives():
    child = python("-c", LEADERLESS.format(number=EXIT[os.uname().machine]))
    try:
        child.stdout.readline()
        until(lambda: state(child.pid) == "Z", "without its leader")
        facts = procfs.look(child.pid)
        assert facts.exists and not facts.ended and not facts.error
        me = procfs.identify(child.pid)
        assert procfs.wait_gone(me, 0) is False
        assert procfs.signal(me, signal.SIGKILL) is True
        assert procfs.wait_gone(me, 10) is True
        assert procfs.look(child.pid).ended
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_a_stopped_process_lives(sleeper):
    me = procfs.identify(sleeper.pid)
    assert not procfs.is_stopped(me)
    assert procfs.signal(me, signal.SIGSTOP)
    until(lambda: state(sleeper.pid) == "T", "stopped")
    assert procfs.is_stopped(me)
    assert not procfs.is_stopped(me._replace(start=me.start - 1)), "it is another process"
    assert procfs.look(sleeper.pid) == ProcessFacts(True, me.start, me.inode)
    assert procfs.wait_gone(me, 0) is False


def test_a_pid_that_is_used_again_is_another_process(sleeper):
    me = procfs.identify(sleeper.pid)
    for other in (me._replace(start=me.start - 1), me._replace(boot_id="0" * 36)):
        assert procfs.signal(other, signal.SIGKILL) is False
        assert procfs.wait_gone(other, 0) is True
    if me.inode:
        other = me._replace(inode=me.inode + 1)
        assert procfs.signal(other, signal.SIGKILL) is False
    assert sleeper.poll() is None
    assert procfs.wait_gone(me, 0) is False


def test_an_identity_from_a_kernel_without_pidfs_still_holds(sleeper):
    me = procfs.identify(sleeper.pid)._replace(inode=0)
    assert procfs.signal(me, signal.SIGTERM) is True
    assert procfs.wait_gone(me, 10) is True


def test_exec_keeps_the_identity():
    child = subprocess.Popen(["sh", "-c", "read x; exec sleep 60"], stdin=subprocess.PIPE)
    try:
        before = procfs.identify(child.pid)
        child.stdin.write(b"\n")
        child.stdin.close()
        until(lambda: procfs.command_line(child.pid)[:1] == ("sleep",), "executed")
        assert procfs.identify(child.pid) == before
    finally:
        child.kill()
        child.wait()


def test_names_with_parentheses_and_blanks(tmp_path):
    """The worst name a process can give itself: it looks like the rest of the line."""
    rename = "import ctypes; ctypes.CDLL(None).prctl(15, b') R 1 1 1 (', 0, 0, 0)"
    script = f"{rename}; print(flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        child.stdout.readline()
        with open(f"/proc/{child.pid}/comm") as file:
            assert file.read() == ") R 1 1 1 (\n"
        uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
        started = procfs.look(child.pid).start / os.sysconf("SC_CLK_TCK")
        assert uptime - 3600 < started <= uptime
    finally:
        child.communicate(b"\n")


def test_start_time_of_lines():
    rest = b" S " + b" ".join(str(n).encode() for n in range(4, 53))
    assert procfs.start_time(b"7 (a) R 1 1 1)" + rest) == 22
    for line in (b"", b"7 (a", b"7 (a) S 1 2"):
        with pytest.raises(ValueError):
            procfs.start_time(line)


def test_a_thread_is_no_process():
    child = python("-c", "import threading,time\nt=threading.Thread(target=time.sleep,args=(60,))\n"
                   "t.start()\nprint(t.native_id, flush=True)")  # fmt: skip
    try:
        thread = int(child.stdout.readline())
        assert procfs.look(thread) == ProcessFacts(False)
        with pytest.raises(ProcessLookupError):
            procfs.identify(thread)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


@pytest.mark.parametrize("pid", [0, -1])
def test_what_is_no_pid_is_an_error_and_not_absence(pid):
    assert procfs.look(pid).error


def test_no_process_has_a_pid_above_the_limit():
    with open("/proc/sys/kernel/pid_max") as file:
        free = int(file.read()) + 1
    assert procfs.look(free) == ProcessFacts(False)


def test_wait_gone_sees_the_end(sleeper):
    me = procfs.identify(sleeper.pid)
    sleeper.terminate()
    assert procfs.wait_gone(me, 30) is True


def test_the_namespace_cookie_stays_the_same_and_is_a_number():
    first = procfs.netns_cookie()
    assert first > 0 and procfs.netns_cookie() == first


def test_importing_loads_nothing_heavy():
    heavy = "{'subprocess','logging','ctypes','asyncio','dataclasses','socket','json','select'}"
    code = f"import sys, hvtx.host.procfs; print(sorted({heavy} & set(sys.modules)))"
    package = os.path.dirname(os.path.dirname(os.path.abspath(hvtx.__file__)))
    shown = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": package},
    )
    assert shown.stdout.strip() == "[]", shown.stderr


def test_who_this_process_is_is_looked_up_once(monkeypatch):
    """It cannot become another while it lives; a fork is another."""
    real = procfs.identify(os.getpid())
    look = procfs.look
    monkeypatch.setattr(procfs, "look", lambda pid: pytest.fail(f"{pid} was looked at again"))
    assert procfs.identify(os.getpid()) == real
    child = os.fork()
    if not child:
        procfs.look = look
        known = bool(procfs._myself)
        os._exit(known or procfs.identify(os.getpid()).pid != os.getpid())
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EPERM])
def test_a_look_that_fails_keeps_its_error(monkeypatch, code):
    """Out of descriptors is no lack of permission, and neither says that a process is gone."""
    real = procfs.identify(os.getpid())

    def refuse(pid, flags=0):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    monkeypatch.setattr(procfs, "_myself", [])
    facts = procfs.look(os.getpid())
    assert (facts.exists, facts.ended, facts.code) == (True, False, code)
    for ask in (lambda: procfs.identify(os.getpid()), lambda: procfs.wait_gone(real, 0)):
        with pytest.raises(OSError) as caught:
            ask()
        assert caught.value.errno == code
        assert isinstance(caught.value, PermissionError) == (code == errno.EPERM)


def test_a_look_never_raises_for_want_of_descriptors(monkeypatch):
    def refuse(initval, flags=0):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "eventfd", refuse)
    monkeypatch.setattr(procfs, "_seen", {})
    facts = procfs.look(os.getpid())
    assert (facts.exists, facts.ended, facts.code) == (True, False, errno.EMFILE)
