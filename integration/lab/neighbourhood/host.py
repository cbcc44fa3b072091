"""A host with a real systemd as process 1, in namespaces of its own (pid, mount, net, uts, ipc, cgroup).

Its root is the image under a layer in memory, so that what a row does to it is gone with it. Of the
machine it sees nothing: its /proc/sys is read-only but for the network's part, which belongs to its
own namespace; it may not load modules, set the clock or write to the kernel's log.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from integration import lab
from integration.lab.boot import image as boot
from integration.lab.entered import CLEAN, PATH, Entered
from integration.lab.waiting import until

BOOT_SECONDS = 90
GUEST = Path(lab.__file__).with_name("guest.py")
UPLINK, HOST4, HOST6 = "up0", "198.51.100.1", "2001:db8:100::1"
WORLD4, WORLD6 = "198.51.100.2", "2001:db8:100::2"
FAR4, FAR6 = "192.0.2.9", "2001:db8:200::9"  # the world beyond the host's own link
_LOST = "sys_module,-sys_time,-syslog,-sys_rawio,-wake_alarm,-mac_admin,-mac_override"
# $1: layers below, $2: directory for what is new. Runs as process 1, and becomes systemd.
_ENTER = """
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=0755 layer "$2"
mkdir "$2/upper" "$2/work" "$2/root"
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
cd "$2/root"
mount -t proc proc proc
mount --bind proc/sys proc/sys && mount -o remount,bind,ro proc/sys
mount --bind proc/sys/net proc/sys/net && mount -o remount,bind,rw proc/sys/net
if [ -e proc/sysrq-trigger ]; then
    : >run/nothing; mount --bind run/nothing proc/sysrq-trigger
fi
mount -t sysfs sysfs sys
for place in module power firmware bus kernel block; do
    [ -d sys/$place ] || continue
    mount --bind sys/$place sys/$place && mount -o remount,bind,ro sys/$place
done
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=0755 dev dev
# Nodes of its own: tcpdump gives the file that it writes, and be it /dev/null, to its own user.
for node in null:3 zero:5 full:7 random:8 urandom:9; do
    mknod -m 0666 dev/${node%:*} c 1 ${node#*:}
done
mknod -m 0666 dev/tty c 5 0
mkdir dev/net dev/pts dev/shm dev/mqueue
mknod -m 0666 dev/net/tun c 10 200
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts dev/pts
ln -s pts/ptmx dev/ptmx; ln -s /proc/self/fd dev/fd
for n in 0:stdin 1:stdout 2:stderr; do ln -s /proc/self/fd/${n%:*} dev/${n#*:}; done
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t tmpfs -o mode=0755 run run
mount -t tmpfs -o mode=1777 tmp tmp
for place in docker containerd containers lxd; do
    mkdir -p var/lib/$place; mount -t tmpfs var var/lib/$place
done
hostname neighbours
mkdir old
pivot_root . old
cd /
umount -l /old
exec /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=hvtx-neighbours \\
    /usr/bin/setpriv --bounding-set=-LOST /lib/systemd/systemd
""".replace("LOST", _LOST)


def layers(place: Path, below: Path) -> str:
    """Install the tree under test in ``place``, over the root ``below``; both for `booted`."""
    for name in ("upper", "work", "root"):
        (place / name).mkdir()
    root = place / "root"
    mounted = f"lowerdir={below},upperdir={place / 'upper'},workdir={place / 'work'}"
    script = (
        f"mount -t overlay overlay -o {mounted} {root} && tar -x -C {root}"
        f" && mount -t proc proc {root}/proc && mount --bind /dev {root}/dev"
        f" && cp {GUEST} {root}/opt/guest.py && chmod 0644 {root}/opt/guest.py"
        f" && chroot {root} env -i PATH={PATH} sh -ec {shlex.quote(boot.INSTALL)}"
    )
    boot.run("unshare", "--mount", "--propagation", "private", "sh", "-ec", script,
             stdin=boot.source_tar())  # fmt: skip
    return f"{place / 'upper'}:{below}"


class Host(Entered):
    """A booted host: commands in it, its network namespace, and the world beyond its uplink."""

    namespaces = ("--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--root", "--wd")

    def __init__(self, pid: int, world: lab.Namespace) -> None:
        super().__init__(pid)
        self.world = world

    def sh(self, script: str, code: int | None = 0) -> str:
        """Run a script of a shell that ends at the first failure."""
        return self.run("sh", "-ec", script, code=code)

    def write(self, path: str, text: str) -> None:
        """Write a file, and the directories above it."""
        self.run("sh", "-ec", 'mkdir -p "${1%/*}" && cat >"$1"', "sh", path, stdin=text)

    def hvtx(self, *arguments: str, code: int | None = 0) -> str:
        """Run hvtx; its standard output."""
        return self.run("hvtx", *arguments, code=code)

    def json(self, *arguments: str, code: int | None = 0) -> dict[str, Any]:
        """What hvtx prints with ``--json``."""
        document: dict[str, Any] = json.loads(self.hvtx(*arguments, "--json", code=code))
        return document

    def journal(self) -> str:
        """The end of the journal, for a failure."""
        done = self.ran("journalctl", "--no-pager", "-n", "25", "-o", "cat")
        return f"-- journal\n{done.stdout[-3000:]}"

    def network_of(self, pid: int | None = None) -> str:
        """The path of the network namespace of a process that is ``pid`` in there (None: the host's)."""
        if pid is None:
            return f"/proc/{self.pid}/ns/net"
        return f"/proc/{self.pid}/root/proc/{pid}/ns/net"

    def is_booted(self) -> bool:
        """Whether systemd has nothing left to do."""
        words = self.ran("systemctl", "is-system-running").stdout.strip()
        return words in ("running", "degraded")


def _child_of(pid: int) -> int | None:
    words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(words[0]) if words else None


def cgroups() -> Path:
    """Where the unified hierarchy of control groups is on this machine."""
    apart = Path("/sys/fs/cgroup/unified")
    return apart if apart.is_dir() else Path("/sys/fs/cgroup")


@contextlib.contextmanager
def booted(below: str) -> Iterator[Host]:
    """A host that has booted, with an uplink to a world; gone at the end with all that runs in it.

    ``below`` are the layers of its root, as `layers` gives them.
    """
    place = Path(tempfile.mkdtemp(prefix="hvtx-host-"))
    group = cgroups() / place.name
    group.mkdir()
    flags = ("--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child=KILL")
    script = f'echo $$ >{group}/cgroup.procs && exec setpriv --pdeathsig KILL unshare --cgroup {" ".join(flags)} "$@"'
    argv = ["sh", "-ec", script, "sh", "sh", "-ec", _ENTER, "sh", below, str(place)]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, env=CLEAN)
    world = lab.Namespace()
    try:
        pid = until("process 1", lambda: process.poll() or _child_of(process.pid), 20)
        host = Host(pid, world)
        until("systemd", lambda: _is_systemd(process, pid), BOOT_SECONDS)
        until("the boot", host.is_booted, BOOT_SECONDS)
        _connect(host)
        yield host
    finally:
        world.close()
        _end(process, group)
        shutil.rmtree(place, ignore_errors=True)


def _is_systemd(process: subprocess.Popen[bytes], pid: int) -> bool:
    if process.poll() is not None:
        raise AssertionError(f"the host ended before it had booted: exit {process.returncode}")
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/exe").endswith("/systemd")
    return False


def _end(process: subprocess.Popen[bytes], group: Path) -> None:
    """Kill the host's process 1, and with it all others of its pid namespace."""
    child = _child_of(process.pid) if process.poll() is None else None
    if child is not None:
        lab.end(child)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for directory in sorted(group.glob("**/"), key=lambda d: -len(d.parts)):
        with contextlib.suppress(OSError):
            directory.rmdir()


def _connect(host: Host) -> None:
    """The uplink, an address and the default routes; the world has a far side behind its own."""
    world = host.world
    peer = ("type", "veth", "peer", "name", "eth0", "netns", str(world.pid))
    net = ("nsenter", "-t", str(host.pid), "--net", "--")
    lab.run(*net, "ip", "link", "add", UPLINK, *peer)
    for argv in (
        ("addr", "add", f"{HOST4}/24", "dev", UPLINK),
        ("addr", "add", f"{HOST6}/64", "dev", UPLINK, "nodad"),
        ("link", "set", UPLINK, "up"),
        ("route", "add", "default", "via", WORLD4),
        ("-6", "route", "add", "default", "via", WORLD6),
    ):
        lab.run(*net, "ip", *argv)
    for argv in (
        ("addr", "add", f"{WORLD4}/24", "dev", "eth0"),
        ("addr", "add", f"{WORLD6}/64", "dev", "eth0", "nodad"),
        ("link", "set", "eth0", "up"),
        ("addr", "add", f"{FAR4}/32", "dev", "lo"),
        ("addr", "add", f"{FAR6}/128", "dev", "lo", "nodad"),
    ):
        world.run("ip", *argv)
    for family in ("ip", "ip6"):
        setting = f"net/bridge/bridge-nf-call-{family}tables"
        host.sh(f"if [ -e /proc/sys/{setting} ]; then echo 1 >/proc/sys/{setting}; fi")
