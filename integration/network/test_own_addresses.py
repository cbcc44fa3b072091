"""An address that the host has itself is no guest's: at create, at start, and in `doctor`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from integration import lab
from integration.lab import vms, witness
from integration.lab.program import Program
from integration.lab.vms import SLEEP

# the device, and the prefix length that the host has the address with: its own, or a VIP's
PLACES = [("bridge", "/24", "/64"), ("bridge", "/32", "/128"), ("lo", "/32", "/128")]


@pytest.fixture
def hvtx() -> Iterator[Program]:
    with vms.networked() as program:
        yield program


def give(hvtx: Program, device: str, *addresses: str) -> str:
    """Give the host addresses on its bridge or another device; the device's name."""
    bridge = hvtx("network", "show", "net", "--json").json()["bridge"]
    name = bridge if device == "bridge" else device
    for address in addresses:
        more = ("nodad",) if ":" in address else ()
        lab.run("ip", "addr", "add", address, "dev", name, *more)
    return str(name)


def addresses(hvtx: Program, name: str) -> tuple[str, str]:
    (interface,) = hvtx.vm(name)["interfaces"]
    return interface["ipv4"], interface["ipv6"]


def findings(hvtx: Program) -> list[dict[str, Any]]:
    return vms.findings(hvtx, "addresses")


@pytest.mark.parametrize(("device", "four", "six"), PLACES)
def test_it_is_not_leased(hvtx: Program, device: str, four: str, six: str) -> None:
    """Whatever device has it; the next one is."""
    give(hvtx, device, f"10.77.0.2{four}", f"10.77.0.3{four}", f"fd77::2{six}")
    hvtx("vm", "create", "one", "--network", "net", *SLEEP)
    assert addresses(hvtx, "one") == ("10.77.0.4", "fd77::3")
    hvtx("vm", "run", "two", "--network", "net", *SLEEP)
    assert addresses(hvtx, "two") == ("10.77.0.5", "fd77::4")


@pytest.mark.parametrize(("device", "four", "six"), PLACES)
@pytest.mark.parametrize("verb", ["create", "run"])
def test_it_cannot_be_asked_for(hvtx: Program, verb: str, device: str, four: str, six: str) -> None:
    """4, and the device is named; nothing has happened."""
    name = give(hvtx, device, f"10.77.0.9{four}", f"fd77::9{six}")
    for address in ("10.77.0.9", "fd77::9"):
        with witness.unchanged():
            ran = hvtx("vm", verb, "web", "--network", "net", "--ip", address, *SLEEP, code=4)
            assert address in ran.err
            assert name in ran.err


@pytest.mark.parametrize(("device", "four", "six"), PLACES)
def test_it_came_between_create_and_start(hvtx: Program, device: str, four: str, six: str) -> None:
    """The start is refused, and goes well when the address has gone."""
    hvtx("vm", "create", "web", "--network", "net", *SLEEP)
    for address in (f"10.77.0.2{four}", f"fd77::2{six}"):
        name = give(hvtx, device, address)
        assert [f["level"] for f in findings(hvtx)] == ["warning"]
        with witness.undone():
            ran = hvtx("vm", "start", "web", code=4)
            assert address.partition("/")[0] in ran.err
            assert name in ran.err
        lab.run("ip", "addr", "del", address, "dev", name)
    assert [f["level"] for f in findings(hvtx)] == ["ok"]
    hvtx("vm", "start", "web")


@pytest.mark.parametrize(("device", "four", "six"), PLACES)
def test_it_came_while_the_vm_runs(hvtx: Program, device: str, four: str, six: str) -> None:
    """The host answers for its guest now: doctor names both, with an exit code of 1."""
    hvtx("vm", "run", "web", "--network", "net", *SLEEP)
    assert [f["level"] for f in findings(hvtx)] == ["ok"]
    for address in (f"10.77.0.2{four}", f"fd77::2{six}"):
        name = give(hvtx, device, address)
        hvtx("doctor", code=1)
        (found,) = findings(hvtx)
        assert found["level"] == "error"
        told = json.dumps(found)
        assert name in told
        assert address.partition("/")[0] in told
        assert "'web'" in found["message"]
        assert found["hint"] == f"ip addr del {address} dev {name}"
        said = hvtx("explain", address.partition("/")[0], "--json").json()
        assert said["vm"] == "web"
        assert any(name in line for line in said["evidence"]), said["evidence"]
        lab.run(*found["hint"].split())
        assert [f["level"] for f in findings(hvtx)] == ["ok"]


def test_the_gateway_is_nobodys_trouble(hvtx: Program) -> None:
    """The bridge's own address is the host's, and no guest's."""
    hvtx("vm", "run", "web", "--network", "net", *SLEEP)
    hvtx("vm", "create", "two", "--network", "net", "--ip", "10.77.0.1", *SLEEP, code=2)
    assert [f["level"] for f in findings(hvtx)] == ["ok"]


def test_a_vm_made_again_from_the_history(hvtx: Program) -> None:
    """Its addresses are its old ones, or none."""
    hvtx("vm", "create", "web", "--network", "net", *SLEEP)
    hvtx("vm", "rm", "web")
    name = give(hvtx, "lo", "10.77.0.2/32")
    ran = hvtx("vm", "create", "web", "--from-log", code=4)
    assert name in ran.err
    lab.run("ip", "addr", "del", "10.77.0.2/32", "dev", name)
    hvtx("vm", "create", "web", "--from-log")
