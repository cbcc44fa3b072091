"""A Debian as clouds have it: a disk image that boots by itself, with cloud-init and networkd.

Nothing in it knows of hvtx. It is made once, in ``.cache/cloud``; as a program it makes it::

    sudo python -m integration.lab.boot.cloud

The root file system is mmdebstrap's, with Debian's kernel and initramfs. SYSLINUX boots it, since
it can be installed into a file without mounting anything: from a small FAT file system in the first
partition; the second has the root. Neither it nor mtools is installed on the host: their packages
are unpacked in the cache.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from integration.lab.boot import image
from integration.lab.boot.bootstrap import bootstrap, digest

CACHE = image.TOP / ".cache" / "cloud"
PACKAGES = (
    "systemd-sysv", "udev", "dbus", "kmod", "iproute2", "netplan.io", "systemd-resolved",
    "libnss-resolve", "sudo", "openssh-server", "cloud-init", "linux-image-cloud-amd64",
    "initramfs-tools", "ca-certificates", "locales", "cloud-guest-utils",
)  # fmt: skip
TOOLS = ("syslinux", "syslinux-common", "mtools", "dosfstools")
SECTOR, FIRST = 512, 2048
BOOT_MIB, ROOT_MIB = 128, 1536
# Units that take time under emulation, and are of no use to anybody here.
MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer",
    "e2scrub_all.timer", "e2scrub_reap.service", "systemd-pstore.service", "getty@tty1.service",
)  # fmt: skip
CONFIG = """SERIAL 0 115200
DEFAULT debian
PROMPT 0
TIMEOUT 1
LABEL debian
  LINUX vmlinuz
  INITRD initrd.img
  APPEND root=LABEL=root rw console=ttyS0 net.ifnames=0 no_timer_check mitigations=off
"""


def _hooks() -> list[str]:
    masks = " ".join(f"/etc/systemd/system/{unit}" for unit in MASKED)
    return [
        f'for unit in {masks}; do ln -sf /dev/null "$1$unit"; done',
        'rm -f "$1"/etc/ssh/ssh_host_*; : >"$1/etc/machine-id"; echo localhost >"$1/etc/hostname"',
        # what the clouds' images do, too: only where the seed may be
        'printf "datasource_list: [ NoCloud, None ]\\n" >"$1/etc/cloud/cloud.cfg.d/90_list.cfg"',
        'cd "$1" && rm -rf var/cache/apt/*.bin var/lib/apt/lists/* usr/share/doc/* usr/share/man/*',
        'cd "$1" && rm -rf usr/share/locale/*',
    ]


def recipe() -> str:
    """A word that changes with whatever the image is made of."""
    parts = [*PACKAGES, *_hooks(), CONFIG, str(ROOT_MIB)]
    return digest(parts)


def disk() -> Path:
    """The image, qcow2; made if it is not there (some minutes). Raises image.Unavailable."""
    path = CACHE / f"debian-{image.SUITE}-{recipe()}.qcow2"
    if path.exists():
        return path
    CACHE.mkdir(parents=True, exist_ok=True)
    with _place() as place:
        root = _root(place)
        boot = _boot(place, root, _tools())
        raw = place / "disk.raw"
        system = place / "root.ext4"
        image.run("mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", str(root), str(system), f"{ROOT_MIB}M")  # fmt: skip
        _join(raw, boot, system)
        part = path.with_suffix(".part")
        image.run("qemu-img", "convert", "-c", "-O", "qcow2", str(raw), str(part))
        part.rename(path)
    return path


@contextlib.contextmanager
def _place() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="hvtx-cloud-", dir=CACHE))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _root(place: Path) -> Path:
    root = place / "root"
    bootstrap(image.SUITE, root, PACKAGES, _hooks())
    return root


def _tools() -> Path:
    """SYSLINUX, mtools and mkfs.vfat, unpacked."""
    tools = CACHE / "tools"
    if tools.exists():
        return tools
    part = CACHE / "tools.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    image.run("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *TOOLS, cwd=part)
    for package in part.glob("*.deb"):
        image.run("dpkg-deb", "-x", str(package), str(part))
        package.unlink()
    part.rename(tools)
    return tools


def _boot(place: Path, root: Path, tools: Path) -> Path:
    """The first partition: a FAT file system with a boot loader, the kernel and its initramfs."""
    path = place / "boot.fat"
    path.write_bytes(b"")
    os.truncate(path, BOOT_MIB << 20)
    words = f"{tools}/usr/bin:{tools}/sbin:{tools}/usr/sbin:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": words, "MTOOLS_SKIP_CHECK": "1"}
    config = place / "syslinux.cfg"
    config.write_text(CONFIG)
    kernel, initrd = (max((root / "boot").glob(f"{name}-*")) for name in ("vmlinuz", "initrd.img"))
    for argv in (
        ["mkfs.vfat", "-F", "32", "-h", str(FIRST), str(path)],
        ["syslinux", "--install", str(path)],
        ["mcopy", "-i", str(path), str(kernel), "::vmlinuz"],
        ["mcopy", "-i", str(path), str(initrd), "::initrd.img"],
        ["mcopy", "-i", str(path), str(config), "::syslinux.cfg"],
    ):
        subprocess.run(argv, env=environment, check=True, capture_output=True)
    return path


def _join(raw: Path, boot: Path, root: Path) -> None:
    """One disk of both partitions, with SYSLINUX's boot code (its mbr.bin) and a DOS label."""
    code = (_tools() / "usr/lib/syslinux/mbr/mbr.bin").read_bytes()
    table, start, places = b"", FIRST, []
    for kind, active, path in ((0x0C, 0x80, boot), (0x83, 0, root)):
        count = path.stat().st_size // SECTOR
        table += struct.pack("<B3sB3sII", active, b"\xfe\xff\xff", kind, b"\xfe\xff\xff", start, count)  # fmt: skip
        places.append((start, path))
        start += count
    with raw.open("wb") as disk:
        disk.write(code.ljust(446, b"\0")[:446] + table.ljust(64, b"\0") + b"\x55\xaa")
        disk.truncate(start * SECTOR)
        for begin, path in places:
            disk.seek(begin * SECTOR)
            with path.open("rb") as part:
                shutil.copyfileobj(part, disk, 1 << 22)


if __name__ == "__main__":
    sys.stdout.write(f"{disk()}\n")
