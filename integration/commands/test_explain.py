"""`explain` on a host with everything on it: ours, Docker's, libvirt's, another installation's."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hvtx import documents
from hvtx.commands import explain
from hvtx.engine.runtime import Runtime, Settings
from hvtx.errors import NotFound
from hvtx.host.listeners import listening
from integration import lab
from integration.lab import example_host
from integration.lab.program import Forked, Program, preload

KEYS = {
    "schema", "object", "kind", "key", "owner", "vm", "network", "since", "record", "evidence", "gc",
    "why", "message", "history", "also",
}  # fmt: skip


class Host:
    """The example host, looked at once; asked as often as a test likes."""

    def __init__(self, hvtx: Program, other: Program) -> None:
        self.hvtx, self.other = hvtx, other
        self.runtime = Runtime(
            Settings(os.environ["HVTX_STATE_DIR"], os.environ["HVTX_RUN_DIR"]), writable=False
        )
        self.sight = explain.look(self.runtime)

    def ask(self, thing: str) -> dict[str, Any]:
        """The object, whole."""
        told = documents.explain.document(explain.answer(self.runtime, self.sight, thing))
        assert json.loads(json.dumps(told)) == told
        assert set(told) == KEYS
        assert told["schema"] == "hvtx/explain/1"
        assert set(told["gc"]) == {"action", "reason"}
        assert told["object"] == thing
        assert told["why"]
        return told

    def brief(self, thing: str) -> tuple[str, str, str | None, str | None, str]:
        told = self.ask(thing)
        return told["kind"], told["owner"], told["vm"], told["network"], told["gc"]["reason"]

    def close(self) -> None:
        """As the end of a process does."""
        self.runtime.drivers.of("nftables").close()  # type: ignore[attr-defined]
        self.runtime.close()

    def nothing(self, thing: str) -> None:
        with pytest.raises(NotFound):
            self.ask(thing)


@pytest.fixture(params=["nftables", "iptables"])
def programs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Program, Program]]:
    """The example host on a backend: our program, and another installation's."""
    preload()
    hvtx = Forked(HVTX_FIREWALL=request.param)
    other = Forked(
        HVTX_FIREWALL=request.param,
        HVTX_STATE_DIR=str(tmp_path / "state-2"),
        HVTX_RUN_DIR=str(tmp_path / "run-2"),
    )
    example_host.plant_strangers()
    example_host.furnish(hvtx, other=other)
    door = ("vm", "run", "door", "--network", "theirs", "-p", "7070:70/udp")
    other(*door, "--", "sleep", "600")
    yield hvtx, other
    example_host.end_all(hvtx, other)


def test_everything_has_an_owner(programs: tuple[Program, Program]) -> None:
    """One host, asked for everything on it; nothing of it changes by being asked."""
    before = lab.dump()
    store = Path(os.environ["HVTX_STATE_DIR"], "hvtx.db").read_bytes()
    host = Host(*programs)
    try:
        for ask in (_ours, _foreign_objects, _addresses, _ports, _firewall):
            ask(host)
        host.nothing("no-such-thing")
    finally:
        host.close()
    host.hvtx("explain", "no-such-thing", code=3)
    rule = "iptables -t nat -A DOCKER ! -i docker0 -p tcp -m tcp --dport 6379 -j DNAT"
    told = host.hvtx("explain", "--", *rule.split(), "--to-destination", "172.17.0.2:6379").out
    assert "looks like Docker's" in told
    assert lab.difference(before, lab.dump()) == ""
    assert Path(os.environ["HVTX_STATE_DIR"], "hvtx.db").read_bytes() == store


def _ours(host: Host) -> None:
    web, db = host.hvtx.vm("web"), host.hvtx.vm("db")
    device, mac = db["interfaces"][0]["device"], db["interfaces"][0]["mac"]
    told = host.ask(device)
    assert host.brief(device) == ("tap", "hvtx", "db", "lan", "vm-dead")
    assert told["gc"]["action"] == "delete"
    assert told["record"]["verb"] == "run"
    assert told["record"]["result"] == "done"
    assert told["since"] == told["record"]["since"]
    assert [line["event"] for line in told["history"]] == ["made"]
    assert any("is gone" in line or "has ended" in line for line in told["evidence"])
    assert {other["kind"] for other in told["also"]} >= {"filter"}
    assert host.brief(mac) == ("mac", "hvtx", "db", "lan", "reserved")
    assert host.brief(mac.upper().replace(":", "-"))[0] == "mac"
    for row in (*web["resources"], *db["resources"]):
        told = host.ask(row["mark"])
        assert (told["owner"], told["record"]["mark"]) == ("hvtx", row["mark"])
    assert host.brief("web") == ("vm", "hvtx", "web", "lan", "vm-alive")
    assert host.ask("db")["gc"] == {"action": "delete", "reason": "vm-dead"}
    assert "whose process is dead" in host.ask("db")["message"]
    assert "which is not running" in host.ask("spare")["message"]
    assert host.brief("lan")[:2] == ("network", "hvtx")
    assert host.brief("net.ipv4.ip_forward")[:2] == ("sysctl", "hvtx")
    assert host.brief("net/ipv4/ip_forward")[:2] == ("sysctl", "hvtx")
    build = host.hvtx.device("build")
    told = host.ask(build)
    assert told["gc"] == {"action": "delete", "reason": "intent-abandoned"}
    assert (told["record"]["verb"], told["record"]["result"]) == ("start", None)
    assert host.brief(host.other.device("guest"))[:2] == ("tap", "other-installation")


def _foreign_objects(host: Host) -> None:
    for name, kind, whose in (
        ("docker0", "bridge", "Docker"), ("veth3f2a91c", "device", "Docker"), ("virbr0", "bridge", "libvirt"),
        ("vnet0", "tap", "libvirt"), ("tap-foo", "tap", "'test bench, ask before removing'"),
        ("lo", "device", "no mark"),
    ):  # fmt: skip
        told = host.ask(name)
        assert host.brief(name) == (kind, "foreign", None, None, "foreign"), name
        assert told["message"].startswith(f"{name}: not ours: "), told
        assert whose in told["message"], told
        assert told["record"] is told["since"] is None
    evidence = "\n".join(host.ask("docker0")["evidence"])
    assert "172.17.0.1/16" in evidence
    assert "veth3f2a91c" in evidence
    assert "MASQUERADE" in evidence
    mac = json.loads(lab.run("ip", "-j", "link", "show", "tap-foo"))[0]["address"]
    assert host.ask(mac)["key"] == "tap-foo"


def _addresses(host: Host) -> None:
    web = host.hvtx.vm("web")["interfaces"][0]
    assert host.brief(web["ipv4"]) == ("lease", "hvtx", "web", "lan", "vm-alive")
    assert host.brief(web["ipv6"])[:3] == ("lease", "hvtx", "web")
    assert host.brief("10.77.0.1")[:4] == ("address", "hvtx", None, "lan")
    assert host.brief("10.77.0.1/24")[:4] == ("address", "hvtx", None, "lan")
    free = host.ask("10.77.0.99")
    assert "free" in free["message"]
    assert free["gc"] == {"action": "skip", "reason": "reserved"}
    told = host.ask("10.77.0.0/24")
    assert host.brief("10.77.0.0/24") == ("subnet", "hvtx", None, "lan", "reserved")
    assert any("vpn0" in line for line in told["evidence"]), told  # the administrator's rule
    assert host.ask("fd77::/64")["network"] == "lan"
    wide = host.ask("10.0.0.0/8")
    assert {wide["network"], *(o["message"].split("'")[1] for o in wide["also"][:1])} == {
        "lan",
        "dmz",
    }
    assert [o["owner"] for o in wide["also"]] == ["hvtx", "other-installation"]
    for thing in ("172.17.0.1", "172.17.0.9", "172.17.0.0/16"):
        told = host.ask(thing)
        assert (told["owner"], told["gc"]["reason"]) == ("foreign", "foreign")
        assert "Docker" in told["message"], told
    assert host.ask("10.99.0.1")["owner"] == "other-installation"
    assert host.ask("127.0.0.1")["message"].endswith("an address of lo")
    host.nothing("198.51.100.7")
    six = host.hvtx("network", "show", "lan", "--json").json()["gateway"][1]
    for thing, words in (
        ("10.77.0.255", "the broadcast address"), ("10.77.0.0", "the network address"),
        ("fd77::", "the network address"), ("10.77.0.255/24", "the broadcast address"),
    ):  # fmt: skip
        told = host.ask(thing)
        assert "free" not in told["message"]
        assert words in told["message"], told
        assert told["network"] == "lan"
    for thing in (six, f"[{six}]", six.upper(), f"{six}%lan0", f"{six}/64"):
        assert host.brief(thing)[:4] == ("address", "hvtx", None, "lan"), thing
    for thing in (f"[{web['ipv6']}]", f"{web['ipv6']}/64"):
        assert host.brief(thing)[:3] == ("lease", "hvtx", "web")


def test_a_vip_in_a_subnet_of_ours_is_no_guests_address() -> None:
    """The host has it itself, on whichever device; no more is it free."""
    preload()
    hvtx = Forked()
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    lab.run("ip", "addr", "add", "10.77.0.200/32", "dev", "lo")
    told = hvtx("explain", "10.77.0.200", "--json").json()
    assert told["owner"] == "foreign"
    assert "in the subnet of network 'net'" in told["message"]
    told = hvtx("explain", "10.77.0.0/24", "--json").json()
    assert (told["owner"], told["network"]) == ("hvtx", "net")


def _ports(host: Host) -> None:
    for thing in ("8080", "8080/tcp", "127.0.0.1:8080", "0.0.0.0:8080/tcp"):
        assert host.brief(thing) == ("publish", "hvtx", "web", "lan", "vm-alive"), thing
    assert host.ask("5353/udp")["vm"] == "mail"
    assert host.brief("5353/tcp")[:2] == ("port", "foreign")
    assert host.brief("9090") == ("port", "hvtx", "spare", "lan", "reserved")
    for thing in ("7070", "7070/udp", "0.0.0.0:7070"):
        assert host.brief(thing)[:2] == ("port", "other-installation"), thing
    assert host.brief("7070/tcp")[:2] == ("port", "foreign")
    told = host.ask("6379")
    assert "Docker" in told["message"]
    assert any("DNAT" in line for line in told["evidence"])
    with (
        socket.create_server(("127.0.0.1", 0)) as four,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six,
    ):
        six.bind(("::1", 0))
        before, host.sight = host.sight, host.sight._replace(sockets=listening()[0])
        for server, where in ((four, "127.0.0.1, port {}/tcp"), (six, "::1, port {}/udp")):
            port = server.getsockname()[1]
            told = host.ask(str(port))
            assert any(where.format(port) in line for line in told["evidence"]), told
        host.sight = before
    assert host.ask("1")["evidence"] == ["nothing listens on it"]


def _firewall(host: Host) -> None:
    for thing, kind, whose in (
        ("DOCKER", "chain", "Docker"), ("LIBVIRT_PRT", "chain", "libvirt"), ("office", "table", "no mark"),
        ("ip office", "table", "no mark"), ("nft ip office post", "chain", "no mark"), ("nat POSTROUTING", "chain", ""),
        ("MASQUERADE", "rule", ""), ("admins: VPN", "rule", "no mark"),
        ("iptables -t nat -A LIBVIRT_PRT -s 192.168.122.0/24 ! -d 192.168.122.0/24 -j MASQUERADE", "rule", "libvirt"),
        ("-t nat -A DOCKER ! -i docker0 -p tcp -m tcp --dport 6379 -j DNAT --to-destination 172.17.0.2:6379", "rule", "Docker"),
    ):  # fmt: skip
        told = host.ask(thing)
        assert (told["kind"], told["gc"]["action"]) == (kind, "skip"), told
        assert whose in told["message"], told
    rule = host.ask("admins: VPN")
    assert any("add rule ip office post" in line for line in rule["evidence"]), rule
    assert host.ask(rule["key"])["key"] == rule["key"]  # as `explain` names it, it is found again
    installation = host.hvtx.vm("web")["resources"][0]["mark"].split(":")[2]
    theirs = host.other.vm("guest")["resources"][0]["mark"].split(":")[2]
    if host.hvtx.environment["HVTX_FIREWALL"] == "nftables":
        assert host.brief(f"hvtx-{installation}")[:2] == ("table", "hvtx")
        assert host.brief(f"hvtx-{theirs}")[:2] == ("table", "other-installation")
        told = host.ask("masq4: 10.77.0.2")  # an element of a set
        assert (told["vm"], told["owner"]) == ("web", "hvtx")
    else:
        assert host.brief(f"HVTX-{installation}-PRE")[:2] == ("chain", "hvtx")
        assert host.brief(f"HVTX-{theirs}-PRE")[:2] == ("chain", "other-installation")
        told = host.ask("--to-destination 10.77.0.2:80")
        assert (told["kind"], told["vm"], told["owner"]) == ("rule", "web", "hvtx")
        told = host.ask("iptables -t nat -A POSTROUTING -j HVTX-" + installation + "-POST")
        assert (told["owner"], told["network"], told["vm"]) == ("hvtx", None, None)


def test_what_was_removed_is_still_told() -> None:
    """A mark outlives its object: since when it was, and by which operation it went."""
    preload()
    hvtx = Forked()
    hvtx("network", "create", "net", "--subnet", example_host.SUBNET)
    hvtx("vm", "run", "db", "--network", "net", "--", "sleep", "600")
    example_host.crash(hvtx, "db")
    tap = next(r for r in hvtx.vm("db")["resources"] if r["kind"] == "tap")
    hvtx("gc", "--apply")
    told = hvtx("explain", tap["mark"], "--json").json()
    assert (told["kind"], told["owner"]) == ("mark", "hvtx")
    assert "which was removed" in told["message"]
    assert (told["record"]["state"], told["record"]["verb"]) == ("released", "gc")
    assert [line["event"] for line in told["history"]] == ["made", "removed"]
    assert told["history"][1]["reason"] == "vm-dead"
    assert told["since"] == told["history"][0]["time"]
    hvtx("explain", tap["key"], code=3)
    shown = hvtx("explain", tap["mark"]).out
    assert "removed by operation" in shown
    assert "(gc): vm-dead" in shown
