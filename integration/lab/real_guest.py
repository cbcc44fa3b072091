"""A real guest: Debian's kernel with busybox, and modules and programs of the host beside it.

What it does is a script of the test's. Started under emulation it is up in some seconds. The kernel
and busybox are those of the demo's guest (`scripts/guest/prepare`).
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

TOP = Path(__file__).resolve().parents[2]
GUEST = TOP / ".cache/guest"  # the fixture `guest_files` fills it
PREPARE = TOP / "scripts/guest/prepare"
MODULES = ("virtio_pci", "virtio_net", "virtio_blk", "isofs", "button", "evdev")

BEGIN = """#!/bin/sh
export PATH=/bin:/usr/sbin
busybox mount -t devtmpfs dev /dev
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
exec >/dev/console 2>&1 </dev/console
busybox --install -s /bin
while read -r module; do insmod "/modules/$module"; done </modules/order
tries=0
until [ -e /sys/class/net/eth0 ] || [ $tries -ge 100 ]; do
    tries=$((tries + 1))
    usleep 50000
done
"""
END = """
echo "guest: done"
while true; do sleep 3600; done
"""


def _recipe() -> ModuleType:
    path = TOP / "scripts/guest/initramfs.py"
    spec = importlib.util.spec_from_file_location("initramfs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["initramfs"] = module  # its classes look for themselves there
    spec.loader.exec_module(module)
    return module


def _libraries(program: str) -> set[str]:
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"(/\S+) \(0x", said))


def initramfs(script: str, output: Path, programs: Iterable[str] = ()) -> Path:
    """An image whose process 1 does ``script`` and says "guest: done".

    ``programs`` of the host are at their own paths, with their libraries.
    """
    recipe = _recipe()
    found = (GUEST / "root").glob("**/lib/modules/*/kernel/**/*.ko*")
    files = {recipe.canonical(path.name): path for path in found}
    modules = recipe.closure(MODULES, files)
    busybox = (GUEST / "busybox").read_bytes()
    entries = list(recipe.members(busybox, (BEGIN + script + END).encode(), modules))
    entries += _copied(recipe, programs)
    output.write_bytes(recipe.archive(entries))
    return output


def _copied(recipe: ModuleType, programs: Iterable[str]) -> Iterator[object]:
    programs = list(programs)
    paths = sorted(set(programs).union(*map(_libraries, programs)))
    made = set()
    for path in paths:
        parents = [p for p in reversed(Path(path).parents) if p != Path("/")]
        for parent in parents:
            if str(parent) not in {"/bin", "/dev", "/proc", "/sys", "/modules"} | made:
                made.add(str(parent))
                yield recipe.Member(str(parent)[1:], recipe.DIRECTORY)
        yield recipe.Member(path[1:], recipe.FILE, Path(path).read_bytes())
