"""The gate: a process that waits for the commit, then becomes the hypervisor by exec."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from hvtx.errors import HostRefused
from hvtx.host import children, logger, paths, procfs, signals
from hvtx.hypervisors import guest as words
from hvtx.hypervisors.base import API_SOCKET, QMP_SOCKET, SOCKETS, Launch
from hvtx.model.gate import SCRIPT, SIGNATURE
from hvtx.model.guest import CANNOT_GO_ON, Guest
from hvtx.model.typed import NamedTuple, NoReturn
from hvtx.model.user import User
from hvtx.model.vm import Identity

TERM_SECONDS = 5.0
KILL_SECONDS = 10.0
LOOK_SECONDS = 0.02  # at a guest that has just begun to run
LOOK_KVM_SECONDS = 0.3  # under KVM, which may give it up: until it speaks, or that long
_LOOK_STEP = 0.01
SETTLE = 0.05  # from what KVM writes of its error until QEMU's state has it
_RESTS, _REST = 40, 0.0005  # 20 ms for a program that is busy from the beginning
_EXEC_READS = 4000  # two seconds and more: an exec on a busy host, whose result decides about a VM
_TAIL_BYTES = 65536  # with the registers of sixteen processors in it
_TAIL_LINES = 10
_GATE_WORDS = 40  # of a command line, before which a gate's own must begin
_WAYS = ("setpriv: ", "unshare: ", "mount: ")  # how their complaints begin, in any language
_EXEC_FAILED = {126: "it cannot be executed", 127: "it was not found"}


class Log(NamedTuple):
    """Where a VM's words go: the file, where those of this start begin, and the logger's pid."""

    path: str
    begins: int
    writer: int


def is_gate(pid: int) -> bool:
    """Whether ``pid`` is a gate that has not opened, so that no hypervisor runs under that pid.

    False for what does not exist; PermissionError if it cannot be told.
    """
    for _ in range(_EXEC_READS):
        try:
            arguments = procfs.command_line(pid)
        except (FileNotFoundError, ProcessLookupError):
            return False
        if arguments:
            own = ("-c", SCRIPT, SIGNATURE)  # also on the way to it: the words are there already
            return any(arguments[n : n + 3] == own for n in range(1, _GATE_WORDS))
        # Empty in the middle of an exec, where posix_spawn already returns; or when it has ended.
        seen = procfs.look(pid)
        if seen.ended or not seen.exists:
            return False
        time.sleep(0.0005)
    return False


class Gate:
    """A spawned process that is not a hypervisor yet, or has just become one."""

    def __init__(self, pid: int, pipe: int, what: str, log: Log, user: User | None = None) -> None:
        """Take over child ``pid``, that is to become ``user``, and the write end ``pipe``."""
        self._pipe: int | None = pipe
        self._what = what
        self._log = log
        self._user = user
        self._names: Mapping[str, str] = {}
        self._opened = False
        self._status: int | None = None
        try:
            self.identity: Identity = procfs.identify(pid)
        except OSError as problem:
            self._close()
            self._status = children.wait(pid)  # it reads end-of-file now
            if self._status:
                self._fail(self._how())  # it had ended on its way to the VM's user or directory
            raise HostRefused(
                f"cannot determine the identity of {what}: {problem}",
                hint="hvtx needs a /proc of its own pid namespace",
            ) from problem

    @property
    def pids(self) -> tuple[int, int]:
        """The process that becomes the hypervisor, and its logger."""
        return self.identity.pid, self._log.writer

    def open(self) -> None:
        """Let it become the hypervisor. Raises HostRefused if it is gone."""
        if self._pipe is None:
            raise ValueError("the gate was opened or cancelled before")
        try:
            os.write(self._pipe, b"go\n")
        except BrokenPipeError:
            procfs.wait_gone(self.identity, TERM_SECONDS)
            known = self._ended() and (self._status or 0) > 0
            self._fail(self._how() if known else "ended before its gate was opened")
        finally:
            self._opened = True
            self._close()

    def cancel(self) -> None:
        """Let it go away without having become anything; nothing happens once it was opened."""
        self._close()
        if self._opened:
            return
        if not procfs.wait_gone(self.identity, TERM_SECONDS):
            procfs.signal(self.identity, signals.SIGKILL)
            procfs.wait_gone(self.identity, KILL_SECONDS)
        reap(self.identity)

    def wait_exec(self, seconds: float) -> None:
        """Wait until the hypervisor's program runs.

        Raises HostRefused if it could not be executed, has ended, or is not there in time.
        """
        deadline = time.monotonic() + seconds
        pause = 0.0005
        while is_gate(self.identity.pid):
            if time.monotonic() > deadline:
                self._fail(f"was not executed within {seconds:g} s")
            time.sleep(pause)
            pause = min(pause * 2, 0.02)
        if self._ended():
            self._fail(self._how())

    def _wait_at_rest(self) -> None:
        """Let a program that ends at once do so: one that has nothing to do but wait is up."""
        for _ in range(_RESTS):
            if procfs.is_waiting(self.identity.pid):
                return
            if self._ended():
                self._fail(self._how())
            time.sleep(_REST)

    def wait_ready(self, launch: Launch, seconds: float = 10.0) -> None:
        """Wait until the VM is up: executed and, where its hypervisor can be asked, its guest runs.

        Raises HostRefused otherwise, with what the log tells; it is then for the caller to
        :func:`~hvtx.drivers.vm_process.stop.stop` what may still run.
        """
        deadline = time.monotonic() + seconds
        self._names = launch.names()
        self.wait_exec(seconds)
        if launch.ready not in SOCKETS:
            self._wait_at_rest()
            return
        said: str | None = None
        pause = 0.002
        while (left := deadline - time.monotonic()) > 0:
            try:
                said = (
                    self._qmp_says(launch, left)
                    if launch.ready == "qmp"
                    else self._api_says(launch, left)
                )
                if said is None:
                    return
            except OSError:
                if self._ended():
                    self._fail(self._how())
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
        if said is None:
            where = QMP_SOCKET if launch.ready == "qmp" else API_SOCKET
            self._fail(f"did not answer on {where} within {seconds:g} s")
        guest = words.described(words.guest_of(launch.ready, said), said)
        self._fail(f"did not have its guest running within {seconds:g} s: {guest}")

    def _qmp_says(self, launch: Launch, left: float) -> str | None:
        """None if the guest runs, and still does after a look, else QEMU's word. OSError."""
        from hvtx.host.qmp import Qmp

        with Qmp(launch.directory, SOCKETS["qmp"], left) as qemu:
            said = qemu.status()
            if self._stands(launch, said):
                return said
            kvm = words.uses_kvm(launch.argv)
            ends = time.monotonic() + min(LOOK_KVM_SECONDS if kvm else LOOK_SECONDS, left)
            silent: int | None = self._log_size()
            while time.monotonic() < ends:
                if qemu.wait_event(_LOOK_STEP):
                    self._stands(launch, qemu.status())
                elif silent is not None and self._log_size() != silent:
                    silent = None
                    ends = min(ends, time.monotonic() + SETTLE)
            self._stands(launch, qemu.status())
        return None

    def _api_says(self, launch: Launch, left: float) -> str | None:
        """The same, over HTTP."""
        from hvtx.host.monitor_queries import Question, ask_one

        asked = Question(launch.ready, launch.directory, SOCKETS[launch.ready])
        said = ask_one(asked, left)
        if said is None:
            raise ConnectionError("no answer")
        if self._stands(launch, said) or words.guest_of(launch.ready, said) is Guest.UNKNOWN:
            return said
        if procfs.wait_gone(self.identity, LOOK_SECONDS):
            raise ConnectionError("it has ended")
        return None

    def _stands(self, launch: Launch, said: str) -> bool:
        """Whether the guest stands still; HostRefused if it cannot go on."""
        guest = words.guest_of(launch.ready, said)
        if guest in CANNOT_GO_ON:
            kvm = guest is Guest.INTERNAL_ERROR and words.uses_kvm(launch.argv)
            self._fail(
                f"began to run, but its guest cannot go on: {words.described(guest, said)}",
                "HVTX_QEMU_ACCEL=tcg starts it without KVM" if kvm else "",
            )
        return guest is Guest.PAUSED

    def _log_size(self) -> int:
        try:
            return os.stat(self._log.path).st_size
        except OSError:
            return 0

    def _close(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None

    def _ended(self) -> bool:
        gone = procfs.wait_gone(self.identity, 0)
        if gone and self._status is None:
            self._status = reap(self.identity)
        return gone

    def _how(self) -> str:
        """How it ended, in words."""
        status = self._status
        if status is None:
            return "ended before it was up"
        if status < 0:
            return f"was ended by signal {-status} before it was up"
        user = "" if self._user is None else f" as user {self._user.shown}"
        if status and self._user is not None and self._not_on_its_way():
            return (
                f"could not be executed{user}: it could not become that user (exit status {status})"
            )
        if status in _EXEC_FAILED:
            return f"could not be executed{user}: {_EXEC_FAILED[status]} (exit status {status})"
        return f"ended before it was up (exit status {status})"

    def _not_on_its_way(self) -> bool:
        """Whether the last that the log tells comes from a program that should have become it."""
        logger.drain(self._log.writer)
        return tail(self._log.path, self._log.begins).rpartition("\n")[2].startswith(_WAYS)

    def _fail(self, how: str, fix: str = "") -> NoReturn:
        logger.drain(self._log.writer)
        lines = tail(self._log.path, self._log.begins)
        for name, path in self._names.items():
            lines = lines.replace(name, path)
        label = "its log says" if words.LEFT_OUT in lines else "the last lines of its log"
        silent = "it printed nothing; a VM process must run until the VM is stopped"
        hint = f"{label}:\n{lines}" if lines else silent
        if self._user is not None and words.is_refusal(lines):
            fix = f"{fix}; " if fix else ""
            fix += (
                f"it runs as user {self._user.shown}, who can open only world-accessible "
                "files, and descriptors passed to it (docs/privileges.md)"
            )
        raise HostRefused(f"{self._what} {how}", hint=f"{fix}; {hint}" if fix else hint)


def tail(path: str, begins: int = 0) -> str:
    """What a log tells after the offset ``begins``, in few lines, without terminal sequences."""
    import re

    try:
        with os.fdopen(paths.open_regular(path), "rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(begins if begins <= size else 0, size - _TAIL_BYTES))
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    plain = re.sub(r"\x1b(\[[0-9;?=]*[A-Za-z]|.)", "", text).replace("\r", "")
    plain = "".join(c if c.isprintable() or c == "\n" else " " for c in plain)
    lines = [line.rstrip() for line in plain.split("\n") if line.strip()]
    return "\n".join(words.telling(lines, _TAIL_LINES))


def reap(identity: Identity) -> int | None:
    """Take the exit code of an ended child of ours; None if it has not ended or is no child."""
    return children.reap(identity.pid)
