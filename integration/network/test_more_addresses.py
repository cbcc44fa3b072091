"""A second address of a family on one interface: the guest's own in every respect.

The table of frames is sent once more with the second addresses as the guest's own: all that is
honest arrives by them, and nothing that is forged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from integration import lab
from integration.lab import WORLD4, WORLD6
from integration.lab.firewall_contract import bridged_frames_see_iptables
from integration.lab.frames import BY_RULES, FORGED, HONEST
from integration.lab.program import Forked, Program, preload
from integration.security.test_frames import Air, Guest, differing, expected, lost_of

MORE = ("10.77.0.50", "fd77::50")
SUBNETS = ("--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
IPS = ("--ip", "10.77.0.40", "--ip", "fd77::40", "--ip", MORE[0], "--ip", MORE[1])


@pytest.fixture(params=["nftables", "iptables"])
def hvtx(request: pytest.FixtureRequest, world: lab.Namespace) -> Program:
    preload()
    bridged_frames_see_iptables(False)
    program = Forked(HVTX_FIREWALL=str(request.param))
    program("network", "create", "net", *SUBNETS)
    return program


@pytest.fixture
def air(hvtx: Program, world: lab.Namespace) -> Iterator[Air]:
    """The first guest, as it is by its second addresses, and another."""

    def guest(name: str, *ips: str) -> Guest:
        hvtx("vm", "create", name, "--network", "net", "--hypervisor", "external", *ips)
        hvtx("vm", "start", name)
        shown = hvtx.vm(name)["interfaces"][0]
        return Guest(shown["mac"], shown["ipv4"], shown["ipv6"], shown["device"])

    (beyond,) = json.loads(world.run("ip", "-j", "link", "show", "eth0"))
    for address in (WORLD4, WORLD6):
        to = ("lladdr", beyond["address"], "dev", "uplink", "nud", "permanent")
        lab.run("ip", "neigh", "replace", address, *to)
    bridge = hvtx("network", "show", "net", "--json").json()["bridge"]
    one = guest("one", *IPS)._replace(ipv4=MORE[0], ipv6=MORE[1])
    with Air(one, guest("two"), bridge, world, apart=False) as found:
        yield found


def test_frames_of_the_second_addresses(hvtx: Program, air: Air) -> None:
    lost = lost_of(air, False)
    through = differing(air.send(FORGED), expected(FORGED, False))
    assert not through, "\n".join(through)
    assert not lost, "\n".join(lost)


def test_frames_of_the_second_addresses_after_a_flush(hvtx: Program, air: Air) -> None:
    """The filter of the device knows them, too."""
    lab.run("nft", "flush", "ruleset")
    near = {"guest", "host"}
    arrived, wanted = air.send(HONEST), expected(HONEST, False)
    lost = [key for key, at in arrived.items() if at & near != wanted[key] & near]
    through = differing(air.send(FORGED), expected(FORGED, False))
    others = [words for words in through if words.rpartition(", to ")[0] not in BY_RULES]
    assert not others, "\n".join(others)
    assert lost == []


def test_they_are_leased_shown_explained_and_freed(hvtx: Program) -> None:
    hvtx("vm", "create", "web", "--network", "net", *IPS, "--", "sleep", "600")
    (shown,) = hvtx.vm("web")["interfaces"]
    assert (shown["ipv4"], shown["ipv6"]) == ("10.77.0.40", "fd77::40")
    assert shown["addresses"] == ["10.77.0.40", "fd77::40", *MORE]
    for address in MORE:
        told = hvtx("explain", address, "--json").json()
        assert (told["owner"], told["vm"]) == ("hvtx", "web")
        taken = ("vm", "create", "other", "--network", "net", "--ip", address, "--", "true")
        assert f"the address {address} is VM 'web''s" in hvtx(*taken, code=4).err
    hvtx("vm", "start", "web")
    keys = {row["key"] for row in hvtx.vm("web")["resources"] if row["kind"] == "masquerade"}
    assert keys == {"10.77.0.40", "fd77::40", *MORE}
    assert hvtx.is_clean()
    assert hvtx("repair", "--json").json()["repaired"] == []
    assert f"{MORE[0]}/24" in hvtx("vm", "show", "web").out
    hvtx("vm", "rm", "web", "--force")
    hvtx("vm", "create", "web", "--from-log")
    assert hvtx.vm("web")["interfaces"][0]["addresses"] == ["10.77.0.40", "fd77::40", *MORE]
    hvtx("vm", "rm", "web")
    hvtx("vm", "create", "other", "--network", "net", "--ip", MORE[0], "--", "true")


def test_an_address_of_the_hosts_own_keeps_a_vm_from_starting(hvtx: Program) -> None:
    hvtx("vm", "create", "web", "--network", "net", *IPS, "--", "sleep", "600")
    bridge = hvtx("network", "show", "net", "--json").json()["bridge"]
    lab.run("ip", "addr", "add", f"{MORE[0]}/32", "dev", bridge)
    assert f"{MORE[0]} of VM 'web' is now this host's own" in hvtx("vm", "start", "web", code=4).err


@pytest.mark.parametrize(
    "ips",
    [
        ("10.77.0.5", "10.77.0.5"), ("10.77.0.5", "10.99.0.1"), ("10.77.0.5", "10.77.0.1"),
        ("10.77.0.5", "10.77.0.255"), ("10.77.0.5", "10.77.0.0"), ("fd77::5", "fd77::1"),
        ("fd77::5", "fd77::5"), ("10.77.0.5", "x"), tuple(f"10.77.0.{n}" for n in range(2, 19)),
    ],
)  # fmt: skip
def test_what_could_never_be_a_second_address(hvtx: Program, ips: tuple[str, ...]) -> None:
    words = [word for ip in ips for word in ("--ip", ip)]
    hvtx("vm", "create", "web", "--network", "net", *words, "--", "true", code=2)
    assert hvtx("vm", "ls", "--json").json()["vms"] == []
