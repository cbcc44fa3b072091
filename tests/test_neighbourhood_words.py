"""What the neighbours' job reads out of hints, and leaves out of a dump."""

from __future__ import annotations

import pytest

from integration.lab.neighbourhood import table
from integration.lab.neighbourhood.cell import Seen
from integration.lab.neighbourhood.scene import commands


@pytest.mark.parametrize(
    ("hint", "found"),
    [
        (None, []),
        ("hvtx repair", ["hvtx repair"]),
        ("hvtx repair, or: sysctl -w net.ipv4.ip_forward=1", ["hvtx repair"]),
        (
            "iptables-nft -I DOCKER-USER -i hvbr0 -j RETURN; ip6tables-nft -I FORWARD -j RETURN",
            ["iptables-nft -I DOCKER-USER -i hvbr0 -j RETURN", "ip6tables-nft -I FORWARD -j RETURN"],
        ),
        ("ufw route allow in on hvbr0\nufw allow in on hvbr0",
         ["ufw route allow in on hvbr0", "ufw allow in on hvbr0"]),
        ("remove that route or address, or give the VMs another network", []),
        ("see docs/privileges.md", []),
    ],
)  # fmt: skip
def test_commands_of_a_hint(hint: str | None, found: list[str]) -> None:
    assert commands(hint) == found


def test_the_table_has_a_line_for_each_neighbour() -> None:
    flows = {"start": "3 → 15", "reload": "15", "stop": "15"}
    first = Seen("ufw", "neighbour first", "ufw 1", flows, (), ())
    second = Seen("ufw", "hvtx first", "ufw 1", {"start": "15"}, (), ("a fault",))
    assert table.written([first, second]).splitlines()[2:] == [
        "| ufw | ufw 1 | start: 3 → 15; reload, stop: 15 | start: 15 (**1 faults**) |"
    ]
