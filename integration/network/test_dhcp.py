"""DHCP, router advertisements and DNS of a network: real packets from guests that know nothing.

Guests are `integration/lab/guest.py --bare`, clients `integration/lab/dhcp.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from hvtx import Host
from hvtx.commands import vm_create
from hvtx.drivers.dnsmasq import serving
from hvtx.host import pids
from hvtx.host.logger import SIGNATURE
from hvtx.model.attachment import AttachmentKey, AttachmentRequest, TapRequest
from integration import lab
from integration.boot.test_reboots import Booted, forget_everything
from integration.lab import HOST4, HOST6, witness
from integration.lab.processes import stopped_with_lock_of
from integration.lab.program import Forked, Program, preload
from integration.lab.services import services
from integration.lab.vms import end_vms, findings
from integration.lab.waiting import until

LAB = Path(__file__).parents[1] / "lab"
BOTH = ("--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")


@pytest.fixture(params=["nftables", "iptables"])
def hvtx(request: pytest.FixtureRequest) -> Iterator[Program]:
    """The program, with DHCP as a new installation has it."""
    preload()
    program = Forked(HVTX_FIREWALL=str(request.param), HVTX_DHCP="auto")
    yield program
    end(program)


@pytest.fixture
def one() -> Iterator[Program]:
    """The same on one backend, for what no rule has a part in."""
    preload()
    program = Forked(HVTX_DHCP="auto")
    yield program
    end(program)


def end(program: Program) -> None:
    end_vms(program)
    for pid in services():
        lab.end(pid)


def network(program: Program, *more: str, name: str = "net", mtu: str = "1400") -> dict[str, Any]:
    made = program("network", "create", name, *(more or BOTH), "--mtu", mtu, "--json")
    return made.json()


def start(program: Program, name: str, *more: str, on: str = "net") -> Guest:
    guest = (sys.executable, str(LAB / "guest.py"), "--bare")
    program("vm", "run", name, "--network", on, *more, "--hypervisor", "command", "--", *guest)
    return Guest(program, name)


class Guest:
    """A VM that was told nothing, from inside."""

    def __init__(self, program: Program, name: str) -> None:
        self.shown = program.vm(name)
        self.pid = int(self.shown["pid"])
        first = self.shown["interfaces"][0]
        self.ipv4, self.ipv6 = first["ipv4"], first["ipv6"]
        until(
            "a guest that is ready", lambda: "the guest is ready" in program("vm", "logs", name).out
        )

    def run(self, *argv: str, check: bool = True) -> str:
        return lab.run("nsenter", "-t", str(self.pid), "-n", "--", *argv, check=check)

    def does(self, *argv: str) -> Any:
        """What a client of the lab's is told."""
        return json.loads(self.run(sys.executable, str(LAB / "dhcp.py"), *argv))

    def take(self) -> None:
        """Take the address that it is given."""
        given = self.does("four", "eth0")
        self.run("ip", "addr", "add", f"{given['address']}/{given['mask']}", "dev", "eth0")

    def link(self) -> None:
        until(
            "the end of duplicate detection",
            lambda: not self.run("ip", "-6", "addr", "show", "tentative"),
        )


# -- what a guest gets -----------------------------------------------------------------------------


def test_a_guest_gets_address_route_mtu_and_names_over_ipv4(hvtx: Program) -> None:
    assert network(hvtx)["dhcp"] is True
    web = start(hvtx, "web")
    assert web.does("four", "eth0", "evil") == {
        "type": "ack", "address": web.ipv4, "mask": "255.255.255.0", "router": "10.77.0.1",
        "dns": "10.77.0.1", "host": "web", "domain": "lan", "mtu": 1400, "search": "036c616e00",
        "seconds": 43200,
    }  # fmt: skip
    web.run("ip", "addr", "add", f"{web.ipv4}/24", "dev", "eth0")
    for name in ("web", "web.lan"):
        told = web.does("ask", "10.77.0.1", name, "A")
        assert told == {"code": 0, "addresses": [web.ipv4]}, name
    assert web.does("ask", "10.77.0.1", "evil.lan", "A") == {"code": 3, "addresses": []}


def test_a_guest_that_does_not_ask_for_the_mtu_is_told_it(one: Program) -> None:
    """As busybox' udhcpc, which takes it all the same; the other options are for who asks."""
    network(one)
    told = start(one, "web").does("frugal", "eth0")
    assert (told["type"], told["mtu"], told["search"]) == ("offer", 1400, "")


def test_a_guest_gets_the_same_over_ipv6(hvtx: Program) -> None:
    network(hvtx)
    web = start(hvtx, "web")
    web.link()
    told = web.does("six", "eth0")
    assert told.pop("server")
    assert told == {"addresses": [web.ipv6], "dns": ["fd77::1"], "search": "036c616e00"}
    until("a route", lambda: "mtu 1400" in web.run("ip", "-6", "route", "show", "default"))
    route = web.run("ip", "-6", "route", "show", "default")
    assert "via fe80:" in route
    assert "proto ra" in route
    web.run("ip", "addr", "add", f"{web.ipv6}/64", "dev", "eth0", "nodad")
    told = web.does("ask", "fd77::1", "web.lan", "AAAA")
    assert told == {"code": 0, "addresses": [web.ipv6]}


@pytest.mark.parametrize("subnet", ["10.77.0.0/24", "fd77::/64", "fd77::/48", "fd77::/112"])
def test_networks_of_one_family(one: Program, subnet: str) -> None:
    network(one, "--subnet", subnet)
    web = start(one, "web")
    if web.ipv4:
        assert web.does("four", "eth0")["address"] == web.ipv4
    else:
        web.link()
        assert web.does("six", "eth0")["addresses"] == [web.ipv6]
        until("a route", lambda: web.run("ip", "-6", "route", "show", "default"))


def test_an_address_that_dhcp_would_never_give_is_refused(one: Program) -> None:
    """DHCPv6 serves the first /64 of a wider network; what a guest is told otherwise may be any."""
    network(one, "--subnet", "10.77.0.0/24", "--subnet", "fd77::/48")
    far = "fd77:0:0:5::9"
    before = lab.dump()
    for verb in ("create", "run"):
        said = one(
            "vm", verb, "web", "--network", "net", "--ip", far, "--", "sleep", "9", code=2
        ).err
        assert f"{far} cannot be given by DHCPv6: network 'net' gives what is in fd77::/64" in said
    assert lab.difference(before, lab.dump()) == ""
    web = start(one, "web", "--ip", "fd77::9", "--ip", far)  # the second is the guest's own matter
    web.link()
    assert web.does("six", "eth0")["addresses"] == ["fd77::9"]
    assert [found["level"] for found in findings(one, "dhcp")] == ["ok"]
    network(one, "--subnet", "fd78::/48", "--no-dhcp", name="bare")
    one("vm", "create", "two", "--network", "bare", "--ip", "fd78:0:0:5::9", "--", "sleep", "9")
    said = one("network", "set", "bare", "--dhcp", code=4).err
    assert "can give what is in fd78::/64 by DHCPv6, and VMs have other addresses: two" in said
    one("vm", "rm", "two")
    one("network", "set", "bare", "--dhcp")


def test_an_address_that_an_earlier_version_leased_and_dhcp_never_gives_is_told(
    one: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    network(one, "--subnet", "fd77::/48")
    with monkeypatch.context() as patch:
        patch.setattr(vm_create, "refuse_never_given", lambda *_: None)
        web = start(one, "web", "--ip", "fd77:0:0:5::9")
    web.link()
    assert web.does("six", "eth0")["addresses"] == []
    [told] = findings(one, "dhcp")
    assert (told["level"], told["evidence"]) == ("warning", ["web fd77:0:0:5::9"])
    assert told["message"] == "network net gives what is in fd77::/64 by DHCPv6, and no more"


def test_the_gateway_tells_the_host_and_other_guests_of_a_vm(one: Program) -> None:
    network(one)
    web, two = start(one, "web"), start(one, "two")
    two.take()
    assert two.does("ask", "10.77.0.1", "web", "A")["addresses"] == [web.ipv4]
    told = lab.run(sys.executable, str(LAB / "dhcp.py"), "ask", "10.77.0.1", "web.lan", "AAAA")
    assert json.loads(told)["addresses"] == [web.ipv6]
    one("vm", "stop", "web", "--force")
    assert two.does("ask", "10.77.0.1", "web.lan", "A")["code"] == 3


@pytest.mark.parametrize("name", ["localhost", "ip6-localhost"])
def test_a_vm_called_as_every_guest_calls_itself_is_given_to_nobody(
    one: Program, name: str
) -> None:
    network(one)
    called, two = start(one, name), start(one, "two")
    two.take()
    assert called.does("four", "eth0")["address"] == called.ipv4
    for asked_for in (name, f"{name}.lan", f"x.{name}.lan"):
        for kind in ("A", "AAAA"):
            answer = two.does("ask", "10.77.0.1", asked_for, kind)
            assert (answer["code"], answer["addresses"]) == (3, []), asked_for
    ptr = ".".join(reversed(called.ipv4.split("."))) + ".in-addr.arpa"
    assert two.does("ask", "10.77.0.1", ptr, "PTR")["code"] == 3
    assert two.does("ask", "10.77.0.1", "two", "A")["addresses"] == [two.ipv4]
    assert [found["level"] for found in findings(one, "dhcp")] == ["ok"]
    assert one("repair").out == "nothing is missing\n"


def test_the_name_of_a_vm_goes_with_it_whatever_its_guest_was_given(hvtx: Program) -> None:
    """dnsmasq finds a lease's name in the files, and has it as long as the lease."""
    network(hvtx)
    web, two = start(hvtx, "web"), start(hvtx, "two")
    web.take()
    two.take()
    web.link()
    assert web.does("six", "eth0")["addresses"] == [web.ipv6]
    hvtx("vm", "stop", "web", "--force")
    ask = ("ask", "10.77.0.1", "web.lan")
    until("no such name", lambda: two.does(*ask, "A")["code"] == 3)
    assert two.does(*ask, "AAAA")["code"] == 3
    behind = ".".join(reversed(web.ipv4.split("."))) + ".in-addr.arpa"
    assert two.does("ask", "10.77.0.1", behind, "PTR")["code"] == 3
    assert two.does("ask", "10.77.0.1", "two.lan", "A")["addresses"] == [two.ipv4]
    assert two.does("reboot", "eth0", two.ipv4)["type"] == "ack"
    hvtx("vm", "start", "web")
    assert Guest(hvtx, "web").does("four", "eth0")["address"] == web.ipv4


def test_who_has_an_address_of_the_network_is_asked_nobody_else(
    one: Program, world: lab.Namespace
) -> None:
    """Private addresses have names here alone: a resolver upstream would learn who is asked for."""
    network(one)
    web = start(one, "web")
    web.take()
    ptr = "{}.0.77.10.in-addr.arpa"
    last = int(web.ipv4.rpartition(".")[2])
    told = [web.does("ask", "10.77.0.1", ptr.format(n), "PTR") for n in (1, last, 200)]
    assert [answer and answer["code"] for answer in told] == [3, 0, 3]
    six = ".".join("1" + "0" * 27 + "77df") + ".ip6.arpa"
    assert web.does("ask", "10.77.0.1", six, "PTR")["code"] == 3


def test_below_a_directory_of_the_kernels_memory(
    one: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/dev/shm is a directory like any other, and the way to a run directory in it as closed."""
    place = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="hvtx-test-"))
    try:
        monkeypatch.setenv("HVTX_RUN_DIR", str(place / "run"))
        there = Forked(HVTX_DHCP="auto")
        network(there)
        web = start(there, "web")
        assert web.does("four", "eth0")["address"] == web.ipv4
        there("vm", "rm", "--force", "web")
        there("network", "rm", "net")
    finally:
        shutil.rmtree(place)


def test_another_run_directory_than_the_networks_is_refused_before_anything_changes(
    one: Program, tmp_path: Path
) -> None:
    """Its locks are not those of the others, and what serves the network has its files there."""
    network(one)
    start(one, "web")
    used, other = os.environ["HVTX_RUN_DIR"], tmp_path / "other"
    other.mkdir(mode=0o700)
    with witness.unchanged():
        for words in (
            ("vm", "restart", "web"), ("vm", "stop", "web"), ("vm", "rm", "web", "--force"),
            ("vm", "create", "new", "--network", "net", "--", "sleep", "9"), ("gc", "--apply"),
            ("recover",), ("repair",), ("network", "rm", "net"),
        ):  # fmt: skip
            said = one("--run-dir", str(other), *words, code=4).err
            assert f"in the run directory {used}, not in {other}" in said, said
            assert f"--run-dir {used} before the command" in said
        assert list(other.iterdir()) == []
    one("vm", "rm", "web", "--force")
    one("network", "rm", "net")
    one(
        "--run-dir", str(other), "network", "create", "net2", "--subnet", "10.99.0.0/24"
    )  # nothing lives there any more
    one("--run-dir", str(other), "network", "rm", "net2")


def test_nobody_beyond_its_bridge_is_answered(hvtx: Program, world: lab.Namespace) -> None:
    """Neither from outside, where a forged source would make it a reflector, nor other networks."""
    network(hvtx)
    network(hvtx, "--subnet", "10.78.0.0/24", name="two")
    web, other = start(hvtx, "web"), start(hvtx, "other", on="two")
    web.link()
    other.take()
    other.run("ip", "route", "add", "default", "via", "10.78.0.1")
    world.run("ip", "route", "add", "10.77.0.0/24", "via", HOST4)
    world.run("ip", "-6", "route", "add", "fd77::/64", "via", HOST6)
    for server in ("10.77.0.1", "fd77::1"):
        assert asked(lab.run, server) == [web.ipv4], "the host itself is"
        assert asked(world.run, server) is None
    assert asked(other.run, "10.77.0.1") is None
    assert asked(lab.run, "10.77.0.1", "tcp") == [web.ipv4]
    assert asked(world.run, "10.77.0.1", "tcp") is None


def asked(run: Callable[..., str], server: str, *more: str) -> list[str] | None:
    told = json.loads(run(sys.executable, str(LAB / "dhcp.py"), "ask", server, "web", "A", *more))
    return told and told["addresses"]


@pytest.mark.parametrize("name", ["infinite", "ignore", "1h", "42", "id", "net"])
def test_a_name_that_dnsmasq_has_another_use_for(one: Program, name: str) -> None:
    network(one)
    told = start(one, name).does("four", "eth0")
    assert (told["type"], told["host"], told["seconds"]) == ("ack", name, 43200)


def test_who_has_no_address_on_record_gets_none(one: Program) -> None:
    network(one)
    web = start(one, "web")
    web.run("ip", "link", "add", "other", "link", "eth0", "type", "macvlan")
    web.run("ip", "link", "set", "other", "up")
    assert web.does("four", "other") is None


def test_a_guest_does_not_speak_for_another(hvtx: Program) -> None:
    """Who says for another that its address is taken would keep it from one for ten minutes."""
    network(hvtx, "--subnet", "10.77.0.0/24")
    web, other = start(hvtx, "web"), start(hvtx, "other")
    victim = web.shown["interfaces"][0]["mac"]
    other.does("decline", "eth0", web.ipv4, victim)
    assert (web.does("four", "eth0") or {}).get("address") == web.ipv4
    other.take()
    other.does("decline", "eth0", web.ipv4, victim)
    assert (web.does("four", "eth0") or {}).get("address") == web.ipv4


def test_a_guest_is_known_by_its_mac_whatever_it_says_of_itself(hvtx: Program) -> None:
    """dnsmasq would give the lease of a client id to whoever asks with it, and refuse the other."""
    network(hvtx)
    web, other = start(hvtx, "web"), start(hvtx, "other")
    mac = web.shown["interfaces"][0]["mac"]
    chosen = "01" + mac.replace(":", "")  # as most clients do
    assert web.does("client", "eth0", chosen)["address"] == web.ipv4
    assert other.does("client", "eth0", chosen)["address"] == other.ipv4
    again = web.does("client", "eth0", chosen, web.ipv4)
    assert (again["type"], again["address"]) == ("ack", web.ipv4)
    assert other.does("client", "eth0", chosen, web.ipv4)["type"] == "nak", "it is not its own"
    assert web.does("client", "eth0", chosen, web.ipv4)["type"] == "ack"
    for guest in (web, other):
        guest.link()
    given = web.does("six", "eth0")
    assert given["addresses"] == [web.ipv6]
    assert other.does("six", "eth0", mac)["addresses"] == [other.ipv6]
    assert other.does("release", "eth0", mac, web.ipv6, given["server"]) is not None
    assert web.does("six", "eth0")["addresses"] == [web.ipv6]


# -- reservations come and go ----------------------------------------------------------------------


def test_an_address_stays_over_stop_start_and_the_end_of_dnsmasq(one: Program) -> None:
    network(one)
    web = start(one, "web")
    first, pid = web.does("four", "eth0"), services()
    one("vm", "stop", "web", "--force")
    one("vm", "start", "web")
    web = Guest(one, "web")
    assert web.does("reboot", "eth0", web.ipv4) == first
    assert services() == pid, "dnsmasq was started again for nothing"


def test_the_next_owner_of_an_address_gets_it_and_a_third_is_not_disturbed(one: Program) -> None:
    network(one)
    old, third = start(one, "old"), start(one, "third")
    assert old.does("four", "eth0")["address"] == old.ipv4
    assert third.does("four", "eth0")["address"] == third.ipv4
    before = services()
    one("vm", "rm", "old", "--force")
    assert services() == before, "nobody has the address yet"
    new = start(one, "new", "--ip", old.ipv4)
    assert services() != before
    assert new.does("four", "eth0")["address"] == old.ipv4
    assert third.does("reboot", "eth0", third.ipv4)["type"] == "ack"
    third.link()
    assert third.does("six", "eth0")["addresses"] == [third.ipv6]
    assert one.is_clean()
    assert "not on record" not in one("log").out, "the one that was ended was on record"


def test_a_mac_that_another_vm_had_gets_the_new_address(one: Program) -> None:
    network(one)
    mac = "02:00:00:00:00:07"
    start(one, "old", "--mac", mac, "--ip", "10.77.0.50").does("four", "eth0")
    one("vm", "rm", "old", "--force")
    new = start(one, "new", "--mac", mac, "--ip", "10.77.0.60")
    assert new.does("four", "eth0")["address"] == "10.77.0.60"


def test_many_vms_that_go_start_dnsmasq_again_once(one: Program) -> None:
    network(one)
    for n in range(12):
        one(
            "vm",
            "run",
            f"vm{n}",
            "--network",
            "net",
            "--hypervisor",
            "command",
            "--",
            "sleep",
            "99",
        )
    before = services()
    for n in range(12):
        lab.end(one.vm(f"vm{n}")["pid"])
    one("gc", "--apply")
    for n in range(12):
        one("vm", "rm", f"vm{n}")
    assert services() == before
    for n in range(12):
        one(
            "vm",
            "run",
            f"new{n}",
            "--network",
            "net",
            "--hypervisor",
            "command",
            "--",
            "sleep",
            "99",
        )
    assert restarts(one) == 1


def restarts(program: Program) -> int:
    """How often the network's dnsmasq was started again, by its row."""
    import sqlite3

    path = Path(os.environ["HVTX_STATE_DIR"]) / "hvtx.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as store:
        found = store.execute(
            "SELECT observed FROM resource WHERE kind = 'process' AND vm IS NULL"
        ).fetchone()
    return int(json.loads(found[0]).get("restarts", 0))


# -- the process -----------------------------------------------------------------------------------


def test_it_is_unprivileged_alone_and_on_its_bridge_only(one: Program) -> None:
    shown = network(one)
    [pid] = services()
    told = one("explain", f"pid {pid}", "--json").json()
    assert (told["owner"], told["key"]) == ("hvtx", "dnsmasq net")
    status = Path(f"/proc/{pid}/status").read_text()
    assert "Uid:\t0" not in status
    capabilities = int(status.split("CapEff:\t")[1].split()[0], 16)
    assert capabilities & ~((1 << 10) | (1 << 12) | (1 << 13)) == 0, "binding, network, raw"
    assert os.getsid(pid) == pid
    assert "--no-dhcp" not in shown["name"]
    listening = lab.run("ss", "-Hlntu")
    assert "0.0.0.0:53" not in listening
    assert "127.0.0.1:53" not in listening
    assert f"0.0.0.0%{shown['bridge']}:67" in listening


def test_nothing_is_left_of_it_with_the_network(one: Program) -> None:
    network(one)
    start(one, "web")
    one("vm", "rm", "web", "--force")
    one("network", "rm", "net")
    assert services() == []
    run = Path(os.environ["HVTX_RUN_DIR"])
    assert not [p for p in run.rglob("*") if "dnsmasq" in p.name or p.parent.name == "networks"]


def test_a_killed_one_is_named_and_repaired(one: Program) -> None:
    network(one)
    web = start(one, "web")
    [pid] = services()
    lab.end(pid)
    assert ("skip", "lost") in one.reasons("process", "dnsmasq net")
    assert [f["message"] for f in findings(one, "damage")] == ["process dnsmasq net: it was gone"]
    told = one("repair", "--json").json()
    assert [(r["kind"], r["key"]) for r in told["repaired"]] == [("process", "dnsmasq net")]
    assert web.does("four", "eth0")["address"] == web.ipv4
    assert one.is_clean()


def test_a_killed_logger_is_named_and_repaired(one: Program) -> None:
    """What dnsmasq has to say would go to syslog from then on, and guests have it say much."""
    network(one)
    web = start(one, "web")
    [before] = services()
    [log] = Path(os.environ["HVTX_RUN_DIR"]).glob("*/networks/*/log")
    own = (SIGNATURE, str(log))
    [keeper] = [pid for pid in pids.numbers() if serving._words(pid)[3:5] == own]
    lab.end(keeper)
    [told] = findings(one, "damage")
    assert (told["level"], told["hint"]) == ("warning", "hvtx repair")
    assert told["message"] == f"process dnsmasq net: {serving.UNLOGGED}"
    one("repair")
    [after] = services()
    assert after != before
    assert [found["level"] for found in findings(one, "damage")] == ["ok"]
    size = log.stat().st_size
    os.kill(after, signal.SIGUSR1)  # it says how much it has been asked
    until("its words are in the log", lambda: log.stat().st_size > size)
    assert web.does("four", "eth0")["address"] == web.ipv4
    assert one.is_clean()


def test_a_bridge_that_is_made_again_is_served(one: Program) -> None:
    shown = network(one)
    lab.run("ip", "link", "del", shown["bridge"])
    one("repair")
    web = start(one, "web")
    assert web.does("four", "eth0")["address"] == web.ipv4
    web.link()
    assert web.does("six", "eth0")["addresses"] == [web.ipv6]
    web.take()
    assert web.does("ask", "10.77.0.1", "web", "A")["addresses"] == [web.ipv4]


def test_a_start_finds_a_killed_one_and_starts_it_again(one: Program) -> None:
    network(one)
    lab.end(services()[0])
    web = start(one, "web")
    assert web.does("four", "eth0")["address"] == web.ipv4


def test_recover_starts_a_killed_one_again(one: Program) -> None:
    """Who starts one again may be killed between the end of the old and the record of the new."""
    network(one)
    web = start(one, "web")
    lab.end(services()[0])
    assert "the dnsmasq of network net is started again: it had ended" in one("recover").err
    assert web.does("four", "eth0")["address"] == web.ipv4
    [pid] = services()
    assert one("recover").err == ""
    assert services() == [pid], "it serves: nothing is done"
    assert one.is_clean()


def test_its_files_are_repaired(one: Program) -> None:
    network(one)
    web = start(one, "web")
    directory = next(Path(os.environ["HVTX_RUN_DIR"]).rglob("networks")).iterdir()
    lab.run("rm", "-r", *map(str, directory))
    assert one("repair", "--json").json()["failed"] == []
    assert web.does("four", "eth0")["address"] == web.ipv4
    assert one.is_clean()
    assert one("repair", "--json").json()["repaired"] == []


def test_a_start_makes_its_files_again(one: Program) -> None:
    network(one)
    web = start(one, "web")
    shutil.rmtree(os.environ["HVTX_RUN_DIR"])
    two = start(one, "two")
    assert two.does("four", "eth0")["address"] == two.ipv4
    assert web.does("four", "eth0")["address"] == web.ipv4
    assert len(services()) == 1


def test_starts_at_once_make_its_files_again_together(one: Program) -> None:
    """One of them starts dnsmasq again, and that is the one on record."""
    network(one)
    names = ("a", "b", "c", "d", "e", "f")
    for name in names:
        one("vm", "create", name, "--network", "net", "--", "sleep", "600")
    shutil.rmtree(next(Path(os.environ["HVTX_RUN_DIR"]).rglob("networks")))
    alone = Program(**one.environment)
    with ThreadPoolExecutor(len(names)) as pool:
        told = [ran.err for ran in pool.map(lambda name: alone("vm", "start", name), names)]
    assert not [words for words in told if "warning" in words]
    assert len(services()) == 1
    assert one("repair", "--json").json()["repaired"] == []
    assert one.is_clean()


@pytest.mark.parametrize("lost", ["process", "directory"])
def test_in_a_units_sandbox_it_is_systemd_that_starts_it_again(
    one: Program, tmp_path: Path, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for systemd-run: a process that is started in a sandbox stays in it."""
    network(one)
    web = start(one, "web")
    told = tmp_path / "told"
    stand_in = tmp_path / "systemd-run"
    stand_in.write_text(
        f'#!/bin/sh\necho "$@" >>{told}\nunset HVTX_AUTOSTART\n'
        'while [ "$1" != -- ]; do shift; done; shift\nexec "$@"\n'
    )
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    shut_in = Program(**one.environment, HVTX_AUTOSTART="systemd-run")
    assert shut_in("repair", "--json").json() == one("repair", "--json").json()
    assert not told.exists()
    if lost == "process":
        lab.end(services()[0])
    else:
        shutil.rmtree(next(Path(os.environ["HVTX_RUN_DIR"]).rglob("networks")))
    assert shut_in("repair", "--json").json()["failed"] == []
    assert "--unit=hvtx-serve" in told.read_text()
    assert web.does("four", "eth0")["address"] == web.ipv4
    lab.end(services()[0])
    stand_in.write_text("#!/bin/sh\nexit 1\n")
    failed = shut_in("repair", "--json", code=9).json()["failed"]
    assert [one["key"] for one in failed] == ["dnsmasq net"]
    assert not services()


def test_in_a_units_sandbox_it_is_systemd_that_ends_it(
    one: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gc's unit has no CAP_KILL, and dnsmasq is another user's: with a stand-in for systemd-run."""
    stand_in = tmp_path / "systemd-run"
    stand_in.write_text("#!/bin/sh\nexit 1\n")
    stand_in.chmod(0o755)
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", f"{tmp_path}:{path}")
    network(one)
    [pid] = services()
    one("network", "rm", "net", code=None, HVTX_FAILPOINT="releasing:kill")
    assert services() == [pid]
    argv = (
        "setpriv",
        "--bounding-set=-kill",
        "--",
        sys.executable,
        "-m",
        "hvtx",
        "gc",
        "--apply",
        "--json",
    )

    def collected(**more: str) -> tuple[int, list[dict[str, Any]]]:
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, env={**os.environ, **more}
        )
        items = json.loads(done.stdout)["items"]
        return done.returncode, [item for item in items if item["kind"] == "process"]

    code, [item] = collected()
    assert (code, item["outcome"]) == (9, "failed")
    assert "cannot be ended" in item["message"]
    code, [item] = collected(HVTX_AUTOSTART="systemd-run")
    assert (code, item["outcome"]) == (9, "failed")
    assert item["message"].endswith("systemd did not start it (journalctl -u hvtx-collect)")
    assert services() == [pid]
    asked, answered = tmp_path / "asked", tmp_path / "answered"
    os.mkfifo(asked)
    os.mkfifo(answered)
    stand_in.write_text(
        '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done; shift\n'
        f'echo "$@" >{asked}; read code <{answered}; exit $code\n'
    )
    outside = f"read words <{asked}; $words >/dev/null; echo $? >{answered}"
    with subprocess.Popen(["sh", "-c", outside]) as systemd:  # who has all capabilities
        code, [item] = collected(HVTX_AUTOSTART="systemd-run")
        assert systemd.wait(20) == 0
    assert (code, item["outcome"]) == (0, "done")
    assert services() == []
    assert one.is_clean()


def test_a_dnsmasq_that_does_not_start_keeps_no_vm_from_it(
    one: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody asked for one, the network goes without, and says why; asked for, it is 6."""
    broken = tmp_path / "dnsmasq"
    broken.write_text("#!/bin/sh\nexit 127\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    before = lab.dump()
    refused = one("network", "create", "net", "--subnet", "10.77.0.0/24", "--dhcp", code=6)
    assert "dnsmasq net cannot serve" in refused.err
    assert lab.difference(before, lab.dump()) == ""
    ran = one("vm", "run", "web", "--", "sleep", "600", HVTX_DHCP="auto")
    assert "warning: the network gets no DHCP and DNS" in ran.err
    assert "dnsmasq default cannot serve" in ran.err
    assert one("network", "show", "default", "--json").json()["dhcp"] is False
    assert one.vm("web")["state"] == "running"
    one("vm", "rm", "--force", "web")
    one("network", "rm", "default")
    assert one.is_clean()


def test_others_dnsmasq_is_not_touched(one: Program, tmp_path: Path) -> None:
    lab.run("ip", "link", "add", "virbr0", "type", "bridge")
    lab.run("ip", "addr", "add", "192.168.122.1/24", "dev", "virbr0")
    lab.run("ip", "link", "set", "virbr0", "up")
    lab.run("dnsmasq", "--conf-file=/dev/null", "--interface=virbr0", "--bind-interfaces",
            "--except-interface=lo", "--dhcp-range=192.168.122.10,192.168.122.20",
            f"--pid-file={tmp_path}/theirs", "--leasefile-ro")  # fmt: skip
    theirs = int((tmp_path / "theirs").read_text())
    network(one)
    web = start(one, "web")
    assert web.does("four", "eth0")["address"] == web.ipv4
    for command in (("repair",), ("gc", "--apply"), ("vm", "rm", "web", "--force"),
                    ("network", "rm", "net")):  # fmt: skip
        one(*command)
        assert theirs in services()
    assert services() == [theirs]


# -- on, off, and in the way -----------------------------------------------------------------------


def test_off_by_option_or_by_setting(one: Program) -> None:
    assert network(one, *BOTH, "--no-dhcp")["dhcp"] is False
    made = one("network", "create", "two", "--subnet", "10.78.0.0/24", "--json", HVTX_DHCP="off")
    assert made.json()["dhcp"] is False
    assert services() == []
    assert "dhcp:      no" in one("network", "show", "net").out
    one("network", "create", "x", "--subnet", "10.79.0.0/24", code=2, HVTX_DHCP="perhaps")


def test_without_dnsmasq(one: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hvtx.host.dnsmasq.find", lambda: None)
    assert network(one)["dhcp"] is False, "what nobody asked for is no error"
    told = one("network", "create", "two", "--subnet", "10.78.0.0/24", "--dhcp", code=6)
    assert "apt install dnsmasq-base" in told.err
    one("network", "show", "two", code=3)
    [finding] = findings(one, "dhcp")
    assert finding["level"] == "warning"


def test_a_dnsmasq_that_somebody_stopped(one: Program) -> None:
    """It lives and answers nobody: doctor says so, and the command that it names helps."""
    network(one)
    [pid] = services()
    os.kill(pid, signal.SIGSTOP)
    [finding] = findings(one, "dhcp")
    assert finding["level"] == "error"
    assert finding["message"].startswith("dnsmasq net is stopped")
    lab.run(*finding["hint"].split())
    [finding] = findings(one, "dhcp")
    assert finding["level"] == "ok"


@pytest.mark.parametrize(("kind", "port"), [("udp", 53), ("tcp", 53), ("udp", 67)])
def test_a_port_that_another_program_has_everywhere(one: Program, kind: str, port: int) -> None:
    with socket.socket(
        socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
    ) as theirs:
        theirs.bind(("0.0.0.0", port))
        if kind == "tcp":
            theirs.listen()
        told = one("network", "create", "asked", *BOTH, "--dhcp", code=4)
        assert f"{port}/{kind}" in told.err
        one("network", "show", "asked", code=3)
        made = one("network", "create", "net", *BOTH)
        assert f"{port}/{kind}" in made.err
        assert "gets no DHCP" in made.err
        assert "dhcp:      no" in one("network", "show", "net").out
        [finding] = findings(one, "dhcp")
        assert f"{port}/{kind}" in finding["message"]
    assert one.is_clean()


@pytest.mark.parametrize(
    ("kind", "address", "port", "four"),
    [
        ("udp", "::", 53, True),
        ("tcp", "::", 53, True),
        ("udp", "::", 547, True),
        ("udp", "::1", 547, True),
        ("udp", "127.0.0.1", 67, False),
        ("udp", "127.0.0.1", 53, True),
    ],
)
def test_a_port_that_is_taken_for_one_family(
    one: Program, kind: str, address: str, port: int, four: bool
) -> None:
    """What leaves none for dnsmasq is named by all; a network of the other family has its own."""
    stays = address == "127.0.0.1" and port == 53  # dnsmasq has its own addresses for names
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(
        family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
    ) as theirs:
        if family == socket.AF_INET6:
            theirs.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        theirs.bind((address, port))
        if kind == "tcp":
            theirs.listen()
        told = one("network", "create", "asked", *BOTH, "--dhcp", code=0 if stays else 4)
        assert stays or f"{port}/{kind}" in told.err
        one("network", "show", "asked", code=0 if stays else 3)
        if not stays:
            made = one("network", "create", "both", *BOTH)
            assert f"{port}/{kind}" in made.err
            assert "gets no DHCP" in made.err
        subnet = "fd79::/64" if family == socket.AF_INET else "10.79.0.0/24"
        assert one("network", "create", "other", "--subnet", subnet, "--json").json()["dhcp"]
        four_only = one("network", "create", "four", "--subnet", "10.80.0.0/24", "--json")
        assert four_only.json()["dhcp"] is four


@pytest.mark.parametrize("port", ["53:53", "53:53/udp"])
def test_its_ports_are_published_on_an_address_only(one: Program, port: str) -> None:
    network(one)
    lab.run("ip", "addr", "add", "203.0.113.1/24", "dev", "lo")
    told = one("vm", "create", "web", "--network", "net", "-p", port, code=4)
    assert "dnsmasq" in told.err
    assert "--publish ADDRESS:53" in told.err
    one("vm", "create", "web", "--network", "net", "-p", f"203.0.113.1:{port}",
        "--hypervisor", "command", "--", "sleep", "99")  # fmt: skip
    one("vm", "start", "web")


def test_the_port_of_dhcp_is_published_only_without_it(one: Program) -> None:
    network(one)
    words = ("vm", "create", "web", "--network", "net", "-p", "67:6767/udp")
    told = one(*words, code=4)
    assert "--no-dhcp" in told.err
    assert "kill" not in told.err


# -- crashes and reboots ---------------------------------------------------------------------------

POINTS = ["intended", "acted:file", "acted:bridge", "acted:dnsmasq", "acted:sysctl", "committed"]


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_create_leaves_all_or_nothing(one: Program, point: str) -> None:
    one("network", "create", "net", *BOTH, code=-signal.SIGKILL, HVTX_FAILPOINT=f"{point}:kill")
    one("recover")
    assert one.is_clean()
    there = [n["name"] for n in one("network", "ls", "--json").json()["networks"]]
    until("as many processes as before", lambda: len(services()) == len(there))
    if not there:
        network(one)
    web = start(one, "web")
    assert web.does("four", "eth0")["address"] == web.ipv4


@pytest.mark.parametrize("point", ["releasing", "released:dnsmasq", "released:bridge", "removed"])
def test_a_killed_removal_goes_on(one: Program, point: str) -> None:
    network(one)
    one("network", "rm", "net", code=-signal.SIGKILL, HVTX_FAILPOINT=f"{point}:kill")
    one("recover")
    assert one.is_clean()
    assert services() == []
    assert one("network", "ls", "--json").json()["networks"] == []


@pytest.mark.parametrize("point", ["intended", "acted:reservation", "spawned", "opened"])
def test_a_killed_start(one: Program, point: str) -> None:
    network(one)
    words = ("--network", "net", "--hypervisor", "command", "--", "sleep", "99")
    one("vm", "create", "web", *words)
    one("vm", "start", "web", code=-signal.SIGKILL, HVTX_FAILPOINT=f"{point}:kill")
    one("recover")
    assert one.is_clean()
    hosts = next(Path(os.environ["HVTX_RUN_DIR"]).rglob("hosts"))
    running = one.vm("web")["state"] == "running"
    assert len(list(hosts.iterdir())) == (1 if running else 0)


def test_those_of_a_lost_store_go_with_its_remains(one: Program, tmp_path: Path) -> None:
    made = network(one)
    installation = made["resources"][0]["mark"].split(":")[2]
    other = Forked(
        HVTX_DHCP="auto",
        HVTX_STATE_DIR=str(tmp_path / "2"),
        HVTX_RUN_DIR=os.environ["HVTX_RUN_DIR"],
    )
    network(other, "--subnet", "10.78.0.0/24")
    shutil.rmtree(os.environ["HVTX_STATE_DIR"])
    assert len(services()) == 2
    other("gc", "--apply", "--installation", installation, "--yes")
    assert len(services()) == 1
    assert not other("repair", "--json").json()["repaired"]
    end(other)


def test_two_installations(one: Program, tmp_path: Path) -> None:
    other = Forked(
        HVTX_DHCP="auto", HVTX_STATE_DIR=str(tmp_path / "2"), HVTX_RUN_DIR=str(tmp_path / "r2")
    )
    network(one)
    network(other, "--subnet", "10.78.0.0/24")
    assert len(services()) == 2
    one("network", "rm", "net")
    assert len(services()) == 1
    web = start(other, "web")
    assert web.does("four", "eth0")["address"] == web.ipv4
    end(other)


def test_after_a_reboot_addresses_are_what_they_were(one: Program) -> None:
    made = network(one)
    web = start(one, "web")
    before = web.does("four", "eth0")
    booted = Booted(HVTX_DHCP="auto")
    end(one)
    forget_everything()
    booted("recover")
    assert len(services()) == 1
    assert booted("gc", "--plan", "--json", "--detailed-exitcode").json()["items"] != []
    assert booted("network", "show", "net", "--json").json()["bridge"] == made["bridge"]
    booted("vm", "start", "web")
    assert Guest(booted, "web").does("four", "eth0") == before
    end(booted)


def test_a_network_comes_up_without_it_after_a_reboot_where_it_must(one: Program) -> None:
    """The network is rebuilt, `recover` warns, `doctor` names it, `repair` puts it back later."""
    network(one)
    end(one)
    booted = Booted(HVTX_DHCP="auto")
    forget_everything()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs:
        theirs.bind(("0.0.0.0", 67))
        assert "no DHCP and DNS" in booted("recover").err
        assert services() == []
        told = booted("doctor", "--json", code=1).json()["findings"]
        [finding] = [found for found in told if found["check"] == "dhcp"]
        assert finding["level"] == "error"
        booted(
            "vm", "run", "web", "--network", "net", "--hypervisor", "command", "--", "sleep", "99"
        )
    told = booted("repair", "--json").json()
    assert [(r["kind"], r["key"]) for r in told["repaired"]] == [("process", "dnsmasq net")]
    assert len(services()) == 1
    end(booted)


# -- on and off while guests run -------------------------------------------------------------------


def test_it_is_switched_on_and_off_under_guests(hvtx: Program) -> None:
    """As one operation; who is up is told its own address, and of what it has nothing else moves."""
    network(hvtx, *BOTH, "--no-dhcp")
    web = start(hvtx, "web")
    hvtx("vm", "create", "down", "--network", "net", "--", "sleep", "600")
    assert web.does("four", "eth0") is None
    before = own(hvtx)
    shown = hvtx("network", "set", "net", "--dhcp", "--json").json()
    assert shown["dhcp"] is True
    assert web.does("four", "eth0")["address"] == web.ipv4
    web.link()
    assert web.does("six", "eth0")["addresses"] == [web.ipv6]
    more = own(hvtx).items() - before.items()
    assert [key.split()[0] for key, _ in more] == ["file"]
    assert own(hvtx).items() >= before.items()
    told = hvtx("log", "-n", "50", "--json").json()["entries"]
    [event] = [e for e in told if e["message"] == "network net: dhcp true"]
    made = [e["kind"] for e in told if e["operation"] == event["operation"] and e["kind"]]
    assert sorted(made) == ["file", "file", "process"]
    assert hvtx.is_clean()
    assert hvtx("repair", "--json").json()["repaired"] == []
    later = start(hvtx, "later")
    assert later.does("four", "eth0")["address"] == later.ipv4
    hvtx("network", "set", "net", "--no-dhcp")
    assert services() == []
    assert hvtx("network", "show", "net", "--json").json()["dhcp"] is False
    assert web.does("four", "eth0") is None
    assert own(hvtx) == before
    assert hvtx.is_clean()
    assert hvtx("repair", "--json").json()["repaired"] == []
    hvtx("network", "set", "net", "--dhcp")
    hvtx("vm", "stop", "web", "--force")
    assert later.does("four", "eth0")["address"] == later.ipv4
    assert hvtx.is_clean()


def own(program: Program) -> dict[str, str]:
    """The marks of what the VM has, and of what its network has beside a service."""
    found = program.vm("web")["resources"]
    return {f"{one['kind']} {one['key']}": one["mark"] for one in found}


def test_a_service_that_cannot_be_had_is_refused_under_guests(one: Program) -> None:
    """The network, its guest and the record are as they were."""
    network(one, *BOTH, "--no-dhcp")
    start(one, "web")
    before, marks = one("network", "show", "net", "--json").out, own(one)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs:
        theirs.bind(("0.0.0.0", 67))
        assert "67/udp" in one("network", "set", "net", "--dhcp", code=4).err
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs:
        theirs.bind(("10.77.0.1", 53))  # which is met only when it starts
        one("network", "set", "net", "--dhcp", "--egress", "none", code=6)
    assert one("network", "show", "net", "--json").out == before
    assert own(one) == marks
    assert services() == []
    assert one.is_clean()
    one("network", "set", "net", "--dhcp", "--egress", "none")
    assert len(services()) == 1
    shown = one("network", "show", "net", "--json").json()
    assert (shown["dhcp"], shown["egress"]["mode"]) == (True, "none")
    assert one.is_clean()


@pytest.mark.parametrize("point", ["intended", "ended:service", "acted:file"])
def test_a_start_carries_an_interrupted_switch_through(one: Program, point: str) -> None:
    """Who comes next is served, and so is who ran all along."""
    network(one, *BOTH, "--no-dhcp")
    web = start(one, "web")
    killed = {"HVTX_FAILPOINT": f"{point}:kill"}
    one("network", "set", "net", "--dhcp", code=-signal.SIGKILL, **killed)
    later = start(one, "later")
    for guest in (web, later):
        assert guest.does("four", "eth0")["address"] == guest.ipv4
    assert len(services()) == 1
    assert one.is_clean()
    one("network", "set", "net", "--no-dhcp", code=-signal.SIGKILL, HVTX_FAILPOINT="intended:kill")
    one("network", "set", "net", "--no-dhcp")
    assert services() == []
    assert one.is_clean()


def test_a_guest_of_two_networks_has_a_reservation_in_each_that_serves(one: Program) -> None:
    """What is switched in one leaves the other alone."""
    network(one, *BOTH, "--no-dhcp")
    network(one, "--subnet", "10.78.0.0/24", "--dhcp", name="other")
    web = start(one, "web", "--network", "other")
    assert web.does("four", "eth1")["address"].startswith("10.78.0.")
    before = own(one)
    one("network", "set", "net", "--dhcp")
    assert web.does("four", "eth0")["address"] == web.ipv4
    assert own(one).items() >= before.items()
    one("network", "set", "other", "--no-dhcp")
    assert web.does("four", "eth1") is None
    assert web.does("four", "eth0")["address"] == web.ipv4
    assert one.is_clean()


# -- containers ------------------------------------------------------------------------------------


def reservations(program: Program) -> list[str]:
    rows = [row for vm in program("vm", "ls", "--json").json()["vms"] for row in vm["resources"]]
    return [row["key"] for row in rows if row["kind"] == "file" and "/hosts/" in row["key"]]


def test_a_container_has_no_reservation_and_its_address_is_given_on_at_no_cost(
    one: Program,
) -> None:
    """It is given its addresses with its interface: only a VM behind its TAP may ask for them."""
    network(one)
    web = start(one, "web")
    assert web.does("four", "eth0")["address"] == web.ipv4
    before = services()
    box = lab.Namespace()
    try:
        key = AttachmentKey("pods", "c0ffee", "eth0")
        asked = AttachmentRequest(key, "net", f"/proc/{box.pid}/ns/net")
        with Host(firewall="nftables", dhcp="on", lock_timeout=30) as host:
            first = host.attachments.add(asked)
            assert len(reservations(one)) == 1
            host.attachments.delete(key)
            again = host.attachments.add(asked)
            assert [one.address for one in again.addresses] == [
                one.address for one in first.addresses
            ]
            assert again.mac != first.mac
            assert services() == before
            for switch, count in (("--no-dhcp", 0), ("--dhcp", 1)):
                one("network", "set", "net", switch)
                assert len(reservations(one)) == count
            host.attachments.delete(key)
            behind = host.attachments.add(asked._replace(tap=TapRequest("tap0")))
            for switch, count in (("--no-dhcp", 0), ("--dhcp", 2)):
                assert len(reservations(one)) == 2 - count
                one("network", "set", "net", switch)
                assert len(reservations(one)) == count
            assert behind.tap == "tap0"
            host.attachments.delete(key)
            assert len(reservations(one)) == 1
    finally:
        box.close()
    assert web.does("reboot", "eth0", web.ipv4)["type"] == "ack"
    assert one.is_clean()


def test_who_keeps_a_networks_reservations_holds_nobody_up_for_good(one: Program) -> None:
    """Starts and stops wait as long as they were told to, and name who it is."""
    network(one)
    start(one, "old", "--ip", "10.77.0.9")
    start(one, "web", "--ip", "10.77.0.8")
    one("vm", "rm", "old", "--force")
    (file,) = Path(os.environ["HVTX_RUN_DIR"]).glob("*/networks/*/forgotten")
    quick = ("--lock-timeout", "0.2")
    run = ("vm", "run", "new", "--network", "net", "--hypervisor", "command")
    with stopped_with_lock_of(file) as pid:
        ran = one(*quick, *run, "--ip", "10.77.0.9", "--", "sleep", "99", code=75)
        assert f"{file} is held by another operation: pid {pid} " in ran.err
        assert "which is stopped (T)" in ran.err
        ran = one(*quick, "vm", "stop", "web", "--force", code=9)
        assert f"is held by another operation: pid {pid} " in ran.out + ran.err
        assert one(*quick, "gc", "--apply", code=9).out.count(f"pid {pid} ") >= 1
    one("gc", "--apply")
    assert one.is_clean()
    assert start(one, "new", "--ip", "10.77.0.9").does("four", "eth0")["address"] == "10.77.0.9"


@contextmanager
def _put_back(hvtx: Program, file: Path) -> Iterator[int]:
    """A store is put back that does not know the dnsmasq that serves; its pid.

    Nor does it know one of the VMs, which is ended here.
    """
    network(hvtx)
    start(hvtx, "web", "--ip", "10.77.0.8")
    start(hvtx, "old", "--ip", "10.77.0.9")
    hvtx("store", "backup", str(file))
    hvtx("vm", "rm", "old", "--force")
    start(hvtx, "new", "--ip", "10.77.0.9")  # it starts again, for an address that was another's
    (serving,) = services()
    unknown = hvtx.vm("new")["pid"]
    try:
        hvtx("store", "restore", str(file), "--force")
        yield serving
    finally:
        lab.end(unknown)


def test_a_dnsmasq_that_a_store_put_back_does_not_know_makes_way(
    one: Program, tmp_path: Path
) -> None:
    """It has written its pid into the network's directory, and reads its file: it is hvtx's own."""
    with _put_back(one, tmp_path / "backup.db") as before:
        one("recover", "--accept-rollback")
        told = one("repair", code=None).out  # what VM `new` has is not on record
        assert "not on record: hvtx gc --plan" in told
        assert "somebody else's" not in told
        assert "not hvtx's" not in one("doctor", code=None).out
        assert '"unrecorded"' in one("gc", "--plan", "--json", code=None).out
        (serving,) = services()
        assert serving != before
        (line,) = [line for line in one("log").out.splitlines() if f"ended pid {before}" in line]
        assert "the dnsmasq of" in line
        assert "not on record" in line
        assert findings(one, "dhcp")[0]["level"] == "ok"


def test_one_that_has_not_left_its_pid_is_named(one: Program, tmp_path: Path) -> None:
    """Without that proof nothing is ended: the message names it, and the command that does."""
    with _put_back(one, tmp_path / "backup.db") as before:
        (file,) = Path(os.environ["HVTX_RUN_DIR"]).glob("*/networks/*/pid")
        file.unlink()
        one("recover", "--accept-rollback")
        assert services() == [before]
        ran = one("repair", code=None)
        assert ran.code != 0
        assert f"`kill {before}` ends it" in ran.out
        assert services() == [before]
        lab.end(before)
        one("repair", code=None)  # what VM `new` has is not on record, and is told
        assert services() not in ([], [before])
