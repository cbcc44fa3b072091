"""The doors of ``hvtx.host`` and ``hvtx.drivers.vm_process``, opening on a fake kernel.

Each class and function here has the shape of the one that it stands for, and does nothing but ask
the kernel; what the program does with the answers is the program's own.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack, nullcontext, suppress
from ipaddress import ip_address, ip_interface
from types import SimpleNamespace
from typing import Any, Self

from hvtx.drivers.vm_process import gate as gates
from hvtx.errors import Conflict
from hvtx.host import tun
from hvtx.host.new_ports import Given, NewPort
from hvtx.host.nfanswers import Element, Named, Rule, Table
from hvtx.host.nfmessages import Command
from hvtx.host.openfiles import Holders
from hvtx.host.tun import tap_flags
from hvtx.hypervisors.base import Launch
from hvtx.model import gate as gate_words
from hvtx.model.hook import SetElement
from hvtx.model.resource import Address, Link
from hvtx.model.routing import Answer, Packet, Route
from hvtx.model.vm import Identity, ProcessFacts, Publish
from tests.fake import containers
from tests.fake.kernel import Kernel


class FakeLinks:
    """``hvtx.host.links.Links``."""

    channel = None  # what is asked by it is answered by the fake's own functions

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def close(self) -> None:
        pass

    def all(self) -> list[Link]:
        self._kernel.alive()
        return list(self._kernel.devices.values())

    def get(self, ifindex: int = 0, name: str = "") -> Link | None:
        self._kernel.alive()
        if self._kernel.inside is not None:  # of the peers there, which one is asked for by name
            return self._kernel.devices.get(self._kernel.inside.peers.get(name, 0))
        return self._kernel.devices.get(ifindex) if ifindex else self._kernel.by_name(name)

    def touch(self, *ifindexes: int) -> None:
        del ifindexes
        self._kernel.alive()

    def change(self, ifindex: int, **new: Any) -> None:
        for quiet in ("quiet6", "hairpin"):
            new.pop(quiet, None)
        if not new.get("up"):
            new.pop("up", None)
        self._kernel.change(ifindex, **{k: v for k, v in new.items() if v is not None})

    def set_apart(self, ifindex: int) -> None:
        self._kernel.alive()
        self._kernel.get(ifindex)

    def learn_no_link_local(self, ifindex: int) -> None:
        self._kernel.alive()
        self._kernel.get(ifindex)

    def guard(self, ifindex: int, program: bytes, side: int = 0) -> bool:
        self._kernel.alive()
        self._kernel.get(ifindex)
        self._kernel.guards[ifindex, side] = program
        return True

    def guarding(self, ifindex: int, side: int = 0) -> bytes | None:
        self._kernel.alive()
        return self._kernel.guards.get((ifindex, side))

    def addresses(self, ifindex: int = 0) -> list[Address]:
        self._kernel.alive()
        return [a for a in self._kernel.addresses if ifindex in (0, a.ifindex)]

    def knows_itself(self, bridge: int, mac: str) -> bool:
        del mac
        self._kernel.alive()
        self._kernel.get(bridge)
        return True

    def forget_neighbours(self, known: Iterable[tuple[int, str]]) -> None:
        del known
        self._kernel.alive()

    def fixed_neighbours(self) -> list[tuple[int, str, str]]:
        self._kernel.alive()
        return []

    def fixed_in_bridges(self) -> list[tuple[int, int, str, bool]]:
        self._kernel.alive()
        return []

    def filtered(
        self, closely: Collection[int] = (), spared: Collection[int] = ()
    ) -> frozenset[int]:
        del closely, spared
        self._kernel.alive()
        return frozenset(self._kernel.filtered)

    def filtered_among(self, ifindexes: Iterable[int]) -> frozenset[int]:
        return frozenset(index for index in ifindexes if self.controlled(index))

    def controlled(self, ifindex: int, *, queues: bool = True) -> bool:
        del queues
        self._kernel.alive()
        return ifindex in self._kernel.filtered


class FakeUppers:
    """``hvtx.host.uppers.Uppers``."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def close(self) -> None:
        pass

    def on(self, ifindex: int, name: str) -> list[str]:
        self._kernel.alive()
        del name
        return sorted(d.name for d in self._kernel.devices.values() if d.lower == ifindex)


class FakeTun:
    """The module ``hvtx.host.tun``."""

    DEVICE = tun.DEVICE
    refusal = staticmethod(tun.refusal)

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def open_device(self) -> int:
        return self._kernel.open_tun()

    def create(self, descriptor: int, name: str, ifindex: int, flags: int) -> None:
        self._kernel.descriptors[descriptor].wanted_index = ifindex
        self._kernel.attach(descriptor, name, flags | 0x8000)

    @staticmethod
    def tap_flags(queues: int) -> int:
        return tap_flags(queues)

    def attach(self, descriptor: int, name: str, flags: int) -> str:
        return self._kernel.attach(descriptor, name, flags)

    def attach_free(self, descriptor: int, name: str, flags: int) -> None:
        self._kernel.attach(descriptor, name, flags)  # nobody here reads fdinfo

    def set_owner(self, descriptor: int, user: int) -> None:
        del descriptor, user

    def set_persistent(self, descriptor: int, wanted: bool) -> None:
        self._kernel.set_persistent(descriptor, wanted)

    def send(self, descriptor: int, frame: bytes) -> None:
        assert frame, descriptor  # nobody here has neighbours
        self._kernel.alive()

    def passing_tap(self) -> tuple[int, int]:
        descriptor = self._kernel.open_tun()
        self._kernel.attach(descriptor, "hvpass%d", 0x2 | 0x1000)
        return descriptor, self._kernel.descriptors[descriptor].ifindex


class FakeNftables:
    """``hvtx.host.nfnetlink.Nftables``."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    @property
    def _rules(self) -> Any:
        self._kernel.alive()
        return self._kernel.ruleset

    def close(self) -> None:
        pass

    def generation(self) -> int:
        return int(self._rules.generation)

    def batch(self, commands: Sequence[Command], generation: int | None = None) -> None:
        self._rules.batch(commands, generation)

    def lookup(self, pieces: Sequence[SetElement]) -> list[Element | None]:
        return list(self._rules.lookup(pieces))

    def tables(self) -> list[Table]:
        return list(self._rules.all_tables())

    def rules(self, family: str = "", table: str = "") -> list[Rule]:
        return list(self._rules.all_rules(family, table))

    def sets(self) -> list[Named]:
        return list(self._rules.named("sets"))

    def chains(self) -> list[Named]:
        return list(self._rules.named("chains"))

    def objects(self) -> list[Named]:
        return []

    def dump_all(self, number: int) -> list[bytes]:
        return list(self._rules.shapes(number))

    def dump_elements(self, family: str, table: str, name: str) -> list[bytes]:
        return list(self._rules.dump(family, table, name))


class FakeRoute:
    """``pyroute2.IPRoute``, as far as the drivers of bridges and addresses use it."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def link(self, command: str, *, index: int, **more: Any) -> None:
        with _NetlinkErrors():
            if command == "del":
                self._kernel.delete(index)
            else:
                self._kernel.add(
                    more["ifname"], more["kind"], index,
                    mac=more["address"], group=more["group"], mtu=more["mtu"],
                )  # fmt: skip

    def addr(self, command: str, *, index: int, address: str, prefixlen: int, **_: Any) -> None:
        act = self._kernel.add_address if command == "add" else self._kernel.remove_address
        if command == "replace":  # of one that is there: flags and lifetimes, which none has here
            return
        with _NetlinkErrors():
            act(index, f"{address}/{prefixlen}")


class _NetlinkErrors:
    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, problem: BaseException | None, trace: object) -> None:
        if isinstance(problem, OSError):
            from pyroute2 import NetlinkError

            raise NetlinkError(problem.errno, problem.strerror) from problem


class FakeSettings:
    """``hvtx.host.sysctl``."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def value(self, name: str) -> str:
        self._kernel.alive()
        if name not in self._kernel.settings:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return self._kernel.settings[name]

    def write(self, name: str, wanted: str) -> None:
        self._kernel.alive()
        self._kernel.settings[name] = wanted


OPEN_FILES = frozenset({"has_open", "tap_holders"})


class FakeProc:
    """What of the modules ``hvtx.host.procfs`` and ``hvtx.host.openfiles`` the program calls."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def boot_id(self) -> str:
        return self._kernel.boot_id

    def netns_cookie(self) -> int:
        inside = self._kernel.inside
        return self._kernel.netns if inside is None else inside.number

    def look(self, pid: int) -> ProcessFacts:
        return self._kernel.look(pid)

    def look_again(self, identity: Identity) -> ProcessFacts:
        return self._kernel.look(identity.pid)

    def identify(self, pid: int) -> Identity:
        facts = self._kernel.look(pid)
        if not facts.exists:
            raise ProcessLookupError(errno.ESRCH, f"no process has pid {pid}")
        return Identity(self._kernel.boot_id, pid, facts.start, facts.inode)

    def signal(self, identity: Identity, number: int) -> bool:
        del number
        found = self._kernel.find(identity)
        if found is not None:
            self._kernel.end(found.pid)
        return found is not None

    def wait_gone(self, identity: Identity, seconds: float) -> bool:
        del seconds
        return self._kernel.find(identity) is None

    def may_signal(self, identity: Identity) -> bool:
        del identity
        return True

    def pid_namespace(self) -> int:
        return 0

    def may_have_power_here(self) -> bool:
        return True

    def has_open(self, pid: int, suffix: str, path: str) -> bool:
        del pid, suffix, path
        return False  # a lock file that is not there any more is held by nobody

    def command_line(self, pid: int) -> tuple[str, ...]:
        self._kernel.alive()
        found = self._kernel.processes.get(pid)
        if found is None:
            raise FileNotFoundError(pid)
        gate = (gate_words.SHELL, "-c", gate_words.SCRIPT, gate_words.SIGNATURE, "/")
        return (*gate, *found.argv) if found.gate else found.argv

    def is_waiting(self, pid: int) -> bool:
        self._kernel.alive()
        return pid in self._kernel.processes

    def tap_holders(self, names: Collection[str]) -> Holders:
        return self._kernel.holders(names)


class FakeGate(gates.Gate):
    """A gate in front of a process of the fake kernel."""

    def __init__(self, kernel: Kernel, launch: Launch, log_path: str, name: str) -> None:
        self._kernel = kernel
        self._child = kernel.spawn(launch.argv, gate=True).pid
        log = gates.Log(log_path, 0, 0)
        super().__init__(self._child, -1, f"{launch.argv[0]} of VM {name}", log)

    def open(self) -> None:
        try:
            self._kernel.open_gate(self._child)
        except BrokenPipeError:
            self._fail("ended before its gate was opened")
        finally:
            self._opened = True
            self._close()

    def _close(self) -> None:
        if self._pipe is not None:
            self._kernel.close_gate(self._child)
            self._pipe = None


class FakeHeld:
    """``hvtx.drivers.portholder.Held``."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.ports: list[Publish] = []
        self.unheld: dict[Publish, str] = {}
        self.away: list[Publish] = []

    def __bool__(self) -> bool:
        return bool(self.ports)

    def add(self, port: Publish) -> None:
        if self._kernel.is_bound((port.protocol, port.host_port)):
            raise Conflict(f"port {port.host_port}/{port.protocol} of this host is in use")
        self.ports.append(port)

    def close(self) -> None:
        self.ports.clear()


class FakeHolder:
    """``hvtx.drivers.portholder.Holder``."""

    def __init__(self, kernel: Kernel, held: FakeHeld, vm: Identity | None) -> None:
        ports = tuple((port.protocol, port.host_port) for port in held.ports)
        found = kernel.hold(ports, vm.pid if vm else 0)
        held.close()
        self._kernel = kernel
        self.identity = Identity(kernel.boot_id, found.pid, found.start, found.inode)

        self.passing = True

    def open(self) -> None:
        self.passing = False
        with suppress(BrokenPipeError):
            self._kernel.open_gate(self.identity.pid)

    def confirm(self) -> None:
        self._kernel.alive()

    def cancel(self) -> None:
        self._kernel.end(self.identity.pid)


def doors(kernel: Kernel) -> dict[str, Any]:
    """Everything that is put in place of the real thing, by dotted name."""
    links, proc, tun = lambda: FakeLinks(kernel), FakeProc(kernel), FakeTun(kernel)

    def refuse_taken_port(port: Publish, container: str | None = None) -> bool:
        kernel.alive()
        if kernel.is_bound((port.protocol, port.host_port)):
            raise Conflict(f"port {port.host_port}/{port.protocol} of this host is in use")
        return True

    def hold(ports: Iterable[Publish]) -> FakeHeld:
        held = FakeHeld(kernel)
        for port in ports:
            held.add(port)
        return held

    def taken_over(identity: Identity, ports: Iterable[Publish]) -> FakeHeld:
        kernel.alive()
        held = FakeHeld(kernel)
        found = kernel.find(identity)
        there = found.ports if found is not None else ()
        held.ports += [port for port in ports if (port.protocol, port.host_port) in there]
        return held

    def end_holder(identity: Identity) -> bool:
        found = kernel.find(identity)
        if found is not None:
            kernel.end(found.pid)
        return True

    def flush(addresses: Iterable[str], later: ExitStack | None = None) -> int:
        del addresses, later
        kernel.alive()
        return 0

    def all_routes() -> list[Route]:
        kernel.alive()
        return [
            Route(address.address, address.ifindex, 255)
            for address in kernel.addresses
            if not address.address.startswith(("fe80:", "127."))
        ]

    def ask(channel: object, packet: Packet) -> Answer:
        del channel
        kernel.alive()
        to = ip_address(packet.destination)
        for address in kernel.addresses:
            interface = ip_interface(address.address)
            if to == interface.ip:
                return Answer(1, 255, True)
            if to in interface.network:
                return Answer(address.ifindex, 254, False)
        return Answer(0, 0, False, errno.ENETUNREACH)

    def local(channel: object, family: int) -> list[tuple[int, bytes]]:
        del channel
        kernel.alive()
        known = [(a.ifindex, ip_interface(a.address).ip) for a in kernel.addresses]
        return [(index, ip.packed) for index, ip in known if ip.version == family]

    def guard(
        given: FakeLinks, ifindex: int, program: bytes, sums: int | None, *, apart: bool = False
    ) -> Given:
        del apart
        guarded = given.guard(ifindex, program)
        return Given(guarded, guarded and sums is not None)

    def equip(given: FakeLinks, ports: Sequence[NewPort]) -> list[Given | OSError]:
        found: list[Given | OSError] = []
        for port in ports:
            index = port.ifindex
            try:
                more = {"master": port.master, "mac": port.mac, "mtu": port.mtu}
                given.change(index, alias=port.mark, up=True, **more)
                bare = port.program is None
                found.append(
                    Given(False, False) if bare else guard(given, index, port.program, port.sums)
                )
            except OSError as problem:
                found.append(problem)
        return found

    def run(commands: str, **_: bool) -> str:
        kernel.alive()
        return kernel.ruleset.run(commands)

    def in_turn(work: Any, rows: Iterable[Any]) -> None:
        for row in rows:
            work(row)

    descriptors = SimpleNamespace(
        close=kernel.close,
        open=lambda *_: tun.open_device(),
        devnull=os.devnull,
        O_RDONLY=os.O_RDONLY,
        O_CLOEXEC=os.O_CLOEXEC,
    )
    settings = FakeSettings(kernel)
    return {
        **{
            f"hvtx.host.{'openfiles' if n in OPEN_FILES else 'procfs'}.{n}": getattr(proc, n)
            for n in dir(proc)
            if not n.startswith("_")
        },
        "hvtx.host.libnftables.run": run,
        "hvtx.host.capabilities.has": lambda name: True,
        "hvtx.engine.privileges.tun_problem": lambda: None,
        "hvtx.host.routes.all_routes": all_routes,
        "hvtx.host.routes.ask": ask,
        "hvtx.host.routes.local": local,
        "hvtx.engine.guest_routes.Channel": lambda family: SimpleNamespace(close=lambda: None),
        "hvtx.engine.guest_routes.Links": links,
        "hvtx.drivers.flows.flush": flush,
        "hvtx.drivers.flows.flush_ports": flush,
        "hvtx.drivers.flows.flush_taken": flush,
        "hvtx.host.failpoint.signal_self": kernel.signalled,
        "hvtx.drivers.tap.driver.Links": links,
        "hvtx.drivers.tap.veth.Links": links,
        **containers.doors(kernel),
        "hvtx.host.bpf.load": lambda instructions, name: None,  # a kernel without it
        "hvtx.host.tap_filter_check.summed": lambda ifindex: True,
        "hvtx.drivers.tap.making.tun": tun,
        "hvtx.drivers.tap.making.os": descriptors,
        "hvtx.host.new_ports.equip": equip,
        "hvtx.host.new_ports.guard": guard,
        "hvtx.drivers.tap.driver.os": descriptors,
        "hvtx.drivers.tap.removal.in_threads": in_turn,
        "hvtx.drivers.tap.removal.tun": tun,
        "hvtx.drivers.tap.removal.os": descriptors,
        "hvtx.drivers.bridge.Links": links,
        "hvtx.drivers.bridge.passing_tap": tun.passing_tap,
        "hvtx.drivers.bridge.os": descriptors,
        "hvtx.drivers.address.Links": links,
        "hvtx.drivers.tap.standing.look_up": lambda: FakeUppers(kernel),
        "hvtx.host.sysctl.value": settings.value,
        "hvtx.host.sysctl.write": settings.write,
        "hvtx.drivers.nftables.session.Nftables": lambda: FakeNftables(kernel),
        "hvtx.drivers.vm_process.spawn.spawn": lambda launch, log, name="", user=None: FakeGate(
            kernel, launch, log, name
        ),
        "hvtx.drivers.vm_process.prepare._give": lambda directory, user: None,
        "hvtx.host.vmuser.lack": lambda user: None,
        "hvtx.host.vmuser.kvm_groups": tuple,
        "hvtx.host.logger.drain": lambda pid: None,
        "hvtx.host.logger.listen": lambda pid: None,
        "hvtx.drivers.vm_process.scope.enter_scope": lambda vm, *pids: None,
        "hvtx.engine.seen_host.Links": links,
        "hvtx.host.many_processes.look_at_all": lambda known: [
            proc.look_again(one) for one in known
        ],
        "hvtx.engine.looks.look_at_all": lambda known: [proc.look_again(one) for one in known],
        "hvtx.host.devices.Links": links,
        "hvtx.engine.new_network.Links": links,
        "hvtx.commands.network_rm.Links": links,
        "hvtx.engine.own_addresses.Links": links,
        "hvtx.engine.damage.Links": links,
        "hvtx.engine.repair_row.Links": links,
        "hvtx.engine.own_routes.lost": lambda _row, _links: [],
        "hvtx.engine.peer_ports.refuse_taken_port": refuse_taken_port,
        "hvtx.host.nat_detection.may_translate": lambda: False,
        "hvtx.host.nat_detection.may_among": lambda chains, rules: False,
        "hvtx.engine.translated_ports.may_translate": lambda: False,
        "hvtx.drivers.portholder.Held": lambda: FakeHeld(kernel),
        "hvtx.drivers.portholder.hold": hold,
        "hvtx.drivers.portholder.taken_over": taken_over,
        "hvtx.drivers.portholder.room_for": lambda ports: nullcontext(),
        "hvtx.drivers.portholder.spawn": lambda held, vm, words: FakeHolder(kernel, held, vm),
        "hvtx.drivers.portholder.end": end_holder,
        "hvtx.drivers.portholder.ended": lambda identity: kernel.find(identity) is None,
        "pyroute2.IPRoute": lambda: FakeRoute(kernel),
    }
