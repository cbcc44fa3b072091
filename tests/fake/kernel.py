"""The fake kernel: devices, addresses, rules, processes, and which life of the host it is.

It knows what the real one knows of the things that hvtx touches, and refuses what the real one
refuses, with the same errno; `tests/drivers` and `integration/kernel/test_driver_contract.py` hold the two
against each other. Whoever is no run of hvtx (somebody else, a VM) calls the same methods.
"""

from __future__ import annotations

import errno
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from hvtx.host.openfiles import Holder, Holders
from hvtx.host.tun import IFF_MULTI_QUEUE
from hvtx.model.resource import Address, Link
from hvtx.model.vm import Identity, ProcessFacts
from tests.fake.ruleset import Ruleset

_EXCL = 0x8000
_FIRST_PID = 5_000_000  # above any that the real kernel gives, so that a slip hits nobody
_SETTINGS = {
    "net/ipv4/ip_forward": "0",
    "net/ipv6/conf/all/forwarding": "0",
}


class Killed(BaseException):
    """What SIGKILL is to a run of hvtx: nothing catches it, and nothing acts after it."""


@dataclass
class Process:
    """A process that is no run of hvtx: a gate, a VM, somebody else's."""

    pid: int
    start: int
    inode: int
    argv: tuple[str, ...]
    gate: bool = False
    ports: tuple[tuple[str, int], ...] = ()  # protocol and number, of those that it has bound
    follows: int = 0  # the pid with whose end it ends


@dataclass
class Descriptor:
    """An open tun descriptor; ``owner`` is a pid, 0 for the run of hvtx on top."""

    owner: int
    run: int
    wanted_index: int = 0
    ifindex: int = 0


@dataclass
class Namespace:
    """A network namespace of somebody else's, by a path: a container's."""

    number: int
    nsid: int | None = None
    peers: dict[str, int] = field(default_factory=dict)  # by name: index of the host's end


@dataclass
class Run:
    """A run of hvtx: it may be dead, and then nothing that it still does happens."""

    number: int
    killed: bool = False
    gates: set[int] = field(default_factory=set)


class Kernel:
    """One host. All methods that a run of hvtx calls fail with Killed once it is dead."""

    def __init__(self, seed: int = 0) -> None:
        """A host that has just booted."""
        self.random = random.Random(seed)
        self.runs: list[Run] = []
        self.meanwhile: Callable[[], object] = lambda: None
        self._numbers = 0
        self._netns = 0
        self._inode = 1000
        self._pid = _FIRST_PID
        self.ticks = 0
        self.boot()

    # -- lives and runs ------------------------------------------------------------------------

    def boot(self) -> None:
        """A new life: nothing of the earlier one is left in the kernel."""
        self.boot_id = "-".join(f"{self.random.getrandbits(32):08x}" for _ in range(4))
        self._netns += 1
        self.netns = self._netns
        self.devices: dict[int, Link] = {1: _link(1, "lo", "", up=True)}
        self.addresses: list[Address] = [Address(1, "127.0.0.1/8")]
        self.ruleset = Ruleset()
        self.processes: dict[int, Process] = {}
        self.descriptors: dict[int, Descriptor] = {}
        self.filtered: set[int] = set()
        self.guards: dict[tuple[int, int], bytes] = {}
        self.sockets: set[tuple[str, int]] = set()
        self.namespaces: dict[str, Namespace] = {}
        self.inside: Namespace | None = None  # where the run works just now, if not in the host's
        self.settings = dict(_SETTINGS)
        self._next_index = 2

    @contextmanager
    def run(self) -> Iterator[Run]:
        """A run of hvtx; what it held open falls with it."""
        self._numbers += 1
        run = Run(self._numbers)
        self.runs.append(run)
        try:
            yield run
        finally:
            self.runs.remove(run)
            for number in [n for n, d in self.descriptors.items() if d.run == run.number]:
                self.close(number)
            for pid in run.gates:
                self.close_gate(pid)

    def kill(self) -> None:
        """SIGKILL to the run on top."""
        self.runs[-1].killed = True
        raise Killed

    def signalled(self, number: int) -> None:
        """What a failpoint does: SIGKILL ends the run, SIGSTOP lets others act meanwhile."""
        if number == signal.SIGKILL:
            self.kill()
        self.meanwhile()

    def alive(self) -> None:
        """Nothing happens on behalf of a dead run."""
        if self.runs and self.runs[-1].killed:
            raise Killed

    # -- devices ---------------------------------------------------------------------------------

    def by_name(self, name: str) -> Link | None:
        """The device of this name."""
        return next((link for link in self.devices.values() if link.name == name), None)

    def get(self, ifindex: int) -> Link:
        """The device of this index; ENODEV."""
        if ifindex not in self.devices:
            raise _error(errno.ENODEV)
        return self.devices[ifindex]

    def add(self, name: str, kind: str, ifindex: int = 0, **more: object) -> Link:
        """A new device; EEXIST for a taken name, EBUSY for a taken index, ENODEV for no lower."""
        self.alive()
        if self.by_name(name) is not None:
            raise _error(errno.EEXIST)
        if ifindex in self.devices:
            raise _error(errno.EBUSY)
        if not ifindex:
            while self._next_index in self.devices:
                self._next_index += 1
            ifindex = self._next_index
            self._next_index += 1
        link = _link(ifindex, name, kind)._replace(**more)  # type: ignore[arg-type]
        self.devices[ifindex] = link
        return link

    def change(self, ifindex: int, **new: object) -> None:
        """Change a device; EEXIST for a taken name, ENODEV for no such device or master."""
        self.alive()
        link = self.get(ifindex)
        if new.get("master"):
            self.get(int(new["master"]))  # type: ignore[call-overload]
        taken = self.by_name(str(new["name"])) if "name" in new else None
        if taken is not None and taken.ifindex != ifindex:
            raise _error(errno.EEXIST)
        self.devices[ifindex] = link._replace(**new)  # type: ignore[arg-type]

    def delete(self, ifindex: int) -> None:
        """RTM_DELLINK: whatever is on it goes too, whoever holds it is cut off."""
        self.alive()
        self.get(ifindex)
        self._forget(ifindex)

    def _forget(self, ifindex: int) -> None:
        del self.devices[ifindex]
        self.filtered.discard(ifindex)
        self.guards = {at: guard for at, guard in self.guards.items() if at[0] != ifindex}
        self.addresses = [a for a in self.addresses if a.ifindex != ifindex]
        for other_end in self.namespaces.values():
            other_end.peers = {n: at for n, at in other_end.peers.items() if at != ifindex}
        for descriptor in self.descriptors.values():
            if descriptor.ifindex == ifindex:
                descriptor.ifindex = 0
        for other in list(self.devices.values()):
            if other.lower == ifindex and other.ifindex in self.devices:
                self._forget(other.ifindex)
            elif other.master == ifindex:
                self.devices[other.ifindex] = other._replace(master=0)

    def add_address(self, ifindex: int, address: str) -> None:
        """Give a device an address; ENODEV, EEXIST."""
        self.alive()
        self.get(ifindex)
        if Address(ifindex, address) in self.addresses:
            raise _error(errno.EEXIST)
        self.addresses.append(Address(ifindex, address))

    def remove_address(self, ifindex: int, address: str) -> None:
        """Take one away; ENODEV, EADDRNOTAVAIL."""
        self.alive()
        self.get(ifindex)
        if Address(ifindex, address) not in self.addresses:
            raise _error(errno.EADDRNOTAVAIL)
        self.addresses.remove(Address(ifindex, address))

    # -- network namespaces of others -------------------------------------------------------------

    def begin_namespace(self, path: str, nsid: int | None = None) -> Namespace:
        """One more; with an id where somebody gives it one."""
        self._numbers += 1
        self.namespaces[path] = Namespace(self._numbers)
        if nsid is not None:
            self.give_id(self.namespaces[path], nsid)
        return self.namespaces[path]

    def end_namespace(self, path: str) -> None:
        """It is gone, with its id and both ends of the pairs that lead into it."""
        for ifindex in self.namespaces.pop(path).peers.values():
            self._forget(ifindex)

    def give_id(self, namespace: Namespace, nsid: int) -> None:
        """RTM_NEWNSID; ENOSPC for an id that another one has."""
        if nsid in self.ids():
            raise _error(errno.ENOSPC)
        namespace.nsid = nsid

    def ids(self) -> set[int]:
        """Those of the namespaces that are there."""
        return {one.nsid for one in self.namespaces.values() if one.nsid is not None}

    # -- tun ---------------------------------------------------------------------------------------

    def open_tun(self, owner: int = 0) -> int:
        """A descriptor of /dev/net/tun, of no interface yet."""
        self.alive()
        self._numbers += 1
        run = self.runs[-1].number if self.runs and not owner else 0
        self.descriptors[self._numbers] = Descriptor(owner, run)
        return self._numbers

    def attach(self, number: int, name: str, flags: int) -> str:
        """TUNSETIFF: hold a device, or make one that lives as long as its holder."""
        self.alive()
        descriptor = self.descriptors[number]
        plain = flags & ~_EXCL
        there = self.by_name(name)
        if there is None:
            if name.endswith("%d"):
                stem = name[:-2]
                name = next(n for i in range(999) if not self.by_name(n := f"{stem}{i}"))
            there = self.add(name, "tun", descriptor.wanted_index, tun_flags=plain)
        elif flags & _EXCL:
            raise _error(errno.EBUSY)
        elif there.kind != "tun" or (there.tun_flags ^ plain) & IFF_MULTI_QUEUE:
            raise _error(errno.EINVAL)
        elif not plain & IFF_MULTI_QUEUE and self._holding(there.ifindex):
            raise _error(errno.EBUSY)
        else:
            self.devices[there.ifindex] = there._replace(tun_flags=plain)
        descriptor.ifindex = there.ifindex
        self._count_queues(there.ifindex)
        return there.name

    def _holding(self, ifindex: int) -> int:
        return sum(d.ifindex == ifindex for d in self.descriptors.values())

    def _count_queues(self, ifindex: int) -> None:
        """What a link dump says of a multi-queue device; of others nothing."""
        link = self.devices[ifindex]
        if link.tun_flags & IFF_MULTI_QUEUE:
            self.devices[ifindex] = link._replace(queues=self._holding(ifindex))

    def set_persistent(self, number: int, wanted: bool) -> None:
        """TUNSETPERSIST; EBADFD for a descriptor whose device is gone."""
        self.alive()
        descriptor = self.descriptors[number]
        if descriptor.ifindex not in self.devices:
            raise _error(errno.EBADFD)
        self.change(descriptor.ifindex, persistent=wanted)

    def close(self, number: int) -> None:
        """Let go of a descriptor: this happens to the dead as well."""
        descriptor = self.descriptors.pop(number)
        link = self.devices.get(descriptor.ifindex)
        if link is None:
            return
        if not link.persistent and not self._holding(link.ifindex):
            self._forget(link.ifindex)
        else:
            self._count_queues(link.ifindex)

    def holders(self, names: object) -> Holders:
        """Who has these devices open."""
        self.alive()
        found: dict[str, list[Holder]] = {}
        for descriptor in self.descriptors.values():
            link = self.devices.get(descriptor.ifindex)
            if link is not None and link.name in names:  # type: ignore[operator]
                process = self.processes.get(descriptor.owner)
                who = Holder(process.pid, process.argv[0]) if process else Holder(1, "hvtx")
                found.setdefault(link.name, []).append(who)
        return Holders({name: tuple(who) for name, who in found.items()}, True)

    # -- processes -----------------------------------------------------------------------------------

    def spawn(self, argv: tuple[str, ...], *, gate: bool = False, pid: int = 0) -> Process:
        """A process, with a pid of its own (or the one given, which is free)."""
        self.alive()
        self.ticks += 1
        self._inode += 1
        if not pid:
            self._pid += 1
            pid = self._pid
        process = Process(pid, self.ticks, self._inode, argv, gate)
        self.processes[pid] = process
        if gate and self.runs:
            self.runs[-1].gates.add(pid)
        return process

    def hold(self, ports: tuple[tuple[str, int], ...], follows: int) -> Process:
        """A process that holds ports, once it is told to stay."""
        process = self.spawn(("hvtx-port",), gate=True)
        process.ports, process.follows = ports, follows
        return process

    def is_bound(self, port: tuple[str, int]) -> bool:
        """Whether somebody has the port."""
        self.alive()
        return port in self.sockets or any(port in p.ports for p in self.processes.values())

    def open_gate(self, pid: int) -> None:
        """The gate becomes the VM; one whose arguments name a device opens that, as QEMU does.

        Or ends, as QEMU does, if somebody else has it open.
        """
        self.alive()
        if pid not in self.processes:
            raise BrokenPipeError
        process = self.processes[pid]
        process.gate = False
        for word in process.argv:
            link = self.by_name(word)
            if link is not None:
                number = self.open_tun(pid)
                try:
                    self.attach(number, link.name, link.tun_flags)
                except OSError:
                    self.end(pid)
                    return

    def close_gate(self, pid: int) -> None:
        """The write end closes: an unopened gate reads end-of-file and exits."""
        if pid in self.processes and self.processes[pid].gate:
            self.end(pid)

    def end(self, pid: int) -> None:
        """A process is gone, and what it held is let go."""
        self.processes.pop(pid, None)
        for other in [p.pid for p in self.processes.values() if p.follows == pid]:
            self.end(other)
        for number in [n for n, d in self.descriptors.items() if d.owner == pid]:
            self.close(number)

    def look(self, pid: int) -> ProcessFacts:
        """What is to be seen of a pid."""
        self.alive()
        if pid == os.getpid():
            return ProcessFacts(True, 1, 1)
        process = self.processes.get(pid)
        if process is None:
            return ProcessFacts(False)
        return ProcessFacts(True, process.start, process.inode)

    def find(self, identity: Identity) -> Process | None:
        """That very process, if it is still there."""
        self.alive()
        process = self.processes.get(identity.pid)
        if process is None or identity.boot_id != self.boot_id:
            return None
        return process if process.start == identity.start else None


def _link(ifindex: int, name: str, kind: str, *, up: bool = False) -> Link:
    mac = f"be:{ifindex >> 24 & 255:02x}:{ifindex >> 16 & 255:02x}:{ifindex >> 8 & 255:02x}:{ifindex & 255:02x}:01"
    return Link(ifindex, name, kind, None, mac, 1500, 0, 0, 0, up, 0, 0, False)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
