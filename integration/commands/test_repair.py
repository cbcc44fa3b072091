"""`repair`, `explain` and `doctor` on the real kernel."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvtx.drivers.nftables import NftablesDriver
from hvtx.errors import HostRefused
from hvtx.model.resource import Entry
from integration import lab
from integration.lab.program import Forked, Program, preload

BACKENDS = ["nftables", "iptables"]


@pytest.fixture(params=BACKENDS)
def hvtx(request: pytest.FixtureRequest) -> Iterator[Program]:
    """A program on a backend, with a network and a running VM `web`."""
    preload()
    program = Forked(HVTX_FIREWALL=request.param)
    program("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
    program("vm", "run", "web", "--network", "net", "-p", "8080:80", "--", "sleep", "600")
    yield program
    os.kill(program.vm("web")["pid"], signal.SIGKILL)


def flush(hvtx: Program) -> None:
    """What an administrator's `flush` does to everybody."""
    lab.run("nft", "flush", "ruleset")
    if hvtx.environment["HVTX_FIREWALL"] == "nftables":
        return  # looking at a legacy table would make it
    for tool in ("iptables-legacy", "ip6tables-legacy"):
        for table in ("nat", "filter"):
            lab.run(tool, "-t", table, "-F", check=False)
            lab.run(tool, "-t", table, "-X", check=False)


def handles_aside(dump: dict[str, object]) -> dict[str, object]:
    """A dump without the numbers that the kernel gives anew."""
    rules = [
        {kind: {k: v for k, v in body.items() if k != "handle"} for kind, body in item.items()}
        for item in dump["nft"]  # type: ignore[attr-defined]
    ]
    return {**dump, "nft": rules}


def test_what_was_flushed_is_put_back_with_its_marks(hvtx: Program) -> None:
    """A flush of every table is undone to the letter."""
    before = handles_aside(lab.dump())
    flush(hvtx)
    assert ("skip", "lost") in hvtx.plan()
    done = hvtx("repair", "--json").json()
    assert done["schema"] == "hvtx/repair/1"
    assert done["failed"] == []
    assert {"filter", "masquerade", "publish"} <= {item["kind"] for item in done["repaired"]}
    assert lab.difference(before, handles_aside(lab.dump())) == ""
    assert hvtx("repair", "--json").json()["repaired"] == []
    assert not hvtx.plan().get(("skip", "lost"))


@pytest.mark.parametrize("recovers", [True, False])
def test_what_was_flushed_of_an_interrupted_start_is_put_back(
    hvtx: Program, recovers: bool
) -> None:
    """Its VM runs, so the record is completed, by either of the two; then it is as of any VM."""
    hvtx("vm", "create", "late", "--network", "net", "-p", "8081:80", "--", "sleep", "600")
    hvtx("vm", "start", "late", code=-9, HVTX_FAILPOINT="opened:kill")
    before = handles_aside(lab.dump())
    flush(hvtx)
    if recovers:
        hvtx("recover")
        assert {row["state"] for row in hvtx.vm("late")["resources"]} == {"committed"}
        assert ("skip", "lost") in hvtx.plan()
    done = hvtx("repair", "--json").json()
    assert done["failed"] == []
    assert lab.difference(before, handles_aside(lab.dump())) == ""
    assert {row["state"] for row in hvtx.vm("late")["resources"]} == {"committed"}
    assert not hvtx("intents", "--json").json()["operations"]
    hvtx("vm", "rm", "late", "--force")


def test_a_bridge_that_was_deleted_comes_back_with_its_ports(hvtx: Program) -> None:
    """Bridge, addresses and the membership of running VMs' devices."""
    before = lab.dump()
    bridge = hvtx("network", "show", "net", "--json").json()["bridge"]
    lab.run("ip", "link", "del", bridge)
    hvtx("repair")
    after = lab.dump()
    assert lab.difference(before["addresses"], after["addresses"]) == ""
    assert hvtx("repair", "--json").json()["repaired"] == []


def test_a_device_that_is_gone_is_told_not_remade(hvtx: Program) -> None:
    """The running VM still speaks to the old one: exit 9, and the fix."""
    device = hvtx.device("web")
    lab.run("ip", "link", "del", device)
    assert ("skip", "lost") in hvtx.plan()
    ran = hvtx("repair", "--json", code=9)
    assert [item["key"] for item in ran.json()["failed"]] == [device]
    error = json.loads(ran.err)["error"]
    assert (error["code"], "hvtx repair" in error["hint"]) == ("partial", True)
    assert f"tap {device} was not put back: " in error["message"]
    assert f"\nhint: {error['hint']}\n" in hvtx("repair", code=9).err
    hvtx("vm", "stop", "web", "--timeout", "1")
    hvtx("vm", "start", "web")


def test_settings_that_were_turned_off(hvtx: Program) -> None:
    """Forwarding is needed, recorded, and put back."""
    setting = Path("/proc/sys/net/ipv4/ip_forward")
    setting.write_text("0")
    levels = {f["check"]: f["level"] for f in hvtx("doctor", "--json", code=1).json()["findings"]}
    assert levels["forwarding"] == "error"
    hvtx("repair", "net")
    assert setting.read_text().strip() == "1"
    hvtx("doctor")
    assert hvtx("repair", "--json").json()["repaired"] == []
    hvtx("repair", "nobody", code=3)


# What somebody does to the device DEV of the VM or to the bridge BR, and what is said of it.
CHANGES = [
    ("bridge link set dev DEV isolated on", "tap", "isolated was on"),
    ("bridge link set dev DEV learning off", "tap", "learning was off"),
    ("bridge link set dev DEV flood off", "tap", "flood was off"),
    ("bridge link set dev DEV mcast_flood off", "tap", "mcast_flood was off"),
    ("bridge link set dev DEV bcast_flood off", "tap", "bcast_flood was off"),
    ("bridge link set dev DEV hairpin off", "tap", "hairpin was off"),
    ("bridge link set dev DEV neigh_suppress on", "tap", "neigh_suppress was on"),
    ("bridge link set dev DEV state 0", "tap", "port state was disabled"),
    ("ip link set dev DEV type bridge_slave proxy_arp on", "tap", "proxy_arp was on"),
    ("ip link set dev DEV txqueuelen 0", "tap", "its txqueuelen was 0"),
    ("ip link set dev DEV addrgenmode eui64", "tap", "addrgenmode was eui64"),
    ("ip link set dev BR addrgenmode random", "bridge", "addrgenmode was random"),
    ("ip link set dev BR type bridge stp_state 1", "bridge", "stp_state was 1"),
    ("ip link set dev BR type bridge ageing_time 0", "bridge", "ageing_time was 0"),
    ("ip link set dev BR type bridge group_fwd_mask 8", "bridge", "group_fwd_mask was 8"),
    ("ip link set dev BR type bridge no_linklocal_learn 0", "bridge", "no_linklocal_learn was 0"),
    ("ip link set dev BR arp off", "bridge", "its ARP was off"),
]


def shown(*devices: str) -> list[object]:
    """How devices and their ports are set; without timers and counters."""
    moving = ("timer", "topology", "operstate", "_id", "mcast_last", "gc_", "fdb_n_learned")
    return [
        [
            link["flags"], link["inet6_addr_gen_mode"], link.get("txqlen"),
            {
                key: value
                for part in ("info_data", "info_slave_data")
                for key, value in link["linkinfo"].get(part, {}).items()
                if not any(word in key for word in moving)
            },
        ]
        for name in devices
        for link in json.loads(lab.run("ip", "-d", "-j", "link", "show", name))
    ]  # fmt: skip


@pytest.mark.parametrize("hvtx", ["nftables"], indirect=True)
@pytest.mark.parametrize("isolate", [False, True])
def test_settings_of_devices_are_put_back(hvtx: Program, *, isolate: bool) -> None:
    """Port flags, bridges, addrgenmode: seen by `doctor`, put back by `repair`, each by itself."""
    preload()
    hvtx, net = Forked(**hvtx.environment), "10.78.0.0/24"
    hvtx("network", "create", "other", "--subnet", net, *(["--isolate"] if isolate else []))
    guest = (sys.executable, str(Path(__file__).parents[1] / "lab/guest.py"))
    hvtx("vm", "run", "guest", "--network", "other", "--", *guest)
    try:
        device = hvtx.device("guest")
        bridge = hvtx("network", "show", "other", "--json").json()["bridge"]
        before = shown(device, bridge)
        changes = [
            (change, kind, words) if not isolate or "cast_flood" not in change  # there they are off
            else (change.replace("off", "on"), kind, words.replace("off", "on"))
            for change, kind, words in CHANGES
        ]  # fmt: skip
        for change, kind, words in changes:
            lab.run(*change.replace("DEV", device).replace("BR", bridge).split())
            assert shown(device, bridge) != before, change
            done = hvtx("repair", "--json").json()
            assert [item["kind"] for item in done["repaired"]] == [kind], change
            assert words in done["repaired"][0]["missing"], change
            assert shown(device, bridge) == before, change
            assert "fe80::" not in lab.run("ip", "-6", "addr", "show", "dev", device)
        for change, _, _ in changes:
            lab.run(*change.replace("DEV", device).replace("BR", bridge).split())
        told = hvtx("doctor", "--json", code=1).json()["findings"]
        damage = [f["message"] for f in told if f["check"] == "damage"]
        assert len(damage) == 2
        for change, kind, words in changes:
            if "port state" not in words:  # the bridge's own protocol decides that now
                assert any(m.startswith(kind) and words in m for m in damage), change
        hvtx("repair")
        assert hvtx("repair", "--json").json()["repaired"] == []
        assert shown(device, bridge) == before
        lab.run("ip", "link", "set", device, "nomaster")
        lab.run("ip", "link", "set", device, "master", bridge, "alias", "another's")
        lab.run("bridge", "link", "set", "dev", device, "isolated", "on")
        failed = hvtx("repair", "--json", code=9).json()["failed"]
        assert "mark-mismatch" in failed[0]["missing"]
        assert "isolated on" in lab.run("bridge", "-d", "link", "show", "dev", device)
    finally:
        os.kill(hvtx.vm("guest")["pid"], signal.SIGKILL)


@pytest.mark.parametrize("hvtx", ["nftables"], indirect=True)
def test_ipv6_that_was_turned_off_on_a_bridge(hvtx: Program) -> None:
    """With it the bridge's addresses of IPv6 went; a host without IPv6 is left as it is."""
    bridge = hvtx("network", "show", "net", "--json").json()["bridge"]
    setting = Path(f"/proc/sys/net/ipv6/conf/{bridge}/disable_ipv6")
    before = lab.dump()
    setting.write_text("1")
    assert "fd77::1" not in lab.run("ip", "-6", "addr", "show", "dev", bridge)
    told = hvtx("doctor", "--json", code=1).json()["findings"]
    assert any("disable_ipv6" in f["message"] for f in told if f["check"] == "damage")
    hvtx("repair")
    assert setting.read_text() == "0\n"
    assert lab.difference(before["addresses"], lab.dump()["addresses"]) == ""
    assert hvtx("repair", "--json").json()["repaired"] == []


def test_explain_says_whose_it_is(hvtx: Program) -> None:
    """Ours, others', another's: owner, evidence, and what gc would do."""
    device = hvtx.device("web")
    lab.run("ip", "tuntap", "add", "virbr9", "mode", "tap")
    told = hvtx("explain", device, "--json").json()
    assert told["schema"] == "hvtx/explain/1"
    assert (told["owner"], told["vm"], told["network"]) == ("hvtx", "web", "net")
    assert told["gc"] == {"action": "skip", "reason": "vm-alive"}
    assert told["record"]["state"] == "committed"
    assert any("alias hvtx:1:" in line for line in told["evidence"])
    mark = told["record"]["mark"]
    assert hvtx("explain", mark, "--json").json()["vm"] == "web"
    for thing in ("10.77.0.2", "8080", "8080/tcp"):
        assert hvtx("explain", thing, "--json").json()["vm"] == "web"
    assert hvtx("explain", "10.77.0.1", "--json").json()["network"] == "net"
    foreign_object = hvtx("explain", "virbr9", "--json").json()
    assert (foreign_object["owner"], foreign_object["vm"]) == ("foreign", None)
    assert "libvirt" in foreign_object["message"]
    hvtx("explain", "no-such-thing", code=3)


DROPS = {
    "a legacy policy": ["iptables-legacy -P FORWARD DROP", "ip6tables-legacy -P FORWARD DROP"],
    "a policy of iptables-nft": ["iptables-nft -P FORWARD DROP"],
    "docker's": [
        "iptables-nft -N DOCKER-USER",
        "iptables-nft -A FORWARD -j DOCKER-USER",
        "iptables-nft -P FORWARD DROP",
    ],
    "an administrator's": [
        "nft add table inet wall",
        "nft add chain inet wall pass { type filter hook forward priority 5; policy drop; }",
    ],
    "a rule": ["iptables-nft -A FORWARD -j REJECT"],
}
UNDO = [
    "iptables-legacy -P FORWARD ACCEPT", "ip6tables-legacy -P FORWARD ACCEPT", "nft delete table ip filter",
    "nft delete table inet wall",
]  # fmt: skip


NAMED = {
    "a legacy policy": "iptables-legacy filter FORWARD: policy DROP",
    "a policy of iptables-nft": "nft ip filter FORWARD: policy drop",
    "docker's": "nft ip filter FORWARD: policy drop",
    "an administrator's": "nft inet wall pass: policy drop",
    "a rule": "nft ip filter FORWARD: counter packets",
}


def follow(hints: set[str]) -> None:
    """Do what is said, as a person would at a shell."""
    hvtx = f'hvtx() {{ "{sys.executable}" -m hvtx "$@"; }}\n'
    for hint in hints:
        lab.run("sh", "-e", "-c", hvtx + hint)


def test_doctor_names_forward_drops_and_its_fixes_let_pass(
    world: lab.Namespace, hvtx: Program
) -> None:
    """Docker's, ufw's, an administrator's: named where they stand, with commands that do.

    A policy of iptables' tables that comes later is answered by accepts of ours: `hvtx repair`.
    """
    preload()
    hvtx = Forked(**hvtx.environment)
    assert hvtx("doctor", "--json").json()["schema"] == "hvtx/doctor/1"
    for drop, commands in DROPS.items():
        for command in commands:
            lab.run(*command.split())
        found = hvtx("doctor", "--json", code=1).json()["findings"]
        forward = [f for f in found if f["check"] == "forward"]
        assert {f["level"] for f in forward} == {"error"}, (drop, forward)
        assert any(NAMED[drop] in f["message"] for f in forward), (drop, forward)
        shown = hvtx("doctor", code=1).out
        assert "forward: network 'net': guest to world (tcp, udp, icmp; " in shown
        own = "filter FORWARD: policy" in NAMED[drop]
        assert any(f["hint"] == "hvtx repair" for f in forward) is own
        follow({f["hint"] for f in forward})
        found = hvtx("doctor", "--json").json()["findings"]
        assert next(f for f in found if f["check"] == "forward")["level"] == "ok", (drop, found)
        for command in UNDO:
            lab.run(*command.split(), check=False)
        found = hvtx("doctor", "--json").json()["findings"]
        assert next(f for f in found if f["check"] == "forward")["level"] == "ok", drop


def test_what_cannot_be_looked_at_is_not_called_whole(
    hvtx: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A firewall that cannot be read: 9, each thing named, and nothing said to be in order."""

    def unreadable(self: NftablesDriver) -> tuple[Entry, ...]:
        raise HostRefused("the ruleset could not be read")

    preload()
    forked = Forked(**hvtx.environment)
    with monkeypatch.context() as patched:
        patched.setattr(NftablesDriver, "observe", unreadable)
        ran = forked("repair", "--json", code=9)
        failed = ran.json()["failed"]
        assert "filter" in {item["kind"] for item in failed}
        assert all("could not be" in item["why"] for item in failed)
        assert ran.json()["repaired"] == []
    assert forked("repair", "--json").json() == {
        "schema": "hvtx/repair/1", "refused": None, "repaired": [], "failed": []
    }  # fmt: skip
