"""Which interface each `--ip` is for, and which its network's DHCP gives."""

from __future__ import annotations

import pytest

from hvtx.errors import UsageError
from hvtx.model.vm import Interface, Network, Vm
from hvtx.planner.assigning import (
    MOST,
    Asked,
    assigned,
    given_of,
    is_given,
    never_given,
    refuse_never_given,
)


def network(name: str, *subnets: str) -> Network:
    gateways = tuple(subnet.partition("/")[0][:-1] + "1" for subnet in subnets)
    return Network(
        name, name, "hvbr0", "02:00:00:00:00:01", 1500, True, False, "nftables", subnets, gateways,
        None,
    )  # fmt: skip


LAN = network("lan", "10.77.0.0/24", "fd77::/64")
DMZ = network("dmz", "10.78.0.0/24")


@pytest.mark.parametrize(
    ("ips", "asked"),
    [
        ([], [Asked(), Asked()]),
        (["10.77.0.5"], [Asked("10.77.0.5"), Asked()]),
        (["10.77.0.5", "10.78.0.6"], [Asked("10.77.0.5"), Asked("10.78.0.6")]),
        (["10.77.0.5", "fd77::5"], [Asked("10.77.0.5", "fd77::5"), Asked()]),
        (
            ["10.77.0.5", "10.78.0.6", "10.78.0.7", "10.77.0.8"],
            [Asked("10.77.0.5", None, ("10.77.0.8",)), Asked("10.78.0.6", None, ("10.78.0.7",))],
        ),
        (
            ["fd77::5", "10.77.0.5", "fd77::6"],
            [Asked("10.77.0.5", "fd77::5", ("fd77::6",)), Asked()],
        ),
    ],
)
def test_the_nth_is_for_the_nth_network_and_the_rest_for_its_own(
    ips: list[str], asked: list[Asked]
) -> None:
    assert assigned(ips, [LAN, DMZ]) == asked


def test_a_network_without_the_family_takes_none() -> None:
    """It is passed over: the address is for the first network that can have it."""
    six, lan = network("six", "fd81::/64"), network("lan", "10.77.0.0/24", "fd77::/64")
    found = assigned(["10.77.0.5", "10.77.0.6", "fd81::5", "fd77::5"], [six, lan])
    assert found == [Asked(None, "fd81::5"), Asked("10.77.0.5", "fd77::5", ("10.77.0.6",))]
    assert assigned(["10.77.0.5"], [six]) == [Asked("10.77.0.5")], "who looks closer refuses it"


def test_further_addresses_of_both_families() -> None:
    found = assigned(["10.77.0.5", "fd77::5", "fd77::6", "10.77.0.6"], [LAN])
    assert found == [Asked("10.77.0.5", "fd77::5", ("10.77.0.6", "fd77::6"))]
    assert found[0].addresses == ("10.77.0.5", "fd77::5", "10.77.0.6", "fd77::6")


def test_a_further_one_is_in_a_network_of_the_vm() -> None:
    with pytest.raises(UsageError, match="fd78::5 is in no subnet of 'lan', 'dmz'"):
        assigned(["fd77::5", "fd78::5"], [LAN, DMZ])


@pytest.mark.parametrize("ips", [["10.77.0.5", "10.99.0.5"], ["fd77::5", "fd99::5"]])
def test_a_further_one_is_in_some_network(ips: list[str]) -> None:
    with pytest.raises(UsageError, match="is in no subnet of 'lan'"):
        assigned(ips, [LAN])


def test_there_is_a_most() -> None:
    ips = [f"10.77.0.{number}" for number in range(5, 5 + MOST)]
    assert len(assigned(ips, [LAN])[0].addresses) == MOST
    with pytest.raises(UsageError, match="17 addresses are asked for"):
        assigned([*ips, "fd77::5"], [LAN])


FAR = "fd77:0:0:5::9"


def wide(*subnets: str, dhcp: bool = True) -> Network:
    return network("lan", *subnets)._replace(dhcp=dhcp)


def vm(ipv6: str | None, *more: str, on: str = "lan") -> Vm:
    own = Interface(0, on, "lan", "02:00:00:00:00:02", "10.77.0.2", ipv6, (), more)
    return Vm("v", "web", "qemu", 1, 1, None, None, None, (), (), "", False, (own,))


@pytest.mark.parametrize(
    ("subnet", "part"),
    [("fd77::/48", "fd77::/64"), ("fd77:0:0:8::/62", "fd77:0:0:8::/64"), ("fd77::/64", None),
     ("fd77::/112", None), ("10.0.0.0/8", None)],
)  # fmt: skip
def test_of_a_wide_subnet_the_first_64_is_given(subnet: str, part: str | None) -> None:
    assert given_of(wide("10.77.0.0/24", subnet)) == part
    assert given_of(wide("10.77.0.0/24", subnet, dhcp=False)) is None


def test_an_address_beyond_it_is_refused_where_a_guest_would_ask_for_it() -> None:
    served = wide("10.77.0.0/24", "fd77::/48")
    for address in ("fd77::2", "fd77::ffff:ffff:ffff:ffff", None):
        assert is_given(address, served)
        refuse_never_given(address, served)
    assert not is_given(FAR, served)
    with pytest.raises(UsageError) as refused:
        refuse_never_given(FAR, served)
    assert refused.value.message == (
        f"{FAR} cannot be given by DHCPv6: network 'lan' gives what is in fd77::/64"
    )
    assert "choose an address in fd77::/64" in (refused.value.hint or "")
    refuse_never_given(FAR, wide("fd77::/48", dhcp=False))


def test_which_vms_would_ask_in_vain() -> None:
    served = wide("fd77::/48")
    assert never_given(vm(FAR), served) == [FAR]
    assert never_given(vm("fd77::2", FAR), served) == [], "a further address is no matter of DHCP"
    assert never_given(vm(None), served) == []
    assert never_given(vm(FAR, on="other"), served) == []
