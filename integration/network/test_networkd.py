"""A real systemd-networkd with a file that matches every device (docs/adr/0033)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import lab
from integration.lab.networkd import SECONDS, Networkd
from integration.lab.program import Forked, Program, preload
from integration.lab.vms import end_vms
from integration.lab.waiting import until

CATCH_ALL = "[Match]\nName=*\n[Network]\nDHCP=yes\n"
GUEST = ("--", sys.executable, str(Path(__file__).parents[1] / "lab/guest.py"))
MANAGED = ("configuring", "configured")


@pytest.fixture
def hvtx() -> Iterator[Program]:
    """A program with a network of both families, and a VM `web` that holds its device."""
    preload()
    lab.duplicate_detection("1")  # as on hosts; without, networkd 252 may never show a link
    program = Forked(HVTX_FIREWALL="nftables")
    program("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
    program("vm", "run", "web", "--network", "net", *GUEST)
    yield program
    end_vms(program)


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
    until(f"an address on {device}", lambda: link_local(device), SECONDS)


def test_what_networkd_puts_on_devices_keeps_no_vm(hvtx: Program, networkd: Networkd) -> None:
    """`repair` takes it off again; `stop`, `start`, `gc` and `network rm` do with it there."""
    device, net = hvtx.device("web"), bridge(hvtx)
    taken(networkd, device)
    assert {link(name)["inet6_addr_gen_mode"] for name in (device, net)} == {"eui64"}
    told = hvtx("doctor", "--json", code=1).json()["findings"]
    damaged = {f["message"].partition(": ")[0] for f in told if f["check"] == "damage"}
    # networkd 257 takes off addresses that it did not put, 252 leaves them
    assert damaged - {"address 10.77.0.1/24", "address fd77::1/64"} == {
        f"tap {device}", f"bridge {net}",
    }  # fmt: skip
    hvtx("repair")
    shown = lab.run("ip", "-o", "addr", "show", "dev", net)
    assert "inet 10.77.0.1/24 " in shown and "inet6 fd77::1/64 " in shown
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


def company(hvtx: Program) -> list[dict]:  # type: ignore[type-arg]
    """What `doctor` says of managers of networks, where that is not ok."""
    told = hvtx("doctor", "--json", code=None).json()["findings"]
    return [f for f in told if f["check"] == "company" and f["level"] != "ok"]


def test_the_hint_is_complete_and_goes_once_it_was_followed(
    hvtx: Program, networkd: Networkd
) -> None:
    """Bridges of another name are in a file of their own; then restarts cut nobody off."""
    hvtx("network", "create", "named", "--subnet", "10.78.0.0/24", "--bridge", "br-web")
    devices = (hvtx.device("web"), bridge(hvtx), "br-web")
    for name in devices:
        networkd.awaits(link(name)["ifindex"], *MANAGED)
    [told] = company(hvtx)
    assert told["level"] == "warning"
    file = "/run/systemd/network/50-all.network"
    assert sorted(told["evidence"]) == sorted(f"{name}: {file}" for name in devices)
    *writes, reload, repair = told["hint"].split("; ")
    assert (reload, repair) == ("networkctl reload", "hvtx repair")
    # networkctl speaks to the daemon by D-Bus, which it has not here: it is started again.
    lab.run("nsenter", "--mount", f"--target={networkd.process.pid}", "sh", "-e", "-c",
            "\n".join(writes))  # fmt: skip
    for path in (networkd.root / "etc/systemd/network").glob("*hvtx*"):
        networkd.files[path.name] = path.read_text()
    assert len(networkd.files) == 3
    networkd.restart()
    for name in devices:
        networkd.awaits(link(name)["ifindex"], "unmanaged")
    hvtx("repair")
    assert company(hvtx) == []
    networkd.restart()
    for name in devices:
        networkd.awaits(link(name)["ifindex"], "unmanaged")
    assert hvtx("repair", "--json").json()["repaired"] == []
    hvtx("vm", "stop", "web", "--timeout", "1")
    hvtx("vm", "start", "web")
    networkd.awaits(link(hvtx.device("web"))["ifindex"], "unmanaged")
    assert company(hvtx) == []


def test_a_networkd_of_another_namespace_is_not_this_hosts(hvtx: Program) -> None:
    """That of a container, whose processes are seen from here."""
    with lab.private_network():
        daemon = Networkd({"50-all.network": CATCH_ALL})
        daemon.awaits(1, *MANAGED)
    try:
        assert company(hvtx) == []
    finally:
        daemon.stop()


def test_a_networkd_that_leaves_our_devices_alone_is_nobodys_worry(hvtx: Program) -> None:
    """Where no file of its matches them."""
    daemon = Networkd({"50-up.network": "[Match]\nName=up*\n[Network]\nDHCP=yes\n"})
    try:
        daemon.awaits(link(bridge(hvtx))["ifindex"], "unmanaged")
        assert company(hvtx) == []
    finally:
        daemon.stop()


# What nmcli 1.42 prints of a bridge of ours, its TAP and another device, before and after.
_NMCLI = """#!/bin/sh
[ "$*" = "--terse --fields DEVICE,STATE device" ] || exit 2
[ "$LC_ALL" = C ] || exit 3
cat {answer}
"""


def test_networkmanager_is_asked_by_its_tool(
    hvtx: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finding while it has devices of ours, none when it leaves them alone; unknown, if unknown."""
    place = lab.open_place()
    place.chmod(0o755)
    answer, tool = place / "answer", place / "nmcli"
    tool.write_text(_NMCLI.format(answer=answer))
    tool.chmod(0o755)
    shutil.copy(shutil.which("sleep") or "", place / "NetworkManager")
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    device, net = hvtx.device("web"), bridge(hvtx)
    daemon = subprocess.Popen([str(place / "NetworkManager"), "600"])
    try:
        answer.write_text(f"{net}:connected (externally)\n{device}:connected (externally)\n"
                          "up0:connected\n")  # fmt: skip
        [told] = company(hvtx)
        assert sorted(told["evidence"]) == sorted(
            f"{name}: connected (externally)" for name in (device, net)
        )
        assert told["hint"].endswith("; systemctl reload NetworkManager")
        answer.write_text(f"up0:connected\n{net}:unmanaged\n{device}:unmanaged\n")
        assert company(hvtx) == []
        answer.unlink()
        [told] = company(hvtx)
        assert "cannot tell" in told["message"]
    finally:
        daemon.kill()
        daemon.wait()
    assert company(hvtx) == []
