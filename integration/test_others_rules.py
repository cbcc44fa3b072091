"""Rules of others that count, limit, translate or do not track: doctor's word beside real traffic."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

import pytest

from hvtx.engine import forward
from integration import lab
from integration.others_rules import DOUBTFUL, LIMITS
from integration.program import Forked, Program, preload
from integration.rulesets import Case
from integration.test_forward import bridge_of, flows, forward_findings, hvtx, judged, named, set_up

__all__ = ["flows", "hvtx"]  # fixtures


def take_down(case: Case, bridge: str) -> None:
    """Undo what a case did."""
    for line in lab.run("nft", "list", "tables").splitlines():
        _, family, name = line.split()
        if not name.startswith("hvtx-"):
            lab.run("nft", "delete", "table", family, name)
    for line in reversed(case.setup.replace("{bridge}", bridge).splitlines()):
        if "tables-legacy" in line:
            tool, *words = shlex.split(line)
            lab.run(tool, *("-D" if word in ("-A", "-I") else word for word in words))


def each(cases: Iterable[Case], bridge: str) -> Iterable[Case]:
    """Each case, while it is set up."""
    for case in cases:
        set_up(case, bridge)
        yield case
        take_down(case, bridge)


@pytest.mark.parametrize("hvtx", ["nftables", "iptables"], indirect=True)
def test_limits_are_met_as_a_single_flow_meets_them(hvtx: Program) -> None:
    """All tries of doctor's at once exceed them; no connection of a guest alone does."""
    wrong = []
    for case in each(LIMITS, bridge_of(hvtx)):
        found = judged()
        if found.lacks or found.stops:
            wrong.append(f"{case.name}: {found.lacks} {found.stops}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("hvtx", ["nftables"], indirect=True)
def test_what_cannot_be_copied_is_unknown_of_the_flows_that_come_to_it(hvtx: Program) -> None:
    """And of no others."""
    wrong = []
    for case in each(DOUBTFUL, bridge_of(hvtx)):
        found = judged()
        told = {(way.value, protocol) for way, _, protocol in named(found.stops)}
        if found.lacks or told != {("guest to world", "udp"), ("guest to guest", "udp")}:
            wrong.append(f"{case.name}: {found.lacks} {sorted(told)}")
        findings = list(forward.findings(found, real=True))
        if {finding.level for finding in findings} != {"warning"} or not any(
            case.by in finding.evidence[0] for finding in findings
        ):
            wrong.append(f"{case.name}: {findings}")
    assert not wrong, "\n".join(wrong)


def test_many_networks_are_tried_at_once(world: lab.Namespace) -> None:
    """Nobody's limits are exceeded by doctor itself: ten networks of all kinds, by both backends."""
    preload()
    program = Forked(HVTX_FIREWALL="nftables")
    for number in range(10):
        subnets = ("--subnet", f"10.{100 + number}.0.0/24", "--subnet", f"fd{10 + number}::/64")
        kind = ((), ("--isolate",), ("--no-nat",), ("--isolate", "--no-nat"))[number % 4]
        backend = ("nftables", "iptables")[number // 5]
        program("network", "create", f"n{number}", *subnets, *kind, HVTX_FIREWALL=backend)
    (found,) = forward_findings(program, None)
    assert found["level"] == "ok", found
