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
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from hvtx.host import procfs
from integration import guest, lab, vms, witness
from integration.program import Program
from integration.vms import SLEEP, findings

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


def until(seen: object, what: str) -> None:
    """Wait until ``seen()``, at most 20 s."""
    deadline = time.monotonic() + 20
    while not seen():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


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
    """What hvtx holds itself is no stranger's socket, neither at create nor at a restart."""
    run(hvtx, "8080:80", "53:53/udp")
    said = hvtx("vm", "create", "two", "--network", "net", "-p", "8080:80", *SLEEP, code=4).err
    assert "published for VM 'web'" in said
    hvtx("vm", "restart", "web", "--timeout", "1")
    assert refused("tcp", Where("0.0.0.0"))
    assert len(holders()) == 1
    assert [f["level"] for f in findings(hvtx, "damage")] == ["ok"]
    told = hvtx("explain", "53/udp", "--json").json()
    assert (told["owner"], told["vm"]) == ("hvtx", "web")
    assert any(f"held by pid {holders()[0]}" in line for line in told["evidence"]), told


def test_it_ends_with_its_vm_and_by_itself(hvtx: Program) -> None:
    """Nobody runs hvtx: the port is free for all that when the VM has died."""
    run(hvtx, "8080:80")
    (holder,) = holders()
    lab.end(hvtx.vm("web")["pid"])
    until(lambda: procfs.look(holder).ended or not procfs.look(holder).exists, "it goes on")
    assert not refused("tcp", Where("0.0.0.0"))
    hvtx("gc", "--apply")
    hvtx("vm", "start", "web")
    assert refused("tcp", Where("0.0.0.0"))


def test_a_holder_that_was_killed_is_told_of_and_comes_back(hvtx: Program) -> None:
    """By doctor (nothing is cut off: a warning), and with `repair`."""
    run(hvtx, "8080:80", "8081:80/udp")
    lab.end(holders()[0])
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
    (again,) = holders()
    lab.end(hvtx.vm("web")["pid"])
    until(lambda: procfs.look(again).ended or not procfs.look(again).exists, "it goes on")


def test_who_took_a_port_meanwhile_is_named_and_the_others_are_held(hvtx: Program) -> None:
    """`repair` holds what can be had, and exits with 9."""
    run(hvtx, "8080:80", "8081:80")
    lab.end(holders()[0])
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


def test_a_vm_from_before_holders_gets_one(hvtx: Program) -> None:
    """Its rows say nothing of any."""
    run(hvtx, "8080:80")
    lab.end(holders()[0])
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
    until(lambda: "10.77.0.2" in lab.run(*inside, "ip", "addr", check=False), "the guest is up")
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


_SERVE = """
import socket, sys
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
        c.sendall(b"guest")
        c.close()
    else:
        _, who = s.recvfrom(100)
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
        assert len(holders()) == 1
        hvtx("vm", "stop", "web", "--timeout", "1")
    until(lambda: holders() == [], "a holder stays")
    hvtx("vm", "start", "web")  # also right after the kill, while a holder still goes away
    assert refused("tcp", Where("0.0.0.0"), options=REUSE)
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
    (holder,) = holders()
    opened = {os.readlink(f"/proc/{holder}/fd/{n}") for n in os.listdir(f"/proc/{holder}/fd")}
    until(lambda: os.readlink(f"/proc/{holder}/cwd") == "/", "its directory")
    state = os.environ["HVTX_STATE_DIR"]
    assert not [path for path in opened if state in path], opened
    assert os.getsid(holder) == holder
    until(lambda: Path(f"/proc/{holder}/comm").read_text() == "hvtx-port\n", "its name")
