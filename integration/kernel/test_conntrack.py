"""Ending flows, with the tool `conntrack` to make them and to see what is left."""

from __future__ import annotations

import re

import pytest

from hvtx.drivers import flows as flows_driver
from hvtx.drivers.flows import Door
from hvtx.host import conntrack, ctmessages
from hvtx.host.inet import packed
from hvtx.model.vm import Publish
from integration import lab

GUEST4, GUEST6 = GUESTS = "10.77.0.2", "fd77::2"
HEAD4 = bytes([2, 0, 0, 0])  # struct nfgenmsg of IPv4


def insert(*words: str) -> None:
    lab.run("conntrack", "-I", "-t", "300", *words)


def flows() -> set[tuple[str, ...]]:
    """What the tool lists: protocol and all addresses and ports, as they stand."""
    found = set()
    for family in ("ipv4", "ipv6"):
        for line in lab.run("conntrack", "-L", "-f", family, check=False).splitlines():
            ends = re.findall(r"(?:src|dst|sport|dport|zone|id)=\S+", line)
            found.add((line.split()[0], *ends))
    return found


def udp(source: str, to: str, port: int, *more: str) -> tuple[str, ...]:
    """The words for a UDP flow."""
    return ("-p", "udp", "-s", source, "-d", to, "--sport", "4000", "--dport", str(port), *more)


OURS = (
    ("-p", "tcp", "-s", GUEST4, "-d", "198.51.100.1", "--sport", "1000", "--dport", "80",
     "--state", "ESTABLISHED", "-u", "SEEN_REPLY"),
    udp(GUEST4, "198.51.100.1", 53, "--src-nat", "203.0.113.1"),
    udp("198.51.100.9", GUEST4, 53),
    udp("198.51.100.9", "203.0.113.1", 8080, "--dst-nat", f"{GUEST4}:80"),
    udp("198.51.100.8", "203.0.113.1", 8081, "--src-nat", GUEST4),
    udp(GUEST4, "198.51.100.1", 54, "--zone", "5"),
    ("-p", "icmp", "-s", GUEST4, "-d", "198.51.100.1", "--icmp-type", "8", "--icmp-code", "0",
     "--icmp-id", "7"),
    udp(GUEST6, "2001:db8::9", 53),
    udp("2001:db8::9", "2001:db8:113::1", 53, "--dst-nat", f"[{GUEST6}]:80"),
)  # fmt: skip
STRANGERS = (
    udp("10.77.0.20", "198.51.100.1", 53),
    udp("10.77.0.3", "198.51.100.1", 54, "--zone", "5"),
    udp("198.51.100.9", "203.0.113.1", 9090),
    udp("fd77::20", "2001:db8::9", 53),
)


@pytest.mark.parametrize("few", [2048, -1], ids=["all read", "asked by filter"])
def test_flush_ends_every_flow_of_the_addresses_and_no_other(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conntrack, "_FEW", few)
    for words in STRANGERS:
        insert(*words)
    before = flows()
    assert len(before) == len(STRANGERS)
    for words in OURS:
        insert(*words)
    assert len(flows()) == len(STRANGERS) + len(OURS)
    assert flows_driver.flush([GUEST4, GUEST6]) == len(OURS)
    assert flows() == before
    assert flows_driver.flush([GUEST4, GUEST6]) == 0


def test_the_filter_is_the_kernels_own_work() -> None:
    for words in (*STRANGERS, *OURS):
        insert(*words)
    channel = conntrack.Channel(12)
    try:
        answers = [
            {
                flow.name
                for flow in map(ctmessages.parse, channel.dump(conntrack._GET, HEAD4 + question))
            }
            for question in ctmessages.filters(packed(GUEST4))
        ]
        everything = [ctmessages.parse(body) for body in channel.dump(conntrack._GET, HEAD4)]
    finally:
        channel.close()
    raw = packed(GUEST4)
    for answer, end in zip(
        answers, ("source", "destination", "reply_source", "reply_destination"), strict=True
    ):
        assert answer == {flow.name for flow in everything if getattr(flow, end) == raw}
        assert 0 < len(answer) < len(everything)


def test_many_addresses_at_once() -> None:
    for n in range(40):
        insert(*udp(f"10.77.1.{n + 1}", "198.51.100.1", 53))
    insert(*STRANGERS[0])
    assert flows_driver.flush([f"10.77.1.{n + 1}" for n in range(40)]) == 40
    assert len(flows()) == 1


def test_nothing_tracked_is_nothing_to_do() -> None:
    assert flows_driver.flush([GUEST4, GUEST6]) == 0
    assert flows_driver.flush([]) == 0
    assert flows_driver.flush_ports([Door(Publish("udp", None, 53, 53), (GUEST4,))]) == 0


def test_flush_ports_ends_flows_to_the_hosts_own_ports_only() -> None:
    lab.run("ip", "addr", "add", "203.0.113.1/24", "dev", "lo")
    lab.run("ip", "addr", "add", "2001:db8:113::1/64", "dev", "lo", "nodad")
    gone = (
        udp("198.51.100.9", "203.0.113.1", 8080),
        udp("198.51.100.8", "203.0.113.1", 8080, "--dst-nat", "10.77.0.9:80"),  # another's
        udp("198.51.100.7", "203.0.113.1", 8080, "--dst-nat", f"{GUEST4}:81"),  # another port
        udp("127.0.0.1", "127.0.0.1", 8080),
        udp("2001:db8::9", "2001:db8:113::1", 8080),
    )
    stay = (
        udp("198.51.100.9", "203.0.113.1", 8081),
        udp("10.77.0.20", "198.51.100.1", 8080),  # passes through
        udp("198.51.100.6", "203.0.113.1", 8080, "--dst-nat", f"{GUEST4}:80"),  # as it should
        udp("2001:db8::6", "2001:db8:113::1", 8080, "--dst-nat", f"[{GUEST6}]:80"),
        ("-p", "tcp", "-s", "198.51.100.9", "-d", "203.0.113.1", "--sport", "1", "--dport",
         "8080", "--state", "ESTABLISHED", "-u", "SEEN_REPLY"),
    )  # fmt: skip
    for words in stay:
        insert(*words)
    before = flows()
    for words in gone:
        insert(*words)
    assert flows_driver.flush_ports([Door(Publish("udp", None, 8080, 80), GUESTS)]) == len(gone)
    assert flows() == before


def test_flows_of_a_family_that_the_guest_does_not_have_stay() -> None:
    """Nothing translates them, so there would be more and more of them."""
    lab.run("ip", "addr", "add", "203.0.113.1/24", "dev", "lo")
    lab.run("ip", "addr", "add", "2001:db8:113::1/64", "dev", "lo", "nodad")
    insert(*udp("198.51.100.9", "203.0.113.1", 8080))
    insert(*udp("2001:db8::9", "2001:db8:113::1", 8080))
    assert flows_driver.flush_ports([Door(Publish("udp", None, 8080, 80), (GUEST4,))]) == 1
    assert {flow[1] for flow in flows()} == {"src=2001:db8::9"}


@pytest.mark.parametrize(
    ("host_ip", "ended"), [("203.0.113.1", 1), ("0.0.0.0", 2), ("::", 1), ("203.0.113.7", 0)]
)
def test_flush_ports_honours_the_host_address(host_ip: str, ended: int) -> None:
    lab.run("ip", "addr", "add", "203.0.113.1/24", "dev", "lo")
    lab.run("ip", "addr", "add", "203.0.113.2/24", "dev", "lo")
    lab.run("ip", "addr", "add", "2001:db8:113::1/64", "dev", "lo", "nodad")
    insert(*udp("198.51.100.9", "203.0.113.1", 8080))
    insert(*udp("198.51.100.9", "203.0.113.2", 8080))
    insert(*udp("2001:db8::9", "2001:db8:113::1", 8080))
    assert flows_driver.flush_ports([Door(Publish("udp", host_ip, 8080, 80), GUESTS)]) == ended
    assert len(flows()) == 3 - ended
