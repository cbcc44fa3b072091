"""The host's neighbour entry of an address goes with its release, and before its start."""

from __future__ import annotations

import json
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import lab
from integration.lab import guest
from integration.lab.program import Forked, Program, preload
from integration.lab.vms import end_vms

NETWORK = ("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
SLEEP = ("--", "sleep", "600")
FOUR, SIX = "10.77.0.2", "fd77::2"
STALE = "02:00:00:00:00:99"


@pytest.fixture
def hvtx() -> Iterator[Program]:
    preload()
    program = Forked(HVTX_FIREWALL="nftables")
    program(*NETWORK)
    # a port with carrier, as another guest is: without one the kernel forgets all by itself
    lab.run("ip", "link", "add", "keep", "type", "veth", "peer", "name", "keep1")
    lab.run("ip", "link", "set", "keep", "master", bridge(program), "up")
    lab.run("ip", "link", "set", "keep1", "up")
    yield program
    end_vms(program)


def bridge(hvtx: Program) -> str:
    return str(hvtx("network", "show", "net", "--json").json()["bridge"])


def entries(device: str) -> dict[str, str]:
    """MAC addresses in the host's table, by address; what only failed has none."""
    told = json.loads(lab.run("ip", "-j", "neigh", "show", "dev", device, "nud", "all"))
    own = [one for one in told if not one["dst"].startswith(("ff", "224."))]
    return {one["dst"]: one["lladdr"] for one in own if "lladdr" in one}


def remember(device: str, mac: str = STALE, state: str = "reachable") -> None:
    """What the host has learnt of both addresses."""
    for address in (FOUR, SIX):
        lab.run("ip", "neigh", "replace", address, "lladdr", mac, "dev", device, "nud", state)


def test_a_stopped_vm_is_forgotten(hvtx: Program) -> None:
    """By `vm stop`; entries of others on the bridge stay."""
    hvtx("vm", "run", "web", "--network", "net", *SLEEP)
    device = bridge(hvtx)
    remember(device, hvtx.vm("web")["interfaces"][0]["mac"])
    lab.run("ip", "neigh", "add", "10.77.0.77", "lladdr", STALE, "dev", device, "nud", "reachable")
    hvtx("vm", "stop", "web", "--timeout", "1")
    assert entries(device) == {"10.77.0.77": STALE}


@pytest.mark.parametrize("state", ["reachable", "stale", "delay"])
def test_a_vm_starts_with_nothing_remembered(hvtx: Program, state: str) -> None:
    """Whoever had the address meanwhile, or answered for it."""
    hvtx("vm", "create", "web", "--network", "net", *SLEEP)
    device = bridge(hvtx)
    remember(device, state=state)
    hvtx("vm", "start", "web")
    assert not {FOUR, SIX} & entries(device).keys()


def test_a_dead_vms_addresses_are_forgotten_with_its_device(hvtx: Program) -> None:
    """By gc."""
    hvtx("vm", "run", "web", "--network", "net", *SLEEP)
    device = bridge(hvtx)
    lab.end(hvtx.vm("web")["pid"])
    remember(device)
    hvtx("gc", "--apply")
    assert entries(device) == {}


@pytest.mark.parametrize("state", ["permanent", "noarp"])
def test_what_an_administrator_entered_for_good_stays(hvtx: Program, state: str) -> None:
    """A permanent entry is his; doctor tells of one that leads past the guest."""
    hvtx("vm", "create", "web", "--network", "net", *SLEEP)
    device = bridge(hvtx)
    remember(device, state=state)
    hvtx("vm", "start", "web")
    assert entries(device) == {FOUR: STALE, SIX: STALE}
    found = hvtx("doctor", "--json", code=1).json()["findings"]
    told = [f for f in found if f["check"] == "addresses"]
    assert [f["level"] for f in told] == ["error", "error"]
    for finding, address in zip(told, (FOUR, SIX), strict=True):
        assert finding["hint"] == f"ip neigh del {address} dev {device}"
        assert "'web'" in finding["message"]
        lab.run(*finding["hint"].split())
    found = hvtx("doctor", "--json").json()["findings"]
    assert [f["level"] for f in found if f["check"] == "addresses"] == ["ok"]
    remember(device, hvtx.vm("web")["interfaces"][0]["mac"], state)
    hvtx("doctor")


@pytest.mark.parametrize(
    ("port", "more", "where"),
    [
        ("own", ("master",), "to the host"), ("keep", ("master",), "to the host"),
        ("keep", ("master", "static"), "to keep"), ("bridge", ("self",), "to the host"),
    ],
    ids=["local", "local, elsewhere", "static, elsewhere", "local, at the bridge"],
)  # fmt: skip
def test_a_bridge_that_was_told_of_a_guest_otherwise(
    hvtx: Program, port: str, more: tuple[str, ...], where: str
) -> None:
    """`bridge fdb replace` makes a local entry unless it is told: the guest hears nothing."""
    hvtx("vm", "run", "web", "--network", "net", *SLEEP)
    device, mac = hvtx.device("web"), hvtx.vm("web")["interfaces"][0]["mac"]
    own = {"own": device, "bridge": bridge(hvtx)}.get(port, port)
    lab.run("bridge", "fdb", "replace", mac, "dev", device, "master", "static")
    hvtx("doctor")  # a port that is the guest's own leads to it
    lab.run("bridge", "fdb", "replace", mac, "dev", own, *more)
    told = [
        finding
        for finding in hvtx("doctor", "--json", code=1).json()["findings"]
        if finding["check"] == "addresses"
    ]
    (finding,) = told
    assert (finding["level"], "'web'" in finding["message"]) == ("error", True)
    assert finding["evidence"] == [f"the bridge sends frames for {mac} {where}"]
    assert finding["hint"] == f"bridge fdb del {mac} dev {own} {more[0]}"
    lab.run(*finding["hint"].split())
    hvtx("doctor")


def reached(address: str) -> bool:
    """Whether a connection is refused, within a second, by who has the address."""
    try:
        socket.create_connection((address, 9), timeout=1).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    raise AssertionError("nobody listens there")


def test_the_next_owner_of_an_address_is_reached_at_once(hvtx: Program) -> None:
    """A silent guest: nothing tells the host its MAC address but an answer to a question."""
    run = ("vm", "run", "web", "--network", "net", "--", sys.executable, str(Path(guest.__file__)))
    macs = set()
    for _ in range(2):
        hvtx(*run)
        deadline = time.monotonic() + 60
        pid = str(hvtx.vm("web")["pid"])
        inside = ("nsenter", "-t", pid, "-U", "-n", "--preserve-credentials", "--")
        while FOUR not in lab.run(*inside, "ip", "route", check=False):
            assert time.monotonic() < deadline, "the guest does not come up"
            time.sleep(0.01)
        mac = hvtx.vm("web")["interfaces"][0]["mac"]
        macs.add(mac)
        found = lab.run("ip", "neigh", "show", FOUR)
        assert not set(re.findall("lladdr ([0-9a-f:]+)", found)) - {mac}, found
        assert any(reached(FOUR) for _ in range(20))
        hvtx("vm", "rm", "web", "--force")
    assert len(macs) == 2
