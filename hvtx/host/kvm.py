"""The accelerator for QEMU: KVM only where a guest was seen to run under it.

``/dev/kvm`` proves little. On nested hosts it may open and run firmware and a boot sector, and then
QEMU aborts on a register, reports an internal error, or the guest's kernel stops without a word. So
a guest is run on the board and processor that VMs get: the VM's own kernel, until it panics for
want of a root file system, or, without one, a guest of ours (:mod:`hvtx.host.probe_guest`). The
answer is kept in the run directory for this boot of the host, this QEMU and this kernel. Whatever
fails, or takes longer than 3 s, means TCG.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time

from hvtx.errors import HostRefused, UsageError
from hvtx.host import fd_passing, named_files, procfs, program, seccomp, vmuser
from hvtx.model.passed_fds import PassedDescriptors
from hvtx.model.typed import NamedTuple
from hvtx.model.user import User

DEVICE = "/dev/kvm"
VARIABLE = "HVTX_QEMU_ACCEL"
ACCELERATORS = ("auto", "kvm", "tcg")
SECONDS = 3.0
MEMORY = 256  # MiB of the probe's machine

NO_DEVICE = f"there is no {DEVICE}"
NOT_ALLOWED = f"{DEVICE} may not be used by this user"
RUNS_LINUX = "KVM runs Linux"
RUNS_GUESTS = "KVM runs 64-bit guests"
NO_LINUX = "KVM is here but does not run Linux"
NO_KERNEL = "KVM is here but was not seen to run this kernel"
BUSY = "other starts were still trying KVM"
UNTRIED = "KVM could not be tried"

_CACHE = "accel"
_MOST_KEPT = 64  # answers; a host that changes its kernel images all day begins anew
_BROKEN = "KVM internal error"  # QEMU says so and keeps the guest stopped
_PANIC = "Kernel panic - not syncing: "
_NO_ROOT = ("VFS: Unable to mount root fs", "No working init found", "Requested init")
_TOLD = 160  # characters of QEMU's words that are kept


class Answer(NamedTuple):
    """``kvm`` or ``tcg``, why, and what the probe saw (empty where nothing was tried)."""

    accelerator: str
    reason: str
    seen: str = ""


REASONS = (
    *(Answer(name, f"{VARIABLE}={name} decides") for name in ACCELERATORS[1:]),
    *(Answer("kvm", reason) for reason in (RUNS_LINUX, RUNS_GUESTS)),
    *(Answer("tcg", reason) for reason in (NO_DEVICE, NOT_ALLOWED, NO_LINUX, NO_KERNEL, BUSY)),
    Answer("tcg", f"{UNTRIED}: …"),
)
"""All that are given."""


class Question(NamedTuple):
    """What an answer is kept for: QEMU and the kernel, each as ``[path, bytes, mtime in ns]``."""

    boot_id: str
    binary: list[str | int]
    kernel: list[str | int] | None


# --- choosing -------------------------------------------------------------------------------------


def wanted_accelerator(text: str) -> str:
    """What ``HVTX_QEMU_ACCEL`` asks for: auto, kvm or tcg (pure). Raises UsageError."""
    if (text or "auto") not in ACCELERATORS:
        raise UsageError(
            f"{VARIABLE} is {text!r}, not {', '.join(ACCELERATORS[:-1])} or {ACCELERATORS[-1]}",
            hint=f"unset {VARIABLE}: auto takes KVM where it runs guests",
        )
    return text or "auto"


def unseen(user: User | None = None) -> Answer | None:
    """The answer where nothing has to be tried: decided by the variable, or no KVM for ``user``.

    (None: for who runs this.)

    Raises UsageError for another value of the variable.
    """
    wanted = wanted_accelerator(os.environ.get(VARIABLE, ""))
    if wanted != "auto":
        return Answer(wanted, f"{VARIABLE}={wanted} decides")
    problem = device_problem(user)
    return None if problem is None else Answer("tcg", problem)


def device_problem(user: User | None = None) -> str | None:
    """Why there is no KVM for ``user`` at all, in words; None if its device can be opened."""
    try:
        seen = os.stat(DEVICE)
    except OSError:
        return NO_DEVICE
    if user is None:
        allowed = os.access(DEVICE, os.R_OK | os.W_OK, effective_ids=True)
    else:
        mode = stat.S_IMODE(seen.st_mode)
        allowed = vmuser.with_kvm(user).may(mode, seen.st_uid, seen.st_gid, 6)
    return None if allowed else NOT_ALLOWED


def choose(
    binary: str,
    machine: str,
    run_directory: str,
    kernel: str | None = None,
    user: User | None = None,
) -> Answer:
    """The accelerator for a VM of ``binary`` (a QEMU for ``machine``, the host's own).

    ``kernel`` is the VM's own, if it has one; ``user`` is whom it runs as, None: who runs this.
    The first question of its kind takes up to 3 s; whoever asks the same meanwhile waits as long,
    and the answer is then kept in ``run_directory``. Raises UsageError for a value of the variable
    that is none.
    """
    decided = unseen(user)
    if decided is not None:
        return decided
    try:
        question = ask(binary, kernel)
        return kept(run_directory, question) or _settle(run_directory, question, machine, user)
    except OSError as problem:
        return Answer("tcg", f"{UNTRIED}: {problem.strerror or problem}")
    except HostRefused as problem:
        return Answer("tcg", f"{UNTRIED}: {problem.message}")


def ask(binary: str, kernel: str | None) -> Question:
    """The question that an answer is kept for. Raises OSError."""
    return Question(procfs.boot_id(), _file(binary), None if kernel is None else _file(kernel))


def _file(path: str) -> list[str | int]:
    seen = os.stat(path)
    return [path, seen.st_size, seen.st_mtime_ns]


def _settle(run_directory: str, question: Question, machine: str, user: User | None) -> Answer:
    """Try it, once for all who ask at the same time, and keep the answer."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    descriptor = os.open(os.path.join(run_directory, _CACHE), flags, 0o600)
    try:
        if not _locked(descriptor):
            return Answer("tcg", BUSY)
        answers = all_kept(run_directory)
        for known, answer in answers:
            if known == question:
                return answer
        answer = probe(question, machine, "kvm", user)
        if len(answers) >= _MOST_KEPT or any(q.boot_id != question.boot_id for q, _ in answers):
            os.ftruncate(descriptor, 0)
        with contextlib.suppress(OSError):  # a full disk: the next start tries again
            os.write(descriptor, json.dumps([question, answer]).encode() + b"\n")
        return answer
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        else:
            return True


def kept(run_directory: str, question: Question) -> Answer | None:
    """The answer that is kept for a question, None if there is none."""
    return next((a for known, a in all_kept(run_directory) if known == question), None)


def all_kept(run_directory: str) -> list[tuple[Question, Answer]]:
    """All answers that are kept there, oldest first; what is not one of them is passed over."""
    found: list[tuple[Question, Answer]] = []
    with contextlib.suppress(OSError), open(os.path.join(run_directory, _CACHE), "rb") as file:
        for line in file:
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                question, answer = json.loads(line)
                entry = (Question(*question), Answer(*answer))
                words = all(isinstance(word, str) for word in entry[1])
                if words and entry[1].accelerator in ("kvm", "tcg"):
                    found.append(entry)
    return found


# --- trying ---------------------------------------------------------------------------------------


def probe(question: Question, machine: str, accelerator: str, user: User | None = None) -> Answer:
    """Run the guest of ``question`` with ``accelerator`` for at most 3 s; touches no file.

    QEMU runs as ``user`` (None: as we do), shut in as it is for a VM: the kernel may be a
    other's. Raises OSError if it cannot even be tried, HostRefused if no QEMU runs at all.
    """
    binary = str(question.binary[0])
    began = time.monotonic()
    with contextlib.ExitStack() as opened:
        trial = _Trial(binary, machine, accelerator, user, opened)
        if question.kernel is None:
            answer = _try_guest(trial)
        else:
            answer = _try_kernel(trial, str(question.kernel[0]))
    if answer.accelerator != "kvm":
        # else nothing was learnt of KVM; what does not run says so long before
        need_qemu(binary, SECONDS - (time.monotonic() - began))
    return answer


def need_qemu(binary: str, seconds: float = SECONDS) -> None:
    """Raise HostRefused, in its own words, where a QEMU cannot even tell its version; OSError.

    A library that is missing, a wrapper that ends, a binary of another machine. One that only takes
    its time (more than ``seconds``) is not judged.
    """
    if seconds <= 0:
        return
    ended = program.run(_bounded([binary, "--version"]), seconds)
    if ended.status is None or program.ended_well(ended.status, shown="version" in ended.output):
        return
    said = [line.strip() for line in ended.output.splitlines() if line.strip()]
    words = "".join(c for c in said[-1] if c.isprintable())[:_TOLD] if said else "it says nothing"
    raise HostRefused(
        f"QEMU does not run: {binary} --version {program.how(ended.status)}: {words}",
        hint=f"see what is wrong with it: {binary} --version",
    )


class _Trial(NamedTuple):
    """How a guest is tried, and what is open for it."""

    binary: str
    machine: str
    accelerator: str
    user: User | None
    opened: contextlib.ExitStack

    def command_line(self, *guest: str) -> list[str]:
        """QEMU for the guest, as its user; through timeout(1), so that it ends if we are killed."""
        argv = [*arguments(self.file("program", self.binary, 1), self.machine, self.accelerator)]
        if (sandbox := seccomp.sandbox_of(self.binary)) is not None:
            argv += ["-sandbox", sandbox]
        way: tuple[str, ...] = ()
        if self.user is not None:
            way = vmuser.way_to(vmuser.with_kvm(self.user), own_network=True).argv
        return _bounded([*way, *argv, *guest])

    def file(self, what: str, path: str, bits: int) -> str:
        """The name by which QEMU opens a file: a descriptor's, where its user cannot by its own."""
        by_name = self.user is None and what == "program"
        if by_name or vmuser.may_open(self.user, path, bits):
            return path
        descriptor = fd_passing.open_all([PassedDescriptors(what, path)], self.user)[0]
        self.opened.callback(os.close, descriptor)
        os.set_inheritable(descriptor, True)
        return f"/proc/self/fd/{descriptor}"


def _try_guest(trial: _Trial) -> Answer:
    from hvtx.host import probe_guest

    image, token = probe_guest.image(trial.machine, os.urandom(8))
    file = os.memfd_create("probe", 0)  # inherited: QEMU opens it as its own descriptor
    try:
        os.write(file, image)
        guest = probe_guest.arguments(trial.machine, f"/proc/self/fd/{file}")
        argv = trial.command_line(*guest)
        ended = program.run(argv, SECONDS, enough=lambda said: _BROKEN in said)
    finally:
        os.close(file)
    # where nobody knows the status: the token is the last that the guest writes
    at_end = ended.status in (probe_guest.status(trial.machine), program.UNTOLD)
    if at_end and token in ended.output:
        return Answer("kvm", RUNS_GUESTS, "a small guest ran to its end")
    return Answer("tcg", NO_LINUX, f"a small guest: {told(ended)}")


def _try_kernel(trial: _Trial, kernel: str) -> Answer:
    console = "ttyAMA0" if trial.machine == "aarch64" else "ttyS0"
    words = f"console={console} quiet panic=-1 rdinit=/absent"
    image = trial.file("kernel", kernel, 4)
    argv = trial.command_line("-kernel", image, "-append", words)
    ended = program.run(argv, SECONDS, enough=lambda s: _BROKEN in s or lacks_root(s))
    if lacks_root(ended.output) and _BROKEN not in ended.output:
        return Answer("kvm", RUNS_LINUX, f"{kernel} booted until it lacked a root file system")
    return Answer("tcg", NO_LINUX if is_linux(kernel) else NO_KERNEL, f"{kernel}: {told(ended)}")


def arguments(binary: str, machine: str, accelerator: str) -> tuple[str, ...]:
    """QEMU's command line for the probe's machine, without its guest (pure)."""
    return (
        binary,
        *("-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none"),
        *("-machine", "virt" if machine == "aarch64" else "q35"),
        *("-accel", accelerator),
        *("-cpu", "host" if accelerator == "kvm" else "max"),
        *("-m", str(MEMORY)),
        *("-chardev", "stdio,id=console", "-serial", "chardev:console"),
    )


def _bounded(argv: list[str]) -> list[str]:
    """The same through timeout(1): a guest that hangs ends even if this process is killed."""
    timeout = program.find(("timeout",))
    return argv if timeout is None else [timeout, "-s", "KILL", f"{SECONDS + 1:g}", *argv]


def lacks_root(said: str) -> bool:
    """Whether a kernel's console says that it came to its root file system and had none (pure)."""
    return any(
        end.startswith(_NO_ROOT)
        for line in said.splitlines()
        for _, found, end in (line.partition(_PANIC),)
        if found
    )


def is_linux(path: str) -> bool:
    """Whether a file has the header of a Linux kernel image (boot.rst of x86 and of arm64)."""
    try:
        head = named_files.head(path, 0x210, disk=False)
    except OSError:
        return False
    return head[0x202:0x206] == b"HdrS" or head[0x38:0x3C] == b"ARM\x64"


def told(ended: program.Ended) -> str:
    """How a probe failed, in a line: how QEMU ended, and its most telling words (pure)."""
    late = f"not at its end within {SECONDS:g} s"
    how = late if ended.status is None else f"QEMU {program.how(ended.status)}"
    lines = ["".join(c for c in line if c.isprintable()) for line in ended.output.splitlines()]
    for word in (_BROKEN, "rror", "ssert", _PANIC):
        for line in lines:
            if word in line:
                return f"{'QEMU stopped it' if word == _BROKEN else how}: {line.strip()[:_TOLD]}"
    return how
