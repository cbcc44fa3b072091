"""The guest that a VM without a kernel of its own is tried with: what it is, how it answers.

Its source is scripts/probe/; :mod:`hvtx.host.probe_code` has what that assembles to.
"""

from __future__ import annotations

from hvtx.host import probe_code

DONE = 0x35  # what it writes to isa-debug-exit when all has passed
_SIZE = 1 << 20  # bytes: below a cylinder of 504 KiB the firmware reads no disk
_NONCE = {"x86_64": 500, "aarch64": 8}  # offsets of the number in the code
_WORD = (1 << 64) - 1


def image(machine: str, nonce: bytes) -> tuple[bytes, str]:
    """The guest with a number in it (8 bytes), and what it prints if it runs as it should (pure).

    x86: a disk with a boot sector. aarch64: firmware.
    """
    code = bytearray(probe_code.AARCH64 if machine == "aarch64" else probe_code.X86_64)
    offset = _NONCE.get(machine, 500)
    code[offset : offset + 8] = nonce
    return bytes(code).ljust(_SIZE, b"\0"), token(int.from_bytes(nonce, "little"))


def token(number: int) -> str:
    """What the guest makes of its number: 16 letters from a to p, lowest four bits first (pure)."""
    made = (number + 1000) * 0x9E3779B1 & _WORD
    return "".join(chr(ord("a") + (made >> shift & 15)) for shift in range(0, 64, 4))


def status(machine: str) -> int:
    """QEMU's exit status at its end: isa-debug-exit gives twice the value plus one, PSCI 0."""
    return 0 if machine == "aarch64" else 2 * DONE + 1


def arguments(machine: str, path: str) -> tuple[str, ...]:
    """What QEMU is told of the guest, whose image is at ``path`` (pure)."""
    if machine == "aarch64":
        return ("-bios", path)
    return (
        *("-drive", f"if=none,id=disk,format=raw,readonly=on,file={path}"),
        *("-device", "virtio-blk-pci,drive=disk,bootindex=1"),
        *("-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
    )
