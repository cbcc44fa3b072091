"""Whether KVM really runs guests here.

``/dev/kvm`` proves little: on some nested hosts it opens and runs a few instructions, and then QEMU
aborts on a register that cannot be set, or the firmware hangs at the PCI bus. So QEMU boots a guest
of a few instructions through its usual firmware, on the board, processor and disk that VMs get,
once for each boot of the host.
"""

from __future__ import annotations

import contextlib
import os

from hvtx.errors import UsageError
from hvtx.host import procfs, program

VARIABLE = "HVTX_QEMU_ACCEL"
ACCELERATORS = ("auto", "kvm", "tcg")
SECONDS = 3.0
_SIZE = 1 << 20  # bytes: below a cylinder of 504 KiB the firmware reads no disk
_MARKER = 0x2A
_CACHE = "accel"

# mov al, 0x2a; out 0xf4, al; hlt; jmp back to hlt
_X86 = bytes((0xB0, _MARKER, 0xE6, 0xF4, 0xF4, 0xEB, 0xFD))
# movz w0, 8; movk w0, 0x8400, lsl 16 (PSCI SYSTEM_OFF); hvc 0; b .
_ARM = bytes.fromhex("000180520080b072020000d400000014")


def image(machine: str) -> bytes:
    """A guest that ends its machine at once, :func:`status` being QEMU's exit status.

    x86: a disk whose boot sector writes to the port that isa-debug-exit listens on. aarch64:
    firmware that asks PSCI (SYSTEM_OFF) to switch off.
    """
    if machine == "aarch64":
        return _ARM.ljust(_SIZE, b"\0")
    return (_X86.ljust(510, b"\xf4") + b"\x55\xaa").ljust(_SIZE, b"\0")


def status(machine: str) -> int:
    """QEMU's exit status when the image ran: isa-debug-exit gives twice the value plus one."""
    return 0 if machine == "aarch64" else 2 * _MARKER + 1


def arguments(binary: str, machine: str, accelerator: str, path: str) -> tuple[str, ...]:
    """QEMU's command line for the probe, with the image at ``path`` (pure)."""
    arm = machine == "aarch64"
    guest: tuple[str, ...] = (
        *("-drive", f"if=none,id=disk,format=raw,readonly=on,file={path.replace(',', ',,')}"),
        *("-device", "virtio-blk-pci,drive=disk,bootindex=1"),
        *("-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
    )
    return (
        binary,
        *("-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none"),
        *("-machine", "virt" if arm else "q35"),
        *("-accel", accelerator),
        *("-cpu", "host" if accelerator == "kvm" else "max"),
        *("-m", "64"),
        *(("-bios", path) if arm else guest),
    )


def wanted_accelerator(text: str) -> str:
    """What ``HVTX_QEMU_ACCEL`` asks for: auto, kvm or tcg (pure). Raises UsageError."""
    if (text or "auto") not in ACCELERATORS:
        raise UsageError(
            f"{VARIABLE} is {text!r}, not {', '.join(ACCELERATORS[:-1])} or {ACCELERATORS[-1]}",
            hint=f"unset {VARIABLE}: auto takes KVM where it runs guests",
        )
    return text or "auto"


def runs_guests(binary: str, machine: str, run_directory: str) -> bool:
    """Whether ``binary`` (a QEMU for ``machine``, the host's own) runs guests with KVM.

    ``HVTX_QEMU_ACCEL`` (kvm, tcg) decides it unseen; else the answer is kept in a file of
    ``run_directory`` for this boot. Whatever fails means no; only another value of the variable
    raises (UsageError).
    """
    wanted = wanted_accelerator(os.environ.get(VARIABLE, ""))
    if wanted != "auto":
        return wanted == "kvm"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    try:
        key = f"{procfs.boot_id()} {binary}"
        kept = _kept(run_directory, key)
        if kept is not None:
            return kept
        answer = probe(binary, machine, "kvm", run_directory)
        _keep(run_directory, key, answer)
    except OSError:
        return False
    return answer


def probe(binary: str, machine: str, accelerator: str, directory: str) -> bool:
    """Boot the image with ``accelerator``, for at most 3 s; OSError if it cannot even be tried."""
    path = os.path.join(directory, f"probe-{os.getpid()}.bin")
    try:
        _write(path, image(machine))
        ended = program.run(arguments(binary, machine, accelerator, path), SECONDS)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
    return ended.status == status(machine)


def _kept(directory: str, key: str) -> bool | None:
    """The kept answer to this question, None if there is none."""
    with contextlib.suppress(OSError), open(os.path.join(directory, _CACHE)) as file:
        question, _, answer = file.read().strip().rpartition(" ")
        if question == key and answer in ("kvm", "tcg"):
            return answer == "kvm"
    return None


def _keep(directory: str, key: str, answer: bool) -> None:
    draft = os.path.join(directory, f"{_CACHE}.{os.getpid()}")
    _write(draft, f"{key} {'kvm' if answer else 'tcg'}\n".encode())
    os.rename(draft, os.path.join(directory, _CACHE))


def _write(path: str, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
