"""VM processes: started through a gate, spoken with, ended.

A hypervisor must never run without being on record. So what is spawned first is a gate: a shell in
a session of its own that waits for one word on a pipe and then becomes the hypervisor (exec keeps
pid and start time). The caller commits the gate's identity, then opens it. If the caller dies
before that, the pipe's write end closes with it, the gate reads end-of-file, and exits.

The gate is reached in steps, each of which becomes the next: a shell enters the working directory,
which the VM's user may not be able to reach; the way to a program in a shut directory is shown
(:mod:`hvtx.host.shown`); ``unshare`` gives it a network namespace of its own, where the hypervisor
needs nothing of the host's; ``setpriv`` makes it the VM's user, without any
capability and without a way to get one. All that is done before the word comes.

The gate holds nothing else of ours: the read end, the way to the log, and what the hypervisor is
handed (its TAP devices, its disks). A lock or a write end that it kept open would make a dead
caller look alive. Nor does it keep its starter's limits, niceness and processors.

What a VM writes goes through a pipe to a logger of its own, which keeps a bounded part of it
(:mod:`hvtx.host.logger`). Should the logger be killed, writing fails with EPIPE; SIGPIPE is
ignored, as for services of systemd, so that nobody ends a VM by ending its logger.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from hvtx.errors import Conflict, HostRefused, HvtxError, NotFound, NotPermitted, UsageError
from hvtx.host import capabilities, logger, paths, procfs
from hvtx.hypervisors import guest as words
from hvtx.hypervisors.base import (
    API_SOCKET,
    QMP_SOCKET,
    SOCKETS,
    TRAITS,
    Launch,
    PowerDown,
    Probes,
    binary_names,
    by_descriptor,
    disk_format,
)
from hvtx.model.guest import CANNOT_ANSWER, CANNOT_GO_ON, Guest
from hvtx.model.handed import FIRST_HANDED
from hvtx.model.user import User
from hvtx.model.vm import Identity, Vm

SHELL = "/bin/sh"
SIGNATURE = "hvtx-gate"
ENTER = 'umask "$1"; cd -- "$2" || exit 126; shift 2; exec "$@"'
SCRIPT = 'trap "" PIPE; IFS= read -r word <&3 && [ "$word" = go ] || exit 0; exec 3<&-; exec "$@"'
SYSTEMD = "/run/systemd/system"  # there where systemd is the init, sd_booted(3)
FIRMWARE = (
    "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd",
    "/usr/share/edk2/aarch64/QEMU_EFI.fd",
    "/usr/share/AAVMF/AAVMF_CODE.fd",
)

TERM_SECONDS = 5.0
KILL_SECONDS = 10.0
LOOK_SECONDS = 0.02  # at a guest that has just begun to run
LOOK_KVM_SECONDS = 0.3  # under KVM, which may give it up: until it speaks, or that long
_ASK_SECONDS = (1.0, 4.0)  # for the power-down to be taken; after the first, somebody is told
_LOOK_AGAIN = 1.0  # seconds between looks at a guest that powers down
_LOOK_STEP = 0.01
_MOMENT = 0.05  # for an answer when there is no time left
_SETTLE = 0.05  # from what KVM writes of its error until QEMU's state has it
_CONSOLE_SECONDS = 5.0
_SCOPE_SECONDS = 5.0
_RESTS, _REST = 40, 0.0005  # 20 ms for a program that is busy from the beginning
_EXEC_READS = 4000  # two seconds and more: an exec on a busy host, whose result decides about a VM
_TAIL_BYTES = 65536  # with the registers of sixteen processors in it
_TAIL_LINES = 10
_GATE_WORDS = 40  # of a command line, before which a gate's own must begin
_WAYS = ("setpriv: ", "unshare: ", "mount: ")  # how their complaints begin, in any language
_EXEC_FAILED = {126: "it cannot be executed", 127: "it was not found"}
_DEFAULTED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGPIPE,
    signal.SIGTERM,
    signal.SIGCHLD,
    signal.SIGTSTP,
    signal.SIGXFSZ,
)
# What a service manager tells its own child, and what another VM process was told: not for ours.
_NOT_INHERITED = (
    "NOTIFY_SOCKET",
    "WATCHDOG_",
    "LISTEN_",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "MAINPID",
    "HVTX_VM",
    "HVTX_TAP",
    "HVTX_MAC",
    "HVTX_IP",
    "HVTX_GATEWAY",
    "HVTX_NETMASK",
)


# --- what is there before a start -----------------------------------------------------------------


def probe(vm: Vm, run_directory: str, user: User | None = None) -> Probes:
    """Look for everything that starting ``vm`` needs, as ``user`` (None: as hvtx's own).

    Of users who differ in their number only, any one will do. Raises NotFound for a missing
    hypervisor, kernel, initrd, disk or working directory (nothing has been made yet), UsageError
    for a disk whose format would be dangerous to guess.
    """
    machine = this_machine()
    if vm.hypervisor == "external":
        return Probes(None, False, machine)
    if vm.hypervisor != "command" and not vm.kernel and not vm.disks:
        raise NotFound(
            f"VM {vm.name} has nothing to run: no kernel, no disk and no command",
            hint="give it --kernel, --disk or -- COMMAND (`hvtx vm set`, if it is on record); or"
            " --hypervisor external, for one that hvtx does not start",
        )
    binary = _binary(vm, machine)
    for what, path in (("kernel", vm.kernel), ("initrd", vm.initrd), *_disks(vm)):
        if path is not None:
            _need_file(what, path, vm.name)
    kvm, why = False, None
    if vm.hypervisor == "qemu":
        from hvtx.host.kvm import choose

        answer = choose(binary, machine, run_directory, vm.kernel, user)
        kvm, why = answer.accelerator == "kvm", answer.reason
    formats = {path: looked for path in vm.disks if (looked := look_into(path)) is not None}
    firmware = next((path for path in FIRMWARE if os.path.exists(path)), None)
    found = Probes(binary, kvm, machine, formats, firmware, why, shut=_shut(vm, user))
    return _probe_disks(vm, found) if vm.hypervisor == "qemu" else found


def _shut(vm: Vm, user: User | None) -> frozenset[str]:
    """What the VM's user cannot read by its name."""
    if user is None:
        return frozenset()
    from hvtx.host.vmuser import may_open

    files = [path for path in (vm.kernel, vm.initrd) if path is not None]
    return frozenset(path for path in files if not may_open(user, path, 4))


def _probe_disks(vm: Vm, found: Probes) -> Probes:
    """What QEMU must be told of disks that it opens by descriptors; and of itself."""
    from hvtx.host import images
    from hvtx.host.seccomp import sandbox_of

    named = {}
    for path in vm.disks:
        if disk_format(path, found.formats) == "qcow2" and (options := images.relative(path)):
            named[path] = options
    return found._replace(
        sandbox=sandbox_of(found.binary or ""),
        read_only=frozenset(d for d in vm.disks if not os.access(d, os.W_OK, effective_ids=True)),
        blocks=frozenset(d for d in vm.disks if stat.S_ISBLK(os.stat(d).st_mode)),
        named=named,
    )


def _need_file(what: str, path: str, name: str) -> None:
    """Refuse what is not there, and what is no file: a pipe, say, would be waited for.

    A disk may be a block device. Raises NotFound, UsageError.
    """
    mend = f"name another: hvtx vm set {name} --{what} FILE"
    try:
        seen = os.stat(path)
    except OSError as problem:
        raise NotFound(
            f"the {what} {path} of VM {name} does not exist", hint=f"put it there, or {mend}"
        ) from problem
    try:
        if not (what == "disk" and stat.S_ISBLK(seen.st_mode)):
            paths.need_regular(seen, path)
    except paths.NotRegularError as problem:
        raise UsageError(
            f"the {what} {path} of VM {name} cannot be used: {problem.strerror}", hint=mend
        ) from problem


def this_machine() -> str:
    """The host's processor as QEMU names it: ``x86_64``, ``aarch64``."""
    name = os.uname().machine
    return {"arm64": "aarch64", "amd64": "x86_64"}.get(name, name)


def look_into(path: str) -> str | None:
    """The format of a disk whose name does not say it: ``qcow2``, ``raw``; None if it does.

    A guest can write any header to its own raw disk, so a header is believed only while it leads
    nowhere else: one that names a backing file or an external data file (docs/interop/qcow2 of
    QEMU: offset 8, and bit 2 at offset 72) would open files of the host to the guest, and raises
    UsageError.
    """
    if path.endswith((".qcow2", ".raw")):
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            header = os.pread(descriptor, 80, 0)
        finally:
            os.close(descriptor)
    except OSError:
        return None  # the hypervisor will say what it makes of it
    if not header.startswith(b"QFI\xfb"):
        return "raw"
    version = int.from_bytes(header[4:8], "big")
    external = version > 2 and header[79:80] and header[79] & 4
    if any(header[8:16]) or external:
        raise UsageError(
            f"the disk {path} is a qcow2 image that names another file, and its own name says raw",
            hint="if you made it so, rename it to end in .qcow2; if a guest wrote it, do not",
        )
    return "qcow2"


def _binary(vm: Vm, machine: str) -> str:
    from hvtx.host import program

    names = binary_names(vm.hypervisor, machine)
    if vm.hypervisor == "command":
        if vm.directory and not os.path.isdir(vm.directory):
            raise NotFound(
                f"the working directory {vm.directory} of VM {vm.name} does not exist",
                hint="make it again, or make the VM again from another directory",
            )
        first = vm.command[0] if vm.command else ""
        names = (os.path.join(vm.directory, first) if "/" in first else first,)
        if "{" in first:  # a placeholder: known only once it is rendered
            return first
    found = program.find(names)
    if found is None:
        over = program.passed_over(names)
        if over is not None:
            raise NotFound(
                f"the hypervisor of VM {vm.name}, {names[0]}, is not where only root could put it",
                hint=f"what others could change is not run by its name ({over}); make it root's, or"
                " name it by its path",
            )
        raise NotFound(
            f"the hypervisor of VM {vm.name}, {names[0]}, is not on this host",
            hint=TRAITS[vm.hypervisor].hint,
        )
    return found


def _disks(vm: Vm) -> tuple[tuple[str, str], ...]:
    return tuple(("disk", path) for path in vm.disks)


# --- starting -------------------------------------------------------------------------------------


def prepare(launch: Launch, directory: str, log_path: str, user: User | None = None) -> None:
    """Make the run-time ``directory`` (which exists) ready: files, no left-over sockets, a log.

    The directory and what is in it becomes the VM's ``user``'s, and stays closed to others. hvtx
    reads nothing there afterwards. Raises HostRefused, naming the file.
    """
    try:
        for name in launch.sockets:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, name))
        for name, content in launch.files.items():
            _write(os.path.join(directory, name), content, user)
        if user is not None:
            _give(directory, user)
        shorten(log_path)
    except OSError as problem:
        raise HostRefused(
            f"{problem.filename or directory} cannot be written: {problem.strerror}",
            hint="look at the permissions and the free space of the run and state directories",
        ) from problem


def _give(directory: str, user: User) -> None:
    """Make the run-time directory its user's; without CAP_DAC_OVERRIDE ours as a group, too."""
    if _passes_all():
        os.chown(directory, user.uid, user.gid)
    else:
        os.chmod(directory, 0o2770)  # noqa: S103 - sockets in it are for that group
        os.chown(directory, user.uid, os.getegid())


def _passes_all() -> bool:
    return capabilities.has("CAP_DAC_OVERRIDE")


def shorten(path: str, limit: int = logger.HALF) -> None:
    """Cut a log that is longer than ``limit`` bytes down to whole lines of its last half."""
    try:
        if os.stat(path).st_size <= limit:
            return
    except FileNotFoundError:
        return
    with os.fdopen(paths.open_regular(path), "rb") as log:
        log.seek(-(limit // 2), os.SEEK_END)
        kept = log.read()
    _write(path, kept[kept.find(b"\n") + 1 :])


def inherited(
    environment: Mapping[str, str], added: Mapping[str, str], user: User | None = None
) -> dict[str, str]:
    """What a VM process finds in its environment (pure); another user's has a home of its own."""
    kept = {k: v for k, v in environment.items() if not k.startswith(_NOT_INHERITED)}
    return kept | ({} if user is None else {"HOME": user.home}) | dict(added)


def spawn(launch: Launch, log_path: str, name: str = "", user: User | None = None) -> Gate:
    """Start the gate of ``launch``; nothing of the hypervisor runs before :meth:`Gate.open`.

    It becomes ``user`` (None: it stays hvtx's own). Standard output and error go to the end of
    ``log_path``, by way of a logger. ``name`` is the VM's, for messages. Raises HostRefused.
    """
    from hvtx.host import handing, starter

    what = f"{launch.argv[0]} of VM {name}" if name else launch.argv[0]
    launch, shown = _reachable(launch._replace(argv=_as_found(launch.argv, what)), user)
    mine: list[int] = []
    try:
        given = _all_raised(handing.open_all(launch.handed, user), mine)
        begins = _make_log(log_path)
        said, log = (_raised(end, mine, len(given)) for end in os.pipe())
        if user is not None:  # what is open as its standard output can be opened by that name
            os.fchmod(log, 0o660)
            os.fchown(log, user.uid, os.getegid())
        with capabilities.only_for_children():
            writer = logger.spawn(log_path, said, begins)
        # After the logger: posix_spawn returns before its child has closed what it does not keep,
        # and while that has the read end, it is not noticed that a gate was killed.
        read, write = (_raised(end, mine, len(given)) for end in os.pipe())
        pid = _spawned(launch, user, shown, _actions(read, log, given))
        mine.remove(write)
    except (OSError, ValueError) as problem:
        raise HostRefused(
            f"{what} cannot be started: {problem}",
            hint="look at the limits on processes and open files, and at the log's directory",
        ) from problem
    finally:
        handing.close_all(mine)
    starter.forget(pid)
    return Gate(pid, write, what, Log(log_path, begins, writer), user)


def _spawned(
    launch: Launch, user: User | None, shown: tuple[str, ...], actions: Sequence[Any]
) -> int:
    """The gate's pid. Raises OSError."""
    from hvtx.host import starter

    argv, needs = _way(launch, user)
    umask = "022" if user is None or _passes_all() else "007"
    if shown:
        needs = (*needs, "CAP_SYS_ADMIN")
    with starter.usual_limits(), capabilities.only_for_children(needs):
        return os.posix_spawn(
            SHELL,
            [
                *(SHELL, "-c", starter.in_shell(ENTER), SIGNATURE, umask, launch.directory),
                *shown,
                *argv,
                *(SHELL, "-c", SCRIPT, SIGNATURE),
                *launch.argv,
            ],
            inherited(os.environ, launch.environment, user),
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=_DEFAULTED,
        )


def _way(launch: Launch, user: User | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """How the gate becomes ``user``, and the capabilities that this takes."""
    if user is None:
        return (), ()
    from hvtx.host.vmuser import way_to

    way = way_to(user, own_network=launch.own_network)
    return way.argv, way.capabilities


def _reachable(launch: Launch, user: User | None) -> tuple[Launch, tuple[str, ...]]:
    """The launch with its program where the user can execute it, and what is put before it.

    The way to a program in a shut directory is shown to the user; where that cannot be done, the
    program is handed over as a descriptor.
    """
    if user is None:
        return launch, ()
    from hvtx.host import shown
    from hvtx.host.vmuser import may_make_namespaces, may_open

    program = os.path.join(launch.directory, launch.argv[0])
    words = shown.executed(program)
    if launch.ready == "exec":  # a command, which names its files itself
        words += tuple(os.path.join(launch.directory, word) for word in launch.argv[1:])
    on_path = (place for place in os.environ.get("PATH", "").split(":") if place.startswith("/"))
    wanted = shown.steps(user, (*words, *on_path))  # a script may call any program by its name
    if wanted is None:
        wanted = shown.steps(user, words)
    if wanted and may_make_namespaces():
        return launch, shown.way(wanted)
    if may_open(user, program, 1):
        return launch, ()
    return by_descriptor(launch._replace(argv=(program, *launch.argv[1:]))), ()


def _as_found(argv: Sequence[str], what: str) -> tuple[str, ...]:
    """``argv`` with the path of its program: the gate must not look for a name again.

    A shell would also take it from a directory that others may write. Raises HostRefused.
    """
    from hvtx.host import program

    found = argv[0] if "/" in argv[0] else program.find(argv[:1])
    if found is None:
        raise HostRefused(
            f"{what} cannot be started: it was not found",
            hint="name a program of this host, by its path or in a directory of PATH that nobody"
            " else may write",
        )
    return (found, *argv[1:])


def _make_log(path: str) -> int:
    """Make sure that the log is there, and no link; how many bytes it has. Raises OSError."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o600)
    try:
        seen = os.fstat(descriptor)
        paths.need_regular(seen, path)
        return seen.st_size
    finally:
        os.close(descriptor)


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
            with contextlib.suppress(ChildProcessError):  # it reads end-of-file now
                self._status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if self._status:
                self._fail(self._how())  # it had ended on its way to the VM's user or directory
            raise HostRefused(
                f"{what} cannot be told from other processes: {problem}",
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
            procfs.signal(self.identity, signal.SIGKILL)
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
        :func:`stop` what may still run.
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
                    ends = min(ends, time.monotonic() + _SETTLE)
            self._stands(launch, qemu.status())
        return None

    def _api_says(self, launch: Launch, left: float) -> str | None:
        """The same, over HTTP."""
        from hvtx.host.asking import Question, ask_one

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
            return f"could not be executed{user}: the user was not to be had (exit status {status})"
        if status in _EXEC_FAILED:
            return f"could not be executed{user}: {_EXEC_FAILED[status]} (exit status {status})"
        return f"ended before it was up (exit status {status})"

    def _not_on_its_way(self) -> bool:
        """Whether the last that the log tells comes from a program that should have become it."""
        logger.drain(self._log.writer)
        return tail(self._log.path, self._log.begins).rpartition("\n")[2].startswith(_WAYS)

    def _fail(self, how: str, mend: str = "") -> NoReturn:
        logger.drain(self._log.writer)
        lines = tail(self._log.path, self._log.begins)
        for name, path in self._names.items():
            lines = lines.replace(name, path)
        label = "its log says" if words.LEFT_OUT in lines else "the last lines of its log"
        silent = "it printed nothing; what runs as a VM goes on until the VM is stopped"
        hint = f"{label}:\n{lines}" if lines else silent
        if self._user is not None and words.is_refusal(lines):
            mend = f"{mend}; " if mend else ""
            mend += (
                f"it runs as user {self._user.shown}, who may open what is open to all, and what it"
                " is handed (docs/privileges.md)"
            )
        raise HostRefused(f"{self._what} {how}", hint=f"{mend}; {hint}" if mend else hint)


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
    """Take the exit code of an ended child of ours; None if it has not ended or is no child.

    (An unreaped child keeps its pid, so this can hit no other process.)
    """
    try:
        pid, status = os.waitpid(identity.pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if pid else None


def _raised(descriptor: int, mine: list[int], handed: int = 0) -> int:
    """The same file under a number above those that the gate is given, close-on-exec.

    A caller with closed standard streams gets 0, 1 or 2 for what it opens next.
    """
    import fcntl

    try:
        lowest = max(10, FIRST_HANDED + handed)
        high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, lowest)
    finally:
        os.close(descriptor)
    mine.append(high)
    return high


def _all_raised(descriptors: list[int], mine: list[int]) -> list[int]:
    mine += descriptors
    found = []
    for descriptor in descriptors:
        mine.remove(descriptor)
        found.append(_raised(descriptor, mine, len(descriptors)))
    return found


def _actions(
    read: int, log: int, given: Sequence[int]
) -> list[tuple[int, ...] | tuple[int, int, str, int, int]]:
    """What posix_spawn does with descriptors: four are set, and what is handed over behind them.

    Every other one is closed.
    """
    return [
        *logger.closing(3),
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, log, 1),
        (os.POSIX_SPAWN_DUP2, log, 2),
        (os.POSIX_SPAWN_DUP2, read, 3),
        *((os.POSIX_SPAWN_DUP2, one, FIRST_HANDED + n) for n, one in enumerate(given)),
    ]


def _write(path: str, content: bytes, user: User | None = None) -> None:
    """Put ``content`` where ``path`` is in one step, readable by its owner (``user``) only."""
    draft = path + ".new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(draft)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(draft, flags, 0o600), "wb") as file:
        if user is not None:
            os.fchown(file.fileno(), user.uid, user.gid)
        file.write(content)
    os.rename(draft, path)


# --- under systemd --------------------------------------------------------------------------------


def scope_call(vm: str, *pids: int) -> tuple[str, ...]:
    """Arguments of busctl that put processes into ``hvtx-<vm>.scope`` (pure).

    org.freedesktop.systemd1(5): StartTransientUnit(name, mode, properties, aux).
    """
    return (
        *("call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1"),
        *("org.freedesktop.systemd1.Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))"),
        *(f"hvtx-{vm}.scope", "fail"),
        *("3", "Description", "s", f"VM {vm} of hvtx"),
        *("CollectMode", "s", "inactive-or-failed"),
        *("PIDs", "au", str(len(pids)), *map(str, pids)),
        "0",
    )


def enter_scope(vm: str, *pids: int) -> str | None:
    """Move a gate, its logger and the holder of its ports into a scope of their own.

    In that order; ``vm`` names the scope. So the end of a unit or of a login ends no VM.

    Returns None if done, or if systemd does not run here; else a warning in words.
    """
    if not _systemd_is_ours():
        return None
    from hvtx.host import program

    unit = f"hvtx-{vm}.scope"
    warning = f"VM {vm} stays in the caller's control group: {unit} was not made"
    busctl = program.find(("busctl", "/usr/bin/busctl"))
    if busctl is None:
        return f"{warning} (busctl is missing)"
    try:
        ended = program.run((busctl, *scope_call(vm, *pids)), _SCOPE_SECONDS)
    except OSError as problem:
        return f"{warning} ({problem})"
    if ended.status != 0:
        return f"{warning} ({ended.output.strip() or 'busctl failed'})"
    if not all(_in_unit(pid, unit) for pid in pids):
        return f"{warning} in time"
    for pid in pids[1:2]:
        logger.renew(pid)  # what it had started before stays in the caller's group
    return None


def _systemd_is_ours() -> bool:
    """Whether systemd is the first process of our own pid namespace.

    In a container that sees the host's /run, the host's systemd would take our pid for a process of
    its own namespace and move that one.
    """
    if not os.path.isdir(SYSTEMD):
        return False
    try:
        with open("/proc/1/comm") as file:
            return file.read() == "systemd\n"
    except OSError:
        return False


def _in_unit(pid: int, unit: str) -> bool:
    """Wait until systemd's job has moved the process (the call only queues it)."""
    deadline = time.monotonic() + _SCOPE_SECONDS
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/cgroup") as file:
                if any(line.rstrip("\n").endswith(f"/{unit}") for line in file):
                    return True
        except OSError:
            return False
        time.sleep(0.005)
    return False


# --- ending ---------------------------------------------------------------------------------------


Tell = Callable[[str], None]


class Ending(NamedTuple):
    """Which VM process is to be ended, and who hears of it while that takes its time."""

    identity: Identity
    directory: str  # its run-time directory
    power_down: PowerDown
    name: str = ""  # the VM's
    tell: Tell = lambda _: None

    @property
    def guest(self) -> str:
        """The guest in a sentence."""
        return f"the guest {self.name}" if self.name else "the guest"


def stop(
    identity: Identity,
    *,
    directory: str,
    power_down: PowerDown,
    timeout: float = 30.0,
    force: bool = False,
    name: str = "",
    tell: Tell | None = None,
) -> None:
    """End a VM process: guest power-down, then TERM, then KILL; a process that is gone is fine.

    ``directory`` is its run-time directory, ``power_down`` what its :class:`Launch` (or
    ``TRAITS``) says. The guest gets ``timeout`` seconds; where it cannot be asked, or says that it
    cannot react, TERM is the polite request, and the program gets them. ``force`` does without the
    request. ``tell`` hears in words what is waited for, once that takes more than a moment, and
    why it is waited for no longer.

    Raises NotPermitted, and HostRefused if the process cannot be told from others or ended.
    """
    pipe = logger.listen(identity.pid)
    ending = Ending(identity, directory, power_down, name, tell or (lambda _: None))
    try:
        _end(ending, timeout, force=force)
    except PermissionError as problem:
        raise NotPermitted(
            f"the VM process {identity.pid} may not be signalled: {problem.strerror}",
            hint="run hvtx as root, or as the user that the VM process belongs to",
        ) from problem
    except OSError as problem:
        raise HostRefused(
            f"the VM process {identity.pid} cannot be looked at: {problem.strerror}",
            hint="look at the limits on open files and memory; nothing was released",
        ) from problem
    finally:
        if pipe is not None:
            logger.hear_out(pipe)


def _end(ending: Ending, timeout: float, *, force: bool) -> None:
    identity = ending.identity
    patience = TERM_SECONDS
    if not force:
        deadline = time.monotonic() + timeout
        if _ask(ending, deadline) and _wait_off(ending, timeout, deadline):
            reap(identity)
            return
        patience = timeout if ending.power_down == "none" else TERM_SECONDS
    what = f"the process of VM {ending.name}" if ending.name else "the VM process"
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, KILL_SECONDS)):
        if not procfs.signal(identity, number):
            reap(identity)
            return
        at_first = min(_LOOK_AGAIN, seconds)
        gone = procfs.wait_gone(identity, at_first)
        if not gone and seconds > at_first:
            ending.tell(f"waiting up to {seconds:g} s for {what} to end")
            gone = procfs.wait_gone(identity, seconds - at_first)
        if gone:
            reap(identity)
            return
        if number == signal.SIGTERM:
            ending.tell(f"{what} did not end within {seconds:g} s: it is killed")
    raise HostRefused(
        f"the VM process {identity.pid} does not end, not even killed",
        hint=f"it waits inside the kernel: see /proc/{identity.pid}/stack; its resources stay",
    )


def _ask(ending: Ending, deadline: float) -> bool:
    """Ask the guest to switch itself off; False if it cannot be asked, or cannot react.

    A second is for it in any case; a hypervisor that holds us up has no more than the guest has.
    """
    if ending.power_down == "none" or procfs.wait_gone(ending.identity, 0):
        return False
    ask = _ask_qmp if ending.power_down == "qmp" else _ask_api
    seconds, more = _ASK_SECONDS
    while True:
        try:
            return ask(ending, seconds)
        except TimeoutError:
            more = min(more, deadline - time.monotonic())
            if more <= 0:
                break
            told = round(seconds + more, 1)
            ending.tell(f"waiting up to {told:g} s for an answer about {ending.guest}")
            seconds, more = more, 0.0
        except (OSError, HvtxError):
            if procfs.wait_gone(ending.identity, _SETTLE):
                return True  # it has ended, perhaps of what it was asked
            break
    ending.tell(f"{ending.guest} cannot be asked to power down: its hypervisor is ended")
    return False


def _ask_qmp(ending: Ending, seconds: float) -> bool:
    from hvtx.host.qmp import Qmp

    with Qmp(ending.directory, SOCKETS["qmp"], seconds) as qemu:
        if _is_vain(ending, qemu.status()):
            return False
        qemu.execute("system_powerdown")
    return True


def _ask_api(ending: Ending, seconds: float) -> bool:
    from hvtx.host.api import power_off

    if power_off(ending.directory, ending.power_down, seconds):
        return True
    ending.tell(f"{ending.guest} may not be asked to power down now: its hypervisor is ended")
    return False


def _wait_off(ending: Ending, timeout: float, deadline: float) -> bool:
    """Wait until a guest that was asked is off; False when it is not, or cannot be any more."""
    told = False
    while True:
        if _is_vain(ending, _now_said(ending, deadline - time.monotonic())):
            return False
        left = deadline - time.monotonic()
        if procfs.wait_gone(ending.identity, max(0.0, min(left, _LOOK_AGAIN))):
            return True
        if time.monotonic() >= deadline:
            ending.tell(
                f"{ending.guest} did not power down within {timeout:g} s: its hypervisor is ended"
            )
            return False
        if not told:
            ending.tell(f"waiting up to {timeout:g} s for {ending.guest} to power down")
            told = True


def _now_said(ending: Ending, left: float) -> str:
    """The hypervisor's word for the guest's state; empty if it does not answer in time."""
    from hvtx.host.asking import SECONDS, Question, ask_one

    how = words.ASKED[ending.power_down]
    question = Question(how, ending.directory, SOCKETS[how])
    return ask_one(question, max(_MOMENT, min(SECONDS, left))) or ""


def _is_vain(ending: Ending, said: str) -> bool:
    """Whether a guest in that state cannot react; it is told."""
    guest = words.guest_of(words.ASKED[ending.power_down], said)
    if guest not in CANNOT_ANSWER:
        return False
    state = words.described(guest, said)
    ending.tell(f"{ending.guest} cannot power down, its state is {state}: its hypervisor is ended")
    return True


# --- the console ----------------------------------------------------------------------------------


def console(directory: str, name: str | None, log: str) -> None:
    """Join standard input and output to the VM's console until either ends or Ctrl-] is typed.

    Raises Conflict if the VM has none, or it cannot be reached.
    """
    hint = f"what the VM printed is in {log}: hvtx vm logs"
    if name is None:
        raise Conflict("this VM's hypervisor has no console to type at", hint=hint)
    from hvtx.host.console import bridge
    from hvtx.host.talk import connect

    try:
        link = connect(directory, name, _CONSOLE_SECONDS)
    except OSError as problem:
        raise Conflict(
            f"the console {directory}/{name} cannot be reached: {problem.strerror}", hint=hint
        ) from problem
    with link:
        bridge(link)
