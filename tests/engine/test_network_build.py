"""A network's rows are written in the order in which they are made, and name the bridge's mark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hvtx.engine.network_build import intend_network
from hvtx.model.resource import Kind, Resource, State
from hvtx.model.vm import Network
from hvtx.planner import provision

LAN = Network(
    id="net-lan",
    name="lan",
    bridge="hvbrlan",
    mac="02:aa:bb:cc:dd:ee",
    mtu=1500,
    nat=True,
    isolate=False,
    firewall="nftables",
    subnets=("10.77.0.0/24", "fd00:7::/64"),
    gateways=("10.77.0.1", "fd00:7::1"),
    gateway6="fe80::aa:bbff:fecc:ddee",
)


class FakeOperation:
    """Gives each want a row with a mark of its own."""

    def __init__(self) -> None:
        self.rows: list[Resource] = []

    def intend(
        self, sql: Any, wants: Sequence[provision.ResourceSpec], *, network: str
    ) -> list[Resource]:
        assert sql == "sql"
        first = len(self.rows) + 1
        made = [
            Resource(
                n,
                want.kind,
                want.key,
                State.INTENDED,
                f"mark{n}",
                want.spec,
                {},
                1,
                1,
                None,
                network,
            )
            for n, want in enumerate(wants, first)
        ]
        self.rows += made
        return made


def test_addresses_follow_the_bridge_and_name_its_mark() -> None:
    """Its row comes first, since only then there is a mark; what is not an address follows."""
    operation: Any = FakeOperation()
    _, own = provision.want_network(LAN, ifindex=20_000_000, bases=(), settings=())
    rows = intend_network(operation, "sql", LAN, own)
    assert rows == operation.rows
    assert [row.kind for row in rows] == [Kind.BRIDGE, *[Kind.ADDRESS] * 3, Kind.FILTER]
    addresses = [row.spec for row in rows if row.kind == Kind.ADDRESS]
    assert [spec["address"] for spec in addresses] == rows[0].spec["addresses"]
    assert {(spec["owner"], spec["ifindex"]) for spec in addresses} == {("mark1", 20_000_000)}
    assert {row.network for row in rows} == {LAN.id}
