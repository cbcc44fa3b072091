"""A real systemd-networkd with a file that matches every device (docs/adr/0033)."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import lab
from integration.networkd import Networkd, until
from integration.program import Forked, Program, preload

CATCH_ALL = "[Match]\nName=*\n[Network]\nDHCP=yes\n"
GUEST = ("--", sys.executable, str(Path(__file__).with_name("guest.py")))
MANAGED = ("configuring", "configured")


@pytest.fixture
def hvtx() -> Iterator[Program]:
    """A program with a network of both families, and a VM `web` that holds its device."""
    preload()
    program = Forked(HVTX_FIREWALL="nftables")
    program("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
    program("vm", "run", "web", "--network", "net", *GUEST)
    yield program
    for vm in program("vm", "ls", "--json").json()["vms"]:
        if vm["pid"]:
            os.kill(vm["pid"], signal.SIGKILL)


@pytest.fixture
def networkd(hvtx: Program) -> Iterator[Networkd]:
    """The daemon, which came after hvtx."""
    daemon = Networkd({"50-all.network": CATCH_ALL})
    yield daemon
    daemon.stop()


def link(name: str) -> dict:  # type: ignore[type-arg]
    return json.loads(lab.run("ip", "-d", "-j", "link", "show", name))[0]


def link_local(name: str) -> bool:
    return "fe80::" in lab.run("ip", "-6", "addr", "show", "dev", name)


def bridge(hvtx: Program) -> str:
    name: str = hvtx("network", "show", "net", "--json").json()["bridge"]
    return name


def taken(networkd: Networkd, device: str) -> None:
    """Wait until the daemon has given a device an address of its own."""
    networkd.awaits(link(device)["ifindex"], *MANAGED)
    until(f"an address on {device}", lambda: link_local(device))


def test_what_networkd_puts_on_devices_keeps_no_vm(hvtx: Program, networkd: Networkd) -> None:
    """`repair` takes it off again; `stop`, `start`, `gc` and `network rm` do with it there."""
    device, net = hvtx.device("web"), bridge(hvtx)
    taken(networkd, device)
    assert {link(name)["inet6_addr_gen_mode"] for name in (device, net)} == {"eui64"}
    told = hvtx("doctor", "--json", code=1).json()["findings"]
    assert {f["message"].split(":")[0] for f in told if f["check"] == "damage"} == {
        f"tap {device}", f"bridge {net}",
    }  # fmt: skip
    hvtx("repair")
    assert {link(name)["inet6_addr_gen_mode"] for name in (device, net)} == {"none"}
    assert not link_local(device)
    assert hvtx("repair", "--json").json()["repaired"] == []

    networkd.restart()
    taken(networkd, device)
    hvtx("vm", "stop", "web", "--timeout", "1")
    hvtx("vm", "start", "web")

    networkd.restart()
    device = hvtx.device("web")
    taken(networkd, device)
    lab.end(hvtx.vm("web")["pid"])
    assert hvtx.reasons("tap", device) == {("delete", "vm-dead")}
    hvtx("gc", "--apply")
    assert hvtx.is_clean()
    hvtx("vm", "rm", "web")
    hvtx("network", "rm", "net")


def test_networks_are_made_while_networkd_sets_devices_up(
    hvtx: Program, networkd: Networkd
) -> None:
    """An equal link-local address that the kernel gave the new bridge meanwhile is the network's."""
    for number in range(8):
        hvtx("network", "create", f"n{number}", "--subnet", f"10.9.{number}.0/24",
             "--subnet", f"fd09:{number}::/64")  # fmt: skip
