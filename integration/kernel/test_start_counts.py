"""What a start asks and writes: counted, and the same with many VMs beside as with none.

No time is measured. A start reads and writes what is its own: no list of all links, addresses,
routes or elements, and no statement more for each VM that is there.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from bench import population
from hvtx.commands import vm_create, vm_start, vm_start_many, vm_stop, vm_stop_many
from hvtx.commands.network_create import create_network
from hvtx.engine.new_network import NetworkRequest
from hvtx.engine.runtime import Runtime, Settings
from hvtx.host import nat_detection, procfs, program, sysctl
from hvtx.host.netlink import Channel
from hvtx.host.nfnetlink import Nftables
from integration import lab
from integration.lab.program import Forked

_MANY = 40  # VMs beside
# of SQL, those of triggers counted; networks are read in a moment of their own once they are locked
_STATEMENTS = 53
_ANSWERS = 20_000  # bytes of netlink
_GETS = 29  # of one object of netlink each
_SOCKETS = 0  # of netlink that are opened, once a runtime has its own
_LISTS, _STATUS = 5, 1  # of our descriptors, and of capabilities, for each of several VMs
_EACH = 29  # statements for each of several VMs, those of triggers counted
_SETTINGS = 4  # below /proc/sys that are read
_GETADDR, _GETROUTE = 22, 26
_TABLES, _CHAINS = 0x0A01, 0x0A04  # of nf_tables: as many as there are networks, not VMs


class Counts:
    """What one start asked of the store and of the kernel."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.dumps: list[tuple[int, bytes]] = []
        self.answers = 0  # bytes
        self.gets = 0  # of one object each
        self.sockets = 0  # of netlink that were opened
        self.settings = 0  # below /proc/sys that were read
        self.generations = 0  # questions for that of the ruleset
        self.legacy = 0  # readings of the names of legacy tables

    def told(self) -> tuple[Any, ...]:
        """Without what is random or another number each time."""
        words = [statement.split(" ", 3)[:3] for statement in self.statements]
        others = (self.answers, self.gets, self.sockets, self.settings)
        return [" ".join(some) for some in words], self.dumps, others


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    settings = Settings(os.environ["HVTX_STATE_DIR"], os.environ["HVTX_RUN_DIR"], "nftables")
    opened = Runtime(settings, writable=True)
    yield opened
    opened.close()
    opened.drivers.of("nftables").close()
    opened.drivers.of("tap").links.close()


def started(runtime: Runtime, name: str) -> Counts:
    """Start a VM and count; it is stopped again."""
    with counting(runtime) as counts:
        vm_start.start_vm(runtime, name)
    vm_stop.stop_vm(runtime, name)
    return counts


@contextmanager
def counting(runtime: Runtime) -> Iterator[Counts]:
    """Count what is asked inside."""
    counts = Counts()
    with pytest.MonkeyPatch.context() as patch:
        dump, receive, get = Channel.dump, Channel._receive, Channel.get
        opening, setting = Channel.__init__, sysctl.value
        asked, lists = Nftables.generation, nat_detection._lists_some

        def noted(channel: Channel, kind: int, body: bytes) -> list[bytes]:
            counts.dumps.append((kind, body))
            return dump(channel, kind, body)

        def measured(channel: Channel) -> bytes:
            answer = receive(channel)
            counts.answers += len(answer)
            return answer

        def one(channel: Channel, *asked: Any) -> bytes:
            counts.gets += 1
            return get(channel, *asked)

        def generation(socket: Nftables) -> int:
            counts.generations += 1
            return asked(socket)

        def legacy(name: str) -> bool:
            counts.legacy += 1
            return lists(name)

        def opened(channel: Channel, family: int) -> None:
            counts.sockets += 1
            opening(channel, family)

        def read(name: str) -> str:
            counts.settings += 1
            return setting(name)

        patch.delenv("HVTX_VERIFY", raising=False)  # tests restate invariants: statements more
        patch.setattr(Channel, "dump", noted)
        patch.setattr(Channel, "_receive", measured)
        patch.setattr(Channel, "get", one)
        patch.setattr(Nftables, "generation", generation)
        patch.setattr(nat_detection, "_lists_some", legacy)
        patch.setattr(Channel, "__init__", opened)
        patch.setattr(sysctl, "value", read)
        runtime.store.connection.set_trace_callback(counts.statements.append)
        try:
            yield counts
        finally:
            runtime.store.connection.set_trace_callback(None)


def is_narrow(kind: int, body: bytes) -> bool:
    """Whether a dump is of a few things, however many VMs there are."""
    if kind == _GETADDR:
        (index,) = struct.unpack_from("=I", body, 4)
        return bool(index)
    if kind == _GETROUTE:
        return (body[4], body[7]) == (255, 2)  # the table `local`, what is local in it
    return kind in (_TABLES, _CHAINS)


def test_a_start_grows_with_nothing_that_is_not_its_own(runtime: Runtime) -> None:
    for address in ("192.0.2.9/32", "2001:db8::9/128"):  # a way to the world
        lab.run("ip", "addr", "add", address, "dev", "lo")
    network = create_network(runtime, NetworkRequest("net", ("10.77.0.0/24", "fd77::/64")))
    vm_create.create_vm(runtime, population.request_for("web", "net", 8080))
    started(runtime, "web")  # what a process keeps is there now
    first = started(runtime, "web")
    one = population._create(runtime, range(_MANY, _MANY + 1), network)
    population._start(runtime, one, network)
    alone = started(runtime, "web")  # but for one: 127.0.0.1 leads to the bridge already
    vms = population._create(runtime, range(_MANY), network)
    population._start(runtime, vms, network)
    beside = started(runtime, "web")
    assert [d for d in beside.dumps if not is_narrow(*d)] == []
    assert beside.told() == alone.told()
    assert first.statements.count("COMMIT") == 2  # intended; committed: one sync of the log each
    assert len(first.statements) <= _STATEMENTS, first.statements
    assert first.answers <= _ANSWERS
    assert first.gets <= _GETS
    assert first.sockets <= _SOCKETS
    assert first.settings <= _SETTINGS
    # the bridge is not proven ours again: a transaction that reads, and a link that is asked for
    assert len(alone.statements) == len(first.statements) - 3
    assert alone.gets == first.gets - 1


def test_what_is_looked_for_by_name_is_found_by_an_index(runtime: Runtime) -> None:
    """No statement of a start reads a table from end to end, or the rows of all VMs."""
    create_network(runtime, NetworkRequest("net", ("10.77.0.0/24",)))
    vm_create.create_vm(runtime, population.request_for("web", "net", 8080))
    found = started(runtime, "web").statements
    plans: list[Any] = []
    for statement in found:
        if statement.startswith("SELECT"):
            steps = runtime.store.connection.execute(f"EXPLAIN QUERY PLAN {statement}")
            plans += [(step[3], statement) for step in steps]
    small = ("meta", "life", "network", "sqlite_sequence", "CONSTANT ROW", "operation USING INDEX")
    scans = [p for p in plans if p[0].startswith("SCAN") and not any(s in p[0] for s in small)]
    scans = [p for p in scans if p[0] != "SCAN m"]  # of a subquery: the addresses of one interface
    assert scans == []
    wide = [plan for plan in plans if "resource_live" in plan[0]]
    assert wide == []


def test_what_is_one_answer_for_a_slice_is_asked_once(runtime: Runtime) -> None:
    """For each VM more its own rows are read and written, and its own device is made."""
    network = create_network(runtime, NetworkRequest("net", ("10.77.0.0/24", "fd77::/64")))
    names = [vm.name for vm in population._create(runtime, range(6), network)]
    found = []
    for some in (names[:2], names[:2], names):  # what a process keeps is there after the first
        with counting(runtime) as counts:
            came = vm_start_many.start_each(runtime, some)
        assert [*came.done] == some, came.failed
        vm_stop_many.stop_each(runtime, some, force=True)
        found.append(counts)
    few, many = found[1:]
    assert many.generations == few.generations
    assert many.legacy == few.legacy == 2
    assert len(many.dumps) == len(few.dumps)
    assert (len(many.statements) - len(few.statements)) / 4 <= _EACH, many.statements


def looked_up(runtime: Runtime, *names: str) -> Counter[str]:
    """What starts of several VMs that have a process look up; they are stopped again."""
    found: Counter[str] = Counter()

    def counted(what: str, look: Callable[..., Any], wanted: str = "") -> Callable[..., Any]:
        def one(*asked: Any, **more: Any) -> Any:
            found[what] += not wanted or wanted in asked
            return look(*asked, **more)

        return one

    with pytest.MonkeyPatch.context() as patch:
        status, open_ones = "/proc/thread-self/status", "/proc/self/fd"
        patch.setattr(program, "_believed", counted("programs", program._believed))
        patch.setattr(procfs, "read_whole", counted("status", procfs.read_whole, status))
        patch.setattr(os, "listdir", counted("descriptors", os.listdir, open_ones))
        came = vm_start_many.start_each(runtime, names)
    assert [*came.done] == [*names], came.failed
    vm_stop_many.stop_each(runtime, names, force=True)
    return found


def test_what_processes_need_is_looked_up_once_for_a_slice(runtime: Runtime) -> None:
    """Programs once for all, descriptors a few times for each; what a thread may do, where it is
    another thread."""
    hvtx = Forked()
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    names = [f"vm{number}" for number in range(6)]
    for number, name in enumerate(names):
        port = ("-p", f"{8080 + number}:80")
        hvtx("vm", "create", name, "--network", "net", *port, "--", "sleep", "600")
    looked_up(runtime, *names[:2])  # what a process keeps is there now
    few, many = looked_up(runtime, *names[:2]), looked_up(runtime, *names)
    each = {what: (many[what] - few[what]) / 4 for what in many}
    assert each["programs"] == 0, many
    assert each["descriptors"] <= _LISTS, many
    assert each["status"] <= _STATUS, many
