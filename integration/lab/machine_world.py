"""The real world of the state machine: a network namespace of its own, the real program, real tools."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hvtx.engine.registry import DRIVERS
from hvtx.host import network_namespace, nsid, openfiles, procfs
from hvtx.host.links import Links
from hvtx.host.nfnetlink import Nftables
from integration import lab
from integration.lab.program import child, preload, text_of
from integration.lab.waiting import until
from tests.machine.acts import ACTS
from tests.machine.fake_world import environment
from tests.machine.world import Ran, World

SLEEPER = b"sleep\x0086400\x00"
# what a VM with a device of its own does with it: open it, and wait
HOLDER = (
    "import fcntl, os, struct, sys, time; d = os.open('/dev/net/tun', os.O_RDWR); "
    "fcntl.ioctl(d, 0x400454CA, struct.pack('16sH22x', sys.argv[1].encode(), {flags})); "
    "print('held', flush=True); time.sleep(86400)"
)
_MARK = b"time.sleep(86400)"
_PLAIN, _VNET = 0x1002, 0x5002
_BIND, _PRIVATE = 1 << 12, 1 << 18 | 1 << 14  # MS_BIND, MS_PRIVATE | MS_REC
_LIBC = ctypes.CDLL(None, use_errno=True)


_NOBODY = -1  # no user's namespaces are left out


def _opens(pid: int) -> bool:
    """Whether a process is one of `HOLDER` that has not opened its device yet."""
    try:
        words = Path("/proc", str(pid), "cmdline").read_bytes()
        return _MARK in words and not openfiles.open_devices(pid, _NOBODY)
    except OSError:
        return False


class RealWorld(World):
    """A namespace; with each life a new one, and a boot id that only hvtx sees."""

    # of firewalld each life would have another one (integration/kernel/test_driver_contract.py has it)
    drivers = frozenset(DRIVERS) - {"firewalld"}

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        preload()
        self._container: lab.Namespace | None = None
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(environment(place))
        self._stack.enter_context(_xtables_lock(place))
        self._life = contextlib.ExitStack()
        self._holders: dict[str, subprocess.Popen[bytes]] = {}
        self._guests: list[subprocess.Popen[bytes]] = []
        self._sockets: dict[str, socket.socket] = {}
        self._boxes: dict[str, lab.Namespace] = {}
        self._begin()

    def _begin(self) -> None:
        self._life.enter_context(lab.private_network())
        seen = os.stat("/proc/thread-self/ns/net")
        self._namespace = (seen.st_dev, seen.st_ino)
        self._boot_id = self.place / "boot_id"
        self._boot_id.write_text(f"{uuid.uuid4()}\n")

    def _end(self) -> None:
        for pid in list(self.processes()):
            os.kill(pid, signal.SIGKILL)
        for process in (*self._holders.values(), *self._guests):
            process.kill()
            process.communicate()
        for bound in self._sockets.values():
            bound.close()
        for name in list(self._boxes):
            self._uncontain(name)
        self._holders, self._guests, self._sockets = {}, [], {}
        self._gone()
        self._life.close()

    def _gone(self) -> None:
        """Wait, for at most a minute, until no VM of ours runs any more."""
        until("the end of all VMs", lambda: not self.processes())

    def container(self) -> str:
        """The path of another network namespace, which ends with this world."""
        if self._container is None:
            self._container = lab.Namespace()
            self.closing.callback(self._container.close)
        return f"/proc/{self._container.pid}/ns/net"

    def close(self) -> None:
        self.closing.close()
        self._end()
        self._stack.close()

    def links(self) -> Links:
        return Links()

    def nftables(self) -> Nftables:
        return Nftables()

    def namespace_ids(self) -> frozenset[int]:
        """Of the containers; those of this machine's other tests are in namespaces of their own."""
        found = map(self._id_of, self._boxes.values())
        return frozenset(number for number in found if number is not None)

    @staticmethod
    def _id_of(box: lab.Namespace) -> int | None:
        with nsid.ids() as ids, network_namespace.opened(f"/proc/{box.pid}/ns/net") as namespace:
            return ids.of(namespace)

    def holder(self, tap: str) -> tuple[str, ...]:
        return (sys.executable, "-c", HOLDER.format(flags=_VNET), tap)

    def processes(self) -> dict[int, int]:
        """VMs and guests in this namespace: a gate that has not opened is another program."""
        found: dict[int, int] = {}
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            with contextlib.suppress(OSError):
                words = Path("/proc", name, "cmdline").read_bytes()
                # behind `sh -c` they are a gate's arguments
                sleeps = words.rpartition(b"/")[2] == SLEEPER and words.count(b"\0") == 2
                if sleeps or (_MARK in words and not words.startswith(b"/bin/sh")):
                    seen = os.stat(f"/proc/{name}/ns/net")
                    if (seen.st_dev, seen.st_ino) == self._namespace:
                        stat = Path("/proc", name, "stat").read_bytes()
                        found[int(name)] = procfs.start_time(stat)
        for process in self._holders.values():
            found.pop(process.pid, None)
        return found

    def _settled(self) -> None:
        """Wait, for at most a minute, until each VM with a device of its own has it open or has ended.

        One that finds its device held ends by itself; on a busy machine it would do so in the middle
        of the next command, and look as if that had ended it.
        """
        until("no VM that still opens its device", lambda: not any(map(_opens, self.processes())))

    # -- hvtx ------------------------------------------------------------------------------------------

    def _enter_life(self) -> None:
        """In a forked child: see this life's boot id, in a mount namespace of its own."""
        lab.unshare(lab.CLONE_NEWNS)
        if _LIBC.mount(b"none", b"/", None, _PRIVATE, None) or _LIBC.mount(
            str(self._boot_id).encode(), b"/proc/sys/kernel/random/boot_id", None, _BIND, None
        ):
            os._exit(72)

    def run(self, argv: Sequence[str], failpoint: str, meanwhile: Callable[[], object]) -> Ran:
        out, err = os.memfd_create("out"), os.memfd_create("err")
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            self._enter_life()
            child(argv, {"HVTX_FAILPOINT": failpoint}, out, err)
        while True:
            _, status = os.waitpid(pid, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                break
            try:
                self._settled()
                meanwhile()
            except BaseException:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
            os.kill(pid, signal.SIGCONT)
        self._settled()
        return Ran(os.waitstatus_to_exitcode(status), text_of(out), text_of(err))

    # -- others -----------------------------------------------------------------------------------

    def do(self, what: str, /, words: dict[str, str]) -> Any:
        own = getattr(self, f"_{what}", None)
        if own is not None:
            return own(**words)
        return subprocess.run(
            ["sh", "-c", ACTS[what].format(**words)],
            capture_output=True, check=False, timeout=60, cwd=self.place,
        ).returncode  # fmt: skip

    def _kill(self, pid: str) -> None:
        os.kill(int(pid), signal.SIGKILL)
        for guest in self._guests:
            if guest.pid == int(pid):
                guest.wait()
        until(f"the end of {pid}", lambda: int(pid) not in self.processes())

    def _hold(self, device: str) -> None:
        if device in self._holders:
            return
        script = HOLDER.format(flags=_PLAIN)
        if not Path("/sys/class/net", device).exists() and device not in lab.run(
            "ip", "-o", "link"
        ):
            return
        process = subprocess.Popen(
            [sys.executable, "-c", script, device],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdout is not None
        if process.stdout.readline() == b"held\n":
            self._holders[device] = process
        else:
            process.communicate()

    def _let_go(self, device: str) -> None:
        process = self._holders.pop(device, None)
        if process is not None:
            process.kill()
            process.communicate()

    def _bind(self, port: str) -> None:
        if port not in self._sockets:
            self._sockets[port] = socket.create_server(("0.0.0.0", int(port)))

    def _unbind(self, port: str) -> None:
        if port in self._sockets:
            self._sockets.pop(port).close()

    def _guest(self) -> int:
        self._guests.append(subprocess.Popen(["sleep", "86400"]))
        pid = self._guests[-1].pid
        until("the guest's beginning", lambda: pid in self.processes())
        return pid

    def _contain(self, name: str, nsid: str) -> str:
        self._boxes[name] = box = lab.Namespace()
        path = f"/proc/{box.pid}/ns/net"
        if nsid:
            _give_id(path, int(nsid))
        return path

    def _uncontain(self, name: str) -> None:
        """End it, and wait until the kernel has: for its id, and for the host's ends of pairs."""
        box = self._boxes.pop(name)
        number = self._id_of(box)
        links = json.loads(box.run("ip", "-j", "link"))
        ends = {link["link_index"] for link in links if "link_netnsid" in link}
        box.close()
        until(
            "the container's end",
            lambda: not _is_there(number) and not ends & {i for i, _ in socket.if_nameindex()},
        )

    # -- lives -----------------------------------------------------------------------------------------

    def _reboot(self) -> None:
        """Another boot id, a new namespace and an empty run directory."""
        self._end()
        shutil.rmtree(self.runs, ignore_errors=True)
        self._life = contextlib.ExitStack()
        self._begin()


def _give_id(path: str, number: int) -> None:
    with nsid.ids() as ids, network_namespace.opened(path) as namespace:
        assert ids.give(namespace, number) == number


def _is_there(number: int | None) -> bool:
    with nsid.ids() as ids:
        return number is not None and bool(ids.there({number}))


@contextlib.contextmanager
def _xtables_lock(place: Path) -> Any:
    before = os.environ.get("XTABLES_LOCKFILE")
    os.environ["XTABLES_LOCKFILE"] = str(place / "xtables.lock")
    try:
        yield
    finally:
        if before is None:
            del os.environ["XTABLES_LOCKFILE"]
        else:
            os.environ["XTABLES_LOCKFILE"] = before
