"""Routes, policies, neighbours and settings of others: doctor's word beside what real packets do.

The flows of the test are real ones through real devices; doctor's are tried in its replica. Before
each case the host and its guests have forgotten one another's MAC addresses.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from integration import lab
from integration.program import Program
from integration.rulesets import Case
from integration.test_forward import (  # noqa: F401 - hvtx and flows are fixtures
    bridge_of,
    compare,
    flows,
    forward_findings,
    hvtx,
    judged,
    named,
)
from integration.test_network import GuestVm
from integration.traffic import Traffic


class Way(NamedTuple):
    """What somebody does, what undoes it, and what doctor names (nothing: all passes)."""

    name: str
    before: str
    after: str
    by: str
    mends: bool = True  # what doctor prints is run in place of ``after``


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
    Way("users of the host", "ip rule add uidrange 1000-2000 dport 80 ipproto tcp pref 90 blackhole",
        "ip rule del pref 90", ""),
    Way("a nexthop by number", "ip nexthop add id 10 via 203.0.113.2 dev uplink\n"
        "ip route replace default nhid 10",
        "ip route replace default via 203.0.113.2\nip nexthop del id 10", ""),
    Way("a nexthop that is a black hole", "ip nexthop add id 9 blackhole\n"
        "ip route add 10.77.0.0/25 nhid 9", "ip route del 10.77.0.0/25\nip nexthop del id 9",
        "blackhole 10.77.0.0/25", mends=False),
    Way("an entry leads past a guest", WRONG, "", "at 02:00:00:00:99:99 on {bridge}"),
    Way("no answer to ARP", "sysctl -qw net.ipv4.conf.{bridge}.arp_ignore=8", "",
        "net.ipv4.conf.{bridge}.arp_ignore = 8"),
    Way("no answer to ARP anywhere", "sysctl -qw net.ipv4.conf.all.arp_ignore=8", "",
        "net.ipv4.conf.all.arp_ignore = 8"),
    Way("strict about senders, and all is well", "sysctl -qw net.ipv4.conf.all.rp_filter=1",
        "sysctl -qw net.ipv4.conf.all.rp_filter=0", ""),
    Way("other settings of ARP", "sysctl -qw net.ipv4.conf.all.arp_filter=1\n"
        "sysctl -qw net.ipv4.conf.all.arp_announce=2\nsysctl -qw net.ipv4.conf.all.proxy_arp=1",
        "sysctl -qw net.ipv4.conf.all.arp_filter=0\nsysctl -qw net.ipv4.conf.all.proxy_arp=0", ""),
)  # fmt: skip


def forget(hvtx: Program) -> None:  # noqa: F811
    """Have everybody ask for MAC addresses again."""
    for name in ("web", "two"):
        GuestVm(hvtx, name).run("ip", "neigh", "flush", "all")
    lab.run("ip", "neigh", "flush", "dev", bridge_of(hvtx))


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
    half: int,  # noqa: F811
) -> None:
    """Each: what is in the way is named, nothing that is not; and what it prints is a mend."""
    bridge, wrong = bridge_of(hvtx), []
    for way in WAYS[half::2]:
        act(way.before, bridge)
        forget(hvtx)
        wrong += compare(Case(way.name, "", way.by.replace("{bridge}", bridge)), flows, "")
        if way.by and way.mends:
            hints = {f["hint"] for f in forward_findings(hvtx, 1)}
            for hint in sorted(hints):
                lab.run("sh", "-c", hint)
            if told := judged().stops:
                wrong.append(f"{way.name}: {hints} is no mend: {told}")
            while "89:" in lab.run("ip", "rule"):
                lab.run("ip", "rule", "del", "pref", "89")
        act(way.after, bridge)
    assert not wrong, "\n".join(wrong)
