"""The gate, QEMU guests under emulation, who holds a TAP: real processes, real kernel."""

from __future__ import annotations

import contextlib
import os
import pty
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from hvtx.drivers.vm_process import console as consoles
from hvtx.drivers.vm_process import gate as gates
from hvtx.drivers.vm_process import prepare as preparing
from hvtx.drivers.vm_process import probe as probing
from hvtx.drivers.vm_process import scope as scopes
from hvtx.drivers.vm_process import spawn as spawning
from hvtx.drivers.vm_process import stop as stopping
from hvtx.errors import Conflict, HostRefused, NotFound, NotPermitted, UsageError
from hvtx.host import console, monitor_socket, openfiles, procfs, qmp, vmm_api
from hvtx.hypervisors import base, qemu
from hvtx.hypervisors.base import Launch, Probes
from hvtx.model import gate as words
from hvtx.model.passed_fds import FIRST_HANDED
from hvtx.model.vm import Identity, Vm
from integration import lab
from integration.lab.isolated import run_alone
from integration.lab.waiting import until

QEMU = shutil.which("qemu-system-x86_64")
needs_qemu = pytest.mark.skipif(
    QEMU is None or os.uname().machine != "x86_64", reason="needs qemu-system-x86_64"
)
VM = Vm("v1", "web", "qemu", 64, 1, None, None, None, (), (), "", False, ())


def command(directory: Path, *argv: str) -> Launch:
    return Launch(argv, {}, str(directory), {}, "exec", "none", None)


def shell(directory: Path, text: str) -> Launch:
    return command(directory, "sh", "-c", text)


class Room:
    """A run-time directory, a log, and everything spawned in it, which is ended at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path / "run"
        self.path.mkdir()
        self.log = str(path / "log")
        self.spawned: list[Identity] = []

    def spawn(self, launch: Launch, name: str = "web") -> gates.Gate:
        preparing.prepare(launch, str(self.path), self.log)
        gate = spawning.spawn(launch, self.log, name)
        self.spawned.append(gate.identity)
        return gate

    def start(self, launch: Launch) -> gates.Gate:
        gate = self.spawn(launch)
        gate.open()
        gate.wait_ready(launch)
        return gate

    def said(self) -> str:
        return Path(self.log).read_text(errors="replace")

    def close(self) -> None:
        for identity in self.spawned:
            procfs.signal(identity, signal.SIGKILL)
            procfs.wait_gone(identity, 10)
            gates.reap(identity)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path)
    yield made
    made.close()


# --- the gate


def test_nothing_runs_before_the_gate_opens(room):
    gate = room.spawn(shell(room.path, "echo ran; exec sleep 60"))
    assert gates.is_gate(gate.identity.pid)
    assert procfs.look(gate.identity.pid).start == gate.identity.start
    time.sleep(0.2)
    assert room.said() == ""
    gate.open()
    gate.wait_exec(10)
    assert not gates.is_gate(gate.identity.pid)
    assert procfs.same(gate.identity, procfs.look(gate.identity.pid))
    until("ran", lambda: room.said() == "ran\n")


def open_files(pid: int) -> dict[int, str]:
    """Descriptors and what they are; without those that are closed meanwhile (the loader's)."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return found


def test_the_gate_holds_the_pipe_and_the_log_and_nothing_else(room):
    leak = room.path / "leak"
    leaky = os.open(leak, os.O_RDONLY | os.O_CREAT)
    os.set_inheritable(leaky, True)
    lock = os.open(room.path / "lock", os.O_RDWR | os.O_CREAT)
    try:
        gate = room.spawn(shell(room.path, "exec sleep 60"))
    finally:
        os.close(leaky)
        os.close(lock)
    first = open_files(gate.identity.pid)
    assert not {str(leak), str(room.path / "lock")} & set(first.values())
    assert first[3].startswith("pipe:")
    # while the shell reads it has the pipe at 0 too, and what was there at a number of its own;
    # before that, libc, until its loader is through
    own = {"/dev/null", first[3], first[1]}
    until(f"holding only {own}", lambda: set(open_files(gate.identity.pid).values()) == own)
    links = open_files(gate.identity.pid)
    assert links[1].startswith("pipe:") and links[1] == links[2] != links[3]
    gate.open()
    gate.wait_exec(10)
    until("asleep", lambda: procfs.command_line(gate.identity.pid) == ("sleep", "60"))
    left = {0: "/dev/null", 1: links[1], 2: links[1]}
    until(f"holding only {left}", lambda: open_files(gate.identity.pid) == left, 20)
    assert os.getsid(gate.identity.pid) == gate.identity.pid


def test_a_gate_is_known_as_one_from_the_beginning(room):
    """The kernel lets posix_spawn return before the new program's arguments are to be read."""
    for _ in range(100):
        gate = room.spawn(command(room.path, "sleep", "60"))
        assert gates.is_gate(gate.identity.pid)
        gate.cancel()


def test_a_gate_that_is_long_in_its_exec_is_known_as_one(monkeypatch):
    """On a busy host its arguments cannot be read for a second: it is no VM for that."""
    slept = 0.0

    def sleep(seconds):
        nonlocal slept
        slept += seconds

    def command_line(pid):
        return ("sh", "-c", words.SCRIPT, words.SIGNATURE) if slept > 1.5 else ()

    monkeypatch.setattr(gates.time, "sleep", sleep)
    monkeypatch.setattr(gates.procfs, "command_line", command_line)
    assert gates.is_gate(os.getpid())


def test_who_is_no_gate():
    for pid in (os.getpid(), 2, int(Path("/proc/sys/kernel/pid_max").read_text()) + 1):
        assert gates.is_gate(pid) is False


def test_our_own_descriptors_stand_above_the_gates_and_stay_with_us():
    code = """
import os
from hvtx.drivers.vm_process import spawn as spawning
mine = []
high = spawning._raised(os.open("/dev/null", os.O_RDONLY), mine)
assert high >= 10 and not os.get_inheritable(high) and mine == [high], high
assert spawning._raised(os.open("/dev/null", os.O_RDONLY), mine) == high + 1
"""
    lab.run(sys.executable, "-c", code)


def test_whoever_is_out_of_descriptors_keeps_none_of_a_failed_start(room):
    """A program that has hvtx as a library would have one less after each attempt.

    In a process with one thread: whatever else opens a file meanwhile takes one of those that are
    counted, and the limit is the whole process's.
    """

    def part() -> dict[str, bool]:
        room.spawn(command(room.path, "/bin/sleep", "60")).cancel()  # everything is loaded
        before = os.listdir("/proc/self/fd")
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        for left in range(1, 7):  # two for each pipe, and one to raise an end
            with contextlib.ExitStack() as filled:
                filled.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
                resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
                free = 256 - (len(before) - 1)  # one of them read the list
                most = [filled.enter_context(open(os.devnull)) for _ in range(free)]
                for file in most[:left]:
                    file.close()
                with contextlib.suppress(HostRefused):
                    spawning.spawn(command(room.path, "/bin/sleep", "60"), room.log).cancel()
            assert os.listdir("/proc/self/fd") == before, left
        return {"counted": True}

    assert run_alone(part) == {"counted": True}


def test_cancel_leaves_nothing(room):
    gate = room.spawn(shell(room.path, "echo ran"))
    gate.cancel()
    assert procfs.look(gate.identity.pid).exists is False
    assert room.said() == ""
    gate.cancel()


def test_cancel_of_a_gate_that_was_stopped(room, monkeypatch):
    monkeypatch.setattr(gates, "TERM_SECONDS", 0.2)
    gate = room.spawn(shell(room.path, "echo ran"))
    procfs.signal(gate.identity, signal.SIGSTOP)
    gate.cancel()
    assert procfs.look(gate.identity.pid).exists is False


PARENT = """
import os, signal, sys
from hvtx.drivers.vm_process import spawn as spawning
from hvtx.hypervisors.base import Launch
launch = Launch(("sh", "-c", "echo ran; exec sleep 60"), {}, sys.argv[1], {}, "exec", "none", None)
gate = spawning.spawn(launch, sys.argv[2])
if sys.argv[3] == "open":
    gate.open()
print(gate.identity.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_parent(room: Room, when: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PARENT, str(room.path), room.log, when],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    return int(done.stdout)


def test_a_killed_parent_takes_an_unopened_gate_along(room):
    pid = killed_parent(room, "before")
    until("gone", lambda: procfs.look(pid).ended or not procfs.look(pid).exists)
    assert room.said() == ""


def test_a_killed_parent_leaves_an_opened_gate_running(room):
    pid = killed_parent(room, "open")
    room.spawned.append(procfs.identify(pid))
    until("ran", lambda: room.said() == "ran\n")
    until("asleep", lambda: procfs.command_line(pid) == ("sleep", "60"))


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [(("/nonexistent/vmm",), 127, "not found"), (("/etc/passwd",), 126, "cannot be executed")],
)
def test_what_cannot_be_executed(room, argv, status, words):
    launch = command(room.path, *argv)
    gate = room.spawn(launch)
    gate.open()
    with pytest.raises(HostRefused, match=rf"{argv[0]} of VM web.*{words}.*{status}") as caught:
        gate.wait_ready(launch)
    assert argv[0] in caught.value.hint
    assert procfs.look(gate.identity.pid).exists is False


def test_a_missing_working_directory(room):
    launch = command(room.path / "absent", "sleep", "60")
    with pytest.raises(HostRefused, match="absent cannot be entered: No such file"):
        room.start(launch)


def test_a_program_that_ends_at_once_says_why_and_only_this_time(room):
    Path(room.log).write_text("an old line\n")
    launch = shell(room.path, "printf '\\033[31mno such thing\\033[0m\\r\\n' >&2; exit 3")
    gate = room.spawn(launch)
    gate.open()
    until("ended", lambda: procfs.wait_gone(gate.identity, 0))
    with pytest.raises(HostRefused, match="status 3") as caught:
        gate.wait_ready(launch)
    assert caught.value.hint == "the last lines of its log:\nno such thing"
    assert caught.value.exit_code == 6


def test_a_killed_gate_cannot_be_opened(room):
    gate = room.spawn(shell(room.path, "echo ran"))
    procfs.signal(gate.identity, signal.SIGKILL)
    procfs.wait_gone(gate.identity, 10)
    with pytest.raises(HostRefused, match="before its gate was opened"):
        gate.open()


def test_arguments_and_environment_arrive_as_they_are(room, monkeypatch):
    monkeypatch.setenv("HVTX_TAP_2", "of another VM")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/x")
    monkeypatch.setenv("KEPT", "yes")
    values = '"$HVTX_TAP" "$HVTX_TAP_2" "$NOTIFY_SOCKET" "$KEPT"'
    text = f'printf "%s\\n" "$@" {values}; pwd; exec sleep 60'
    odd = ("sh", "-c", text, "-", "a b", "$(id)", "'", "-n", "")
    launch = command(room.path, *odd)._replace(environment={"HVTX_TAP": "hvx"})
    room.start(launch)
    expected = ["a b", "$(id)", "'", "-n", "", "hvx", "", "", "yes", str(room.path), ""]
    until(f"the same: {room.said()!r}", lambda: room.said() == "\n".join(expected), 20)


def test_signals_that_were_ignored_or_blocked_are_not_for_the_vm(room):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        gate = room.start(command(room.path, "sleep", "60"))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        signal.signal(signal.SIGINT, before)
    status = Path(f"/proc/{gate.identity.pid}/status").read_text()
    masks = dict(line.split(":\t") for line in status.splitlines() if line.startswith("Sig"))
    assert int(masks["SigBlk"], 16) == 0
    assert int(masks["SigIgn"], 16) & (1 << (signal.SIGINT - 1)) == 0


def test_a_caller_without_standard_streams(room):
    script = PARENT.replace("print(gate.identity.pid, flush=True)", "pass")
    closed = f"exec {sys.executable} -c '{script}' {room.path} {room.log} open <&- >&- 2>&-"
    subprocess.run(["sh", "-c", closed], check=False, timeout=60)
    until("ran", lambda: room.said() == "ran\n")
    until("sleeps", lambda: sleeping_in(room.path))  # the shell that said so becomes it then
    mine = sleeping_in(room.path)
    assert len(mine) == 1
    room.spawned.append(procfs.identify(mine[0]))
    links = [os.readlink(f"/proc/{mine[0]}/fd/{n}") for n in range(3)]
    assert links[0] == "/dev/null"
    assert links[1].startswith("pipe:") and links[1] == links[2]


def sleeping_in(directory: Path) -> list[int]:
    return [
        int(p) for p in os.listdir("/proc")
        if p.isdigit() and runs_in(p, directory) and procfs.command_line(int(p)) == ("sleep", "60")
    ]  # fmt: skip


def runs_in(pid: str, directory: Path) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/cwd") == str(directory)
    except OSError:
        return False


# --- ending


def test_stop_terminates_and_reaps(room):
    gate = room.start(command(room.path, "sleep", "60"))
    stopping.stop(gate.identity, directory=str(room.path), power_down="none")
    assert procfs.look(gate.identity.pid).exists is False
    stopping.stop(gate.identity, directory=str(room.path), power_down="none")


def test_stop_kills_what_ignores_the_request(room, monkeypatch):
    monkeypatch.setattr(stopping, "TERM_SECONDS", 0.2)
    gate = room.start(shell(room.path, "trap '' TERM; echo deaf; while :; do sleep 1; done"))
    until("deaf", lambda: "deaf" in room.said())
    stopping.stop(gate.identity, directory=str(room.path), power_down="none", force=True)
    assert procfs.look(gate.identity.pid).exists is False


def test_stop_gives_a_program_the_time_it_was_promised(room, monkeypatch):
    monkeypatch.setattr(stopping, "TERM_SECONDS", 0.05)
    waiting = "trap 'sleep 0.3; echo bye; exit' TERM; echo up; while :; do sleep 0.05; done"
    gate = room.start(shell(room.path, waiting))
    until("up", lambda: "up" in room.said())
    stopping.stop(gate.identity, directory=str(room.path), power_down="none", timeout=30)
    until("said it to the end", lambda: room.said().endswith("bye\n"))


def test_stop_ends_a_stopped_process(room, monkeypatch):
    monkeypatch.setattr(stopping, "TERM_SECONDS", 0.2)
    gate = room.start(command(room.path, "sleep", "60"))
    procfs.signal(gate.identity, signal.SIGSTOP)
    stopping.stop(gate.identity, directory=str(room.path), power_down="none", force=True)
    assert procfs.look(gate.identity.pid).exists is False


def test_stop_spares_who_has_the_pid_now(room):
    gate = room.start(command(room.path, "sleep", "60"))
    other = gate.identity._replace(start=gate.identity.start - 1)
    stopping.stop(other, directory=str(room.path), power_down="none", force=True)
    assert not procfs.look(gate.identity.pid).ended


def test_stop_without_permission_says_so(room):
    gate = room.start(command(room.path, "sleep", "60"))
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setresuid(65534, 65534, 65534)
            stopping.stop(gate.identity, directory="/", power_down="none", force=True)
        except NotPermitted:
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert not procfs.look(gate.identity.pid).ended


class Server:
    """A stand-in for a hypervisor's HTTP server: it keeps one request and gives one answer."""

    def __init__(self, path: Path, answer: bytes, then: Callable[[], object]) -> None:
        self.heard = b""
        self.answer = answer
        self.then = then
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen()
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        link, _ = self.socket.accept()
        with link:
            self.heard = link.recv(65536)
            link.sendall(self.answer)
        self.then()

    def close(self) -> None:
        self.thread.join(30)
        self.socket.close()


def test_stop_asks_over_http_and_waits_for_the_guest(room):
    words = "trap 'echo termed; exit' TERM; trap 'echo asked; exit' USR1; echo up"
    gate = room.start(shell(room.path, f"{words}; while :; do sleep 0.05; done"))
    until("up", lambda: "up" in room.said())
    server = Server(
        room.path / base.API_SOCKET,
        b"HTTP/1.1 204 \r\nServer: x\r\n\r\n",
        lambda: (time.sleep(0.3), procfs.signal(gate.identity, signal.SIGUSR1)),
    )
    stopping.stop(
        gate.identity, directory=str(room.path), power_down="ctrl-alt-del api", timeout=30
    )
    server.close()
    until("asked", lambda: room.said() == "up\nasked\n")
    head, _, body = server.heard.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"PUT /actions HTTP/1.1"
    assert body == b'{"action_type": "SendCtrlAltDel"}'
    assert f"Content-Length: {len(body)}".encode() in lines


@pytest.mark.parametrize(
    ("answer", "taken"), [(b"HTTP/1.1 204 \r\n\r\n", True), (b"HTTP/1.1 405 \r\n\r\n", False)]
)
def test_the_power_button_may_be_refused(room, answer, taken):
    server = Server(room.path / base.API_SOCKET, answer, lambda: None)
    assert vmm_api.power_off(str(room.path), "power-button api", 10) is taken
    server.close()
    assert server.heard.startswith(b"PUT /api/v1/vm.power-button HTTP/1.1\r\n")
    assert server.heard.endswith(b"\r\n\r\n")


# --- QEMU


def guest(room: Room, *more: str) -> Launch:
    probes = Probes(QEMU, kvm=False, machine="x86_64")
    launch = qemu.render(VM, (), probes, str(room.path))
    return launch._replace(argv=(*launch.argv, *more))


@needs_qemu
def test_a_guest_comes_up_and_is_powered_down(room):
    """SeaBIOS takes no notice of the power button: without --force it is asked, then ended."""
    gate = room.start(guest(room))
    with qmp.Qmp(str(room.path), "qmp.sock", 10) as machine:
        assert machine.status() == "running"
        machine.execute("query-name")
        machine.execute("stop")  # the event STOP comes before the answer
        assert machine.status() == "paused"
        with pytest.raises(HostRefused, match="nonsense"):
            machine.execute("nonsense")
    stopping.stop(gate.identity, directory=str(room.path), power_down="qmp", timeout=0.2)
    assert procfs.look(gate.identity.pid).exists is False
    assert "terminating on signal 15" in room.said()


@needs_qemu
def test_the_guest_is_asked_to_power_down(room):
    gate = room.start(guest(room, "-qmp", "unix:watch.sock,server=on,wait=off"))
    with monitor_socket.connect(str(room.path), "watch.sock", 10) as watch:
        watch.settimeout(30)
        watch.recv(65536)
        watch.sendall(b'{"execute": "qmp_capabilities"}\n')
        watch.recv(65536)
        assert stopping._ask(
            stopping.Ending(gate.identity, str(room.path), "qmp"), time.monotonic() + 10
        )
        said = b""  # other events of a machine that comes up may be before it
        while b'"POWERDOWN"' not in said:
            said += (piece := watch.recv(65536))
            assert piece, said


@needs_qemu
def test_a_long_run_directory(tmp_path):
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    room = Room(deep)
    try:
        room.start(guest(room))
    finally:
        room.close()


@needs_qemu
def test_a_hypervisor_that_refuses_says_why(room):
    launch = guest(room, "-netdev", "tap,id=x,ifname=hvabsent,script=/nonexistent")
    gate = room.spawn(launch)
    gate.open()
    with pytest.raises(HostRefused, match="exit status 1") as caught:
        gate.wait_ready(launch)
    assert "nonexistent" in caught.value.hint
    assert procfs.look(gate.identity.pid).exists is False


@needs_qemu
def test_a_hypervisor_that_stays_silent_is_not_up(room):
    launch = command(room.path, "sleep", "60")._replace(ready="qmp")
    gate = room.spawn(launch)
    gate.open()
    with pytest.raises(HostRefused, match="did not answer"):
        gate.wait_ready(launch, seconds=0.3)


def test_left_over_sockets_are_removed_and_files_are_written(room):
    launch = command(room.path, "x")._replace(sockets=("api.sock", "none"), files={"f": b"new"})
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(room.path / "api.sock"))
    (room.path / "f").write_text("something older and longer")
    preparing.prepare(launch, str(room.path), room.log)
    assert {path.name: path.read_bytes() for path in room.path.iterdir()} == {"f": b"new"}
    assert (room.path / "f").stat().st_mode & 0o777 == 0o600
    with pytest.raises(HostRefused, match="absent/f"):
        preparing.prepare(launch, str(room.path / "absent"), room.log)


SERIAL = bytes.fromhex(
    # mov dx, 0x3fd; wait for input: in al, dx; test al, 1; jz -5
    "bafd03eca80174fb"
    # mov dx, 0x3f8; in al, dx; inc al; out dx, al; jmp to the beginning
    "baf803ecfec0eeebef"
)


def echoing_disk(path: Path) -> str:
    """A boot sector that answers each byte on the serial port with the next one."""
    path.write_bytes((SERIAL.ljust(510, b"\xf4") + b"\x55\xaa").ljust(1 << 20, b"\0"))
    return str(path)


def echo_guest(room: Room, tmp_path: Path) -> gates.Gate:
    vm = VM._replace(disks=(echoing_disk(tmp_path / "disk.img"),))
    probes = Probes(QEMU, kvm=False, machine="x86_64")
    return room.start(qemu.render(vm, (), probes, str(room.path)))


@needs_qemu
def test_the_console_of_a_booted_disk_and_its_log(room, tmp_path):
    echo_guest(room, tmp_path)
    there, here = os.pipe()
    back, out = os.pipe()
    with monitor_socket.connect(str(room.path), "console.sock", 10) as link:
        thread = threading.Thread(target=console.bridge, args=(link, there, out))
        thread.start()
        got = b""
        for _ in range(200):  # what is typed before the guest listens is lost
            os.write(here, b"G")
            if select.select([back], [], [], 0.3)[0]:
                got += os.read(back, 100)
            if b"H" in got:
                break
        os.close(here)
        thread.join(60)
        assert not thread.is_alive()
    for descriptor in (there, back, out):
        os.close(descriptor)
    assert b"H" in got
    assert "H" in room.said()


@needs_qemu
def test_the_console_on_a_terminal_is_left_by_a_key(room, tmp_path):
    echo_guest(room, tmp_path)
    leader, terminal = pty.openpty()
    sink = os.open("/dev/null", os.O_WRONLY)
    import termios

    before = termios.tcgetattr(terminal)
    with monitor_socket.connect(str(room.path), "console.sock", 10) as link:
        thread = threading.Thread(target=console.bridge, args=(link, terminal, sink))
        thread.start()
        until("raw", lambda: not termios.tcgetattr(terminal)[3] & termios.ECHO)
        os.write(leader, b"x\x1dy")
        thread.join(30)
        assert not thread.is_alive()
    assert termios.tcgetattr(terminal) == before
    for descriptor in (leader, terminal, sink):
        os.close(descriptor)


def test_no_console():
    with pytest.raises(Conflict, match="no console") as caught:
        consoles.console("/", None, "/var/log/x")
    assert "/var/log/x" in caught.value.hint
    with pytest.raises(Conflict, match="cannot be reached"):
        consoles.console("/", "absent.sock", "/var/log/x")


# --- what is looked for before a start


def test_what_is_missing_is_named_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("HVTX_QEMU_ACCEL", "tcg")
    run = str(tmp_path)
    with pytest.raises(NotFound, match="firecracker") as caught:
        probing.probe(VM._replace(hypervisor="firecracker", kernel="/dev/null"), run)
    assert "firecracker-microvm" in caught.value.hint
    there = VM._replace(hypervisor="command", command=("sh",), directory=run)
    assert probing.probe(there, run).binary.endswith("/sh")
    for field in ("kernel", "initrd"):
        with pytest.raises(NotFound, match=f"{field} /absent of VM web"):
            probing.probe(there._replace(**{field: "/absent"}), run)
    with pytest.raises(NotFound, match="disk /absent"):
        probing.probe(there._replace(disks=("/absent",)), run)
    with pytest.raises(NotFound, match=r"\./absent"):
        probing.probe(there._replace(command=("./absent",)), run)
    with pytest.raises(NotFound, match="working directory"):
        probing.probe(there._replace(directory="/absent"), run)


@pytest.mark.parametrize("hypervisor", ["firecracker", "cloud-hypervisor"])
def test_what_its_hypervisor_can_never_start_is_named_before_anything_is_made(
    hypervisor, tmp_path, monkeypatch
):
    """Of a VM that is on record all the same: an image may have become another one since."""
    program = tmp_path / hypervisor
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    disk = tmp_path / "a,b.img"
    disk.write_bytes(b"QFI\xfb\0\0\0\3" + bytes(80))
    vm = VM._replace(hypervisor=hypervisor, kernel="/dev/null", disks=(str(disk),))
    for look in (lambda: probing.probe(vm, str(tmp_path)), lambda: probing.need_program(vm)):
        with pytest.raises(UsageError, match=r"VM web cannot be started.*a,b\.img") as caught:
            look()
        assert "hvtx vm set web" in caught.value.hint


def test_formats_are_believed_only_while_they_lead_nowhere(tmp_path):
    def disk(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    def header(version: int, backing: int, features: int) -> bytes:
        return struct.pack(">4sIQ", b"QFI\xfb", version, backing).ljust(72, b"\0") + struct.pack(
            ">Q", features
        )

    assert probing.look_into(disk("a.img", bytes(512))) == "raw"
    assert probing.look_into(disk("b.img", header(3, 0, 0))) == "qcow2"
    assert probing.look_into(disk("c.qcow2", bytes(512))) is None
    for number, wrong in enumerate((header(2, 512, 0), header(3, 512, 0), header(3, 0, 4))):
        with pytest.raises(UsageError, match="refers to another file"):
            probing.look_into(disk(f"w{number}.img", wrong))


def test_a_long_log_is_cut_to_whole_lines(tmp_path):
    path = tmp_path / "log"
    path.write_text("".join(f"line {n}\n" for n in range(1000)))
    preparing.shorten(str(path), limit=1 << 20)
    assert len(path.read_text().splitlines()) == 1000
    preparing.shorten(str(path), limit=1000)
    lines = path.read_text().splitlines()
    assert lines[-1] == "line 999"
    assert 40 < len(lines) < 60 and all(line.startswith("line ") for line in lines)
    preparing.shorten(str(tmp_path / "absent"))


# --- systemd


def test_the_scope_is_asked_for_and_a_refusal_is_a_warning(room, tmp_path, monkeypatch):
    """A stand-in for busctl: it notes its arguments, then refuses."""
    monkeypatch.setattr(scopes, "SYSTEMD", str(tmp_path / "absent"))
    assert scopes.enter_scope("web", 1) is None
    monkeypatch.setattr(scopes, "_systemd_is_ours", lambda: True)  # whatever boots this machine
    tool = tmp_path / "busctl"
    tool.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/asked\necho refused >&2\nexit 1\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    gate = room.spawn(command(room.path, "sleep", "60"))
    warning = scopes.enter_scope("web", gate.identity.pid)
    assert "hvtx-web.scope" in warning and "refused" in warning
    asked = (tmp_path / "asked").read_text().splitlines()
    assert tuple(asked) == scopes.scope_call("hvtx-web.scope", "web", gate.identity.pid)
    assert asked[4:7] == ["StartTransientUnit", "ssa(sv)a(sa(sv))", "hvtx-web.scope"]
    assert asked[asked.index("PIDs") :] == ["PIDs", "au", "1", str(gate.identity.pid), "0"]


@pytest.mark.parametrize("words", ["already exists", "was already loaded or has a fragment file"])
def test_a_second_vm_of_a_name_has_a_scope_of_another(room, tmp_path, monkeypatch, words):
    """One of another installation; a stand-in for busctl refuses the name, as systemd does."""
    monkeypatch.setattr(scopes, "_systemd_is_ours", lambda: True)
    waited = []
    monkeypatch.setattr(scopes, "_in_unit", lambda pid, unit: waited.append((pid, unit)) or True)
    tool = tmp_path / "busctl"
    tool.write_text(
        f"#!/bin/sh\nprintf '%s\\n' \"$7\" >> {tmp_path}/asked\n[ $7 != hvtx-web.scope ] ||"
        f" {{ echo 'Call failed: Unit hvtx-web.scope {words}.' >&2; exit 1; }}\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    gate = room.spawn(command(room.path, "sleep", "60"))
    own = f"hvtx-web.{gate.identity.pid}.scope"
    assert scopes.enter_scope("web", *gate.pids) is None
    assert (tmp_path / "asked").read_text().split() == ["hvtx-web.scope", own]
    assert waited == [(pid, own) for pid in gate.pids]


# --- who holds a TAP

TUNSETIFF, TAP_NO_PI = 0x400454CA, 0x1002
HOLD = f"""
import fcntl, os, struct, sys, threading, time, ctypes
home = os.open("/proc/self/ns/net", os.O_RDONLY)
if "brought" in sys.argv[2]:
    ctypes.CDLL(None).unshare(0x40000000)
fd = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(fd, {TUNSETIFF}, struct.pack("16sH22x", sys.argv[1].encode(), {TAP_NO_PI}))
if "brought" in sys.argv[2]:
    ctypes.CDLL(None).setns(home, 0)
if sys.argv[2] == "elsewhere":
    ctypes.CDLL(None).unshare(0x40000000)
print("ready", flush=True)
if "leaderless" in sys.argv[2]:
    threading.Thread(target=time.sleep, args=(60,)).start()
    ctypes.CDLL(None).syscall({93 if os.uname().machine == "aarch64" else 60}, 0)
time.sleep(60)
"""


class Keeper:
    """A process that has a TAP device open."""

    def __init__(self, device: str, how: str = "here", prefix: tuple[str, ...] = ()) -> None:
        argv = [*prefix, sys.executable, "-c", HOLD, device, how]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"
        self.pid = self.process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def everyone_readable() -> bool:
    """Whether every process lets us look (not so for pid 1 on some sandboxed hosts)."""
    for pid in (name for name in os.listdir("/proc") if name.isdigit()):
        try:
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                os.readlink(f"/proc/{pid}/fd/{descriptor}")
        except PermissionError:
            return False
        except (FileNotFoundError, ProcessLookupError):
            continue
    return True


def test_a_held_tap_names_its_holder():
    lab.run("ip", "tuntap", "add", "hvfree", "mode", "tap")
    with Keeper("hvheld") as keeper:
        found = openfiles.tap_holders({"hvheld", "hvfree", "hvnone"})
        name = Path(f"/proc/{keeper.pid}/comm").read_text().strip()
        assert found.found == {"hvheld": (openfiles.Holder(keeper.pid, name),)}
        assert found.complete is everyone_readable()
        lab.run("ip", "link", "set", "hvheld", "name", "hvnew")
        assert set(openfiles.tap_holders({"hvheld", "hvnew"}).found) == {"hvnew"}
    assert openfiles.tap_holders({"hvheld", "hvnew", "hvfree"}).found == {}


@needs_qemu
def test_a_guest_holds_its_taps_and_keeps_their_mac_addresses_apart(room):
    names = ("hvfirst", "hvsecond")
    for name in names:
        lab.run("ip", "tuntap", "add", name, "mode", "tap")
    ports = [
        base.Nic(name, f"02:00:00:00:00:0{n}", None, None, None, None, None, None)
        for n, name in enumerate(names)
    ]
    gate = room.start(
        qemu.render(VM, ports, Probes(QEMU, kvm=False, machine="x86_64"), str(room.path))
    )
    found = openfiles.tap_holders(names).found
    assert {n: [h.pid for h in found[n]] for n in names} == {n: [gate.identity.pid] for n in names}
    argv = Path(f"/proc/{gate.identity.pid}/cmdline").read_text()
    for number, port in enumerate(ports):
        assert f"netdev=net{number},mac={port.mac}" in argv
        told = Path(f"/proc/{gate.identity.pid}/fdinfo/{FIRST_HANDED + number}").read_text()
        assert f"iff:\t{port.device}\n" in told
        assert f"tap,id=net{number},fd={FIRST_HANDED + number}" in argv
    stopping.stop(gate.identity, directory=str(room.path), power_down="qmp", force=True)
    assert openfiles.tap_holders(names).found == {}


def test_a_holder_that_went_to_another_namespace_counts():
    with Keeper("hvheld", "elsewhere") as keeper:
        assert os.stat(f"/proc/{keeper.pid}/ns/net") != os.stat("/proc/self/ns/net")
        found = openfiles.tap_holders({"hvheld"}).found
        assert [holder.pid for holder in found["hvheld"]] == [keeper.pid]


def test_a_device_of_the_same_name_in_another_namespace_does_not_count():
    lab.run("ip", "tuntap", "add", "hvsame", "mode", "tap")
    with Keeper("hvsame", "here", ("unshare", "-n")):
        assert openfiles.tap_holders({"hvsame"}).found == {}


@pytest.mark.parametrize("how", ["brought", "brought, leaderless"])
def test_a_descriptor_that_was_brought_from_another_namespace_does_not_count(how):
    """Any user could keep a dead VM from its next start, by a device of that name of its own."""
    if "leaderless" in how and tuple(map(int, os.uname().release.split(".")[:2])) < (6, 9):
        pytest.skip("of a thread no descriptor is to be had: it counts")
    lab.run("ip", "tuntap", "add", "hvsame", "mode", "tap")
    with Keeper("hvsame", how) as keeper:
        tasks = Path(f"/proc/{keeper.pid}/task")
        if "leaderless" in how:
            stat = Path(f"/proc/{keeper.pid}/stat")
            until("without its leader", lambda: ") Z " in stat.read_text())
            living = next(task for task in tasks.iterdir() if task.name != str(keeper.pid))
        else:
            living = tasks / str(keeper.pid)
        assert (living / "ns/net").stat().st_ino == os.stat("/proc/self/ns/net").st_ino
        assert openfiles.tap_holders({"hvsame"}).found == {}


def test_a_holder_whose_leader_thread_has_exited_counts():
    with Keeper("hvheld", "leaderless") as keeper:
        stat = Path(f"/proc/{keeper.pid}/stat")
        until("without its leader", lambda: ") Z " in stat.read_text())
        found = openfiles.tap_holders({"hvheld"}).found
        assert [holder.pid for holder in found["hvheld"]] == [keeper.pid]


def test_who_may_not_look_knows_that_the_answer_is_not_whole():
    with Keeper("hvheld"):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.setresuid(65534, 65534, 65534)
                seen = openfiles.tap_holders({"hvheld"})
                code = 0 if seen == openfiles.Holders({}, False) else 2
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0


HIDDEN = """
import os, select, signal, sys
from hvtx.host import installation_processes, openfiles, procfs
os.setgroups([])  # the group with id 0 may see everything, proc(5)
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
seen = procfs.look(int(sys.argv[1]))
assert seen.exists and seen.error and not seen.ended, seen
assert openfiles.tap_holders({"x"}).complete is False
assert installation_processes.of("a" * 10, {"x"}).complete is False
"""


def test_hidden_processes_are_unknown_and_not_gone():
    with Keeper("hvheld") as keeper:
        mount = "mount -t proc -o hidepid=2 proc /proc && exec "
        inner = f'{mount}"$0" -c "$1" "$2"'
        lab.run("unshare", "-m", "sh", "-c", inner, sys.executable, HIDDEN, str(keeper.pid))


FOREIGN = """
import os
from hvtx.host import installation_processes, openfiles, procfs
assert procfs.look(os.getpid()).error
assert openfiles.tap_holders({"x"}).complete is False
assert installation_processes.of("a" * 10, {"x"}).complete is False
"""


def test_a_proc_of_another_pid_namespace_proves_nothing():
    lab.run("unshare", "-p", "-f", sys.executable, "-c", FOREIGN)


def test_the_cookie_is_the_namespaces_own():
    first = procfs.netns_cookie()
    with lab.private_network():
        second = procfs.netns_cookie()
    assert first != second and procfs.netns_cookie() == first
