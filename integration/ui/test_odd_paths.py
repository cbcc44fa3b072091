# ruff: noqa: F811 - fixtures are imported
"""Routes, policies, neighbours and settings of others: doctor's word beside what real packets do.

The flows of the test are real ones through real devices; doctor's are tried in its replica. Before
each case the host and its guests have forgotten one another's MAC addresses.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import pytest

from hvtx.commands import doctor as diagnose
from integration import lab
from integration.lab.firewall_contract import reach
from integration.lab.program import Program
from integration.lab.rulesets import Case
from integration.lab.traffic import Traffic
from integration.network.test_doctor_forward import (  # noqa: F401 - hvtx and flows are fixtures
    bridge_of,
    compare,
    flows,
    forward_findings,
    hvtx,
    judged,
    named,
)
from integration.network.test_guests_network import GuestVm


class Way(NamedTuple):
    """What somebody does, what undoes it, and what doctor names (nothing: all passes)."""

    name: str
    before: str
    after: str
    by: str
    fixes: bool = True  # what doctor prints is run in place of ``after``


BLOCKED = "ip xfrm policy add src 10.77.0.0/24 dst 0.0.0.0/0 dir {} action block"
MARKED = """nft add table ip wall
nft add chain ip wall first { type filter hook prerouting priority -150; }
nft add rule ip wall first iifname {bridge} ip daddr != 10.77.0.0/24 meta mark set 7
ip rule add fwmark 7 pref 90 blackhole"""
WRONG = "ip neigh replace 10.77.0.2 lladdr 02:00:00:00:99:99 dev {bridge} nud permanent"
WAYS = (
    Way("IPsec blocks what is forwarded", BLOCKED.format("fwd"), "", "dir fwd action block"),
    Way("IPsec blocks what is sent", BLOCKED.format("out"), "", "dir out action block"),
    Way("IPsec blocks what comes in", "ip xfrm policy add src fd77::/64 dst ::/0 dir in action block",
        "", "dir in action block"),
    Way("IPsec lets guests pass what it blocks",
        "ip xfrm policy add src 10.77.0.0/16 dst 0.0.0.0/0 dir fwd action block priority 9\n"
        "ip xfrm policy add src 10.77.0.0/24 dst 0.0.0.0/0 dir fwd priority 5",
        "ip xfrm policy flush", ""),
    Way("marked packets into a black hole", MARKED, "ip rule del pref 90\nnft delete table ip wall",
        "rule 90 (from all fwmark 0x7 blackhole)"),
    Way("a port of TCP", "ip rule add ipproto tcp dport 443 pref 90 prohibit", "ip rule del pref 90",
        "rule 90 (from all dport 443 ipproto tcp prohibit)"),
    Way("a port of guests", "ip rule add ipproto tcp dport 80 pref 90 blackhole",
        "ip rule del pref 90", "rule 90 (from all dport 80 ipproto tcp blackhole)"),
    Way("what comes from guests", "ip rule add iif {bridge} pref 90 prohibit", "ip rule del pref 90",
        "rule 90 (from all iif {bridge} prohibit)"),
    Way("answers by a tunnel", "ip rule add iif {bridge} ipproto tcp sport 80 pref 90 lookup 52\n"
        "ip tuntap add wg0 mode tun\nip link set wg0 up\nip route add default dev wg0 table 52",
        "ip rule del pref 90\nip link del wg0", "leads to wg0 and not to uplink"),
    Way("users of the host", "ip rule add uidrange 1000-2000 dport 80 ipproto tcp pref 90 blackhole",
        "ip rule del pref 90", ""),
    Way("a nexthop by number", "ip nexthop add id 10 via 203.0.113.2 dev uplink\n"
        "ip route replace default nhid 10",
        "ip route replace default via 203.0.113.2\nip nexthop del id 10", ""),
    Way("a nexthop that is a black hole", "ip nexthop add id 9 blackhole\n"
        "ip route add 10.77.0.0/25 nhid 9", "ip route del 10.77.0.0/25\nip nexthop del id 9",
        "blackhole 10.77.0.0/25", fixes=False),
    Way("an entry leads past a guest", WRONG, "", "at 02:00:00:00:99:99 on {bridge}"),
    Way("strict about senders, and all is well", "sysctl -qw net.ipv4.conf.all.rp_filter=1",
        "sysctl -qw net.ipv4.conf.all.rp_filter=0", ""),
    Way("other settings of ARP", "sysctl -qw net.ipv4.conf.all.arp_filter=1\n"
        "sysctl -qw net.ipv4.conf.all.arp_announce=2\nsysctl -qw net.ipv4.conf.all.proxy_arp=1",
        "sysctl -qw net.ipv4.conf.all.arp_filter=0\nsysctl -qw net.ipv4.conf.all.proxy_arp=0", ""),
)  # fmt: skip


def forget(hvtx: Program) -> None:
    """Have everybody ask for MAC addresses again."""
    for name in ("web", "two"):
        GuestVm(hvtx, name).run("ip", "neigh", "flush", "all")
    lab.run("ip", "neigh", "flush", "dev", bridge_of(hvtx))


@pytest.fixture(autouse=True)
def only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks that are asked here."""
    names = ("forward", "routes", "damage")
    monkeypatch.setattr(diagnose, "CHECKS", {name: diagnose.CHECKS[name] for name in names})


def act(words: str, bridge: str) -> None:
    for line in words.replace("{bridge}", bridge).splitlines():
        if line.startswith("nft "):
            lab.run("nft", "-f", "-", stdin=f"{line[4:]}\n")
        else:
            lab.run(*line.split())


@pytest.mark.parametrize("hvtx", ["nftables"], indirect=True)
@pytest.mark.parametrize("half", [0, 1])
def test_doctor_says_of_ways_what_traffic_does(
    hvtx: Program,
    flows: Traffic,
    half: int,
) -> None:
    """Each: what is in the way is named, nothing that is not; and what it prints is a fix."""
    bridge, wrong = bridge_of(hvtx), []
    for way in WAYS[half::2]:
        act(way.before, bridge)
        forget(hvtx)
        wrong += compare(Case(way.name, "", way.by.replace("{bridge}", bridge)), flows)
        if way.by and way.fixes:
            hints = {f["hint"] for f in forward_findings(hvtx, 1)}
            for hint in sorted(hints):
                lab.run("sh", "-c", hint)
            if told := judged().stops:
                wrong.append(f"{way.name}: {hints} is no fix: {told}")
            while "89:" in lab.run("ip", "rule"):
                lab.run("ip", "rule", "del", "pref", "89")
        act(way.after, bridge)
    assert not wrong, "\n".join(wrong)


NFTABLES = pytest.mark.parametrize("hvtx", ["nftables"], indirect=True)


def known(dump: dict[str, object]) -> list[str]:
    """The routes of a dump; the kernel gives no one else the metric 0 of its own local ones."""
    every = json.loads(json.dumps([dump["routes4"], dump["routes6"]]))
    return sorted(
        str([family, r["dst"], r.get("table"), r.get("type"), r.get("dev"), r.get("prefsrc")])
        for family, routes in enumerate(every)
        for r in routes
    )


def told(hvtx: Program, check: str = "forward") -> list[dict[str, str]]:
    found = hvtx("doctor", "--json", code=None).json()["findings"]
    return [f for f in found if f["check"] == check]


@NFTABLES
def test_a_gateway_that_answers_no_arp_is_named(hvtx: Program) -> None:
    """By the setting, with a fix, and not by a rule of hvtx's own."""
    guest, bridge = GuestVm(hvtx, "web"), bridge_of(hvtx)
    for number, name in enumerate(("all", bridge)):
        lab.run("sysctl", "-qw", f"net.ipv4.conf.{name}.arp_ignore=8")
        forget(hvtx)
        flow = (guest, None, "tcp", "10.77.0.1", 7400 + number, 7400 + number)
        assert reach(*flow, patience=0.4) is None
        (found,) = told(hvtx)
        assert f"stopped by net.ipv4.conf.{name}.arp_ignore = 8" in found["message"]
        lab.run("sh", "-c", found["hint"])
        left = told(hvtx)
        assert [f["level"] for f in left] == ["ok"], left
        assert reach(*flow) is not None


@NFTABLES
def test_senders_that_are_refused_are_named(hvtx: Program) -> None:
    """A strict check refuses guests whose way back is elsewhere: 'Invalid argument' of a lookup."""
    bridge = bridge_of(hvtx)
    lab.run("ip", "rule", "add", "to", "10.77.0.0/24", "iif", "lo", "pref", "99", "lookup", "77")
    lab.run("ip", "route", "add", "10.77.0.0/24", "dev", "uplink", "table", "77")
    lab.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1")
    forget(hvtx)
    hints = {f["hint"] for f in told(hvtx) if f["level"] == "error"}
    assert hints == {
        f"sysctl -w net.ipv4.conf.{bridge}.rp_filter=2",
        "ip rule add to 10.77.0.0/24 lookup main pref 98",
    }
    for hint in hints:
        lab.run("sh", "-c", hint)
    assert [f["level"] for f in told(hvtx)] == ["ok"]


@NFTABLES
def test_a_host_without_a_world_is_said_to_be_so(
    hvtx: Program,
    world: lab.Namespace,
) -> None:
    """No default route, an uplink that is down or without a carrier, a gateway that is silent."""
    lab.run("ip", "route", "del", "default")
    (found,) = told(hvtx)
    assert found["level"] == "ok"  # it may be meant to be so
    assert "over IPv4 this host may not reach the world" in found["evidence"][0]
    lab.run("ip", "route", "add", "default", "via", lab.WORLD4)
    world.run("ip", "link", "set", "eth0", "down")
    assert [("uplink has no carrier" in f["message"], f["level"]) for f in told(hvtx)] == [
        (True, "warning")
    ]
    world.run("ip", "link", "set", "eth0", "up")
    entry = ("203.0.113.2", "lladdr", "02:00:00:00:99:99", "dev", "uplink", "nud")
    lab.run("ip", "neigh", "replace", *entry, "permanent")
    (found,) = told(hvtx)
    assert "its gateway 203.0.113.2 is a static entry" in found["message"]
    lab.run("ip", "neigh", "replace", *entry, "failed")
    (found,) = told(hvtx)
    assert "its gateway 203.0.113.2 does not answer" in found["message"]
    lab.run(
        "ip", "neigh", "del", "203.0.113.2", "dev", "uplink", check=False
    )  # the kernel may have
    assert [f["level"] for f in told(hvtx)] == ["ok"]
    lab.run("ip", "link", "set", "uplink", "down")
    (found,) = told(hvtx)
    assert "over IPv4 and IPv6" in found["message"]
    assert "uplink is down" in found["message"]
    assert found["level"] == "warning"


@NFTABLES
def test_what_a_tunnel_takes_is_not_called_well(hvtx: Program) -> None:
    """A policy with a template: nobody tries it without its keys. Others' tunnels are theirs."""
    ends = "tmpl src 203.0.113.1 dst 203.0.113.2 proto esp mode tunnel"
    act(f"ip xfrm policy add src 203.0.113.1 dst 192.0.2.0/24 dir out {ends}", "")
    assert [f["level"] for f in told(hvtx)] == ["ok"]
    for far in ("203.0.113.0/24", "0.0.0.0/0"):
        act(f"ip xfrm policy add src 10.77.0.0/24 dst {far} dir out {ends}", "")
        (found,) = told(hvtx)
        assert found["level"] == "warning"
        assert "unknown: " in found["message"]
        assert f"the IPsec policy src 10.77.0.0/24 dst {far} dir out" in str(found)
        act(f"ip xfrm policy delete src 10.77.0.0/24 dst {far} dir out", "")
    act("ip xfrm policy add src 10.77.0.0/24 dst 203.0.113.0/24 dir fwd action block", "")
    (found,) = told(hvtx)
    assert found["level"] == "error"
    lab.run("sh", "-c", found["hint"])
    lab.run("ip", "xfrm", "policy", "setdefault", "fwd", "block")
    assert {f["level"] for f in told(hvtx)} == {"error"}


@NFTABLES
def test_each_path_to_the_world_is_tried(
    hvtx: Program,
    flows: Traffic,
) -> None:
    """Of two next hops one leads where rules drop it: some of what guests send is lost."""
    lab.run("ip", "link", "add", "second", "type", "veth", "peer", "name", "far")
    for name in ("second", "far"):
        lab.run("ip", "link", "set", name, "up")
    lab.run("ip", "addr", "add", "198.51.100.1/24", "dev", "second")
    hops = "nexthop via 203.0.113.2 dev uplink nexthop via 198.51.100.2 dev second"
    lab.run("ip", "route", "replace", "default", *hops.split())
    assert [f["level"] for f in told(hvtx)] == ["ok"]
    act("nft add table inet wall\n"
        "nft add chain inet wall pass { type filter hook forward priority 0; }\n"
        "nft add rule inet wall pass oifname second drop", "")  # fmt: skip
    assert flows.stopped(set()) == set()  # this world is no gateway's
    (found,) = told(hvtx)
    assert found["level"] == "error"
    # By the kernel's hash, answers of a published port may take the second way as well.
    assert "guest to world (tcp, udp, icmp; IPv4)" in found["message"]
    assert "stopped by nft inet wall pass" in found["message"]
    lab.run("ip", "nexthop", "add", "id", "1", "via", "203.0.113.2", "dev", "uplink")
    lab.run("ip", "nexthop", "add", "id", "2", "via", "198.51.100.2", "dev", "second")
    lab.run("ip", "nexthop", "add", "id", "3", "group", "1/2")
    lab.run("ip", "route", "replace", "default", "nhid", "3")
    assert [f["level"] for f in told(hvtx)] == ["error"]
    lab.run("nft", "delete", "table", "inet", "wall")
    assert [f["level"] for f in told(hvtx)] == ["ok"]


GONE = (
    "-4 route del 10.77.0.0/24 dev {}", "-4 route del local 10.77.0.1 dev {} table local",
    "-6 route del fd77::/64 dev {}", "-6 route del local fd77::1 dev {} table local",
    "-4 route flush dev {}", "-6 route flush table local dev {}",
)  # fmt: skip


@NFTABLES
def test_routes_of_ours_that_are_gone_are_put_back(hvtx: Program) -> None:
    """By `repair`, as doctor prints it, and as they were; others' stay."""
    bridge = bridge_of(hvtx)
    before = lab.dump()
    for words in GONE:
        lab.run("ip", *words.format(bridge).split())
        found = hvtx("doctor", "--json", code=1).json()["findings"]
        bad = [f for f in found if f["level"] == "error"]
        assert {f["check"] for f in bad} == {"forward", "routes", "damage"}
        assert {f["hint"] for f in bad} == {"hvtx repair"}
        hvtx("repair")
        assert known(lab.dump()) == known(before)
    soft = ("broadcast 10.77.0.255", "ff00::/8")
    for word, gone in zip(("-4", "-6"), soft, strict=True):
        lab.run("ip", word, "route", "del", *gone.split(), "dev", bridge, "table", "local")
        assert [f["level"] for f in told(hvtx, "damage")] == ["warning"]
        hvtx("repair")
    assert known(lab.dump()) == known(before)


@NFTABLES
def test_a_bridge_without_ipv6_is_told_once(hvtx: Program) -> None:
    """What it lacks then is no fault of its own."""
    lab.run("sysctl", "-qw", f"net.ipv6.conf.{bridge_of(hvtx)}.disable_ipv6=1")
    assert [f["level"] for f in told(hvtx, "routes")] == ["ok"]
    assert [f["hint"] for f in told(hvtx)] == ["hvtx repair"]
    hvtx("repair")
    assert [f["level"] for f in told(hvtx)] == ["ok"]
