"""A port that others translate is refused at create and at start, and told of when it came later."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from integration import lab
from integration.lab import vms, witness
from integration.lab.program import Program
from integration.lab.vms import SLEEP

PRE = "type nat hook prerouting priority dstnat;"


class Kind(NamedTuple):
    """Rules of somebody, how they are taken away, and a word of the one that translates."""

    tool: str
    rules: tuple[str, ...]
    named: str
    protocol: str = "tcp"


def nft(rules: str, named: str, family: str = "ip", protocol: str = "tcp") -> Kind:
    return Kind("nft", (f"table {family} other {{ {rules} }}",), named, protocol)


KINDS = {
    "DNAT": nft(f"chain pre {{ {PRE} tcp dport 8080 dnat to 192.0.2.7:80; }}", "dnat to 192.0.2.7"),
    "DNAT of UDP": nft(
        f"chain pre {{ {PRE} udp dport 8080 dnat to 192.0.2.7; }}", "dnat", protocol="udp"
    ),
    "DNAT, IPv6": nft(
        f"chain pre {{ {PRE} tcp dport 8080 dnat to [2001:db8::7]:80; }}", "2001:db8::7", "ip6"
    ),
    "REDIRECT": nft(f"chain pre {{ {PRE} tcp dport 8080 redirect to :9090; }}", ":9090", "inet"),
    "REDIRECT of the host's own": nft(
        "chain out { type nat hook output priority -100; tcp dport 8080 redirect to :9090; }",
        "redirect",
    ),
    "port map": nft(
        "chain ports { tcp dport 8080 dnat to 172.17.0.2:80; }"
        f" chain pre {{ {PRE} fib daddr type local jump ports; }}",
        "172.17.0.2",
    ),
    "forward-port, as firewalld has it": nft(
        "chain zone_allow { tcp dport 8080 redirect to :8888; } chain zone { jump zone_allow; }"
        " chain zones { goto zone; }"
        " chain pre { type nat hook prerouting priority dstnat + 10; jump zones; }",
        ":8888",
        "inet",
    ),
    "range": nft(f"chain pre {{ {PRE} tcp dport 8000-9000 dnat to 192.0.2.7; }}", "192.0.2.7"),
    "set": nft(
        "set s { type inet_service; elements = { 443, 8080 }; }"
        f" chain pre {{ {PRE} tcp dport @s dnat to 192.0.2.7; }}",
        "@s",
    ),
    "map": nft(
        "map m { type inet_service : ipv4_addr; elements = { 8080 : 192.0.2.7 }; }"
        f" chain pre {{ {PRE} dnat to tcp dport map @m; }}",
        "@m",
    ),
    "verdict map": nft(
        "chain to { dnat to 192.0.2.7; }"
        f" chain pre {{ {PRE} tcp dport vmap {{ 8080 : jump to }}; }}",
        "192.0.2.7",
    ),
    "mark": nft(
        "chain m { type filter hook prerouting priority mangle; tcp dport 8080 meta mark set 7; }"
        f" chain pre {{ {PRE} meta mark 7 dnat to 192.0.2.7; }}",
        "mark",
    ),
    "TPROXY": nft(
        "chain pre { type filter hook prerouting priority mangle; tcp dport 8080 tproxy ip to :9090"
        " meta mark set 1 accept; }",
        "tproxy",
        "inet",
    ),
    "TPROXY of UDP, IPv6": nft(
        "chain to { meta l4proto udp tproxy to :9090; } chain pre { type filter hook prerouting"
        " priority mangle; udp dport vmap { 8080 : jump to }; }",
        "tproxy",
        "ip6",
        "udp",
    ),
    "of some callers only": nft(
        f"chain pre {{ {PRE} ip saddr 198.51.100.0/24 tcp dport 8080 dnat to 192.0.2.7; }}",
        "198.51.100.0/24",
    ),
    "of one address only": nft(
        f"chain pre {{ {PRE} ip daddr {lab.HOST4} tcp dport 8080 dnat to 192.0.2.7; }}", "daddr"
    ),
    "all ports": nft(f"chain pre {{ {PRE} iifname uplink dnat to 192.0.2.7; }}", "iifname"),
}
for tool in ("nft", "legacy"):
    for name, rule in {
        "DNAT": "-p tcp --dport 8080 -j DNAT --to-destination 192.0.2.7:80",
        "REDIRECT": "-p tcp --dport 8080 -j REDIRECT --to-ports 9090",
        "multiport": "-p tcp -m multiport --dports 443,8080 -j DNAT --to-destination 192.0.2.7",
    }.items():
        KINDS[f"iptables-{tool}, {name}"] = Kind(
            f"iptables-{tool}",
            (f"-t nat -A PREROUTING {rule}",),
            rule.split(" -j ")[1].split()[0].lower(),
        )
    KINDS[f"iptables-{tool}, TPROXY"] = Kind(
        f"iptables-{tool}",
        ("-t mangle -A PREROUTING -p tcp --dport 8080 -j TPROXY --on-port 9090 --tproxy-mark 1",),
        "tproxy",
    )
    KINDS[f"iptables-{tool}, Docker's"] = Kind(
        f"iptables-{tool}",
        (
            "-t nat -N DOCKER",
            "-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
            "-t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER",
            "-t nat -A DOCKER ! -i docker0 -p tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80",
        ),
        "docker",
    )

HARMLESS = {
    "another port": nft(f"chain pre {{ {PRE} tcp dport 8081 dnat to 192.0.2.7; }}", ""),
    "another protocol": nft(f"chain pre {{ {PRE} udp dport 8080 dnat to 192.0.2.7; }}", ""),
    "a proxy for another port": nft(
        "chain pre { type filter hook prerouting priority mangle; tcp dport 80 tproxy to :9090; }",
        "",
    ),
    "not the host's address": nft(
        f"chain pre {{ {PRE} ip daddr 198.51.100.77 tcp dport 8080 dnat to 192.0.2.7; }}", ""
    ),
    "masquerade": nft("chain post { type nat hook postrouting priority srcnat; masquerade; }", ""),
    "accepted before": nft(
        f"chain pre {{ {PRE} tcp dport 8080 accept; tcp dport 8000-9000 redirect to :1; }}", ""
    ),
    "asleep": Kind(
        "nft",
        (f"table ip other {{ flags dormant; chain pre {{ {PRE} tcp dport 8080 redirect; }}; }}",),
        "",
    ),
    "iptables-legacy, another port": Kind(
        "iptables-legacy", ("-t nat -A PREROUTING -p tcp --dport 8081 -j REDIRECT",), ""
    ),
}


def make(kind: Kind) -> None:
    for rule in kind.rules:
        if kind.tool == "nft":
            lab.run("nft", "-f", "-", stdin=re.sub(r"\}(?!;)", "}\n", rule))
        else:
            lab.run(kind.tool, *rule.split())


def unmake(kind: Kind) -> None:
    if kind.tool == "nft":
        lab.run("nft", "delete", "table", kind.rules[0].split()[1], "other")
        return
    for rule in reversed(kind.rules):
        lab.run(kind.tool, *rule.replace("-A ", "-D ", 1).replace("-N ", "-X ", 1).split())


@pytest.fixture
def backend() -> str:
    return "nftables"


@pytest.fixture
def hvtx(backend: str, world: lab.Namespace) -> Iterator[Program]:
    with vms.networked(backend) as program:
        yield program


def publish(kind: Kind) -> tuple[str, str]:
    return ("-p", f"8080:80/{kind.protocol}")


@pytest.mark.parametrize(
    ("backend", "name"),
    [
        *(("nftables", name) for name in KINDS),
        *(("iptables", name) for name in KINDS if "DNAT" in name),
    ],
)
def test_it_is_refused_at_create_and_at_start(hvtx: Program, name: str) -> None:
    """4, naming the rule; nothing of hvtx's is in its way meanwhile."""
    kind = KINDS[name]
    hvtx("vm", "create", "web", "--network", "net", *publish(kind), *SLEEP)
    make(kind)
    with witness.undone():
        said = hvtx("vm", "start", "web", code=4).err
        assert f"8080/{kind.protocol}" in said
        assert kind.named.lower() in said.lower()
    hvtx("vm", "rm", "web")
    verb = "run" if name == "DNAT" else "create"
    said = hvtx("vm", verb, "two", "--network", "net", *publish(kind), *SLEEP, code=4).err
    assert kind.named.lower() in said.lower()
    unmake(kind)
    hvtx("vm", "run", "web", "--network", "net", *publish(kind), *SLEEP)


@pytest.mark.parametrize("name", list(HARMLESS))
def test_what_takes_nothing_is_in_nobodys_way(hvtx: Program, name: str) -> None:
    """And `doctor` is content."""
    make(HARMLESS[name])
    said = hvtx("vm", "run", "web", "--network", "net", "-p", "8080:80", *SLEEP).err
    assert "not known" not in said
    if name in ("another port", "iptables-legacy, another port"):
        assert [f["level"] for f in findings(hvtx)] == ["ok"]


def findings(hvtx: Program) -> list[dict[str, Any]]:
    return vms.findings(hvtx, "ports")


@pytest.mark.parametrize(
    ("backend", "priority"), [("nftables", -150), ("nftables", 50), ("iptables", -150)]
)
def test_a_rule_that_came_later_is_told_of(hvtx: Program, priority: int) -> None:
    """An error where it stands first and cuts the guest off; else a warning: it is cut off itself."""
    hvtx("vm", "run", "web", "--network", "net", "-p", "8080:80", *SLEEP)
    assert [f["level"] for f in findings(hvtx)] == ["ok"]
    chain = f"type nat hook prerouting priority {priority};"
    kind = nft(f"chain pre {{ {chain} tcp dport 8080 dnat to 192.0.2.7:80; }}", "192.0.2.7")
    make(kind)
    hvtx("doctor", code=1 if priority < 0 else 0)
    (found,) = findings(hvtx)
    assert found["level"] == ("error" if priority < 0 else "warning")
    assert "8080/tcp" in found["message"]
    assert "'web'" in found["message"]
    assert kind.named in json.dumps(found["evidence"])
    said = hvtx("explain", "8080/tcp", "--json").json()
    assert said["vm"] == "web"
    assert any(kind.named in line for line in said["evidence"]), said["evidence"]
    unmake(kind)
    assert [f["level"] for f in findings(hvtx)] == ["ok"]
