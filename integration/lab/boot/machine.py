"""A machine of its own: an emulated PC with a disk, systemd, and hvtx at work, whose power can go.

The disk is made of the same image as the container's, with the kernel that the demo's guests boot.
The machine reports on its second serial port, which QEMU appends to a file as it goes: what stands
there was said before the power went. SIGKILL takes the machine with everything that its kernel had
not yet written to the disk.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from integration.lab.boot import image

GUEST = image.TOP / ".cache" / "guest"
MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")
DISK_SIZE = "2G"
MEMORY = "1024"
INIT = """#!/bin/sh
/bin/busybox mount -t proc none /proc
/bin/busybox mount -t devtmpfs none /dev
while read -r module; do /bin/busybox insmod /modules/$module; done </modules/order
/bin/busybox mkdir /root
for n in 1 2 3 4 5 6 7 8 9 10; do
    /bin/busybox mount -t ext4 /dev/vda /root 2>/dev/null && break
    /bin/busybox sleep 0.3
done
/bin/busybox umount /proc
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /lib/systemd/systemd
"""
UNIT = """[Unit]
Description=hvtx at work
After=hvtx-recover.service multi-user.target
[Service]
ExecStart=/opt/hvtx/bin/python /opt/load.py
StandardOutput=journal+console
StandardError=journal+console
[Install]
WantedBy=graphical.target
"""
APPEND = (
    "console=ttyS0 root=/dev/vda rw quiet panic=-1 mitigations=off random.trust_cpu=on"
    " no_timer_check"  # on a busy host the emulated timer fails the kernel's test of it
    " systemd.show_status=1 systemd.mask=serial-getty@ttyS0.service"
    " systemd.mask=dev-ttyS0.device"
)


def disk() -> Path:
    """A disk with the tree under test installed, and its units; made afresh."""
    directory = Path(tempfile.mkdtemp(prefix="hvtx-machine-"))
    root = directory / "root"
    root.mkdir()
    try:
        image.run("tar", "-xf", str(image.root_tar()), "-C", str(root), "--numeric-owner")
        _add_kernel_modules(root)
        _install(root)
        path = directory / "disk"
        image.run("mke2fs", "-q", "-t", "ext4", "-d", str(root), str(path), DISK_SIZE)
    except BaseException:
        remove(directory / "disk")
        raise
    shutil.rmtree(root, ignore_errors=True)
    return path


def _add_kernel_modules(root: Path) -> None:
    image.run(str(image.TOP / "scripts" / "guest" / "prepare"))
    tree = next(GUEST.glob("root/**/lib/modules/*/kernel")).parent
    shutil.copytree(tree, root / "usr/lib/modules" / tree.name, symlinks=True)
    image.run("chroot", str(root), "depmod", tree.name)


def _install(root: Path) -> None:
    """Install hvtx and the load; offline, as one does with an image."""
    image.run("tar", "-x", "-C", str(root), stdin=image.source_tar())
    image.run("chroot", str(root), "sh", "-c", image.INSTALL)
    # Nothing of the caller's settings may become part of the units.
    clean = ("env", "-i", "PATH=/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin")
    image.run("chroot", str(root), *clean, "hvtx", "systemd", "install")
    shutil.copy(Path(__file__).with_name("load.py"), root / "opt/load.py")
    (root / "etc/systemd/system/load.service").write_text(UNIT)
    image.run("systemctl", f"--root={root}", "enable", "--quiet", "load.service")


def initramfs(directory: Path) -> Path:
    """What mounts the disk and hands over to systemd."""
    packer = _packer()
    found = GUEST.glob("root/**/lib/modules/*/kernel/**/*.ko*")
    files = {packer.canonical(path.name): path for path in found}
    modules = packer.closure(MODULES, files)
    busybox = (GUEST / "busybox").read_bytes()
    path = directory / "initrd"
    path.write_bytes(packer.archive(packer.members(busybox, INIT.encode(), modules)))
    return path


def _packer() -> ModuleType:
    """scripts/guest/initramfs.py as a module."""
    path = image.TOP / "scripts" / "guest" / "initramfs.py"
    spec = importlib.util.spec_from_file_location("initramfs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Machine:
    """The machine around a disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.report = path.with_name("report")
        self.console = path.with_name("console")
        self.initrd = initramfs(path.parent)
        self.report.touch()

    def lines(self) -> list[str]:
        """The whole lines of the report so far."""
        text = self.report.read_bytes().decode(errors="replace")
        return [line.rstrip("\r") for line in text.split("\n")[:-1]]

    @contextlib.contextmanager
    def powered(self) -> Iterator[subprocess.Popen[bytes]]:
        """Switch it on; its power goes at the end."""
        argv = [
            "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2",
            "-m", MEMORY, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-nic", "none",
            "-kernel", str(GUEST / "vmlinuz"), "-initrd", str(self.initrd), "-append", APPEND,
            "-drive", f"file={self.path},format=raw,if=virtio,cache=writeback",
            "-chardev", f"file,id=c,path={self.console},append=on", "-serial", "chardev:c",
            "-chardev", f"file,id=r,path={self.report},append=on", "-serial", "chardev:r",
        ]  # fmt: skip
        with self.path.with_name("qemu.log").open("ab") as log:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def wait_for(
        self, process: subprocess.Popen[bytes], word: str, since: int, seconds: float
    ) -> int:
        """Wait for a line that begins with ``word`` after line ``since``; its index."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for number, line in enumerate(self.lines()[since:], start=since):
                if line.startswith(word):
                    return number
            if process.poll() is not None:
                break
            time.sleep(0.1)
        tail = self.console.read_bytes()[-3000:].decode(errors="replace")
        raise AssertionError(
            f"no line {word!r} within {seconds} s\n{self.lines()[since:]}\nconsole: {tail}"
        )


def remove(path: Path) -> None:
    """Take a disk away with everything beside it."""
    shutil.rmtree(path.parent, ignore_errors=True)
    assert not os.path.exists(path)
