"""A published port is held by a bound socket while its VM runs; who comes later is refused."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from hvtx.drivers import portholder
from hvtx.errors import HostRefused
from hvtx.host import port_programs, procfs
from hvtx.model.vm import Publish
from integration import lab
from integration.lab import guest, vms, witness
from integration.lab.program import Program
from integration.lab.vms import SLEEP, findings
from integration.lab.waiting import until

REUSE = (socket.SO_REUSEADDR, socket.SO_REUSEPORT)
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
VIP, OTHER = "198.51.100.9", "198.51.100.10"


class Where(NamedTuple):
    """What a daemon binds to."""

    address: str
    only6: bool | None = None


EVERYWHERE = (
    Where("0.0.0.0"),
    Where("127.0.0.1"),
    Where("10.77.0.1"),
    Where("::", only6=False),
    Where("::", only6=True),
    Where("::1"),
)


@pytest.fixture
def hvtx() -> Iterator[Program]:
    """A program with a network of both families."""
    with vms.networked() as program:
        yield program


def run(hvtx: Program, *ports: str, name: str = "web", network: str = "net") -> None:
    """A VM that only waits, with these ports."""
    published = [word for port in ports for word in ("-p", port)]
    hvtx("vm", "run", name, "--network", network, *published, *SLEEP)


def daemon(
    protocol: str, where: Where, port: int = 8080, options: Sequence[int] = ()
) -> socket.socket:
    """A socket as a daemon has it: bound, and listening where that means something."""
    family = socket.AF_INET6 if ":" in where.address else socket.AF_INET
    found = socket.socket(family, KINDS[protocol])
    try:
        if where.only6 is not None:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(where.only6))
        for option in options:
            found.setsockopt(socket.SOL_SOCKET, option, 1)
        found.bind((where.address, port))
        if protocol == "tcp":
            found.listen(5)
    except OSError:
        found.close()
        raise
    return found


def refused(protocol: str, where: Where, port: int = 8080, options: Sequence[int] = ()) -> bool:
    """Whether the kernel refuses a daemon there."""
    try:
        daemon(protocol, where, port, options).close()
    except OSError as problem:
        assert problem.errno == errno.EADDRINUSE, problem
        return True
    return False


def holders() -> list[int]:
    """Processes that hold ports in this namespace."""
    here, found = os.readlink("/proc/thread-self/ns/net"), []
    for place in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (place / "cmdline").read_bytes().split(b"\0")
            if b"hvtx-port" in words and os.readlink(place / "ns/net") == here:
                found.append(int(place.name))
    return found


def the_holder() -> int:
    """The one process that holds ports in this namespace.

    In the middle of execve(2) it has no command line yet, and pages may have to be read for it.
    """
    until("the process that holds the ports", lambda: len(holders()) == 1)
    return holders()[0]


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_who_comes_later_is_refused_by_the_kernel(hvtx: Program, protocol: str) -> None:
    """However a daemon binds, and for as long as the VM runs."""
    run(hvtx, f"8080:80/{protocol}")
    several = [(), *itertools.combinations(REUSE, 1), REUSE]
    for where, options in itertools.product(EVERYWHERE, several):
        assert refused(protocol, where, options=options), (where, options)
    other = "udp" if protocol == "tcp" else "tcp"
    assert not refused(other, Where("0.0.0.0"))
    assert not refused(protocol, Where("0.0.0.0"), 8081)
    hvtx("vm", "stop", "web", "--timeout", "1")
    assert holders() == []
    for where in EVERYWHERE[:2] + EVERYWHERE[3:]:
        assert not refused(protocol, where), where


def test_a_host_address_is_held_and_no_other(hvtx: Program) -> None:
    """An address that goes and comes (a VIP) is held while it is away, too."""
    lab.run("ip", "addr", "add", f"{OTHER}/32", "dev", "lo")
    run(hvtx, f"{VIP}:8080:80", "[2001:db8::9]:8081:80", "127.0.0.1:8082:80/udp")
    assert not refused("tcp", Where(OTHER))
    lab.run("ip", "addr", "add", f"{VIP}/32", "dev", "lo")
    lab.run("ip", "addr", "add", "2001:db8::9/128", "dev", "lo", "nodad")
    assert refused("tcp", Where(VIP), options=REUSE)
    assert refused("tcp", Where("0.0.0.0"), options=REUSE)
    assert refused("tcp", Where("2001:db8::9"), 8081, options=REUSE)
    assert refused("udp", Where("127.0.0.1"), 8082, options=REUSE)
    assert not refused("udp", Where(OTHER), 8082)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("where", EVERYWHERE)
def test_a_start_takes_no_port_that_a_program_has(
    hvtx: Program, protocol: str, where: Where
) -> None:
    """It came between create and start: 4, and nothing of the start remains."""
    hvtx("vm", "create", "web", "--network", "net", "-p", f"8080:80/{protocol}", *SLEEP)
    with contextlib.closing(daemon(protocol, where, options=[socket.SO_REUSEADDR])):
        with witness.undone():
            ran = hvtx("vm", "start", "web", code=4)
            assert f"8080/{protocol}" in ran.err
            assert "in use by a program" in ran.err
        assert holders() == []
    hvtx("vm", "start", "web")
    assert refused(protocol, where)


def test_another_vms_port_is_named_as_that(hvtx: Program) -> None:
    """What hvtx holds itself is no other's socket, neither at create nor at a restart."""
    run(hvtx, "8080:80", "53:53/udp")
    said = hvtx("vm", "create", "two", "--network", "net", "-p", "8080:80", *SLEEP, code=4).err
    assert "published for VM 'web'" in said
    hvtx("vm", "restart", "web", "--timeout", "1")
    assert refused("tcp", Where("0.0.0.0"))
    the_holder()
    assert [f["level"] for f in findings(hvtx, "damage")] == ["ok"]
    told = hvtx("explain", "53/udp", "--json").json()
    assert (told["owner"], told["vm"]) == ("hvtx", "web")
    assert any(f"held by pid {the_holder()}" in line for line in told["evidence"]), told


def test_it_ends_with_its_vm_and_by_itself(hvtx: Program) -> None:
    """Nobody runs hvtx: the port is free for all that when the VM has died."""
    run(hvtx, "8080:80")
    holder = the_holder()
    lab.end(hvtx.vm("web")["pid"])
    until("its end", lambda: procfs.look(holder).ended or not procfs.look(holder).exists)
    assert not refused("tcp", Where("0.0.0.0"))
    hvtx("gc", "--apply")
    hvtx("vm", "start", "web")
    assert refused("tcp", Where("0.0.0.0"))


def test_a_holder_that_was_killed_is_told_of_and_comes_back(hvtx: Program) -> None:
    """By doctor (nothing is cut off: a warning), and with `repair`."""
    run(hvtx, "8080:80", "8081:80/udp")
    lab.end(the_holder())
    told = findings(hvtx, "damage")
    assert {f["level"] for f in told} == {"warning"}
    assert "held" in str(told[0]["message"])
    assert told[0]["hint"] == "hvtx repair"
    assert not refused("tcp", Where("0.0.0.0"))
    done = hvtx("repair", "--json").json()
    assert {item["kind"] for item in done["repaired"]} == {"publish"}
    assert refused("tcp", Where("0.0.0.0"), options=REUSE)
    assert refused("udp", Where("0.0.0.0"), 8081, options=REUSE)
    assert hvtx("repair", "--json").json() == {**done, "repaired": []}
    again = the_holder()
    lab.end(hvtx.vm("web")["pid"])
    until("its end", lambda: procfs.look(again).ended or not procfs.look(again).exists)


def test_a_holder_that_repair_started_stays_on_record_when_the_flows_are_settled(
    hvtx: Program,
) -> None:
    """Both are noted of one row, and neither undoes the other."""
    ports = ("-p", "8081:80/udp")
    late = "flushing:ports:error"  # so it is noted that flows may be left
    hvtx("vm", "run", "web", "--network", "net", *ports, *SLEEP, HVTX_FAILPOINT=late)
    assert ("delete", "flows-remain") in hvtx.plan()
    lab.end(the_holder())
    hvtx("repair")
    assert ("delete", "flows-remain") not in hvtx.plan()
    assert {f["level"] for f in findings(hvtx, "damage")} == {"ok"}
    assert hvtx("repair", "--json").json()["repaired"] == []
    assert refused("udp", Where("0.0.0.0"), 8081)
    hvtx("vm", "stop", "web", "--timeout", "1")
    assert holders() == []


def test_who_took_a_port_meanwhile_is_named_and_the_others_are_held(hvtx: Program) -> None:
    """`repair` holds what can be had, and exits with 9."""
    run(hvtx, "8080:80", "8081:80")
    lab.end(the_holder())
    with contextlib.closing(daemon("tcp", Where("0.0.0.0"))):
        done = json.loads(hvtx("repair", "--json", code=9).out)
        assert [item["key"] for item in done["failed"]] == ["8080/tcp"]
        assert "in use by a program" in done["failed"][0]["why"]
        assert [item["key"] for item in done["repaired"]] == ["8081/tcp"]
        assert refused("tcp", Where("0.0.0.0"), 8081)
    done = hvtx("repair", "--json").json()
    assert [item["key"] for item in done["repaired"]] == ["8080/tcp"]
    assert refused("tcp", Where("0.0.0.0"))
    assert refused("tcp", Where("0.0.0.0"), 8081)
    hvtx("vm", "stop", "web", "--timeout", "1")
    assert holders() == []


@pytest.mark.parametrize("where", EVERYWHERE[:3])
def test_a_restart_does_not_stop_a_vm_whose_port_somebody_has(hvtx: Program, where: Where) -> None:
    """Its start would be refused: so is the restart, while it runs."""
    run(hvtx, "8080:80", "8081:80")
    lab.end(the_holder())
    running = hvtx.vm("web")["pid"]
    with contextlib.closing(daemon("tcp", where)):
        ran = hvtx("vm", "restart", "web", "--timeout", "1", code=4)
        assert "8080/tcp of this host is in use by a program" in ran.err
        assert hvtx.vm("web")["pid"] == running
    hvtx("vm", "restart", "web", "--timeout", "1")
    assert hvtx.vm("web")["pid"] != running
    assert refused("tcp", where)


def foreign_object(*binds: str) -> subprocess.Popen[bytes]:
    """A program that has ports, each written as ``tcp 0.0.0.0 8080``."""
    program = subprocess.Popen([sys.executable, "-c", _STRANGER, *binds], stdout=-1)
    assert program.stdout is not None
    assert program.stdout.readline() == b"has them\n"
    return program


_STRANGER = """
import socket, sys, time
kept = []
for words in sys.argv[1:]:
    protocol, address, port = words.split()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((address, int(port)))
    if protocol == "tcp":
        s.listen()
    kept.append(s)
print("has them", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(
    "bound", ["tcp 0.0.0.0 8080", "tcp 127.0.0.1 8080", "tcp :: 8080", "udp 0.0.0.0 8080"]
)
def test_who_took_a_port_is_told_with_what_gives_it_back(hvtx: Program, bound: str) -> None:
    """explain, doctor and repair name him; what doctor says is done, and it is content."""
    protocol = bound.partition(" ")[0]
    run(hvtx, f"8080:80/{protocol}")
    holder = the_holder()
    lab.end(holder)
    told = hvtx("explain", f"8080/{protocol}", "--json").json()["evidence"]
    assert not [line for line in told if "held by pid" in line], told
    assert any(f"pid {holder}, has ended" in line and "hvtx repair" in line for line in told), told
    with foreign_object(bound) as program:
        try:
            name = Path(f"/proc/{program.pid}/comm").read_text().strip()
            who = f"{name} (pid {program.pid}, user root)"
            found = findings(hvtx, "damage")
            assert [f["level"] for f in found] == ["warning"]
            assert who in str(found[0]["evidence"])
            assert found[0]["hint"] == f"kill {program.pid}; hvtx repair"
            told = hvtx("explain", f"8080/{protocol}", "--json").json()["evidence"]
            assert any(f"and {who} has it now" in line for line in told), told
            why = json.loads(hvtx("repair", "--json", code=9).out)["failed"][0]["why"]
            assert who in why
            assert why.endswith(f"kill {program.pid}; hvtx repair")
        finally:
            program.kill()
    assert findings(hvtx, "damage")[0]["hint"] == "hvtx repair"
    hvtx("repair")
    assert [f["level"] for f in findings(hvtx, "damage")] == ["ok"]
    assert refused(protocol, Where("0.0.0.0"), options=REUSE)
    told = hvtx("explain", f"8080/{protocol}", "--json").json()["evidence"]
    assert any(f"held by pid {the_holder()}" in line for line in told), told


def test_a_host_daemons_port_is_told_with_its_program(hvtx: Program) -> None:
    """At create, at start and by explain; of a VM that is down, too."""
    hvtx("vm", "create", "down", "--network", "net", "-p", "8085:80", *SLEEP)
    with foreign_object("tcp 127.0.0.1 8085", "udp :: 5353", "udp 0.0.0.0 5354") as program:
        try:
            name = Path(f"/proc/{program.pid}/comm").read_text().strip()
            who = f"{name} (pid {program.pid}, user root)"
            for port in ("8085", "5353/udp", "5354"):
                told = hvtx("explain", port, "--json").json()
                assert who in str(told["evidence"]), told
            assert hvtx("explain", "8085", "--json").json()["vm"] == "down"
            said = hvtx("vm", "start", "down", code=4).err
            assert f"in use by a program: {who}" in said
            assert f"kill {program.pid}" in said
            more = ("vm", "create", "more", "--network", "net", "-p", "5353:53/udp", *SLEEP)
            assert who in hvtx(*more, code=4).err
        finally:
            program.kill()
    hvtx("vm", "start", "down")


def test_a_holder_that_is_stopped_holds_on(hvtx: Program) -> None:
    """SIGSTOP takes nothing from it; the VM's end still frees the port, by whoever cleans up."""
    run(hvtx, "8080:80")
    holder = the_holder()
    os.kill(holder, signal.SIGSTOP)
    assert [f["level"] for f in findings(hvtx, "damage")] == ["ok"]
    assert refused("tcp", Where("0.0.0.0"), options=REUSE)
    lab.end(hvtx.vm("web")["pid"])
    hvtx("gc", "--apply")
    assert holders() == []
    assert not refused("tcp", Where("0.0.0.0"))


def test_a_holders_number_that_is_anothers_now_is_no_holder(hvtx: Program) -> None:
    """Its pid was given to somebody else: he is left alone, and the port is not held."""
    run(hvtx, "8080:80")
    holder = the_holder()
    lab.end(holder)
    other = subprocess.Popen(["sleep", "600"])
    try:
        with contextlib.closing(
            sqlite3.connect(Path(os.environ["HVTX_STATE_DIR"], "hvtx.db"))
        ) as store:
            store.execute(
                "UPDATE resource SET observed = replace(observed, ?, ?) WHERE kind = 'publish'",
                (f'"pid": {holder},', f'"pid": {other.pid},'),
            )
            store.commit()
        told = hvtx("explain", "8080", "--json").json()["evidence"]
        assert any(f"pid {other.pid}, has ended" in line for line in told), told
        assert {f["level"] for f in findings(hvtx, "damage")} == {"warning"}
        hvtx("vm", "stop", "web", "--timeout", "1")
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def limited(limit: str, *arguments: str, code: int = 0) -> str:
    """What the program says with a limit on open files, ``SOFT:HARD``."""
    enter = ["prlimit", f"--nofile={limit}", "--", sys.executable, "-m", "hvtx"]
    done = subprocess.run([*enter, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr[-2000:]
    return done.stderr


@pytest.mark.parametrize("limit", ["1024:4096", "4096:4096"])
def test_many_ports_take_more_files_than_are_usual(hvtx: Program, limit: str) -> None:
    """Two sockets each: the soft limit is raised for the holder, and is the usual one for the VM."""
    ports = [word for n in range(510) for word in ("-p", f"{20000 + n}:80")]
    limited(limit, "vm", "run", "web", "--network", "net", *ports, *SLEEP)
    holder = the_holder()
    assert len(os.listdir(f"/proc/{holder}/fd")) > 1020
    limits = Path(f"/proc/{hvtx.vm('web')['pid']}/limits").read_text()
    assert limits.partition("Max open files")[2].split()[0] == "1024"
    assert refused("tcp", Where("0.0.0.0"), 20509)
    lab.end(holder)
    limited(limit, "repair")
    assert refused("tcp", Where("::"), 20509)


def test_many_ports_of_a_vm_for_which_dnsmasq_starts_again(hvtx: Program) -> None:
    """Its address was another's. All that is asked of libnftables meanwhile is answered."""
    hvtx(
        "network", "create", "served", "--subnet", "10.78.0.0/24", "--subnet", "fd78::/64", "--dhcp"
    )
    names = ("--egress", "none", "--allow", "example.org")  # their table is written anew then
    hvtx("vm", "run", "named", "--network", "served", *names, *SLEEP)
    run(hvtx, "8080:80", network="served")
    hvtx("vm", "rm", "web", "--force")
    run(hvtx, "20000-20599:20000-20599", network="served")
    hvtx("vm", "set", "web", "--unpublish", "20000", "-p", "20600-20999:80-479/udp")
    for pid in holders():
        lab.end(pid)
    hvtx("repair")
    assert refused("tcp", Where("::"), 20599) and refused("udp", Where("0.0.0.0"), 20999)
    assert hvtx.is_clean()


def test_a_hard_limit_is_named_with_how_many_ports_it_lets(hvtx: Program) -> None:
    """Nothing is made; as many as it says can be had."""
    ports = [word for n in range(150) for word in ("-p", f"{20000 + n}:80")]
    with witness.undone():
        said = limited("256:256", "vm", "run", "web", "--network", "net", *ports, *SLEEP, code=6)
    assert "150 published ports are held by 300 sockets" in said
    assert "256 files open (the hard limit)" in said
    most = int(said.partition("at most ")[2].partition(" ")[0])
    assert 50 < most < 128
    limited("256:256", "vm", "run", "web", "--network", "net", *ports[: 2 * most], *SLEEP)
    assert refused("tcp", Where("0.0.0.0"), 20000 + most - 1)


def test_a_vm_from_before_holders_gets_one(hvtx: Program) -> None:
    """Its rows say nothing of any."""
    run(hvtx, "8080:80")
    lab.end(the_holder())
    with contextlib.closing(
        sqlite3.connect(Path(os.environ["HVTX_STATE_DIR"], "hvtx.db"))
    ) as store:
        store.execute("UPDATE resource SET observed = '{}' WHERE kind = 'publish'")
        store.commit()
    assert {f["level"] for f in findings(hvtx, "damage")} == {"warning"}
    hvtx("repair")
    assert refused("tcp", Where("0.0.0.0"))


def test_an_external_vms_port_is_held_until_it_is_stopped(hvtx: Program) -> None:
    """hvtx has no process of it to follow."""
    hvtx("vm", "create", "web", "--network", "net", "-p", "8080:80", "--hypervisor", "external")
    hvtx("vm", "start", "web")
    assert refused("tcp", Where("0.0.0.0"), options=REUSE)
    hvtx("vm", "stop", "web", "--force")
    assert holders() == []
    assert not refused("tcp", Where("0.0.0.0"))


@pytest.mark.parametrize("point", ["exchanged:nftables", "registered:kill:2", "let-go"])
def test_what_stays_is_held_when_a_change_of_others_was_killed(hvtx: Program, point: str) -> None:
    """Between the note of who has what stays alone, and his word; before it; and after."""
    run(hvtx, "8080:80", "8090:90")
    point = point if ":kill" in point else f"{point}:kill"
    change = ("vm", "set", "web", "--unpublish", "8090", "-p", "8070:70")
    hvtx(*change, code=-signal.SIGKILL, HVTX_FAILPOINT=point)
    hvtx("recover")
    assert refused("tcp", Where("0.0.0.0"))
    assert refused("tcp", Where("0.0.0.0"), 8070)
    assert not refused("tcp", Where("0.0.0.0"), 8090)
    assert hvtx.is_clean()


def test_connections_that_end_are_no_program(hvtx: Program) -> None:
    """A daemon that was there a moment ago left some in TIME_WAIT: the port is free, and held."""
    hvtx("vm", "create", "web", "--network", "net", "-p", "8080:80", *SLEEP)
    listener = daemon("tcp", Where("127.0.0.1"), options=[socket.SO_REUSEADDR])
    client = socket.create_connection(("127.0.0.1", 8080))
    served, _ = listener.accept()
    served.close()
    assert client.recv(1) == b""
    client.close()
    listener.close()
    hvtx("vm", "start", "web")
    for options in ((), *itertools.combinations(REUSE, 1), REUSE):
        assert refused("tcp", Where("0.0.0.0"), options=options), options


def test_it_answers_nobody(hvtx: Program) -> None:
    """What is not translated ([::1], or after a flush) is refused as before; nothing piles up."""
    run(hvtx, "8080:80", "8081:80/udp")
    lab.run("nft", "flush", "ruleset")
    for address in ("::1", "127.0.0.1"):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, 8080), timeout=20)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(100):
            sender.sendto(b"x" * 1000, ("127.0.0.1", 8081))
    queued = [
        line.split()[4] for line in Path("/proc/thread-self/net/udp").read_text().splitlines()[1:]
    ]
    assert {words.partition(":")[2] for words in queued} == {"00000000"}


def test_the_guest_is_reached_all_the_same(hvtx: Program, world: lab.Namespace) -> None:
    """TCP and UDP, from the world and from the host by 127.0.0.1."""
    program = str(Path(guest.__file__))
    hvtx("vm", "run", "web", "--network", "net", "-p", "8080:8000", "-p", "8080:8000/udp",
         "--", sys.executable, program)  # fmt: skip
    pid = hvtx.vm("web")["pid"]
    inside = ("nsenter", "-t", str(pid), "-U", "-n", "--preserve-credentials", "--")
    until("the guest is up", lambda: "10.77.0.2" in lab.run(*inside, "ip", "addr", check=False))
    served = [
        subprocess.Popen([*inside, sys.executable, "-c", _SERVE, protocol], stdout=-1)
        for protocol in KINDS
    ]
    try:
        for one in served:
            assert one.stdout is not None
            assert one.stdout.readline() == b"ready\n"
        for protocol, address in itertools.product(KINDS, (lab.HOST4, lab.HOST6)):
            assert world.run(sys.executable, "-c", _ASK, protocol, address) == "guest\n"
        for protocol in KINDS:
            assert lab.run(sys.executable, "-c", _ASK, protocol, "127.0.0.1") == "guest\n"
    finally:
        for one in served:
            one.kill()
            one.communicate()


@pytest.mark.parametrize(
    ("port", "network"),
    [
        ("8067:67/udp", "net"),
        ("8547:547/udp", "net"),
        ("203.0.113.1:8067:67/udp", "net"),
        ("[2001:db8::1]:8547:547/udp", "net"),
        ("8067:67/udp", "four"),
        ("8547:547/udp", "six"),
    ],
)
def test_a_guest_port_whose_answers_are_dropped_is_refused(
    hvtx: Program, port: str, network: str
) -> None:
    """A guest is no DHCP server, which its device's filter sees to: what would it answer by?"""
    hvtx("network", "create", "four", "--subnet", "10.78.0.0/24")
    hvtx("network", "create", "six", "--subnet", "fd78::/64")
    with witness.undone():
        said = hvtx("vm", "create", "web", "--network", network, "-p", port, *SLEEP, code=2).err
    assert "DHCP" in said
    assert "hint: let the guest serve it on another port" in said
    fine = {
        "67": ("8067:67", "[2001:db8::1]:8067:67/udp"),
        "547": ("8547:547", "203.0.113.1:8547:547/udp"),
    }
    guest_port = port.rpartition(":")[2].partition("/")[0]
    for number, other in enumerate(fine[guest_port] if network == "net" else ()):
        hvtx("vm", "create", f"fine{number}", "--network", "net", "-p", other, *SLEEP)


def test_ports_beside_those_are_answered(hvtx: Program, world: lab.Namespace) -> None:
    """DHCP clients' ports, and a server's in the other family."""
    ports = (
        "8068:68/udp",
        "8546:546/udp",
        f"[{lab.HOST6}]:8067:67/udp",
        f"{lab.HOST4}:8547:547/udp",
    )
    published = [word for port in ports for word in ("-p", port)]
    program = str(Path(guest.__file__))
    hvtx("vm", "run", "web", "--network", "net", *published, "--", sys.executable, program)
    pid = hvtx.vm("web")["pid"]
    inside = ("nsenter", "-t", str(pid), "-n", "--")  # as root: ports below 1024
    until("the guest is up", lambda: "fd77::2" in lab.run(*inside, "ip", "-6", "addr", check=False))
    serve = _SERVE.replace('s.bind(("::", 8000))', 's.bind(("::", int(sys.argv[2])))')
    served = [
        subprocess.Popen([*inside, sys.executable, "-c", serve, "udp", port], stdout=-1)
        for port in ("68", "546", "67", "547")
    ]
    try:
        for one in served:
            assert one.stdout is not None
            assert one.stdout.readline() == b"ready\n"
        both = [(p, a) for p in ("8068", "8546") for a in (lab.HOST4, lab.HOST6)]
        for port, address in (*both, ("8067", lab.HOST6), ("8547", lab.HOST4)):
            ask = _ASK.replace("8080", port)
            assert world.run(sys.executable, "-c", ask, "udp", address) == "guest\n", port
    finally:
        for one in served:
            one.kill()
            one.communicate()


_SERVE = """
import contextlib, socket, sys
kind = socket.SOCK_STREAM if sys.argv[1] == "tcp" else socket.SOCK_DGRAM
s = socket.socket(socket.AF_INET6, kind)
s.setsockopt(41, 26, 0)
s.bind(("::", 8000))
if sys.argv[1] == "tcp":
    s.listen()
print("ready", flush=True)
while True:
    if sys.argv[1] == "tcp":
        c, _ = s.accept()
        with c, contextlib.suppress(OSError):  # who gave up meanwhile reset the connection
            c.sendall(b"guest")
    else:
        _, who = s.recvfrom(100)
        with contextlib.suppress(OSError):
            s.sendto(b"guest", who)
"""
_ASK = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[2] else socket.AF_INET
kind = socket.SOCK_STREAM if sys.argv[1] == "tcp" else socket.SOCK_DGRAM
for _ in range(10):
    s = socket.socket(family, kind)
    s.settimeout(2)
    try:
        s.connect((sys.argv[2], 8080))
        if sys.argv[1] == "udp":
            s.send(b"?")
        print(s.recv(100).decode())
        break
    except OSError:
        s.close()
"""


@pytest.mark.parametrize("point", ["acted:filter", "spawned", "registered", "opened", "up"])
def test_killed_in_the_middle_of_a_start(hvtx: Program, point: str) -> None:
    """`recover` undoes the start and nobody holds the port, or completes it and the port is held."""
    hvtx("vm", "create", "web", "--network", "net", "-p", "8080:80", *SLEEP)
    hvtx("vm", "start", "web", code=-signal.SIGKILL, HVTX_FAILPOINT=f"{point}:kill")
    hvtx("recover")
    state = hvtx.vm("web")["state"]
    assert state == ("running" if point in ("opened", "up") else "defined")
    if state == "running":
        assert refused("tcp", Where("0.0.0.0"), options=REUSE)
        the_holder()
        hvtx("vm", "stop", "web", "--timeout", "1")
    until("no holder", lambda: holders() == [])
    hvtx("vm", "start", "web")  # also right after the kill, while a holder still goes away
    assert refused("tcp", Where("0.0.0.0"), options=REUSE)
    assert hvtx.is_clean()


AHEAD = ["holding", "intended", "acted:tap", "acted:filter", "registered"]


@pytest.mark.parametrize("point", AHEAD)
@pytest.mark.parametrize("how", ["kill", "error"])
def test_a_holder_that_is_on_record_with_the_rows(hvtx: Program, point: str, how: str) -> None:
    """Of a VM that hvtx does not start: it goes with the start, wherever that ends."""
    external = ("--hypervisor", "external")
    hvtx("vm", "create", "web", "--network", "net", "-p", "8080:80", *external)
    code = -signal.SIGKILL if how == "kill" else None
    hvtx("vm", "start", "web", code=code, HVTX_FAILPOINT=f"{point}:{how}")
    until("no holder", lambda: holders() == [])
    hvtx("recover")
    assert hvtx.vm("web")["state"] == "defined"
    hvtx("vm", "start", "web")
    assert refused("tcp", Where("0.0.0.0"), options=REUSE)
    the_holder()
    hvtx("vm", "stop", "web", "--force")
    until("no holder", lambda: holders() == [])
    assert hvtx.is_clean()


@pytest.mark.parametrize("point", ["spawned", "registered", "opened", "up"])
def test_a_start_that_fails_lets_go_of_the_port(hvtx: Program, point: str) -> None:
    """Undone: the holder too."""
    hvtx("vm", "create", "web", "--network", "net", "-p", "8080:80", *SLEEP)
    hvtx("vm", "start", "web", code=6, HVTX_FAILPOINT=f"{point}:error")
    assert holders() == []
    assert not refused("tcp", Where("0.0.0.0"))


def test_a_holder_gives_up_its_starters_things(hvtx: Program) -> None:
    """It keeps no file of hvtx's open, no directory busy, and is no part of its session."""
    run(hvtx, "8080:80")
    holder = the_holder()
    until("its directory", lambda: os.readlink(f"/proc/{holder}/cwd") == "/")
    until("its name", lambda: Path(f"/proc/{holder}/comm").read_text() == "hvtx-port\n")
    opened = {os.readlink(f"/proc/{holder}/fd/{n}") for n in os.listdir(f"/proc/{holder}/fd")}
    state = os.environ["HVTX_STATE_DIR"]
    assert not [path for path in opened if state in path], opened
    assert os.getsid(holder) == holder
    assert Path(f"/proc/{holder}/environ").read_bytes() == b"LC_ALL=C\0"


# What held ports before Perl did, to the letter: one of these may still live when hvtx is newer.
FORMER = (
    "-I",
    "-S",
    "-c",
    """
import os, select, sys
import _signal as signal
if os.read(0, 3) == b"go\\n":
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    with open("/proc/self/comm", "w") as name:
        name.write(sys.argv[1])
    wait = select.poll()
    if sys.argv[2] != "-":
        wait.register(int(sys.argv[2]), select.POLLIN)
    wait.poll()
""",
    "hvtx-port",
)


def is_former(pid: int) -> bool:
    """Whether a holder is one of an earlier hvtx's."""
    return procfs.command_line(pid)[1:6] == FORMER


@pytest.fixture
def former(hvtx: Program) -> Program:
    """The program with a VM whose ports are held as an earlier version did it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(port_programs, "PERL", "/usr/bin/no-perl")
        run(hvtx, "8080:80", "8081:80/udp")
    holder = the_holder()
    assert is_former(holder)
    return hvtx


def test_a_former_holder_is_known_and_ended(former: Program) -> None:
    """It holds; nothing is wrong with it; the VM's stop ends it, the next start has one of today."""
    holder = the_holder()
    assert [f["level"] for f in findings(former, "damage")] == ["ok"]
    told = former("explain", "8080", "--json").json()["evidence"]
    assert any(f"held by pid {holder}" in line for line in told), told
    assert former("repair", "--json").json()["repaired"] == []
    assert holders() == [holder]
    former("vm", "restart", "web", "--timeout", "1")
    again = the_holder()
    assert not is_former(again)
    assert refused("tcp", Where("0.0.0.0"), options=REUSE)
    assert refused("udp", Where("0.0.0.0"), 8081, options=REUSE)


def test_a_former_holder_goes_with_its_vm_and_is_collected(former: Program) -> None:
    """By itself when the VM dies; by `gc` where it is stopped."""
    holder = the_holder()
    os.kill(holder, signal.SIGSTOP)
    lab.end(former.vm("web")["pid"])
    former("gc", "--apply")
    assert holders() == []
    assert former.is_clean()


def test_a_former_holders_sockets_are_taken_over(former: Program) -> None:
    """A port that goes takes nothing from the one that stays."""
    former("vm", "set", "web", "--unpublish", "8081/udp")
    holder = the_holder()
    assert not is_former(holder)
    assert refused("tcp", Where("0.0.0.0"), options=REUSE)
    assert not refused("udp", Where("0.0.0.0"), 8081)
    lab.end(former.vm("web")["pid"])
    until("its end", lambda: holders() == [])


def test_without_perl_python_holds(hvtx: Program) -> None:
    """A program that is none in its place: the start has no other outcome."""
    hide = '[ ! -e $0 ] || mount --bind /dev/null $0 || exit 1; exec "$@"'
    inside = ("unshare", "--mount", "--propagation", "private", "sh", "-c", hide)
    enter = [*inside, port_programs.PERL, sys.executable, "-m", "hvtx"]
    hvtx("vm", "create", "web", "--network", "net", "-p", "8080:80", *SLEEP)
    subprocess.run([*enter, "vm", "start", "web"], check=True)
    holder = the_holder()
    assert os.readlink(f"/proc/{holder}/exe") == os.path.realpath(sys.executable)
    until("its name", lambda: Path(f"/proc/{holder}/comm").read_text() == "hvtx-port\n")
    assert refused("tcp", Where("0.0.0.0"), options=REUSE)
    lab.end(hvtx.vm("web")["pid"])
    until("its end", lambda: holders() == [])


@pytest.mark.parametrize("script", ["exit 127", "read word; exit 127"])
def test_an_interpreter_that_does_not_run_is_told(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As what it is, at once or once it is told to stay: nobody killed it."""
    broken = tmp_path / "perl"
    broken.write_text(f"#!/bin/sh\n{script}\n")
    broken.chmod(0o755)
    monkeypatch.setattr(port_programs, "PERL", str(broken))
    held = portholder.hold([Publish("tcp", None, 8080, 80)])
    with pytest.raises(HostRefused, match="has ended with exit code 127") as told:
        holder = portholder.spawn(held, None, ["web"])
        holder.open()
        assert procfs.wait_gone(holder.identity, 30)
        holder.confirm()
    assert told.value.hint == f"see what is wrong with its program: {broken} -e 1"
    assert not refused("tcp", Where("0.0.0.0"))
