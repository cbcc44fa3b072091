"""Which interface each `--ip` is for."""

from __future__ import annotations

import pytest

from hvtx.errors import UsageError
from hvtx.model.vm import Network
from hvtx.planner.assigning import MOST, Asked, assigned


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
