"""What doctor says of firewalls, routes and settings, and what really passes: the same.

The flows of the test are real ones through real devices; doctor's are tried in its replica.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvtx.engine import forward
from hvtx.engine.runtime import Runtime, Settings
from hvtx.host.netlink import CREATE, attribute, nested, text
from hvtx.host.nfmessages import Command
from hvtx.host.nfnetlink import Nftables
from hvtx.model.traffic import Stop
from integration import lab
from integration.lab import traffic, witness
from integration.lab.program import Forked, Program, preload
from integration.lab.rulesets import CASES, Case
from integration.lab.traffic import Place, Traffic
from integration.lab.vms import two_guests
from integration.network.test_guests_network import GuestVm, run

OTHERS = ("inet wall", "ip wall", "bridge wall", "netdev wall", "inet firewalld", "ip filter",
          "ip6 filter", "bridge filter", "ip raw", "ip mangle")  # fmt: skip


@pytest.fixture(params=["nftables", "iptables"])
def hvtx(request: pytest.FixtureRequest, world: lab.Namespace) -> Iterator[Program]:
    """The program, a network and the guests ``web`` and ``two``."""
    with two_guests(request.param) as program:
        yield program


@pytest.fixture
def flows(hvtx: Program, world: lab.Namespace) -> Iterator[Traffic]:
    """Real flows."""
    web, two = (GuestVm(hvtx, name) for name in ("web", "two"))
    places = {
        "web": Place(web.pid, four=web.ipv4, six=web.ipv6),
        "two": Place(two.pid, four=two.ipv4, six=two.ipv6),
        "world": Place(world.pid, four=lab.WORLD4, six=lab.WORLD6),
        "host": Place(None),
    }
    made = Traffic(places, {4: "10.77.0.1", 6: "fd77::1"}, {4: lab.HOST4, 6: lab.HOST6}, 8080)
    yield made
    made.close()


def judged() -> forward.Judged:
    """What the replica of this host says."""
    settings = Settings(os.environ["HVTX_STATE_DIR"], os.environ["HVTX_RUN_DIR"], vm_user="root")
    runtime = Runtime(settings, writable=False)
    try:
        return forward.judge(runtime)
    finally:
        runtime.close()


def named(stops: tuple[Stop, ...]) -> set[traffic.Name]:
    """The flows of stops as the test names them."""
    return {(stop.flow.way, stop.flow.family, stop.flow.protocol) for stop in stops}


def bridge_of(hvtx: Program) -> str:
    """The device of the network."""
    name: str = hvtx("network", "show", "net", "--json").json()["bridge"]
    return name


def set_up(case: Case, bridge: str) -> None:
    """Do what somebody else did."""
    for line in case.setup.splitlines():
        if line.startswith("nft "):
            lab.run("nft", "-f", "-", stdin=line[4:].replace("{bridge}", f'"{bridge}"') + "\n")
        else:
            lab.run(*shlex.split(line.replace("{bridge}", bridge)))


def take_down() -> None:
    """And undo it."""
    tables = lab.run("nft", "list", "tables")
    for table in OTHERS:
        if f"table {table}\n" in tables:
            lab.run("nft", "delete", "table", *table.split())
    for tool, table, chain in (
        ("iptables-legacy", "mangle", "FORWARD"), ("ip6tables-legacy", "raw", "PREROUTING"),
    ):  # fmt: skip
        lab.run(tool, "-t", table, "-F", chain)
    lab.run("iptables-legacy", "-P", "FORWARD", "ACCEPT")


def compare(case: Case, flows: Traffic) -> list[str]:
    """What is wrong with doctor's word for one case, in words."""
    if case.ours:
        case = case._replace(by="")
    found = judged()
    told = named(found.stops)
    really = flows.stopped(told)
    wrong = [f"{case.name}: not copied: {words}" for words in found.lacks]
    if told != really:
        wrong.append(f"{case.name}: told {sorted(told - really)}, not told {sorted(really - told)}")
    if bool(case.by) != bool(told):
        wrong.append(f"{case.name}: {len(told)} flows are said to be stopped")
    findings = list(forward.findings(found, real=True))
    levels = {finding.level for finding in findings}
    if levels != ({"error"} if case.by else {"ok"}):
        wrong.append(f"{case.name}: {findings}")
    if case.by and not any(case.by in finding.message for finding in findings):
        wrong.append(f"{case.name}: {case.by!r} is not named: {findings}")
    return wrong


@pytest.mark.parametrize("half", [0, 1])
def test_doctor_says_what_traffic_does(hvtx: Program, flows: Traffic, half: int) -> None:
    """Each rule set: the flows that doctor calls stopped are those that do not pass."""
    bridge, wrong = bridge_of(hvtx), []
    for case in CASES[half::2]:
        set_up(case, bridge)
        if case.ours:  # an accept of hvtx's own answers a policy, once it knows of it
            hvtx("repair")
        wrong += compare(case, flows)
        take_down()
    assert not wrong, "\n".join(wrong)


FORCED = Path("/proc/sys/net/ipv6/conf/default/force_forwarding")
WAYS = (
    # name, commands, commands that undo, what is named (nothing: all passes)
    ("an exit node", ("ip rule add pref 5270 lookup 52\n"
     "ip route add default via 203.0.113.2 table 52"),
     "ip rule del pref 5270\nip route flush table 52", "table 52 leads to uplink"),
    ("a wider route asked first", ("ip rule add pref 5270 lookup 52\n"
     "ip route add 10.0.0.0/8 via 203.0.113.2 table 52"),
     "ip rule del pref 5270\nip route flush table 52", "10.0.0.0/8 dev uplink table 52"),
    ("an exit node that leaves guests out", ("ip rule add pref 5270 lookup 52\n"
     "ip route add default via 203.0.113.2 table 52\nip route add throw 10.77.0.0/24 table 52"),
     "ip rule del pref 5270\nip route flush table 52", ""),
    ("guests may not", "ip rule add from 10.77.0.0/24 pref 5000 prohibit", "ip rule del pref 5000",
     "Permission denied"),
    ("a black hole", "ip -6 route add blackhole fd77::/65", "ip -6 route del blackhole fd77::/65",
     "route to fd77::"),
    ("forwarding off", "sysctl -qw net.ipv4.ip_forward=0", "sysctl -qw net.ipv4.ip_forward=1",
     "net.ipv4.ip_forward = 0"),
    ("off on the bridge", "sysctl -qw net.ipv4.conf.{bridge}.forwarding=0",
     "sysctl -qw net.ipv4.conf.{bridge}.forwarding=1", "net.ipv4.conf.{bridge}.forwarding = 0"),
    ("off on the uplink", "sysctl -qw net.ipv4.conf.uplink.forwarding=0",
     "sysctl -qw net.ipv4.conf.uplink.forwarding=1", "net.ipv4.conf.uplink.forwarding = 0"),
)  # fmt: skip


def test_doctor_says_of_routes_and_settings_what_traffic_does(
    hvtx: Program, flows: Traffic
) -> None:
    """Each: what is in the way is named, and nothing that is not."""
    bridge, wrong = bridge_of(hvtx), []
    for name, before, after, by in WAYS:
        if "force_forwarding" in before and not FORCED.exists():
            continue  # an older kernel
        for command in before.replace("{bridge}", bridge).splitlines():
            lab.run(*command.split())
        case = Case(name, "", by.replace("{bridge}", bridge))
        wrong += compare(case, flows)
        for command in after.replace("{bridge}", bridge).splitlines():
            lab.run(*command.split())
    assert not wrong, "\n".join(wrong)


def forward_findings(hvtx: Program, code: int | None = 0) -> list[dict[str, str]]:
    """What doctor's check says."""
    found = hvtx("doctor", "--json", code=code).json()["findings"]
    return [f for f in found if f["check"] == "forward"]


EVERY_KIND = """table inet wall {
 comment "x"
 counter c1 { }
 quota q1 { over 10 mbytes used 5 mbytes }
 limit l1 { rate 10/second }
 ct helper h1 { type "ftp" protocol tcp; }
 set s4 { type ipv4_addr; flags interval; auto-merge; elements = { 192.0.2.0/25, 198.18.0.6-198.18.0.9 } }
 set cc { type ipv4_addr . inet_service; flags interval; elements = { 192.0.2.0/24 . 80-90 } }
 set dyn { type ipv4_addr; flags dynamic,timeout; timeout 1h; size 1000; }
 set old { type ipv4_addr; timeout 1h; elements = { 192.0.2.1 expires 10m, 192.0.2.2 timeout 2h expires 1h } }
 map vm { type ifname : verdict; elements = { "a" : jump j1, "b" : drop } }
 map om { type inet_service : counter; elements = { 22 : "c1" } }
 chain j1 { ip saddr { 192.0.2.1, 192.0.2.2 } accept; tcp dport { 22, 81-90 } counter drop; }
 chain f { type filter hook forward priority 0;
  iifname vmap @vm
  ct state vmap { established : accept, related : accept, invalid : drop }
  meta l4proto { tcp, udp } th dport 54 jump { ip saddr 192.0.2.1 drop; counter accept; }
  limit rate 5/second log prefix "x"
  quota name "q1"
  counter name tcp dport map @om
  update @dyn { ip saddr limit rate over 500/second } drop
  ip saddr @s4 tcp dport 22 fib saddr . iif oif missing drop
  ip saddr . tcp dport @cc drop
  ip saddr 192.0.2.7 reject with icmpx type admin-prohibited
  tcp option sack-perm exists reset tcp option sack-perm
  tcp flags & (fin|syn) == syn tcp option maxseg size set rt mtu
  tcp dport 21 ct helper set "h1"
 }
 chain n { type nat hook prerouting priority -100; dnat ip to tcp dport map { 90 : 192.0.2.9 . 8080 }; }
 chain p { type nat hook postrouting priority 100; oifname != "uplink" masquerade random; }
}
table netdev wall { chain i { type filter hook ingress devices = { uplink, lo } priority 0; ip saddr 192.0.2.9 drop; }; }
table bridge wall { chain f { type filter hook forward priority 0; ether saddr 02:00:00:00:00:09 drop; }; }
table arp wall { chain i { type filter hook input priority 0; arp operation request accept; }; }
"""
BY_IPTABLES = """iptables-nft -A FORWARD -p tcp -m multiport --dports 8000,8001 -j REJECT
iptables-nft -A INPUT -p udp --dport 5 -m limit --limit 5/s -j LOG
iptables-nft -A FORWARD ! -p icmp -s 192.0.2.1 -m recent --set -j DROP
iptables-nft -A INPUT -p tcp -s 192.0.2.1 -m hashlimit --hashlimit-name h --hashlimit-above 5/s -j DROP
iptables-nft -t nat -A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE
iptables-nft -t nat -A PREROUTING -p tcp --dport 90 -m addrtype --dst-type LOCAL -j DNAT --to 192.0.2.9:80
iptables-nft -t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
iptables-nft -A OUTPUT -m owner --uid-owner 77 -j DROP
ip6tables-nft -A FORWARD -p ipv6-icmp --icmpv6-type echo-request -j ACCEPT
ip6tables-nft -A FORWARD -p tcp -m tcp --dport 8000 -j REJECT
ebtables-nft -A FORWARD -p IPv4 --ip-src 192.0.2.1 --ip-proto tcp -j DROP
ebtables-nft -A FORWARD -p IPv4 --limit 5/s --log
ebtables-nft -A FORWARD --among-src 02:00:00:00:00:09=192.0.2.1 -j DROP"""


@pytest.mark.parametrize("hvtx", ["nftables"], indirect=True)
def test_rules_of_every_kind_are_copied(hvtx: Program) -> None:
    """What the kernel tells of a ruleset is taken by the kernel, and reads the same again."""
    lab.run("nft", "-f", "-", stdin=EVERY_KIND)
    for line in BY_IPTABLES.splitlines():
        lab.run(*line.split())
    found = judged()
    assert found.lacks == ()
    assert found.stops == ()


@pytest.mark.parametrize("hvtx", ["nftables"], indirect=True)
def test_a_table_with_an_owner_is_tried_like_any_other(hvtx: Program) -> None:
    """Only its owner may change it; it decides about guests all the same."""
    owner = Nftables()
    try:
        hook = nested(4, attribute(1, bytes((0, 0, 0, 2))), attribute(2, bytes(4)))
        base = hook + attribute(5, bytes(4)) + text(7, "filter")
        table = text(1, "wall")
        owner.batch([
            Command(0, CREATE, "inet", table + attribute(2, bytes((0, 0, 0, 2)))),
            Command(3, CREATE, "inet", table + text(3, "pass") + base),
        ])  # fmt: skip
        (found,) = forward_findings(hvtx, 1)
        assert "stopped by nft inet wall pass: policy drop" in found["message"]
    finally:
        owner.close()
    assert [f["level"] for f in forward_findings(hvtx)] == ["ok"]


@pytest.mark.parametrize("hvtx", ["nftables"], indirect=True)
def test_what_is_not_copied_is_unknown(hvtx: Program) -> None:
    """Filters of traffic control are not tried: then nobody says that all is well."""
    lab.run("tc", "qdisc", "add", "dev", "uplink", "clsact")
    (found,) = forward_findings(hvtx, None)
    assert found["level"] == "ok", found
    lab.run("tc", "filter", "add", "dev", "uplink", "ingress", "protocol", "ip", "u32", "match",
            "u32", "0", "0", "flowid", "1:1")  # fmt: skip
    (found,) = forward_findings(hvtx)
    assert found["level"] == "warning"
    assert "unknown" in found["message"]
    assert "uplink has filters of traffic control" in found["message"]


@pytest.mark.parametrize("hvtx", ["nftables"], indirect=True)
def test_without_the_right_to_try_it_is_unknown(hvtx: Program) -> None:
    """A doctor that may make no namespace says so, and what to do."""
    done = subprocess.run(
        ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", sys.executable, "-m", "hvtx", "doctor",
         "--json"],
        capture_output=True, text=True, check=False, env={**os.environ, **hvtx.environment},
    )  # fmt: skip
    (found,) = [f for f in json.loads(done.stdout)["findings"] if f["check"] == "forward"]
    assert found["level"] == "warning"
    assert found["message"].startswith("unknown: ")
    assert "CAP_SYS_ADMIN" in found["hint"]


def test_doctor_leaves_the_host_as_it_was(hvtx: Program, world: lab.Namespace) -> None:
    """Dumps and store are the same after it, no namespace and no process stays."""
    set_up(next(case for case in CASES if case.by), bridge_of(hvtx))
    before = len(os.listdir(f"/proc/{os.getpid()}/fd"))
    with witness.unchanged():
        for _ in range(3):
            found = hvtx("doctor", "--json", code=1).json()["findings"]
            told = [f for f in found if f["check"] == "forward"]
            assert [f["level"] for f in told] == ["error"], told
        judged()
    assert len(os.listdir(f"/proc/{os.getpid()}/fd")) == before


def test_several_networks_without_guests_are_tried(world: lab.Namespace) -> None:
    """Guests that are thought up do not meet one another's addresses; nothing is unknown."""
    preload()
    program = Forked(HVTX_FIREWALL="nftables")
    for number in range(3):
        subnets = ("--subnet", f"10.7{number}.0.0/24", "--subnet", f"fd7{number}::/64")
        program("network", "create", f"n{number}", *subnets)
    found = json.loads(program("doctor", "--json", code=None).out)["findings"]
    told = [finding for finding in found if finding["check"] == "forward"]
    assert [finding["level"] for finding in told] == ["ok"], told


def test_a_bridge_that_its_last_port_left_is_copied(hvtx: Program, world: lab.Namespace) -> None:
    """It has no MAC address then, which no message can give to another."""
    lab.run("ip", "link", "add", "theirs", "type", "bridge")
    lab.run("ip", "link", "set", "theirs", "up")
    lab.run("ip", "tuntap", "add", "port", "mode", "tap")
    lab.run("ip", "link", "set", "port", "master", "theirs")
    lab.run("ip", "link", "set", "port", "nomaster")
    assert "00:00:00:00:00:00" in lab.run("ip", "-br", "link", "show", "theirs")
    assert judged()[:2] == ((), ())


def test_openings_of_tcp_look_like_those_of_programs(hvtx: Program, world: lab.Namespace) -> None:
    """Rules against odd openings stop no guest."""
    rule = "-t mangle -A PREROUTING -p tcp -m conntrack --ctstate NEW -m tcpmss ! --mss 536:65535"
    lab.run("iptables-nft", *rule.split(), "-j", "DROP")
    found = json.loads(hvtx("doctor", "--json", code=None).out)["findings"]
    told = [f for f in found if f["check"] == "forward"]
    assert [f["level"] for f in told] == ["ok"], told


def test_a_published_port_that_is_asked_of_the_gateway(hvtx: Program, world: lab.Namespace) -> None:
    """What comes to it is the guest's."""
    run(hvtx, "names", "-p", "53:53/udp")
    found = json.loads(hvtx("doctor", "--json", code=None).out)["findings"]
    told = [f for f in found if f["check"] == "forward"]
    assert [f["level"] for f in told] == ["ok"], told


@pytest.mark.parametrize("hvtx", ["iptables"], indirect=True)
def test_source_nat_of_others_is_not_taken_for_ours(hvtx: Program, world: lab.Namespace) -> None:
    """Guests that leave as whom the world knows nothing of may have no answer: that is not ok."""
    rule = "-t nat -I POSTROUTING -s 10.77.0.0/24 -j ACCEPT"
    lab.run("iptables-legacy", *rule.split())
    found = json.loads(hvtx("doctor", "--json", code=None).out)["findings"]
    told = [f for f in found if f["check"] == "forward"]
    assert [f["level"] for f in told] == ["warning"], told
    assert "unknown: whether network 'net' has guest to world" in told[0]["message"]
    assert "packets leave as 10.77.0." in told[0]["evidence"][0]
