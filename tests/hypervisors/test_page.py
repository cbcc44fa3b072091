"""docs/hypervisors.md says of each hypervisor what hvtx does with it."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

from hvtx.engine.guest_options import GuestOptions, check_guest
from hvtx.errors import UsageError
from hvtx.hypervisors import base, cloud_hypervisor, firecracker
from hvtx.hypervisors.base import Launch, Probes
from hvtx.model.vm import Vm

PAGE = (Path(__file__).parents[2] / "docs/hypervisors.md").read_text()
NAMES = ("qemu", "firecracker", "cloud-hypervisor")


def cells(row: str) -> dict[str, str]:
    """A row of the table, by hypervisor."""
    (line,) = re.findall(rf"^\| {re.escape(row)}[^|]* \|(.*)\|$", PAGE, re.MULTILINE)
    return dict(zip(NAMES, (cell.strip() for cell in line.split(" | ")), strict=True))


def launch(name: str, **more: object) -> Launch:
    vm = Vm("i", "web", name, 256, 1, "/k", None, None, ("/d.raw",), (), "", False, ())
    probes = Probes("/usr/bin/x", kvm=True, machine="x86_64")
    return importlib.import_module(base.REGISTRY[name]).render(
        vm._replace(**more), (), probes, "/r"
    )


def words_of_kernel(name: str) -> str:
    ready = launch(name)
    if name == "firecracker":
        return str(json.loads(ready.files["firecracker.json"])["boot-source"]["boot_args"])
    option = "-append" if name == "qemu" else "--cmdline"
    return ready.argv[ready.argv.index(option) + 1]


@pytest.mark.parametrize("name", NAMES)
def test_programs_consoles_and_sockets(name: str) -> None:
    row = cells("program")[name]
    assert [
        one for one in base.binary_names(name) if not one.startswith("/") and one not in row
    ] == []
    console, log = base.TRAITS[name].console, cells("serial port")[name]
    assert ("vm console" in log) == (console is not None)
    told = re.findall(r"`(\w+\.sock)`", cells("socket in")[name])
    bound = {socket for socket in launch(name).sockets if socket != base.MONITOR_SOCKET}
    assert set(told) == bound  # the monitor is for hvtx alone


@pytest.mark.parametrize("name", NAMES)
def test_what_stands_on_the_kernel_s_command_line(name: str) -> None:
    told = re.findall(r"`([^`]+)`", cells("what hvtx adds")[name])[0].split()
    told = told if name != "qemu" else ["console="]
    made = words_of_kernel(name)
    assert [word for word in told if word not in made and not word.startswith("ip=")] == []
    if name != "qemu":
        assert set(made.split()) <= set(told)


def test_kernels_and_disks() -> None:
    """None without a kernel; qcow2 for Firecracker, and a comma for Cloud Hypervisor, are refused."""
    for name in NAMES:
        needs = base.unfit(name, None, ()) is not None
        assert needs == (not cells("kernel")[name].startswith("`--kernel`, or"))
        qcow2 = base.unfit(name, "/k", ["/d.qcow2"]) is None
        assert qcow2 == ("qcow2" in cells("disks")[name])
        comma = base.unfit(name, "/k", ["/a,b.raw"]) is not None
        assert comma == ("comma" in cells("disks")[name])
        handed = any(one.path == "/d.raw" for one in launch(name).handed)
        assert handed == cells("who opens the disks")[name].startswith("hvtx")


def test_queues() -> None:
    """One; as many as processors; any."""
    allowed = {name: [] for name in NAMES}
    for name in NAMES:
        for queues in (1, 2, 3):
            try:
                check_guest(name, 2, GuestOptions(queues=queues))
            except UsageError:
                continue
            allowed[name].append(queues)
    assert allowed == {"qemu": [1, 2, 3], "firecracker": [1], "cloud-hypervisor": [1, 2]}
    assert cells("`--queues`") == {"qemu": "any", "firecracker": "1",
                                   "cloud-hypervisor": "at most one for each processor"}  # fmt: skip


def test_versions_and_power() -> None:
    """Those that the modules say they are written for, and the ways that guests are asked by."""
    assert "Firecracker 1.5 and later" in (firecracker.__doc__ or "")
    assert "release 51 and later" in (cloud_hypervisor.__doc__ or "")
    assert cells("program")["firecracker"].endswith("1.5 or later")
    assert cells("program")["cloud-hypervisor"].endswith("51 or later")
    ways = {name: base.TRAITS[name].power_down for name in NAMES}
    assert ways == {
        "qemu": "qmp",
        "firecracker": "ctrl-alt-del api",
        "cloud-hypervisor": "power-button api",
    }
    assert [cells("`vm stop` asks")[name].split(",")[0] for name in NAMES] == [
        "ACPI (QMP)", "Ctrl-Alt-Del", "the power button",
    ]  # fmt: skip


def test_the_configuration_and_the_root_device() -> None:
    """The file's name, and that the first disk is the root device unless there is an --initrd."""
    assert f"`{firecracker.CONFIGURATION}`" in PAGE
    for initrd in (None, "/i"):
        drives = json.loads(launch("firecracker", initrd=initrd).files["firecracker.json"])[
            "drives"
        ]
        assert drives[0]["is_root_device"] == (initrd is None)
