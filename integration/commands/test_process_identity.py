"""Who a process is: pids that come round, processes that look dead, views that do not show them."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from integration import lab
from integration.lab.processes import is_alive, letter
from integration.lab.program import Forked, Program, preload
from integration.lab.waiting import until

ROOT = Path(__file__).resolve().parents[2]
TUNSETIFF, TAP_NO_PI = 0x400454CA, 0x1002
INNER = ("masquerade", "filter", "file")  # what a VM has beside its device and its ports
PTRACE_CONT, PTRACE_SEIZE, PTRACE_INTERRUPT = 7, 0x4206, 0x4207
CLONE_VFORK = 0x4000
SYS_CLONE, SYS_EXIT = (220, 93) if os.uname().machine == "aarch64" else (56, 60)
OPEN_TAP = f"""
import fcntl, os, struct, sys, time
def tap(name):
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, {TUNSETIFF}, struct.pack("16sH22x", name.encode(), {TAP_NO_PI}))
    os.set_inheritable(fd, True)
    return fd
"""


@pytest.fixture
def hvtx() -> Program:
    """A program with a network; what VMs leave behind ends with the test's own processes."""
    preload()
    program = Forked(HVTX_FIREWALL="nftables")
    program("network", "create", "net", "--subnet", "10.77.0.0/24")
    return program


@pytest.fixture
def outer(hvtx: Program) -> Program:
    """The same with a started `external` VM `web` that waits for its process."""
    hvtx("vm", "create", "web", "--network", "net", "--hypervisor", "external")
    hvtx("vm", "start", "web")
    return hvtx


@contextmanager
def child(*argv: str) -> Iterator[subprocess.Popen[str]]:
    """A process of the test, ended in the end."""
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def hold(device: str) -> int:
    """Open a TAP as a hypervisor does; the descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", device.encode(), TAP_NO_PI))
    return descriptor


def deletions(hvtx: Program) -> list[object]:
    return [items for (action, _), items in hvtx.plan().items() if action != "skip"]


def kept(hvtx: Program) -> bool:
    """Whether a collection leaves all of the VM `web` as it is."""
    before = lab.dump()
    assert deletions(hvtx) == []
    hvtx("gc", "--apply")
    hvtx("recover")
    return lab.difference(before, lab.dump()) == ""


# -- pids that come round ------------------------------------------------------------------------

WORLD = """
import os, signal, subprocess, sys
sys.path.insert(0, {root!r})
from hvtx.host import procfs
from integration.lab.program import Forked
def again(pid):
    "The next process gets this pid: pids are handed out in turn, and this one was the last."
    with open("/proc/sys/kernel/ns_last_pid", "w") as last:
        last.write(str(pid - 1))
    stranger = subprocess.Popen(["sleep", "600"])
    assert stranger.pid == pid, (stranger.pid, pid)
    return stranger
"""


def in_pid_namespace(script: str) -> None:
    """Run a script as the first process of a pid namespace, which ends with it."""
    argv = ["unshare", "-pf", "--mount-proc", sys.executable, "-c"]
    lab.run(*argv, WORLD.format(root=str(ROOT)) + script)


def test_a_pid_that_comes_round_is_a_stranger() -> None:
    """The VM dies, its very pid is given to another program: nobody signals that one."""
    in_pid_namespace("""
hvtx = Forked(HVTX_FIREWALL="nftables")
hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
for command in (("vm", "stop", "web"), ("gc", "--apply"), ("vm", "rm", "--force", "web")):
    hvtx("vm", "run", "web", "--network", "net", "--", "sleep", "600")
    pid = hvtx.vm("web")["pid"]
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    stranger = again(pid)
    assert hvtx.vm("web")["state"] == "crashed"
    hvtx(*command)
    assert hvtx.is_clean()
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()
    if command[0] != "vm" or command[1] != "rm":
        hvtx("vm", "rm", "web")
""")


def test_a_pid_that_comes_round_between_two_looks() -> None:
    """The process goes and its pid comes round while it is looked at: its end is told."""
    in_pid_namespace("""
victim = subprocess.Popen(["sleep", "600"])
identity = procfs.identify(victim.pid)
read, others = procfs.read_whole, []
def late(path):
    if path == f"/proc/{victim.pid}/stat" and not others:
        victim.kill()
        victim.wait()
        others.append(again(victim.pid))
    return read(path)
procfs.read_whole = late
facts = procfs.look(victim.pid)
assert others and not facts.exists, facts
assert procfs.open_checked(identity) is None
assert procfs.signal(identity, signal.SIGKILL) is False
assert others[0].poll() is None
""")


# -- processes that look dead --------------------------------------------------------------------


def test_a_zombie_is_dead(outer: Program) -> None:
    """Its parent has not asked for it yet: kill(pid, 0) succeeds, and it is dead all the same."""
    with child("sleep", "600") as process:
        outer("vm", "attach", "web", "--pid", str(process.pid))
        process.kill()
        until("a zombie", lambda: letter(process.pid) == "Z")
        os.kill(process.pid, 0)
        assert outer.vm("web")["state"] == "crashed"
        outer("gc", "--apply")
        assert outer.is_clean()
        assert outer.vm("web")["state"] == "defined"


def leaderless(pid: int) -> None:
    until("without its leader", lambda: letter(pid) == "Z")


def traced(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.ptrace(PTRACE_SEIZE, pid, 0, 0) == 0
    assert libc.ptrace(PTRACE_INTERRUPT, pid, 0, 0) == 0
    os.waitpid(pid, 0)
    assert letter(pid) == "t"


def uninterruptible(pid: int) -> None:
    until("waiting inside the kernel", lambda: letter(pid) == "D")


LIVING = {
    "leader exited": (
        f"""
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
ctypes.CDLL(None).syscall({SYS_EXIT}, 0)
""",
        leaderless,
    ),
    "traced": ("import time; time.sleep(600)", traced),
    # who waits for the exec of a child of vfork(2) can be interrupted by nothing but its death
    "uninterruptible": (
        f"""
import ctypes, os, time
if ctypes.CDLL(None).syscall({SYS_CLONE}, {CLONE_VFORK | signal.SIGCHLD}, 0, 0, 0, 0) == 0:
    ctypes.CDLL(None).prctl(1, 9)  # it ends with its parent
    time.sleep(600)
""",
        uninterruptible,
    ),
}


@pytest.mark.parametrize("how", list(LIVING))
def test_what_looks_dead_and_lives(outer: Program, how: str) -> None:
    """Without its leader thread, in a debugger's hands, waiting in the kernel: alive."""
    script, arrive = LIVING[how]
    with child(sys.executable, "-c", script) as process:
        outer("vm", "attach", "web", "--pid", str(process.pid))
        arrive(process.pid)
        assert outer.vm("web")["state"] == "running"
        assert kept(outer)


def freezer() -> Path | None:
    """A cgroup to freeze, of either version; None where this host lets us make none."""
    for place in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/freezer"):
        own = Path(place, f"hvtx-test-{os.getpid()}")
        try:
            own.mkdir()
        except OSError:
            continue
        if (own / "cgroup.freeze").exists() or (own / "freezer.state").exists():
            return own
        own.rmdir()
    return None


def test_a_frozen_process_lives(outer: Program) -> None:
    """A cgroup that is frozen (by a snapshot, or a person) holds living processes."""
    group = freezer()
    if group is None:
        pytest.skip("no cgroup can be made here")
    old = (group / "freezer.state").exists()
    switch, on, off = ("freezer.state", "FROZEN", "THAWED") if old else ("cgroup.freeze", "1", "0")
    try:
        with child("sleep", "600") as process:
            outer("vm", "attach", "web", "--pid", str(process.pid))
            (group / "cgroup.procs").write_text(str(process.pid))
            (group / switch).write_text(on)
            try:
                assert outer.vm("web")["state"] == "running"
                assert kept(outer)
            finally:
                (group / switch).write_text(off)
    finally:
        until("empty", lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def test_a_process_that_became_another_program(outer: Program) -> None:
    """Exec changes the program and the name, not the process."""
    script = "import os, sys; sys.stdin.readline(); os.execvp('sleep', ['sleep', '600'])"
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
    try:
        outer("vm", "attach", "web", "--pid", str(process.pid))
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.close()
        comm = Path(f"/proc/{process.pid}/comm")
        until("another program", lambda: comm.read_text() == "sleep\n")
        assert outer.vm("web")["state"] == "running"
        assert kept(outer)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("name", ["a) Z 1 (", "\x1b[2J\x1b]0;x"])
def test_a_process_whose_name_is_a_trap(hvtx: Program, name: str) -> None:
    """Names with parentheses, blanks and terminal sequences are read, and printed harmlessly."""
    script = OPEN_TAP + (
        "import ctypes\n"
        "fd = tap(sys.argv[1])\n"
        f"ctypes.CDLL(None).prctl(15, {name.encode()!r})\n"
        "if os.fork() == 0: time.sleep(600)\n"  # the child keeps the device when this one dies
        "time.sleep(600)\n"
    )
    hvtx("vm", "run", "web", "--network", "net", "--", sys.executable, "-c", script, "{tap}")
    pid = hvtx.vm("web")["pid"]
    until("renamed", lambda: name in Path(f"/proc/{pid}/comm").read_text())
    children = Path(f"/proc/{pid}/task/{pid}/children")
    until("forked", children.read_text)
    heir = int(children.read_text())
    assert hvtx.vm("web")["state"] == "running"
    lab.end(pid)
    try:
        plan = hvtx("gc", "--plan")
        assert "held open" in plan.out
        stopped = hvtx("vm", "stop", "web")  # which ends what its VM started beside itself
        assert "\x1b" not in plan.out + stopped.err
        assert not is_alive(heir)
    finally:
        with suppress(ProcessLookupError):
            lab.end(heir)
    assert hvtx.is_clean()


def deletions_pending(hvtx: Program) -> bool:
    hvtx("gc", "--apply", code=None)
    return not hvtx.is_clean() or hvtx.vm("web")["state"] != "defined"


def printed(hvtx: Program) -> int:
    """The number that the VM `web` prints first."""

    def line() -> str | None:
        text = hvtx("vm", "logs", "web").out
        return text if text.endswith("\n") else None

    return int(until("its number", line) or "")


# -- devices that others hold --------------------------------------------------------------------


def test_a_launcher_that_makes_itself_a_daemon(hvtx: Program) -> None:
    """The recorded process ends, what it left behind holds the device: all of the VM stays."""
    script = OPEN_TAP + (
        "fd = tap(sys.argv[1])\n"
        "time.sleep(0.5)\n"  # what ends at once has never been up
        "if os.fork(): os._exit(0)\n"
        "os.setsid()\n"
        "if os.fork(): os._exit(0)\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(600)\n"
    )
    hvtx("vm", "run", "web", "--network", "net", "--", sys.executable, "-c", script, "{tap}")
    daemon = printed(hvtx)
    try:
        until("without its launcher", lambda: hvtx.vm("web")["state"] == "crashed")
        assert hvtx.reasons("tap") == {("skip", "in-use")}
        assert kept(hvtx)
        assert str(daemon) in hvtx("vm", "start", "web", code=4).err
    finally:
        lab.end(daemon)
    until("let go", lambda: not deletions_pending(hvtx))


def test_a_device_that_a_helper_inherited(hvtx: Program) -> None:
    """A helper of the dead VM (a logger, a virtiofsd) still has the descriptor: it is named."""
    script = OPEN_TAP + "import subprocess\nfd = tap(sys.argv[1])\n" + (
        "helper = subprocess.Popen(['sleep', '600'], close_fds=False)\n"
        "print(helper.pid, flush=True)\n"
        "time.sleep(600)\n"
    )  # fmt: skip
    hvtx("vm", "run", "web", "--network", "net", "--", sys.executable, "-c", script, "{tap}")
    helper = printed(hvtx)
    try:
        lab.end(hvtx.vm("web")["pid"])
        held = hvtx.plan()["skip", "in-use"]
        assert [f"sleep (pid {helper})" in item["message"] for item in held] == [True]
        assert kept(hvtx)
        hvtx("vm", "stop", "web")  # which ends what its VM started beside itself
        assert not is_alive(helper)
    finally:
        with suppress(ProcessLookupError):
            lab.end(helper)
    assert hvtx.is_clean()


def test_a_descriptor_that_no_process_shows(hvtx: Program) -> None:
    """In flight through a socket, as inside vhost, /proc shows no holder: attaching meets it."""
    hvtx("vm", "run", "web", "--network", "net", "-p", "8080:80", "--", "sleep", "600")
    device = hvtx.device("web")
    near, far = socket.socketpair(socket.AF_UNIX)
    with near, far:
        descriptor = hold(device)
        socket.send_fds(near, [b"x"], [descriptor])
        os.close(descriptor)
        lab.end(hvtx.vm("web")["pid"])
        before = lab.dump()
        assert hvtx.reasons("tap", device) == {("delete", "vm-dead")}
        done = hvtx("gc", "--apply", "--json").json()
        said = {(i["kind"], i["outcome"]) for i in done["items"] if i["action"] == "delete"}
        assert said == {(kind, "skipped") for kind in ("tap", "publish", *INNER)}
        assert lab.difference(before, lab.dump()) == ""
    hvtx("gc", "--apply")
    assert hvtx.is_clean()


# -- views that do not show the process ------------------------------------------------------------


def elsewhere(*prefix: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The program inside other namespaces than the test's."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*prefix, sys.executable, "-m", "hvtx", *arguments],
            capture_output=True, text=True, check=False, timeout=120, cwd=ROOT,
        )  # fmt: skip

    return run


@pytest.mark.parametrize("proc", ["--mount-proc", ""], ids=["own proc", "foreign proc"])
def test_from_another_pid_namespace_nothing_is_dead(hvtx: Program, proc: str) -> None:
    """A container that shares the network, but not the pids, sees no VM process: unknown."""
    hvtx("vm", "run", "web", "--network", "net", "--", "sleep", "600")
    pid = hvtx.vm("web")["pid"]
    try:
        there = elsewhere("unshare", "-pf", *filter(None, [proc]))
        before = lab.dump()
        plan = json.loads(there("gc", "--plan", "--json").stdout)
        assert {(i["action"], i["reason"]) for i in plan["items"] if i["vm"] == "web"} == {
            ("skip", "liveness-unknown")
        }
        assert json.loads(there("vm", "show", "web", "--json").stdout)["state"] == "unknown"
        assert there("gc", "--apply").returncode == 0
        assert there("recover").returncode == 0
        for command in (("start", "web"), ("stop", "web"), ("rm", "web")):
            assert there("vm", *command).returncode == 4
        assert there("vm", "stop", "--force", "web").returncode == 5
        assert lab.difference(before, lab.dump()) == ""
        assert hvtx.vm("web")["state"] == "running"
    finally:
        lab.end(pid)


def test_a_process_in_a_pid_namespace_of_its_own(outer: Program) -> None:
    """What a jailer put away is known by the pid that it has out here."""
    argv = ["unshare", "-pf", "--kill-child", "sh", "-c", "echo $$; exec sleep 600"]
    with child(*argv) as jailer:
        assert jailer.stdout is not None
        assert jailer.stdout.readline() == "1\n"
        inner = int(Path(f"/proc/{jailer.pid}/task/{jailer.pid}/children").read_text())
        outer("vm", "attach", "web", "--pid", str(inner))
        assert outer.vm("web")["state"] == "running"
        assert kept(outer)
        lab.end(inner)
        until("dead", lambda: outer.vm("web")["state"] == "crashed")
        outer("gc", "--apply")
        assert outer.is_clean()


# As unshare(1) does it with --boottime, which refuses a negative one in util-linux 2.39 (Ubuntu
# 24.04: "Numerical result out of range").
SHIFTED = """
import ctypes, os, sys
assert ctypes.CDLL(None).unshare(0x80) == 0  # CLONE_NEWTIME: for children
with open("/proc/self/timens_offsets", "w") as offsets:
    offsets.write(f"boottime {sys.argv[1]} 0")
if not (pid := os.fork()):
    os.execvp(sys.argv[2], sys.argv[2:])
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.parametrize("shift", [1000, -3])
def test_in_a_time_namespace_a_process_is_the_same(hvtx: Program, shift: int) -> None:
    """A time namespace shifts the start times that are read in it; the process is the same."""
    if not os.path.exists("/proc/self/ns/time"):
        pytest.skip("a kernel without time namespaces")
    hvtx("vm", "run", "web", "--network", "net", "--", "sleep", "600")
    pid = hvtx.vm("web")["pid"]
    there = elsewhere(sys.executable, "-c", SHIFTED, str(shift))
    try:
        assert json.loads(there("vm", "show", "web", "--json").stdout)["state"] == "running"
        plan = json.loads(there("gc", "--plan", "--json").stdout)
        assert {i["reason"] for i in plan["items"] if i["vm"] == "web"} == {"vm-alive"}
        assert there("vm", "stop", "web").returncode == 0
        assert hvtx.vm("web")["state"] == "defined"
        assert not is_alive(pid)
    finally:
        if os.path.exists(f"/proc/{pid}"):
            lab.end(pid)


@pytest.mark.parametrize("pidfs", [True, False])
def test_a_process_that_proc_hides(hvtx: Program, pidfs: bool) -> None:
    """hidepid, and no right to see it all the same: only pidfs can tell that it lives."""
    words = ("vm", "run", "web", "--network", "net", "--", "sleep", "600")
    hvtx(*words, HVTX_VM_USER="65534")
    pid = hvtx.vm("web")["pid"]
    until("another user's", lambda: os.stat(f"/proc/{pid}").st_uid == 65534)
    if not pidfs:  # as recorded by a kernel before 6.9
        path = Path(os.environ["HVTX_STATE_DIR"], "hvtx.db")
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(
                "UPDATE resource SET observed = json_set(observed, '$.inode', 0)"
                " WHERE kind = 'process'"
            )
    hide = 'mount -t proc -o hidepid=2 proc /proc && exec "$@"'
    blind = ["setpriv", "--regid=65534", "--clear-groups", "--bounding-set=-sys_ptrace"]
    there = elsewhere("unshare", "-m", "sh", "-c", hide, "sh", *blind)
    try:
        before = lab.dump()
        plan = json.loads(there("gc", "--plan", "--json").stdout)
        reasons = {i["reason"] for i in plan["items"] if i["vm"] == "web"}
        assert reasons <= ({"liveness-unknown", "vm-alive"} if pidfs else {"liveness-unknown"})
        assert len(reasons) == 1
        assert there("gc", "--apply").returncode == 0
        assert lab.difference(before, lab.dump()) == ""
    finally:
        lab.end(pid)
