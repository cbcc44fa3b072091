"""A network whose bridge has no port left: a start is refused before anything is made.

Linux gives a bridge 1,023 ports. Here it is three, so that no test makes a thousand devices; that
the kernel's own number is the one on record, and what it answers, is shown in
`integration/kernel/test_devices.py`, by `test_a_bridge_that_has_no_port_left`.
"""

from __future__ import annotations

import pytest

from integration import lab
from integration.lab import witness
from integration.lab.program import Program
from integration.lab.verbs import BACKENDS, SLEEP, conflict, hvtx, network, state

__all__ = ["hvtx"]  # the fixture

NAMES = ("one", "two", "three")


@pytest.fixture(autouse=True)
def few_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    for who in ("planner.start", "commands.vm_start"):
        monkeypatch.setattr(f"hvtx.{who}.BRIDGE_PORTS", len(NAMES))


def fill(hvtx: Program, names: tuple[str, ...] = NAMES) -> None:
    """Start VMs that hvtx starts no process for: a device each."""
    for name in names:
        hvtx("vm", "create", name, "--network", "net", "--hypervisor", "external")
        hvtx("vm", "start", name)


@pytest.mark.parametrize("firewall", BACKENDS)
def test_the_start_is_refused_and_nothing_is_made(hvtx: Program, firewall: str) -> None:
    hvtx("--firewall", firewall, "network", "create", "net", "--subnet", "10.77.0.0/24")
    fill(hvtx)
    hvtx("vm", "create", "late", "--network", "net", *SLEEP)  # more may be on record than run
    before = hvtx("log", "--json").json()
    with witness.unchanged():
        refused = conflict(hvtx, "vm", "start", "late")
    assert "no port left" in refused.err
    assert "vm stop" in refused.err, "the hint says what to do"
    assert hvtx("log", "--json").json() == before
    assert state(hvtx, "late") == "defined"
    assert hvtx.is_clean()
    hvtx("vm", "stop", "two")
    hvtx("vm", "start", "late")


def test_a_run_leaves_no_record(hvtx: Program) -> None:
    network(hvtx)
    fill(hvtx)
    before = lab.dump()
    conflict(hvtx, "vm", "run", "late", "--network", "net", *SLEEP)
    hvtx("vm", "show", "late", code=3)
    assert lab.difference(before, lab.dump()) == ""
    assert hvtx.is_clean()


def test_what_a_crashed_vm_left_takes_a_port_until_it_is_collected(hvtx: Program) -> None:
    network(hvtx)
    fill(hvtx, NAMES[:2])
    lab.end(hvtx("vm", "run", "dead", "--network", "net", "--json", *SLEEP).json()["pid"])
    hvtx("vm", "create", "late", "--network", "net", *SLEEP)
    assert "gc --plan" in conflict(hvtx, "vm", "start", "late").err
    hvtx("gc", "--apply")
    hvtx("vm", "start", "late")


def test_a_crashed_vm_gets_its_own_port_again(hvtx: Program) -> None:
    network(hvtx)
    fill(hvtx, NAMES[:2])
    lab.end(hvtx("vm", "run", "dead", "--network", "net", "--json", *SLEEP).json()["pid"])
    hvtx("vm", "start", "dead")


def test_the_second_network_of_a_vm_counts_too(hvtx: Program) -> None:
    network(hvtx)
    fill(hvtx)
    hvtx("network", "create", "other", "--subnet", "10.78.0.0/24")
    both = ("--network", "other", "--network", "net")
    hvtx("vm", "create", "late", *both, "--hypervisor", "external")
    with witness.unchanged():
        assert "hvbr" in conflict(hvtx, "vm", "start", "late").err
    hvtx("vm", "stop", "one")
    hvtx("vm", "start", "late")


def test_another_network_has_ports(hvtx: Program) -> None:
    network(hvtx)
    fill(hvtx)
    hvtx("network", "create", "other", "--subnet", "10.78.0.0/24")
    hvtx("vm", "run", "late", "--network", "other", "--hypervisor", "external")
