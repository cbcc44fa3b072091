"""Ports of other installations, read from their entries as both firewall drivers write them."""

from __future__ import annotations

import pytest

from hvtx.model.place import nft_place
from hvtx.model.resource import Entry
from hvtx.model.vm import Publish
from hvtx.planner.peer_ports import Published, published_by_others
from tests.planner.scene import OURS, THEIRS, mark

NATIVE, LEGACY = "nftables", "iptables"


def entry(backend: str, text: str, installation: str = THEIRS) -> Entry:
    return Entry(backend, nft_place("inet", "somewhere"), text, mark(3, installation=installation))


@pytest.mark.parametrize(
    ("backend", "text", "port"),
    [
        (NATIVE, "tcp 8080 -> 10.77.0.2 80", Publish("tcp", None, 8080, 0)),
        (NATIVE, "192.0.2.1 udp 53 -> 10.77.0.2 53", Publish("udp", "192.0.2.1", 53, 0)),
        (NATIVE, "2001:db8::1 tcp 443 -> fd77::2 443", Publish("tcp", "2001:db8::1", 443, 0)),
        (
            LEGACY,
            "-p tcp -m tcp --dport 8080 -m addrtype --dst-type LOCAL -j DNAT --to-destination 10.77.0.2:80",
            Publish("tcp", None, 8080, 0),
        ),
        (
            LEGACY,
            "-d 192.0.2.1/32 -p udp -m udp --dport 53 -j DNAT --to-destination 10.77.0.2:53",
            Publish("udp", "192.0.2.1", 53, 0),
        ),
    ],
)
def test_published_by_others_reads_an_entry_of_each_backend(
    backend: str, text: str, port: Publish
) -> None:
    assert published_by_others([entry(backend, text)], OURS) == [Published(port, THEIRS)]


@pytest.mark.parametrize(
    "other",
    [
        entry(NATIVE, "tcp 8080 -> 10.77.0.2 80", OURS),
        entry(NATIVE, "tcp 8080 -> 10.77.0.2 80")._replace(mark=None),
        entry(NATIVE, "tcp 8080 -> 10.77.0.2 80")._replace(mark="hvtx:9:unreadable"),
        entry(NATIVE, "10.77.0.2"),
        entry(NATIVE, "-p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.77.0.2:80"),
        entry(LEGACY, "-p tcp -m tcp --dport 8080 -j ACCEPT"),
        entry(LEGACY, "tcp 8080 -> 10.77.0.2 80"),
    ],
    ids=["ours", "without a mark", "of a newer form", "no port", "legacy", "no DNAT", "native"],
)
def test_published_by_others_takes_nothing_else_for_a_port(other: Entry) -> None:
    assert published_by_others([other], OURS) == []
