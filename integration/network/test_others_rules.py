"""Rules of others that count, limit, translate or do not track: doctor's word beside real traffic."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

import pytest

from hvtx.engine import forward
from integration import lab
from integration.commands.test_printed_commands import remainder
from integration.lab.others_rules import ALLOWED, ASTRAY, DOUBTFUL, LIMITS, PRODUCTS, SOME
from integration.lab.program import Forked, Program, preload
from integration.lab.rulesets import Case
from integration.lab.traffic import Traffic, inside
from integration.network.test_doctor_forward import (
    bridge_of,
    flows,
    forward_findings,
    hvtx,
    judged,
    named,
    set_up,
)

__all__ = ["flows", "hvtx"]  # fixtures


def take_down(case: Case, bridge: str) -> None:
    """Undo what a case did."""
    for line in lab.run("nft", "list", "tables").splitlines():
        _, family, name = line.split()
        if not name.startswith("hvtx-"):
            lab.run("nft", "delete", "table", family, name)
    lab.run("ip", "rule", "del", "pref", "5200", check=False)
    for line in reversed(case.setup.replace("{bridge}", bridge).splitlines()):
        if "tables-legacy" in line:
            tool, *words = shlex.split(line)
            undone = ("-D" if word in ("-A", "-I") else word for word in words)
            lab.run(tool, *undone, check=False)  # a fix may have done it


def each(cases: Iterable[Case], bridge: str) -> Iterable[Case]:
    """Each case, while it is set up."""
    for case in cases:
        set_up(case, bridge)
        yield case
        take_down(case, bridge)


@pytest.mark.parametrize("hvtx", ["nftables", "iptables"], indirect=True)
def test_limits_are_met_as_a_single_flow_meets_them(hvtx: Program) -> None:
    """All tries of doctor's at once exceed them; no connection of a guest alone does."""
    wrong, native = [], hvtx.environment["HVTX_FIREWALL"] == "nftables"
    cases = [case for case in LIMITS if native or "iptables-legacy" in case.setup]
    for case in each(cases, bridge_of(hvtx)):
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


def forget_neighbours(flows: Traffic) -> None:
    """Everybody asks for MAC addresses again."""
    for place in flows.places.values():
        with inside(place):
            lab.run("ip", "-4", "neigh", "flush", "all")


def wrong_of(case: Case, flows: Traffic) -> list[str]:
    """Where doctor's word of a case and traffic are not the same."""
    forget_neighbours(flows)
    found = judged()
    told, known = named(found.stops), named(tuple(s for s in found.stops if s.by != "unknown"))
    really = flows.stopped(told)
    wrong = [f"not copied: {words}" for words in found.lacks]
    if told != really or told != known:
        wrong.append(f"told {sorted(told - really)}, not {sorted(really - told)}, {told - known}")
    if case.by and not any(case.by in f.message for f in forward.findings(found, real=True)):
        wrong.append(f"{case.by!r} is not named: {found.stops}")
    if not case.by and found.stops:
        wrong.append(f"{found.stops}")
    return [f"{case.name}: {words}" for words in wrong]


@pytest.mark.parametrize("hvtx", ["nftables", "iptables"], indirect=True)
def test_what_sends_flows_astray_is_named_and_fixed(hvtx: Program, flows: Traffic) -> None:
    """The rule that is to blame, though none is seen to end them; and its fix is enough."""
    wrong, native = [], hvtx.environment["HVTX_FIREWALL"] == "nftables"
    # of the legacy tables: hvtx's own stand there, too
    cases = ASTRAY[:1] + [case for case in ASTRAY if ("iptables-legacy" in case.setup) != native]
    for case in each(cases, bridge_of(hvtx)):
        wrong += wrong_of(case, flows)
        if left := remainder():
            wrong.append(f"{case.name}: after its fix {left}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("hvtx", ["nftables"], indirect=True)
def test_a_port_is_stopped_where_its_own_traffic_is(hvtx: Program, flows: Traffic) -> None:
    """Rules for ports of the world, before the translation."""
    wrong = []
    for case in each(ALLOWED, bridge_of(hvtx)):
        wrong += wrong_of(case, flows)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("hvtx", ["nftables"], indirect=True)
def test_rule_sets_as_products_have_them(hvtx: Program, flows: Traffic) -> None:
    """Doctor's word and traffic are the same."""
    wrong = []
    for case in each(PRODUCTS, bridge_of(hvtx)):
        wrong += wrong_of(case, flows)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("hvtx", ["nftables"], indirect=True)
def test_a_port_that_is_open_for_some_is_no_error(hvtx: Program) -> None:
    """It is said who comes to it."""
    wrong = []
    for case in each(SOME, bridge_of(hvtx)):
        findings = forward_findings(hvtx, 0)
        if [f["level"] for f in findings] != ["warning"] or case.by not in findings[0]["message"]:
            wrong.append(f"{case.name}: {findings}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("hvtx", ["nftables"], indirect=True)
def test_a_device_that_is_down_is_told_of_once(hvtx: Program) -> None:
    """Whatever flow it stops; and nothing is unknown for it."""
    bridge, tap = bridge_of(hvtx), hvtx.vm("web")["interfaces"][0]["device"]
    for device in (tap, bridge):
        lab.run("ip", "link", "set", device, "down")
        found = hvtx("doctor", code=1).out
        assert found.count("forward:") == 1, found
        assert found.count(f"device {device} is down") == 1, found
        hvtx("repair")


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
