"""Makes the initramfs of the demo's guests: busybox, the virtio network driver, and an init.

    python3 initramfs.py BUSYBOX INIT ROOT OUTPUT

ROOT is a directory into which kernel packages were unpacked (``lib/modules/<release>`` in it).
Standard library only, since it runs before anything is installed into the venv. Compressed
modules are unpacked with the host's ``xz`` and ``zstd``, as not every Python has those codecs.
"""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

WANTED = ("virtio_pci", "virtio_net", "button", "evdev")
UNPACK = {".xz": ("xz", "-dc"), ".zst": ("zstd", "-qdc"), ".gz": ("gzip", "-dc")}
DIRECTORY, FILE, DEVICE = 0o040755, 0o100755, 0o020600


class Member(NamedTuple):
    """A file, directory or character device of the archive."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def canonical(name: str) -> str:
    """A module's name as ``depends=`` spells it: file names may have dashes instead."""
    return name.split(".ko", 1)[0].replace("-", "_")


def unpack(path: Path) -> bytes:
    """The module itself, whatever it is compressed with."""
    if path.suffix not in UNPACK:
        return path.read_bytes()
    return subprocess.run([*UNPACK[path.suffix], path], stdout=subprocess.PIPE, check=True).stdout


def depends(module: bytes) -> list[str]:
    """The modules that must be there first: the ``depends=`` string of the .modinfo section."""
    at = module.find(b"\0depends=")
    if at < 0:
        return []
    text = module[at + len(b"\0depends=") :].split(b"\0", 1)[0].decode()
    return [canonical(name) for name in text.split(",") if name]


def closure(wanted: Iterable[str], files: dict[str, Path]) -> dict[str, bytes]:
    """The wanted modules and all they need, by name, dependencies first.

    A name without a file is built into the kernel: both families of kernels are tried, and a
    guest without its driver says so on its console.
    """
    found: dict[str, bytes] = {}

    def visit(name: str) -> None:
        if name in found or name not in files:
            return
        module = unpack(files[name])
        for other in depends(module):
            visit(other)
        found[name] = module

    for name in wanted:
        visit(canonical(name))
    return found


def members(busybox: bytes, init: bytes, modules: dict[str, bytes]) -> Iterator[Member]:
    """Everything that is in the guest's root file system when it starts."""
    for name in ("bin", "dev", "proc", "sys", "modules"):
        yield Member(name, DIRECTORY)
    # The kernel opens it for init before anything is mounted.
    yield Member("dev/console", DEVICE, device=(5, 1))
    yield Member("bin/busybox", FILE, busybox)
    yield Member("bin/sh", FILE, busybox)
    yield Member("init", FILE, init)
    order = "".join(f"{name}.ko\n" for name in modules)
    yield Member("modules/order", FILE, order.encode())
    for name, data in modules.items():
        yield Member(f"modules/{name}.ko", FILE, data)


def newc(number: int, member: Member) -> bytes:
    """One entry in the kernel's format (Documentation/driver-api/early-userspace/buffer-format)."""
    name = member.name.encode() + b"\0"
    fields = (
        *(number, member.mode, 0, 0, 1, 0, len(member.data), 0, 0),
        *(*member.device, len(name), 0),
    )
    head = b"070701" + b"".join(b"%08X" % field for field in fields)
    return pad(head + name) + pad(member.data)


def pad(data: bytes) -> bytes:
    """Entries and their data begin at multiples of four bytes."""
    return data + bytes(-len(data) % 4)


def archive(entries: Iterable[Member]) -> bytes:
    """The whole archive, compressed; the same input gives the same bytes."""
    numbered = enumerate([*entries, Member("TRAILER!!!", 0)], start=1)
    return gzip.compress(b"".join(newc(n, m) for n, m in numbered), compresslevel=1, mtime=0)


def main(busybox: str, init: str, root: str, output: str) -> None:
    """Read, pack, and put in place by a rename, so that a half-written file is never used."""
    found = Path(root).glob("**/lib/modules/*/kernel/**/*.ko*")
    files = {canonical(path.name): path for path in found}
    modules = closure(WANTED, files)
    entries = members(Path(busybox).read_bytes(), Path(init).read_bytes(), modules)
    part = Path(output + ".part")
    part.write_bytes(archive(entries))
    part.rename(output)
    built_in = [name for name in WANTED if name not in modules]
    print(f"initramfs: modules {' '.join(modules)}; built into the kernel: {built_in or 'none'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
