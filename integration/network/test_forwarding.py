"""What a host forwards for its guests, per device; and what that costs the host: nothing lasting.

IPv6 where the kernel forwards per device (``force_forwarding``), and where it does not: there the
forked program does not see that setting (`can_force`).
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import lab
from integration.lab import HOST4, HOST6, WORLD4, WORLD6
from integration.lab.firewall_contract import ALL_NODES_MAC, ether, icmp6, inside, ipv6, reach
from integration.lab.program import Forked, Program, preload
from integration.lab.vms import end_vms
from integration.lab.waiting import until
from integration.network.test_guests_network import GuestVm, make_network, run

# Seconds for a flow that is to be stopped, and for one that is to pass: some milliseconds, but for
# a guest's process that a busy machine lets wait.
PATIENCE, LONG = 0.4, 20.0
ROUTER = "fe80::99"


def setting(path: str, value: str | None = None) -> str:
    file = Path("/proc/sys/net", path)
    if value is not None:
        file.write_text(value)
    return file.read_text().strip()


BOTH = pytest.mark.parametrize("hvtx", ["nftables", "iptables"], indirect=True)


@pytest.fixture(params=["nftables"])
def hvtx(request: pytest.FixtureRequest) -> Iterator[Program]:
    preload()
    program = Forked(HVTX_FIREWALL=request.param)
    yield program
    end_vms(program)


@pytest.fixture(params=[True, False], ids=["force_forwarding", "all.forwarding"])
def forced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether this kernel forwards IPv6 per device."""
    if not request.param:
        monkeypatch.setattr("hvtx.host.sysctl.can_force", lambda: False)
    elif not Path("/proc/sys/net/ipv6/conf/all/force_forwarding").exists():
        pytest.skip("this kernel forwards IPv6 for all devices or for none")
    return bool(request.param)


def findings(hvtx: Program, check: str = "forwarding") -> list[tuple[str, str]]:
    found = hvtx("doctor", "--json", code=None).json()["findings"]
    return [(f["level"], f"{f['message']} {f['hint']}") for f in found if f["check"] == check]


def levels(hvtx: Program) -> set[str]:
    return {level for level, _ in findings(hvtx)}


def passes(
    guest: GuestVm, world: lab.Namespace, port: int, wanted: tuple[bool, bool] = (True, True)
) -> tuple[bool, bool]:
    """Whether the guest reaches the world, and the world the guest's port; over IPv4, over IPv6.

    ``wanted`` is what is expected: for a flow that is to pass it is waited longer.
    """
    return tuple(
        reach(guest, world, "tcp", beyond, port, port, patience=patience) is not None
        and reach(world, guest, "tcp", host, 8080, 80, patience=patience) is not None
        for beyond, host, patience in (
            (WORLD4, HOST4, LONG if wanted[0] else PATIENCE),
            (WORLD6, HOST6, LONG if wanted[1] else PATIENCE),
        )
    )  # type: ignore[return-value]


# -- per device ------------------------------------------------------------------------------------


@BOTH
def test_new_devices_do_not_forward_by_default(hvtx: Program, world: lab.Namespace) -> None:
    """`ip_forward` is 1 and the default of devices 0: our own bridge forwards all the same."""
    setting("ipv4/ip_forward", "1")
    setting("ipv4/conf/default/forwarding", "0")
    make_network(hvtx)
    guest = run(hvtx, "web", "-p", "8080:80")
    assert levels(hvtx) == {"ok"}
    assert passes(guest, world, 7000) == (True, True)
    assert setting("ipv4/conf/default/forwarding") == "0"


@BOTH
def test_a_device_that_was_switched_off(hvtx: Program, world: lab.Namespace) -> None:
    """The bridge's is put back by `repair`; the uplink's is its administrator's, and named."""
    make_network(hvtx)
    guest = run(hvtx, "web", "-p", "8080:80")
    bridge = hvtx("network", "show", "net", "--json").json()["bridge"]
    assert levels(hvtx) == {"ok"}
    off = [f"ipv4/conf/{bridge}/forwarding", "ipv4/conf/uplink/forwarding"]
    if setting("ipv6/conf/all/forwarding") == "0":
        off += [f"ipv6/conf/{bridge}/force_forwarding", "ipv6/conf/uplink/force_forwarding"]
    for number, path in enumerate(off):
        setting(path, "0")
        wanted = (False, True) if "ipv4" in path else (True, False)
        assert passes(guest, world, 7000 + number, wanted) == wanted, path
        found = [words for level, words in findings(hvtx) if level == "error"]
        assert len(found) == 1
        assert f"net.{path.replace('/', '.')}" in found[0]
        if path == "ipv4/conf/uplink/forwarding":
            assert "sysctl -w net.ipv4.conf.uplink.forwarding=1" in found[0]
            setting(path, "1")
        else:
            hvtx("repair")
        assert setting(path) == "1"
        assert levels(hvtx) == {"ok"}
        assert hvtx("repair", "--json").json()["repaired"] == []
        assert passes(guest, world, 7100 + number) == (True, True)


def test_an_uplink_that_does_not_forward_is_said_when_a_network_is_made(
    hvtx: Program, world: lab.Namespace
) -> None:
    """Its administrator's setting is not changed."""
    setting("ipv4/ip_forward", "1")
    setting("ipv4/conf/uplink/forwarding", "0")
    told = hvtx("network", "create", "net", "--subnet", "10.77.0.0/24").err
    assert "net.ipv4.conf.uplink.forwarding" in told
    assert setting("ipv4/conf/uplink/forwarding") == "0"


def test_what_sysctl_system_resets_is_put_back(hvtx: Program, world: lab.Namespace) -> None:
    """`all.forwarding=0` where it is 0 takes `force_forwarding` of every device."""
    make_network(hvtx)
    guest = run(hvtx, "web", "-p", "8080:80")
    setting("ipv6/conf/all/forwarding", "0")
    assert levels(hvtx) == {"error"}
    assert passes(guest, world, 7000, (True, False)) == (True, False)
    hvtx("repair")
    assert levels(hvtx) == {"ok"}
    assert passes(guest, world, 7001) == (True, True)


# -- what turning it on makes of a host ------------------------------------------------------------


def test_a_router_between_two_networks_is_told(hvtx: Program, world: lab.Namespace) -> None:
    """At `network create`, once, and by `doctor`; with one network there is nothing to tell."""
    lab.run("ip", "link", "add", "lan", "type", "bridge")
    lab.run("ip", "addr", "add", "192.0.2.1/24", "dev", "lan")
    lab.run("ip", "link", "set", "lan", "up")
    first = hvtx("network", "create", "net", "--subnet", "10.77.0.0/24").err
    assert "warning: " in first
    assert "lan" in first and "uplink" in first
    assert hvtx("network", "create", "two", "--subnet", "10.78.0.0/24").err == ""
    told = [words for level, words in findings(hvtx) if level == "ok"]
    assert any("lan" in words and "uplink" in words for words in told)


def test_one_network_is_no_router(hvtx: Program, world: lab.Namespace) -> None:
    assert hvtx("network", "create", "net", "--subnet", "10.77.0.0/24").err == ""


@pytest.mark.parametrize("forced", [True], indirect=True, ids=["force_forwarding"])
def test_only_what_guests_need_forwards_ipv6(
    hvtx: Program, world: lab.Namespace, forced: bool
) -> None:
    """Our bridge and the uplink; not another network of the host, and not what comes later."""
    lab.run("ip", "link", "add", "lan", "type", "bridge")
    lab.run("ip", "addr", "add", "2001:db8:9::1/64", "dev", "lan", "nodad")
    lab.run("ip", "link", "set", "lan", "up")
    make_network(hvtx)
    lab.run("ip", "link", "add", "later", "type", "bridge")
    forcing = {n: setting(f"ipv6/conf/{n}/force_forwarding") for n in ("uplink", "lan", "later")}
    assert forcing == {"uplink": "1", "lan": "0", "later": "0"}
    assert setting("ipv6/conf/all/forwarding") == "0"
    row = next(r for r in hvtx("network", "show", "net", "--json").json()["resources"])
    assert row
    assert (
        hvtx("explain", "net.ipv6.conf.uplink.force_forwarding", "--json").json()["owner"] == "hvtx"
    )


@pytest.mark.parametrize("forced", [True], indirect=True, ids=["force_forwarding"])
def test_ipv6_of_a_second_network_is_forwarded(
    hvtx: Program, world: lab.Namespace, forced: bool
) -> None:
    """From a network without a default route a published port is reached, and answers come."""
    with nic("nic1"):
        lab.run("ip", "addr", "add", "2001:db8:9::1/64", "dev", "nic1", "nodad")
        make_network(hvtx)
        assert setting("ipv6/conf/nic1/force_forwarding") == "1"
        assert setting("ipv6/conf/uplink/force_forwarding") == "1"
        assert levels(hvtx) == {"ok"}


# -- a host that learns its routes from advertisements ---------------------------------------------


def advertise(place: lab.Namespace, device: str) -> None:
    """A router advertisement with a prefix, to all nodes, from a router behind ``device``."""
    prefix = struct.pack(">BBBBIII", 3, 4, 64, 0xC0, 7200, 3600, 0)
    prefix += socket.inet_pton(socket.AF_INET6, "2001:db8:77::")
    body = struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + prefix
    packet = ipv6(ROUTER, "ff02::1", 58, icmp6(ROUTER, "ff02::1", body))
    frame = ether("02:00:00:00:00:99", ALL_NODES_MAC, 0x86DD, packet)
    with inside(place), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind((device, 0))
        out.send(frame)


def learnt(device: str) -> bool:
    """Whether the host has a default route by this device from an advertisement."""
    routes = json.loads(lab.run("ip", "-j", "-6", "route", "show", "default"))
    return any(r["dev"] == device and r.get("protocol") == "ra" for r in routes)


@contextlib.contextmanager
def nic(name: str) -> Iterator[lab.Namespace]:
    """A device of the host that takes its addresses and routes from advertisements."""
    other = lab.Namespace()
    try:
        lab.run("ip", "link", "add", name, "type", "veth", "peer", "eth0", "netns", str(other.pid))
        other.run("ip", "link", "set", "eth0", "addrgenmode", "none", "up")
        lab.run("ip", "link", "set", name, "up")
        yield other
    finally:
        other.close()
        lab.run("ip", "link", "del", name, check=False)


def learns(place: lab.Namespace, name: str) -> None:
    """Advertise until the host has its route: a device is not ready at once."""

    def look() -> bool:
        advertise(place, "eth0")
        time.sleep(0.05)
        return learnt(name)

    until(f"a default route by {name}", look)


def test_a_default_route_from_advertisements_comes_and_stays(hvtx: Program, forced: bool) -> None:
    """Learnt before the network, after it, and by a device that comes later."""
    with nic("nic0") as first:
        learns(first, "nic0")
        hvtx("network", "create", "net", "--subnet", "fd77::/64")
        assert learnt("nic0"), "lost with the first network"
        learns(first, "nic0")
        with nic("nic1") as second:
            learns(second, "nic1")
            hvtx("network", "create", "two", "--subnet", "fd78::/64")
            hvtx("repair")
            assert learnt("nic0")
            assert learnt("nic1")
        assert levels(hvtx) == {"ok"}


def test_a_network_before_the_first_advertisement(hvtx: Program, forced: bool) -> None:
    """As at boot: `network create`, or `recover`, and then the first router is heard."""
    with nic("nic0") as place:
        hvtx("network", "create", "net", "--subnet", "fd77::/64")
        learns(place, "nic0")
        assert levels(hvtx) == {"ok"}
    with lab.private_network(), nic("nic0") as place:
        hvtx("recover", "--new-namespace")
        assert hvtx("network", "show", "net", "--json").json()["resources"]
        learns(place, "nic0")
        until(
            "the end of duplicate detection",
            lambda: not lab.run("ip", "-6", "addr", "show", "tentative"),
        )
        assert levels(hvtx) == {"ok"}
        bridge = hvtx("network", "show", "net", "--json").json()["bridge"]
        for device in (bridge, "nic0"):
            forwards = setting("ipv6/conf/all/forwarding") == "1"
            assert forwards or setting(f"ipv6/conf/{device}/force_forwarding") == "1", device


def test_an_uplink_that_comes_later_is_named_and_fixed(hvtx: Program, forced: bool) -> None:
    """A default route by a device that does not forward: an error until `repair`."""
    with nic("nic0") as first:
        learns(first, "nic0")
        hvtx("network", "create", "net", "--subnet", "fd77::/64")
        with nic("nic1") as second:
            learns(second, "nic1")
            assert levels(hvtx) == ({"error"} if forced else {"ok"})
            hvtx("repair")
            assert levels(hvtx) == {"ok"}
            assert learnt("nic0") and learnt("nic1")
        hvtx("repair")  # what was recorded of a device that is gone is no damage
        assert levels(hvtx) == {"ok"}


def test_advertisements_of_guests_are_not_heard(hvtx: Program, forced: bool) -> None:
    """Our bridge takes no route, no address and no redirect from anybody."""
    hvtx("network", "create", "net", "--subnet", "fd77::/64", "--bridge", "hvnet")
    told = [setting(f"ipv6/conf/hvnet/{name}") for name in ("accept_ra", "accept_redirects")]
    assert told == ["0", "0"]
    setting("ipv6/conf/hvnet/accept_ra", "2")
    assert any(level == "error" for level, _ in findings(hvtx, "damage"))
    hvtx("repair")
    assert setting("ipv6/conf/hvnet/accept_ra") == "0"


# -- IPv6 switched off -----------------------------------------------------------------------------


def test_ipv6_is_off_everywhere(hvtx: Program) -> None:
    """6 and the truth; with the fix it works; off again under a network, that is said."""
    setting("ipv6/conf/all/disable_ipv6", "1")
    words = ("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
    told = hvtx(*words, code=6).err
    assert "IPv6 is switched off" in told
    assert "net.ipv6.conf.all.disable_ipv6=0" in told
    assert "run hvtx as root" not in told
    hvtx("network", "create", "four", "--subnet", "10.78.0.0/24")
    assert levels(hvtx) == {"ok"}
    setting("ipv6/conf/all/disable_ipv6", "0")
    hvtx(*words)
    setting("ipv6/conf/all/disable_ipv6", "1")
    assert any(level == "error" and "IPv6 is switched off" in w for level, w in findings(hvtx))
    refused = hvtx("vm", "run", "web", "--network", "net", "--", "sleep", "600", code=6).err
    assert "IPv6 is switched off" in refused
    hvtx("vm", "run", "old", "--network", "four", "--", "sleep", "600")
    setting("ipv6/conf/all/disable_ipv6", "0")
    hvtx("repair")
    hvtx("vm", "run", "web", "--network", "net", "--", "sleep", "600")
    assert levels(hvtx) == {"ok"}


def test_ipv6_is_off_for_new_devices(hvtx: Program, world: lab.Namespace) -> None:
    """Only the default: our own bridge has it on."""
    setting("ipv6/conf/default/disable_ipv6", "1")
    make_network(hvtx)
    guest = run(hvtx, "web", "-p", "8080:80")
    assert passes(guest, world, 7000) == (True, True)
    assert setting("ipv6/conf/default/disable_ipv6") == "1"


def test_a_kernel_without_ipv6(hvtx: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ipv6.disable=1`: there are no settings of it at all."""
    monkeypatch.setattr("hvtx.host.sysctl.has_ipv6", lambda: False)
    told = hvtx("network", "create", "net", "--subnet", "fd77::/64", code=6).err
    assert "IPv6" in told and "ipv6.disable" in told
