"""A laboratory for tests: network namespaces that are made and removed, a world beyond, dumps.

Nothing here touches the namespace that the tests were started in.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def unshare(flags: int = CLONE_NEWNET) -> None:
    """Give the calling thread namespaces of its own."""
    _check(_LIBC.unshare(flags), "unshare")


def setns(descriptor: int, flags: int = CLONE_NEWNET) -> None:
    """Enter the namespace behind ``descriptor``."""
    _check(_LIBC.setns(descriptor, flags), "setns")


def default_signals() -> None:
    """Take back what the caller ignores (a job in the background: SIGINT; nohup: SIGHUP).

    Programs inherit it, and tests send these signals to programs that they start.
    """
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            own = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, own)


def run(*argv: str, check: bool = True, stdin: str | None = None, timeout: float = 60) -> str:
    """Run a program in the current namespace; its standard output."""
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, input=stdin, timeout=timeout
    )
    if check and done.returncode != 0:
        raise AssertionError(
            f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done.stdout


def open_place() -> Path:
    """A new directory in which everybody may write; it is removed when this process ends.

    (pytest's own are closed, and every run of it closes them again.)
    """
    place = Path(tempfile.mkdtemp(prefix="hvtx-test-"))
    place.chmod(0o777)
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


def end(pid: int) -> None:
    """Kill a process and wait until it is dead (which it is not when kill(2) returns)."""
    descriptor = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        _await_end(descriptor, pid)
    finally:
        os.close(descriptor)


def ended(pid: int | None) -> None:
    """Wait until a process has ended by itself; None, or one that is no more, has."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid) if pid else None
        if descriptor is not None:
            try:
                _await_end(descriptor, pid)
            finally:
                os.close(descriptor)


def _await_end(descriptor: int, pid: int | None) -> None:
    if not select.select([descriptor], [], [], 20)[0]:
        raise AssertionError(f"process {pid} does not end")


def duplicate_detection(mode: str) -> None:
    """Whether devices that are made from now on (here) look for others with their IPv6 address.

    It takes each address up to two seconds, for which dumps are not still: tests that are about it
    turn it on (``1``).
    """
    Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text(mode)


def loopback_up() -> None:
    """Set up ``lo`` of the current namespace (netdevice(7)); every test does, so without a program."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asked:
        name, flags = struct.unpack(
            "16sh22x", fcntl.ioctl(asked, _SIOCGIFFLAGS, b"lo".ljust(40, b"\0"))
        )
        fcntl.ioctl(asked, _SIOCSIFFLAGS, struct.pack("16sh22x", name, flags | _IFF_UP))


class private_network:  # noqa: N801 - it is called like a function
    """A fresh network namespace (loopback up) for this thread, left again at the end.

    A class and no generator: one that is dropped without its end, with a test that failed, must
    not be ended by whatever collects it, in the middle of another test and of its namespace.
    """

    def __enter__(self) -> None:
        self._before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            unshare(CLONE_NEWNET)
            loopback_up()
            # A new namespace inherits what the first one has, and that differs between machines.
            Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
            duplicate_detection("0")
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        setns(self._before)
        os.close(self._before)


class Namespace:
    """Another network namespace, kept by a process that lives as long as ours does."""

    def __init__(self) -> None:
        self._keeper = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "ip link set lo up; echo ready; exec cat"],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,  # that nobody writes to: it is at its end when we are
        )
        assert self._keeper.stdout is not None
        self._keeper.stdout.readline()
        self.pid = self._keeper.pid

    def argv(self, *argv: str) -> list[str]:
        """``argv`` as it must be called to run in there."""
        return ["nsenter", "-t", str(self.pid), "-n", "--", *argv]

    def run(self, *argv: str, check: bool = True, stdin: str | None = None) -> str:
        """Run a program in there; its standard output."""
        return run(*self.argv(*argv), check=check, stdin=stdin)

    def close(self) -> None:
        """End the keeper, and with it the namespace."""
        self._keeper.kill()
        self._keeper.wait()
        for end in filter(None, (self._keeper.stdin, self._keeper.stdout)):
            end.close()


HOST4, WORLD4 = "203.0.113.1", "203.0.113.2"
HOST6, WORLD6 = "2001:db8:113::1", "2001:db8:113::2"


@contextlib.contextmanager
def world() -> Iterator[Namespace]:
    """A neighbour of the host: veth `uplink` here, `eth0` there, default route towards it."""
    other = Namespace()
    try:
        run("ip", "link", "add", "uplink", "type", "veth", "peer", "eth0", "netns", str(other.pid))
        # Its own link-local address is there at once, and no dump changes while it is tried.
        Path("/proc/sys/net/ipv6/conf/uplink/accept_dad").write_text("0")
        run("ip", "link", "set", "uplink", "up")
        # Addresses that a device has before it is up answer only some tenths of a second after it
        # is: the neighbour's first question was lost, and asked again a second later.
        there = (
            "link set eth0 up\n"
            f"addr add {WORLD4}/24 dev eth0\n"
            f"addr add {WORLD6}/64 dev eth0 nodad\n"
        )
        other.run("ip", "-batch", "-", stdin=there)
        here = (
            f"addr add {HOST4}/24 dev uplink\n"
            f"addr add {HOST6}/64 dev uplink nodad\n"
            f"route add default via {WORLD4}\n"
            f"route add default via {WORLD6}\n"
        )
        run("ip", "-batch", "-", stdin=here)
        yield other
    finally:
        other.close()
        run("ip", "link", "del", "uplink", check=False)


def _links() -> list[dict[str, Any]]:
    """The links; a change of carrier is shown up to a second late, unless a device is asked for.

    Each is asked for twice, as a bridge follows its ports.
    """
    names = [name for _, name in socket.if_nameindex()]
    names = [name for name in names if not set(name) & set("\"'\\# ")]  # they would end the batch
    lines = [f"link show dev {name}\n" for name in names] * 2
    told = run("ip", "-j", "-d", "-force", "-batch", "-", stdin="".join([*lines, "link show\n"]),
               check=False)  # fmt: skip
    links: list[dict[str, Any]] = json.loads(told.splitlines()[-1], strict=False)
    for link in links:  # the bridge's timers run on, and it counts what it learns (iproute2 6.15)
        for part in ("info_data", "info_slave_data"):
            data = link.get("linkinfo", {}).get(part, {})
            for name in [n for n in data if n.endswith("_timer") or n == "fdb_n_learned"]:
                del data[name]
    return links


def _holders() -> set[str]:
    """The TAP devices that some process has open (a guest may live in a namespace of its own)."""
    held = set()
    for process in (path for path in Path("/proc").iterdir() if path.name.isdigit()):
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if descriptor.readlink() == Path("/dev/net/tun"):
                        told = os.fsdecode((process / "fdinfo" / descriptor.name).read_bytes())
                        held.update(line[5:] for line in told.splitlines() if line[:5] == "iff:\t")
    return held


def _still_links() -> list[dict[str, Any]]:
    """The links, when no device is held by a passing look any more; within some seconds.

    Whoever reads `/proc/*/fdinfo` (another test beside this one does) may hold the descriptor of a
    process that ends meanwhile, for as long as it waits for RTNL or stands still under ptrace. So
    what is held must be open in some process.
    """
    links = _links()
    end = time.monotonic() + 10
    while time.monotonic() < end:
        # up without NO-CARRIER, whatever its LOWER_UP says by now
        held = {
            link["ifname"]
            for link in links
            if link.get("linkinfo", {}).get("info_kind") == "tun"
            and "UP" in link["flags"]
            and "NO-CARRIER" not in link["flags"]
        }
        if not held or held <= _holders():
            break
        time.sleep(0.02)
        links = _links()
    return links


def need_python_for_others() -> None:
    """Skip the test if another user may not run this Python with hvtx in it; scripts/test opens it."""
    import pytest  # not for the demo, which needs this module too

    enter = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--"]
    loads = [*enter, sys.executable, "-c", "import click, hvtx.migrations"]
    if subprocess.run(loads, capture_output=True, check=False).returncode != 0:
        pytest.skip(
            "another user may not read this Python's packages; scripts/test opens their way"
        )


def _legacy(family: str, prefix: str) -> dict[str, list[str]]:
    """The legacy tables that there are, as text, without counters: they are traffic, not state."""
    found: dict[str, list[str]] = {}
    with contextlib.suppress(OSError):
        if Path(f"/proc/net/{prefix}_tables_names").read_text():
            for line in run(f"{prefix}tables-legacy-save").splitlines():
                if line.startswith("*"):
                    lines = found[family + line[1:]] = []
                if not line.startswith("#"):
                    lines.append(line.split(" [")[0] if line.startswith(":") else line)
    return found


def dump() -> dict[str, object]:
    """Everything that the promises speak of, as the host's own tools show it."""
    links = _still_links()
    legacy = {**_legacy("4", "ip"), **_legacy("6", "ip6")}
    rules = json.loads(run("nft", "-j", "list", "ruleset"))["nftables"]
    for item in rules:  # what a set learned from frames, and forgets again, is traffic too
        for named in ("set", "map"):
            if "elem" in item.get(named, {}):
                lasting = [e for e in item[named].pop("elem") if not _expires(e)]
                item[named] |= {"elem": lasting} if lasting else {}
    told = run("ip", "-j", "-batch", "-", stdin="addr show\nroute show table all\n")
    addresses, routes = (json.loads(line, strict=False) for line in told.splitlines())
    return {
        "links": links,
        "addresses": [{k: v for k, v in a.items() if k != "valid_life_time"} for a in addresses],
        # without a family `table all` is both of them; of IPv6's each has a preference (RFC 4191)
        "routes4": [route for route in routes if "pref" not in route],
        "routes6": [route for route in routes if "pref" in route],
        "nft": [item for item in rules if "metainfo" not in item],
        "legacy": legacy,
    }


def _expires(element: object) -> bool:
    """Whether an element of a set goes by itself; ``element`` is as nft prints it, a map's a pair."""
    key = element[0] if isinstance(element, list) else element
    return isinstance(key, dict) and "expires" in key.get("elem", {})


def difference(before: object, after: object, path: str = "") -> str:
    """What differs between two dumps, for a person; empty if nothing does."""
    if before == after:
        return ""
    if isinstance(before, dict) and isinstance(after, dict):
        names = [*before, *(name for name in after if name not in before)]
        lines = [difference(before.get(n), after.get(n), f"{path}.{n}") for n in names]
        return "\n".join(line for line in lines if line)
    if isinstance(before, list) and isinstance(after, list):
        if len(before) == len(after):
            pairs = enumerate(zip(before, after, strict=True))
            lines = [difference(old, new, f"{path}[{n}]") for n, (old, new) in pairs]
            return "\n".join(line for line in lines if line)
        gone = [f"- {path}: {json.dumps(item)}" for item in before if item not in after]
        come = [f"+ {path}: {json.dumps(item)}" for item in after if item not in before]
        copies = [f"~ {path}: {before.count(item)} -> {after.count(item)} of {json.dumps(item)}"
                  for n, item in enumerate(after)
                  if after.index(item) == n and before.count(item) not in (0, after.count(item))]  # fmt: skip
        return "\n".join([*gone, *come, *copies])
    return f"~ {path}: {json.dumps(before)} -> {json.dumps(after)}"


def tell(**figures: object) -> None:
    """Print the figures of a test as one line of JSON, for `pytest -rP`."""
    sys.stdout.write(json.dumps(figures) + "\n")
