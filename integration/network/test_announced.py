"""A VM with the address of an earlier one is reached at once, though it says nothing by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from integration.lab.firewall_contract import reach
from integration.lab.program import Forked, Program, preload
from integration.lab.vms import SLEEP, end_vms
from integration.network.test_guests_network import GuestVm, run

SUBNETS = ("--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
SECOND = "10.77.0.77"
_FORMER = "02:00:00:00:00:99"


@pytest.fixture(params=["nftables", "iptables"])
def hvtx(request: pytest.FixtureRequest) -> Iterator[Program]:
    preload()
    program = Forked(HVTX_FIREWALL=str(request.param))
    yield program
    end_vms(program)


def known(guest: GuestVm, *addresses: str) -> list[str]:
    """The MAC addresses that a guest has of its neighbours at these addresses."""
    told = json.loads(guest.run("ip", "-j", "neigh", "show", "dev", "eth0"))
    macs = {one["dst"]: one.get("lladdr", "") for one in told}
    return [macs.get(address, "") for address in addresses]


def test_who_takes_over_an_address_is_reached_at_once(hvtx: Program) -> None:
    """Another guest has spoken with the earlier holder, and has its MAC address still."""
    hvtx("network", "create", "net", *SUBNETS)
    near, former = run(hvtx, "near"), run(hvtx, "former")
    mine = (former.ipv4, former.ipv6)
    for address in mine:
        reach(near, former, "tcp", address, 7000, 7000)
    hvtx("vm", "rm", "--force", "former")
    assert known(near, *mine) == [former.mac] * 2
    then = run(hvtx, "then")
    assert ((then.ipv4, then.ipv6), then.mac != former.mac) == (mine, True)
    assert known(near, *mine) == [then.mac] * 2
    for address in mine:
        reach(near, then, "tcp", address, 7000, 7000)


@pytest.mark.parametrize("kind", ["command", "external"])
@pytest.mark.parametrize("isolated", [False, True])
def test_neighbours_hear_of_each_address_and_isolated_ones_of_none(
    hvtx: Program, kind: str, isolated: bool
) -> None:
    """Whoever is to open the device never does: what is heard is of the start itself."""
    hvtx("network", "create", "net", *SUBNETS, *(["--isolate"] if isolated else []))
    near = run(hvtx, "near")
    mine = ("10.77.0.9", SECOND, "fd77::9")
    for address in mine:
        entry = (address, "lladdr", _FORMER, "dev", "eth0", "nud", "reachable")
        near.run("ip", "neigh", "replace", *entry)
    given = [word for address in mine for word in ("--ip", address)]
    process = SLEEP if kind == "command" else ("--hypervisor", "external")
    hvtx("vm", "run", "then", "--network", "net", *given, *process)
    expected = _FORMER if isolated else hvtx.vm("then")["interfaces"][0]["mac"]
    assert known(near, *mine) == [expected] * 3
