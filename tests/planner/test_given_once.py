"""What is given once is refused with the reason where it is to be otherwise, and is no change else."""

from __future__ import annotations

import pytest

from hvtx.errors import Conflict, UsageError
from hvtx.model.vm import Interface
from hvtx.planner.given_once import (
    OfNetwork,
    OfVm,
    parse_network,
    parse_vm,
    refuse_network,
    refuse_vm,
)
from tests.planner.test_provision import LAN, VM

MACS = "02:00:00:00:00:01", "02:00:00:00:00:02"
DMZ = LAN._replace(
    id="net-dmz", name="dmz", subnets=("10.78.0.0/24",), gateways=("10.78.0.1",), gateway6=None
)
WEB = VM._replace(
    interfaces=(
        Interface(0, LAN.id, "lan", MACS[0], "10.77.0.2", "fd00:7::2", (), ("10.77.0.9",)),
        Interface(1, DMZ.id, "dmz", MACS[1], "10.78.0.2", None, ()),
    )
)
NETWORKS = {LAN.id: LAN, DMZ.id: DMZ}


@pytest.mark.parametrize(
    "given",
    [
        OfNetwork(), OfNetwork(subnets=("fd00:7::/64", "10.77.0.0/24")), OfNetwork(bridge="hvbrlan"),
        OfNetwork(mtu=1400), OfNetwork(nat=True), OfNetwork(("10.77.0.0/24", "fd00:7::/64"), "hvbrlan", 1400, True),
    ],
)  # fmt: skip
def test_what_a_network_has_is_no_change(given: OfNetwork) -> None:
    refuse_network(LAN, parse_network(given))


@pytest.mark.parametrize(
    ("given", "has", "asked"),
    [
        (OfNetwork(subnets=("10.79.0.0/24",)), "subnets 10.77.0.0/24, fd00:7::/64", "NAME --subnet 10.79.0.0/24;"),
        (OfNetwork(subnets=("10.77.0.0/24",)), "subnets 10.77.0.0/24, fd00:7::/64", "NAME --subnet 10.77.0.0/24;"),
        (OfNetwork(bridge="br7"), "bridge hvbrlan", "NAME --subnet CIDR --bridge br7;"),
        (OfNetwork(mtu=9000), "MTU 1400", "NAME --subnet CIDR --mtu 9000;"),
        (OfNetwork(nat=False), "NAT", "NAME --subnet CIDR --no-nat;"),
    ],
)  # fmt: skip
def test_another_network_is_told_what_it_has_and_what_to_do(
    given: OfNetwork, has: str, asked: str
) -> None:
    with pytest.raises(Conflict, match=f"'lan' has {has} for as long as it is on record: ") as told:
        refuse_network(LAN, parse_network(given))
    assert told.value.exit_code == 4
    assert f"hvtx network create {asked}" in str(told.value.hint)
    assert "hvtx network rm lan" in str(told.value.hint)


@pytest.mark.parametrize(
    "given",
    [
        OfVm(), OfVm(networks=("lan", "dmz")), OfVm(ips=("10.77.0.2", "10.78.0.2", "10.77.0.9")),
        OfVm(ips=("FD00:7:0::2",)), OfVm(macs=MACS), OfVm(macs=MACS[:1]), OfVm(macs=("02:00:00:00:00:01".upper(),)),
    ],
)  # fmt: skip
def test_what_a_vm_has_is_no_change(given: OfVm) -> None:
    refuse_vm(WEB, parse_vm(given), NETWORKS)


@pytest.mark.parametrize(
    ("given", "has", "asked"),
    [
        (OfVm(networks=("dmz", "lan")), "is in networks lan, dmz", "--network dmz --network lan"),
        (OfVm(networks=("lan",)), "is in networks lan, dmz", "--network lan"),
        (OfVm(ips=("10.77.0.5",)), "has the addresses 10.77.0.2, fd00:7::2, 10.77.0.9, 10.78.0.2", "--ip 10.77.0.5"),
        (OfVm(macs=MACS[1:]), "has the MAC addresses", f"--mac {MACS[1]}"),
        (OfVm(macs=(*MACS, "02:00:00:00:00:03")), "has the MAC addresses", f"--mac {MACS[0]}"),
    ],
)  # fmt: skip
def test_another_vm_is_told_what_it_has_and_what_to_do(given: OfVm, has: str, asked: str) -> None:
    with pytest.raises(Conflict, match=f"VM 'web' {has}") as told:
        refuse_vm(WEB, parse_vm(given), NETWORKS)
    assert told.value.exit_code == 4
    assert f"hvtx vm create NAME {asked}" in str(told.value.hint)
    assert "hvtx vm rm web --force" in str(told.value.hint)


@pytest.mark.parametrize(
    "given",
    [
        OfNetwork(subnets=("10.77.0.1/24",)), OfNetwork(bridge="a/b"), OfNetwork(mtu=1), OfNetwork(mtu=65522),
    ],
)  # fmt: skip
def test_what_no_network_could_have_is_a_usage_error(given: OfNetwork) -> None:
    with pytest.raises(UsageError):
        parse_network(given)


@pytest.mark.parametrize(
    "given",
    [
        OfVm(networks=("A b",)), OfVm(ips=("10.77.0",)), OfVm(macs=("01:00:00:00:00:01",)),
        OfVm(ips=("10.99.0.5",)), OfVm(ips=("10.77.0.255",)), OfVm(ips=("10.77.0.1",)),
    ],
)  # fmt: skip
def test_what_this_vm_could_never_have_is_a_usage_error(given: OfVm) -> None:
    """An address outside of its networks, the gateway's, the broadcast address."""
    with pytest.raises(UsageError):
        refuse_vm(WEB, parse_vm(given), NETWORKS)


def test_a_vm_that_was_taken_over_has_neither() -> None:
    with pytest.raises(Conflict, match="is in network none"):
        refuse_vm(VM._replace(interfaces=()), OfVm(networks=("lan",)), {})
    with pytest.raises(Conflict, match="has no address"):
        refuse_vm(VM._replace(interfaces=()), OfVm(ips=("10.77.0.5",)), {})
