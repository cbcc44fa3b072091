"""What is up is changed: ports come and go with packets under way, and what stays is not touched."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hvtx.engine import vm_options
from hvtx.engine.runtime import Runtime
from hvtx.model.policy import Policy
from hvtx.model.vm import Network
from integration import lab
from integration.crash.test_failpoints import host
from integration.lab import HOST4, HOST6, WORLD4, WORLD6, vms
from integration.lab.firewall_contract import inside, reach, unreachable
from integration.lab.program import Forked, Program
from integration.lab.vms import SLEEP
from integration.lab.waiting import until
from integration.network.test_guests_network import GuestVm, run
from integration.network.test_held_ports import Where, daemon, holders, refused

NO_DHCP = ("network", "set", "net", "--no-dhcp")
BACKENDS = ["nftables", "iptables"]


@pytest.fixture(params=BACKENDS)
def hvtx(request: pytest.FixtureRequest) -> Iterator[Program]:
    """A program with a network of both families, on each backend."""
    with vms.networked(request.param) as program:
        yield program


@pytest.fixture(params=BACKENDS)
def wide(request: pytest.FixtureRequest, world: lab.Namespace) -> Iterator[Program]:
    """The same, with a world around."""
    with vms.networked(request.param) as program:
        yield program


def ports(hvtx: Program, name: str = "web") -> set[str]:
    """The published ports of a VM, in short."""
    return {
        f"{p['host_ip'] or ''}:{p['host_port']}:{p['guest_port']}/{p['protocol']}"
        for interface in hvtx.vm(name)["interfaces"]
        for p in interface["publish"]
    }


def marks(hvtx: Program, name: str = "web", at: str = "") -> dict[str, str]:
    """The marks of a VM's resources, all of which are committed."""
    found = hvtx.vm(name)["resources"]
    assert {one["state"] for one in found} == {"committed"}, at
    return {f"{one['kind']} {one['key']}": one["mark"] for one in found}


class Flow:
    """A connection of TCP from a place to a guest, by an address and port of the host."""

    def __init__(self, place: Any, guest: GuestVm, to: str, port: int, inner: int) -> None:
        family = socket.AF_INET6 if ":" in to else socket.AF_INET
        with inside(guest):
            listener = socket.create_server(("", inner), family=family)
        listener.settimeout(10)
        with inside(place):
            self.near = socket.socket(family, socket.SOCK_STREAM)
        self.near.settimeout(5)
        self.near.connect((to, port))
        self.far, peer = listener.accept()
        self.far.settimeout(5)
        self.peer = peer[0]
        listener.close()

    def lives(self) -> bool:
        """Whether words still come through, both ways."""
        try:
            self.near.sendall(b"ping")
            if self.far.recv(4) != b"ping":
                return False
            self.far.sendall(b"pong")
            return self.near.recv(4) == b"pong"
        except OSError:
            return False

    def close(self) -> None:
        self.near.close()
        self.far.close()


def test_ports_come_and_go(hvtx: Program) -> None:
    """What stays keeps its marks; what comes and goes is seen in record, host and history."""
    hvtx("vm", "run", "web", "--network", "net", "-p", "8080:80", "-p", "8081:81", *SLEEP)
    before = marks(hvtx)
    hvtx("vm", "set", "web", "--publish", "9090:90", "--unpublish", "8081")
    assert ports(hvtx) == {":8080:80/tcp", ":9090:90/tcp"}
    now = marks(hvtx)
    gone = before.pop("publish 8081/tcp")
    assert before.items() <= now.items()
    assert gone not in now.values()
    assert hvtx.is_clean()
    told = hvtx("log", "--vm", "web", "-n", "4").out
    assert "VM web: unpublished 8081:81/tcp, published 9090:90/tcp" in told
    hvtx("vm", "set", "web", "-p", "9090:90")  # which it has
    assert marks(hvtx) == now
    hvtx("vm", "stop", "web", "--timeout", "1")
    assert hvtx.is_clean()
    assert holders() == []


@pytest.mark.parametrize("up", [False, True], ids=["down", "up"])
def test_who_has_a_port_is_named(up: bool, hvtx: Program) -> None:
    """The VM, and not the program of hvtx's that holds it for the VM."""
    hvtx("vm", "run", "web", "--network", "net", "-p", "8080:80", *SLEEP)
    hvtx("vm", "run" if up else "create", "other", "--network", "net", *SLEEP)
    refused = hvtx("vm", "set", "other", "-p", "8080:80", code=4)
    assert "port 8080/tcp is published for VM 'web'" in refused.err
    assert hvtx.is_clean()


def test_flows_stay_or_end_with_their_port(wide: Program, world: lab.Namespace) -> None:
    """By both families, from outside; the guest sees the client's own address."""
    guest = run(wide, "web", "-p", "8080:80", "-p", "8081:81", "-p", "8082:82/udp")
    for to, own in ((HOST4, WORLD4), (HOST6, WORLD6)):
        stays, ends = Flow(world, guest, to, 8080, 80), Flow(world, guest, to, 8081, 81)
        assert {stays.peer, ends.peer} == {own}
        assert stays.lives()
        assert ends.lives()
        wide("vm", "set", "web", "--unpublish", "8081")
        assert stays.lives()
        assert not ends.lives()
        assert unreachable(world, guest, "tcp", to, 8081, 81)
        assert stays.lives()
        wide("vm", "set", "web", "-p", "8081:81")
        assert reach(world, guest, "tcp", to, 8081, 81) == own
        assert stays.lives()
        stays.close()
        ends.close()
    for to, own in ((HOST4, WORLD4), (HOST6, WORLD6)):
        assert reach(world, guest, "udp", to, 8082, 82) == own
    wide("vm", "set", "web", "--unpublish", "8082/udp")
    for to in (HOST4, HOST6):
        assert unreachable(world, guest, "udp", to, 8082, 82)


def test_a_port_leads_elsewhere_at_once(wide: Program, world: lab.Namespace) -> None:
    """The same host port, another guest port: connections by the old way end."""
    guest = run(wide, "web", "-p", "8080:80")
    flow = Flow(world, guest, HOST4, 8080, 80)
    held = holders()
    wide("vm", "set", "web", "--unpublish", "8080", "-p", "8080:81")
    assert not flow.lives()
    assert reach(world, guest, "tcp", HOST4, 8080, 81) == WORLD4
    assert ports(wide) == {":8080:81/tcp"}
    assert holders() == held, "the same socket goes on"
    flow.close()


def test_what_cannot_be_is_refused_whole(hvtx: Program) -> None:
    """The record and the host stay as they are, with every mark."""
    hvtx("vm", "run", "web", "--network", "net", "-p", "8080:80", *SLEEP)
    hvtx("vm", "run", "two", "--network", "net", "-p", "7070:70", *SLEEP)
    with socket.create_server(("127.0.0.1", 6060)):
        before = marks(hvtx), lab.dump()
        for arguments, code in (
            (("-p", "7070:70"), 4),  # another VM's
            (("-p", "6060:60"), 4),  # a program's
            (("-p", "9090:90", "--memory", "512"), 4),  # of which it hears at its start only
            (("-p", "9090:90", "--unpublish", "1234"), 3),
            (("-p", "8080:81"), 4),  # its own, without --unpublish
            (("-p", "nosuch/9090:90"), 3),
            (("-p", "9090-9092:90-91"), 2),
            (("-p", "[::1]:9090:90"), 2),
        ):
            ran = hvtx("vm", "set", "web", *arguments, code=code)
            assert "error:" in ran.err
            assert "hint:" in ran.err
        assert (marks(hvtx), lab.dump()) == before
    assert hvtx.is_clean()


WIDER = ("vm", "set", "web", "--unpublish", "127.0.0.1:8080{}", "-p", "8080:80{}")
BESIDE = [
    Where("127.0.0.2"), Where("10.77.0.1"), Where("::", only6=True), Where("::1"),
    Where("fd77::1"),
]  # fmt: skip


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_wider_port_takes_nobody_elses(hvtx: Program, protocol: str) -> None:
    """All addresses for one: what others have on theirs is a conflict, as for a VM that is down."""
    of = "/udp" if protocol == "udp" else ""
    wider = [word.format(of) for word in WIDER]
    hvtx("vm", "run", "web", "--network", "net", "-p", f"127.0.0.1:8080:80{of}", *SLEEP)
    before = marks(hvtx), lab.dump()
    for where in BESIDE:
        with contextlib.closing(daemon(protocol, where, options=[socket.SO_REUSEADDR])):
            ran = hvtx(*wider, code=4)
            assert f"8080/{protocol} of this host is in use by a program" in ran.err, where
            assert (marks(hvtx), lab.dump()) == before, where
    hvtx(*wider)
    assert ports(hvtx) == {f":8080:80/{protocol}"}
    assert refused(protocol, Where("10.77.0.1"))
    assert hvtx.is_clean()


def test_a_wider_port_takes_no_other_installations(hvtx: Program, tmp_path: Path) -> None:
    other = Forked(
        HVTX_FIREWALL=hvtx.environment["HVTX_FIREWALL"],
        HVTX_STATE_DIR=str(tmp_path / "state2"), HVTX_RUN_DIR=str(tmp_path / "run2"),
    )  # fmt: skip
    other("network", "create", "two", "--subnet", "10.78.0.0/24")
    other("vm", "run", "theirs", "--network", "two", "-p", "10.77.0.1:8080:80", *SLEEP)
    hvtx("vm", "run", "web", "--network", "net", "-p", "127.0.0.1:8080:80", *SLEEP)
    before = marks(hvtx), lab.dump()
    ran = hvtx(*(word.format("") for word in WIDER), code=4)
    assert "published by another installation" in ran.err
    assert (marks(hvtx), lab.dump()) == before
    vms.end_vms(other)


def test_who_takes_a_port_at_the_last_moment_has_it(hvtx: Program) -> None:
    """Between what the VM lets go of and what it is to hold instead: the change is taken back."""
    hvtx("vm", "run", "web", "--network", "net", "-p", "127.0.0.1:8080:80", *SLEEP)
    change = [sys.executable, "-m", "hvtx", *(word.format("") for word in WIDER)]
    given = {**os.environ, **hvtx.environment, "HVTX_FAILPOINT": "let-go:stop"}
    with subprocess.Popen(change, env=given, stderr=subprocess.PIPE, text=True) as running:
        until(
            "the change, stopped",
            lambda: Path(f"/proc/{running.pid}/stat").read_text().split()[2] == "T",
        )
        with contextlib.closing(daemon("tcp", Where("10.77.0.1"))):
            running.send_signal(signal.SIGCONT)
            assert "in use by a program" in running.communicate(timeout=30)[1]
    assert running.returncode == 4
    assert ports(hvtx) == {"127.0.0.1:8080:80/tcp"}
    assert "publish 127.0.0.1:8080/tcp" in marks(hvtx)
    assert refused("tcp", Where("127.0.0.1"))
    assert not refused("tcp", Where("10.77.0.1"))
    assert hvtx("intents", "--json").json()["operations"] == []
    assert hvtx.is_clean()


def test_of_a_stopped_vm_the_record_changes(hvtx: Program) -> None:
    """Its start publishes what it says."""
    hvtx("vm", "create", "web", "--network", "net", "-p", "8080:80", *SLEEP)
    before = lab.dump()
    hvtx("vm", "set", "web", "--unpublish", "8080", "-p", "9090-9092:90-92", "--memory", "300")
    assert lab.difference(before, lab.dump()) == ""
    assert ports(hvtx) == {f":{n}:{n - 9000}/tcp" for n in (9090, 9091, 9092)}
    hvtx("vm", "start", "web")
    assert {"publish 9090/tcp", "publish 9092/tcp"} <= set(marks(hvtx))
    assert hvtx.is_clean()


def test_whether_it_starts_at_boot_is_the_records_alone(hvtx: Program) -> None:
    """Of a VM that is up, by itself and beside what the kernel is told; its process goes on."""
    before = run(hvtx, "web", "-p", "8080:80").pid
    was = lab.dump()
    assert hvtx("vm", "set", "web", "--autostart", "--json").json()["autostart"] is True
    assert lab.difference(was, lab.dump()) == ""
    for more in (("--limit", "in=10mbit"), ("--publish", "8443:443")):
        hvtx("vm", "set", "web", "--no-autostart", *more)
        assert hvtx.vm("web")["autostart"] is False, more
        hvtx("vm", "set", "web", "--autostart")
    shown = hvtx.vm("web")
    assert (shown["autostart"], shown["limit"], shown["pid"]) == (True, {"in": 10000000}, before)
    assert ports(hvtx) == {":8080:80/tcp", ":8443:443/tcp"}
    for option, value, words in (("--memory", "512", "memory is"), ("--cpus", "2", "cpus are")):
        told = hvtx("vm", "set", "web", option, value, "--no-autostart", code=4).err
        assert words in told and hvtx.vm("web")["autostart"] is True


def test_somebody_elses_element_in_the_way_changes_nothing(hvtx: Program) -> None:
    """What has the place and another mark is a conflict, and all is undone."""
    if hvtx.environment["HVTX_FIREWALL"] == "iptables":
        pytest.skip("a rule has no key: no other rule stands in its place")
    hvtx("vm", "run", "web", "--network", "net", "-p", "8080:80", "-p", "8081:81", *SLEEP)
    tables = lab.run("nft", "list", "tables").split()
    table = next(word for word in tables if word.startswith("hvtx-"))
    element = '{ tcp . 9090 comment "mine" : 10.77.0.9 . 90 }'
    lab.run("nft", "add", "element", "inet", table, "dnat4_any", element)
    before = lab.dump()
    ran = hvtx("vm", "set", "web", "-p", "9090:90", "--unpublish", "8081", code=4)
    assert "mine" in ran.err
    assert ports(hvtx) == {":8080:80/tcp", ":8081:81/tcp"}
    assert {r["state"] for r in hvtx.vm("web")["resources"]} == {"committed"}
    assert len(holders()) == 1
    lab.run("nft", "delete", "element", "inet", table, "dnat4_any", "{ tcp . 9090 }")
    assert lab.difference(lab.dump(), lab.dump()) == ""
    assert hvtx.is_clean()
    del before


def test_holders_follow(hvtx: Program) -> None:
    """A port is held as long as it is published, without a moment between."""
    hvtx("vm", "run", "web", "--network", "net", "-p", "8080:80", "-p", "8081:81", *SLEEP)
    seen, stop = [], threading.Event()

    def take() -> None:
        while not stop.is_set():
            try:
                socket.create_server(("", 8080)).close()
                seen.append(8080)
            except OSError:
                pass

    trier = threading.Thread(target=take)
    trier.start()
    try:
        hvtx("vm", "set", "web", "--unpublish", "8081")
        hvtx("vm", "set", "web", "-p", "8083:83", "-p", "127.0.0.1:8081:84")
        hvtx("vm", "set", "web", "--unpublish", "127.0.0.1:8081", "-p", "8081:84")
    finally:
        stop.set()
        trier.join()
    assert seen == []
    for port in (8080, 8081, 8083):
        assert refused("tcp", Where("::", only6=True), port)
    hvtx("vm", "set", "web", "--unpublish", "8080", "--unpublish", "8081")
    assert not refused("tcp", Where("0.0.0.0"), 8081)
    assert hvtx.is_clean()
    lab.end(hvtx.vm("web")["pid"])
    hvtx("vm", "stop", "web")
    assert holders() == []


POINTS = ("intended", "registered", "exchanged:{}", "let-go")
CHANGE = ("vm", "set", "web", "--unpublish", "8080", "--unpublish", "8081", "-p", "8080:81",
          "-p", "8083:83")  # fmt: skip
BEFORE, AFTER = {":8080:80/tcp", ":8081:81/tcp"}, {":8080:81/tcp", ":8083:83/tcp"}


@pytest.mark.parametrize(
    ("then", "first"),
    [("gc", 0), ("repair", 1), ("set", 2), ("stop", 0), ("die", 2), ("restart", 3)],
)
def test_killed_anywhere_it_is_carried_on_or_ended(hvtx: Program, then: str, first: int) -> None:
    """Whatever comes next: the host is as the record says, and nothing is left over.

    With `recover` at every point: integration/crash/test_failpoints.py.
    """
    points = (POINTS[first].format(hvtx.environment["HVTX_FIREWALL"]), "exchanged:nftables")
    for point in dict.fromkeys(points):
        hvtx("vm", "run", "web", "--network", "net", "-p", "8080:80", "-p", "8081:81", *SLEEP)
        ran = hvtx(*CHANGE, code=None, HVTX_FAILPOINT=f"{point}:kill")
        assert ran.code in (0, -signal.SIGKILL), ran
        assert ports(hvtx) == AFTER
        if then == "gc":
            hvtx("gc", "--apply")
        elif then == "repair":
            hvtx("repair", "web", code=None)
        elif then == "set":
            hvtx("vm", "set", "web", "-p", "9999:99")
            hvtx("vm", "set", "web", "--unpublish", "9999")
        elif then == "stop":
            hvtx("vm", "stop", "web", "--timeout", "1")
        elif then == "restart":
            hvtx("vm", "restart", "web", "--timeout", "1")
        else:
            lab.end(hvtx.vm("web")["pid"])
            hvtx("gc", "--apply")
        if then in ("gc", "repair", "set", "restart"):
            found = marks(hvtx, at=point)
            assert {"publish 8080/tcp", "publish 8083/tcp"} <= set(found), point
            assert "publish 8081/tcp" not in found
            for port in (8080, 8083):
                assert refused("tcp", Where("0.0.0.0"), port), (point, port)
        assert ports(hvtx) == AFTER
        assert hvtx("intents", "--json").json()["operations"] == [], point
        assert hvtx.is_clean(), point
        hvtx("vm", "rm", "web", "--force")
        assert holders() == [], point
        assert hvtx.is_clean(), point


def test_two_changes_at_once_come_one_after_the_other(hvtx: Program) -> None:
    """And so do a change and a stop."""
    hvtx("vm", "run", "web", "--network", "net", "-p", "8080:80", *SLEEP)
    program = Program(**hvtx.environment)
    for both in (
        (("vm", "set", "web", "-p", "9001:91"), ("vm", "set", "web", "-p", "9002:92")),
        (("vm", "set", "web", "--unpublish", "8080"), ("vm", "stop", "web", "--timeout", "1")),
    ):
        threads = [threading.Thread(target=program, args=arguments) for arguments in both]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert hvtx.is_clean()
    assert ports(hvtx) == {":9001:91/tcp", ":9002:92/tcp"}
    assert hvtx.vm("web")["state"] == "defined"


def test_a_port_of_the_second_network(wide: Program, world: lab.Namespace) -> None:
    """`NETWORK/` names the interface, at create and later."""
    wide("network", "create", "back", "--subnet", "10.78.0.0/24", "--subnet", "fd78::/64")
    guest = run(wide, "web", "--network", "back", "-p", "back/8080:80", "-p", "8081:81")
    shown = wide.vm("web")["interfaces"]
    assert [[p["host_port"] for p in i["publish"]] for i in shown] == [[8081], [8080]]
    guest.run("ip", "route", "add", WORLD4, "via", "10.78.0.1")
    assert reach(world, guest, "tcp", HOST4, 8080, 80) == WORLD4
    wide("vm", "set", "web", "-p", "back/8082-8083:82-83/udp", "--unpublish", "8080")
    assert unreachable(world, guest, "tcp", HOST4, 8080, 80)
    assert reach(world, guest, "udp", HOST4, 8083, 83) == WORLD4
    guest.run("ip", "route", "del", WORLD4)
    wide("vm", "set", "web", "--unpublish", "8083/udp", "-p", "8083:83/udp")  # by the first
    assert reach(world, guest, "udp", HOST4, 8083, 83) == WORLD4
    shown = wide.vm("web")["interfaces"]
    assert [[p["host_port"] for p in i["publish"]] for i in shown] == [[8081, 8083], [8082]]
    assert wide.is_clean()


def test_a_network_is_changed(hvtx: Program) -> None:
    """While no VM is up in it: one is told of isolation at its start."""
    isolated = hvtx("network", "set", "net", "--isolate", "--json").json()
    assert isolated["isolate"] is True
    assert hvtx.is_clean()
    hvtx("vm", "run", "web", "--network", "net", *SLEEP)
    ran = hvtx("network", "set", "net", "--no-isolate", code=4)
    assert "web" in ran.err
    hvtx("vm", "stop", "web", "--timeout", "1")
    hvtx("network", "set", "net", "--no-isolate")
    assert hvtx("network", "show", "net", "--json").json()["isolate"] is False
    hvtx("network", "set", "nosuch", "--isolate", code=3)
    hvtx("network", "set", "net", code=2)
    assert hvtx.is_clean()
    hvtx("vm", "rm", "web")
    hvtx("network", "rm", "net")


@pytest.mark.parametrize("names", [("web",), ("web", "two")], ids=["one", "several"])
@pytest.mark.parametrize("change", ["--isolate", "--source", "--dhcp"])
def test_a_start_that_was_overtaken_follows_the_network(
    change: str, names: tuple[str, ...], hvtx: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was changed after the start had looked at it, when no VM was up: as the next start has it.

    What the start makes is compared with what it makes again, when all has long been as it is.
    """
    source = "203.0.113.7"
    lab.run("ip", "addr", "add", f"{source}/32", "dev", "lo")
    given = ("network", "set", "net", change, *([source] if change == "--source" else []))
    for name in names:
        hvtx("vm", "create", name, "--network", "net", *SLEEP)
    lock, done = Runtime.lock, []

    def late(runtime: Runtime, kind: str, name: str, *, shared: bool = False) -> None:
        if kind == "network" and shared and not done:  # the child of `vm start`: once
            done.append(Program(**hvtx.environment)(*given))
        lock(runtime, kind, name, shared=shared)

    with monkeypatch.context() as patch:
        patch.setattr(Runtime, "lock", late)
        hvtx("vm", "start", *names)
    found, kinds = host(), [[row["kind"] for row in hvtx.vm(name)["resources"]] for name in names]
    for name in names:
        hvtx("vm", "restart", name, "--timeout", "1")
    assert lab.difference(host(), found) == ""
    assert [[row["kind"] for row in hvtx.vm(name)["resources"]] for name in names] == kinds
    for name in names:
        hvtx("vm", "rm", name, "--force")
    hvtx("network", "rm", "net")


@pytest.mark.parametrize("up", [False, True], ids=["down", "up"])
def test_the_dns_of_names_stays_while_they_come(
    up: bool, hvtx: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two at once, one that needs it and one that takes it away, one waits or is refused."""
    hvtx("network", "set", "net", "--dhcp")
    hvtx("vm", "create", "web", "--network", "net", *SLEEP)
    if up:
        hvtx("vm", "start", "web")
    look, done = vm_options.refuse_names, []

    def late(policy: Policy, networks: Iterable[Network], **more: bool) -> None:
        look(policy, networks, **more)
        done.append(Program(**hvtx.environment)(*NO_DHCP, code=None, HVTX_LOCK_TIMEOUT="0.5"))
        assert done[0].code in (0, 4, 75)

    with monkeypatch.context() as patch:
        patch.setattr(vm_options, "refuse_names", late)
        hvtx("vm", "set", "web", "--egress", "none", "--allow", "example.org:443")
    served = hvtx("network", "show", "net", "--json").json()["dhcp"]
    assert served
    assert "example.org" in hvtx("vm", "show", "web", "--json").out
    hvtx(*NO_DHCP, code=4)
    hvtx("vm", "rm", "web", "--force")
    hvtx("network", "rm", "net")


@pytest.mark.parametrize("point", ["registered", "exchanged:nftables", "exchanged:{}", "let-go"])
def test_what_fails_is_taken_back_whole(hvtx: Program, point: str) -> None:
    """The record, the rules and who holds the ports are as before."""
    hvtx("vm", "run", "web", "--network", "net", "-p", "8080:80", "-p", "8081:81", *SLEEP)
    point = point.format(hvtx.environment["HVTX_FIREWALL"])
    ran = hvtx(*CHANGE, code=None, HVTX_FAILPOINT=f"{point}:error")
    if ran.code == 0:
        pytest.skip("this backend has no such point in this change")
    assert ran.code == 6, ran
    assert "rollback incomplete" not in ran.err
    assert ports(hvtx) == BEFORE
    assert {"publish 8080/tcp", "publish 8081/tcp"} == {m for m in marks(hvtx) if "/tcp" in m}
    for port in (8080, 8081):
        assert refused("tcp", Where("0.0.0.0"), port), port
    assert not refused("tcp", Where("0.0.0.0"), 8083)
    assert hvtx("intents", "--json").json()["operations"] == []
    assert hvtx.is_clean()
    hvtx(*CHANGE)
    assert ports(hvtx) == AFTER
    assert hvtx.is_clean()


def test_flows_that_may_go_on_are_told_and_ended_later(hvtx: Program) -> None:
    """The change stands; what was taken stays on record until nothing flows by it."""
    hvtx("vm", "run", "web", "--network", "net", "-p", "8080:80", "-p", "8081:81", *SLEEP)
    ran = hvtx(*CHANGE, code=9, HVTX_FAILPOINT="flushing:taken:error")
    assert "may continue" in ran.err
    assert ports(hvtx) == AFTER
    states = [r["state"] for r in hvtx.vm("web")["resources"] if r["kind"] == "publish"]
    assert sorted(states) == ["committed", "committed", "releasing", "releasing"]
    assert ("delete", "replaced") in hvtx.plan()
    hvtx("gc", "--apply")
    assert len([m for m in marks(hvtx) if "/tcp" in m]) == 2
    assert not refused("tcp", Where("0.0.0.0"), 8081)
    assert hvtx.is_clean()


def test_flows_past_a_port_that_came_are_told_and_ended_later(hvtx: Program) -> None:
    """The port is published, and 0 would say that all leads to it."""
    hvtx("vm", "run", "web", "--network", "net", *SLEEP)
    change = ("vm", "set", "web", "-p", "5353:53/udp")
    ran = hvtx(*change, code=9, HVTX_FAILPOINT="flushing:ports:error")
    assert "may bypass the VM at port 5353/udp" in ran.err
    assert "publish 5353/udp" in marks(hvtx)
    assert ("delete", "flows-remain") in hvtx.plan()
    hvtx("gc", "--apply")
    assert "publish 5353/udp" in marks(hvtx)
    assert hvtx.is_clean()


def test_of_a_vm_that_something_else_starts(hvtx: Program) -> None:
    """Its network is up before its process is known."""
    hvtx("vm", "create", "web", "--network", "net", "--hypervisor", "external", "-p", "8080:80")
    hvtx("vm", "start", "web")
    hvtx("vm", "set", "web", "--unpublish", "8080", "-p", "9090:90")
    assert "publish 9090/tcp" in marks(hvtx)
    assert refused("tcp", Where("0.0.0.0"), 9090)
    assert not refused("tcp", Where("0.0.0.0"), 8080)
    assert hvtx.is_clean()
    hvtx("vm", "stop", "web")
    assert holders() == []
    assert hvtx.is_clean()
