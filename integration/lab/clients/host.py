"""A host for container runtimes: a root of their own over the image, with own processes and mounts.

Its network namespace is the caller's, so that a dump of the test sees what the runtimes see. What is
written goes into memory, and is gone with the host; so are its processes and its control groups.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from integration import lab
from integration.lab.clients import image
from integration.lab.entered import CLEAN, Entered
from integration.lab.neighbourhood.host import layers  # installs the tree under test; also for us
from integration.lab.waiting import until

# Process 1: runtimes leave their children to it.
_FIRST = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
while signal.sigwait([signal.SIGCHLD]):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
"""
# $1: layers below, $2: directory for what is new. Runs as process 1 of the host.
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
mount -t sysfs -o ro sysfs sys
if [ -n "$3" ]; then
    mount -t tmpfs -o mode=0755 cgroup sys/fs/cgroup
    for name in $3; do
        mkdir "sys/fs/cgroup/$name" && mount -t cgroup -o "$name" cgroup "sys/fs/cgroup/$name"
    done
else
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    mkdir sys/fs/cgroup/first && echo $$ >sys/fs/cgroup/first/cgroup.procs
    for name in $(cat sys/fs/cgroup/cgroup.controllers); do
        echo "+$name" >sys/fs/cgroup/cgroup.subtree_control
    done
fi
mount -t tmpfs -o mode=0755 dev dev
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
for place in containerd containers; do
    mkdir -p var/lib/$place; mount -t tmpfs var var/lib/$place
done
hostname clients
echo "nameserver 192.0.2.53" >etc/resolv.conf  # nobody: runtimes want the file
mkdir old
pivot_root . old
cd /
umount -l /old
exec /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin /usr/bin/python3 -c "$4"
"""


class Host(Entered):
    """Commands in a host, but in the caller's network namespace."""

    namespaces = ("--mount", "--pid", "--uts", "--ipc", "--cgroup", "--root", "--wd")

    def __init__(self, pid: int) -> None:
        super().__init__(pid)
        self.started: list[subprocess.Popen[bytes]] = []

    def path(self, inside: str) -> Path:
        """A path of the host's as this process reaches it."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def start(self, log: str, *argv: str) -> subprocess.Popen[bytes]:
        """Start a program that stays; what it says goes to the file ``log`` of the host."""
        with self.path(log).open("ab") as said:
            process = subprocess.Popen(
                self.argv(*argv), stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=CLEAN
            )
        self.started.append(process)
        return process

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file, and the directories above it."""
        there = self.path(path)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_text(text)
        there.chmod(mode)

    def processes(self, word: str) -> list[int]:
        """Ids, in there, of the processes whose arguments contain ``word``."""
        found = []
        for directory in self.path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if directory.name.isdigit() and directory.name != "1":
                    words = (directory / "cmdline").read_bytes().decode(errors="replace")
                    if word in words:
                        found.append(int(directory.name))
        return found


def _controllers() -> dict[str, Path]:
    """Hierarchies of version 1 by their options, where the machine has them; else none."""
    found = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options = line.split()[:4]
        if kind == "cgroup":
            apart = set(options.split(",")) - {"rw", "ro", "relatime", "nosuid", "nodev", "noexec"}
            named = [o for o in apart if o == "name=systemd"] or sorted(
                o for o in apart if "=" not in o and o not in ("xattr", "none", "clone_children")
            )
            found[",".join(named)] = Path(place)
    return found


def _groups(name: str) -> list[Path]:
    """Make a control group ``name`` in each hierarchy; their directories."""
    made = []
    for place in _controllers().values() or [Path("/sys/fs/cgroup")]:
        group = place / name
        group.mkdir()
        made.append(group)
        for setting in ("cpuset.cpus", "cpuset.mems"):  # version 1: empty ones take no process
            if (place / setting).exists() and "cpuset" in place.name:
                (group / setting).write_text((place / setting).read_text())
    return made


def _child_of(pid: int) -> int | None:
    words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(words[0]) if words else None


@contextlib.contextmanager
def made(below: str) -> Iterator[Host]:
    """A host in the caller's network namespace; at the end all that runs in it is gone.

    ``below`` are the layers of its root, as `layers` gives them.
    """
    place = Path(tempfile.mkdtemp(prefix="hvtx-clients-"))
    groups = _groups(place.name)
    into = "".join(f"echo $$ >{group}/cgroup.procs; " for group in groups)
    flags = ("--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child=KILL")
    script = f'{into}exec setpriv --pdeathsig KILL unshare --cgroup {" ".join(flags)} "$@"'
    names = " ".join(_controllers())
    argv = ["sh", "-ec", script, "sh", "sh", "-ec", _ENTER, "sh", below, str(place), names, _FIRST]
    said = place / "said"
    with said.open("wb") as file:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=file, env=CLEAN)
    started: list[subprocess.Popen[bytes]] = []
    try:
        host = Host(_first(process, said))
        started = host.started
        yield host
    finally:
        _end(process, groups)
        for one in started:
            one.wait(20)
        shutil.rmtree(place, ignore_errors=True)


def _first(process: subprocess.Popen[bytes], said: Path) -> int:
    """The id of the host's process 1, once its root stands."""

    def look() -> int | None:
        if process.poll() is not None:
            raise AssertionError(f"the host ended before it stood: {said.read_text()}")
        pid = _child_of(process.pid)
        with contextlib.suppress(OSError):
            if pid and "python3" in os.readlink(f"/proc/{pid}/exe"):
                return pid
        return None

    pid = until("the host's root", look, 30)
    assert isinstance(pid, int)
    return pid


def _end(process: subprocess.Popen[bytes], groups: list[Path]) -> None:
    """Kill the host's process 1, and with it all others of its process namespace."""
    child = _child_of(process.pid) if process.poll() is None else None
    if child is not None:
        lab.end(child)
    process.kill()
    process.wait()
    for group in groups:
        for directory in sorted(group.glob("**/"), key=lambda d: -len(d.parts)):
            with contextlib.suppress(OSError):
                directory.rmdir()


def installed(place: Path) -> str:
    """The tree under test over the image, in ``place``. boot.Unavailable where it cannot be made."""
    return layers(place, image.ROOT.made())
