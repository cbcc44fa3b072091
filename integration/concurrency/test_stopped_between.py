"""A command that stands still between its look and its deed, and what others do meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from integration import lab
from integration.crash.test_model_replay import stopped
from integration.lab.program import Forked, Program, preload
from integration.lab.services import services
from integration.lab.vms import end_vms


@pytest.fixture
def hvtx(monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    """The program, in processes that a test may stop."""
    preload()
    monkeypatch.setenv("HVTX_FIREWALL", "nftables")
    program = Forked()
    yield program
    end_vms(program)


def test_a_service_that_recover_starts_meanwhile_goes_with_its_network(hvtx: Program) -> None:
    """Who takes its row had read it when another process stood there, which is dead."""
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24", "--dhcp")
    lab.end(*services())
    with stopped("network", "rm", "net", at="intended:stop") as removal:
        hvtx("recover")
        assert len(services()) == 1
        assert removal.go_on() == 0, removal.output
    assert services() == []
    assert hvtx.is_clean()


SLEEP = ("--", "sleep", "600")


def networks_of_both(hvtx: Program) -> None:
    """A network of iptables, with VMs of which each has a policy, and one of nftables alone."""
    hvtx("--firewall", "iptables", "network", "create", "old", "--subnet", "10.77.0.0/24")
    hvtx("--firewall", "nftables", "network", "create", "new", "--subnet", "10.78.0.0/24")
    hvtx("vm", "create", "web", "--network", "old", "--egress", "none", *SLEEP)
    external = ("--hypervisor", "external", "-p", "8080:80")
    hvtx("vm", "create", "ext", "--network", "old", "--egress", "none", *external)


def is_kept(hvtx: Program) -> None:
    """What policies stand on is whole: it is repaired, built on, and goes with the last."""
    assert hvtx.is_clean()
    lab.run("nft", "flush", "ruleset")
    hvtx("repair")
    hvtx("--firewall", "nftables", "network", "create", "more", "--subnet", "10.79.0.0/24")
    for name in ("web", "ext"):
        hvtx("vm", "rm", name, "--force")
    for name in ("more", "old"):
        hvtx("network", "rm", name)
    assert "hvtx" not in lab.run("nft", "list", "ruleset")


def test_a_table_that_goes_is_made_anew_for_who_waited(hvtx: Program) -> None:
    """`network rm` of the last network of nftables beside a start with an egress policy."""
    networks_of_both(hvtx)
    with stopped("network", "rm", "new", at="intended:stop") as removal:
        hvtx("vm", "start", "web", code=75, HVTX_LOCK_TIMEOUT="0.2")
        assert removal.go_on() == 0, removal.output
    for name in ("web", "ext"):
        hvtx("vm", "start", name)
    is_kept(hvtx)


def test_a_table_that_a_start_is_about_to_need_stays(hvtx: Program) -> None:
    """It stands between its look at the table and its rows."""
    networks_of_both(hvtx)
    with stopped("vm", "start", "ext", at="holding:stop") as start:
        hvtx("network", "rm", "new")
        assert start.go_on() == 0, start.output
    hvtx("vm", "start", "web")
    is_kept(hvtx)
