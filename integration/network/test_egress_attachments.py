"""Containers in a network with an egress policy: an ADD that is killed opens nothing."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import lab
from integration.lab import attachments, witness
from integration.lab.crash_matrix import evenly
from integration.lab.program import Program
from integration.lab.stepper import run_stepped
from integration.lab.syscalls import Call
from integration.lab.waiting import until
from integration.network.test_egress import INTERNET, hvtx, network, reached

__all__ = ["hvtx"]  # a fixture

ALLOWED, SHUT = "192.168.5.5", ("10.1.2.3", *INTERNET.values())
ASKED = (ALLOWED, *SHUT)
PLACES = 6  # of the system calls that may change something, where an ADD is killed


@pytest.fixture
def shut(hvtx: Program) -> Iterator[Program]:
    """A network whose guests reach one address alone; what is attached goes with the test."""
    network(hvtx, "net", 0, "--egress", "none", "--allow", f"{ALLOWED}:443", "--no-dhcp")
    yield hvtx
    end_boxes()


def end_boxes() -> None:
    """End the containers; the kernel needs a moment for the host's ends of their pairs."""
    while attachments.BOXES:
        attachments.BOXES.pop().close()
    until("it is gone", lambda: " hv" not in lab.run("ip", "-o", "link", "show", "type", "veth"))


def add() -> tuple[str, ...]:
    """The command line for the last container."""
    return (attachments.WORD, "add", attachments.path())


def held(world: lab.Namespace, where: object) -> None:
    """The container reaches no more than it is to."""
    assert reached(attachments.BOXES[-1], world, ASKED, ()) <= {ALLOWED}, where  # type: ignore[arg-type]


def whole(hvtx: Program, world: lab.Namespace, before: object, where: object) -> None:
    """After a kill: nothing is open, nor after `recover`; with the container gc removes all."""
    held(world, where)
    hvtx("recover")
    held(world, where)
    end_boxes()
    hvtx("gc", "--apply")
    assert hvtx.is_clean(), where
    witness.settle()
    assert lab.difference(before, lab.dump()) == "", where


def test_a_container_is_counted_from_its_networks_first_policy_on(
    hvtx: Program, world: lab.Namespace
) -> None:
    """It is up by then, and nothing else of it is touched."""
    network(hvtx, "net", 0, "--no-dhcp")
    attachments.box()
    hvtx(*add())
    hvtx("network", "set", "net", "--egress", "none", "--allow", f"{ALLOWED}:443")
    assert reached(attachments.BOXES[-1], world, ASKED, (ALLOWED,)) == {ALLOWED}  # type: ignore[arg-type]
    (shown,) = hvtx("vm", "ls", "--json").json()["vms"]
    assert shown["interfaces"][0]["egress"]["dropped"]["packets"] > 0
    assert hvtx("repair").out.strip() == "nothing is missing"
    end_boxes()
    hvtx("gc", "--apply")
    assert hvtx.is_clean()


def test_an_add_killed_at_each_failpoint_opens_nothing(
    shut: Program, world: lab.Namespace, tmp_path: Path
) -> None:
    """Also what is there before its filters are, or after they went."""
    witness.settle()
    before = lab.dump()
    log = tmp_path / "points"
    attachments.box()
    shut(*add(), HVTX_FAILPOINT_LOG=str(log))
    # the policy is what the network's guests have, and it lets through what it says
    assert reached(attachments.BOXES[-1], world, ASKED, (ALLOWED,)) == {ALLOWED}  # type: ignore[arg-type]
    points = list(dict.fromkeys(log.read_text().split()))
    assert {"made:veth", "marked:veth", "acted:veth", "acted:filter", "committed"} <= {*points}
    whole(shut, world, before, "the whole ADD")
    for point in points:
        attachments.box()
        shut(*add(), code=-signal.SIGKILL, HVTX_FAILPOINT=f"{point}:kill")
        whole(shut, world, before, point)


def test_an_add_killed_before_its_system_calls_opens_nothing(
    shut: Program, world: lab.Namespace
) -> None:
    """From the first call after which the container has an interface, evenly taken."""
    witness.settle()
    before = lab.dump()
    there: list[bool] = []

    def look(_: Call) -> bool:
        there.append(any("eth0" in each for each in attachments.inside()))
        return False

    attachments.box()
    ran = run_stepped(add(), {**shut.environment}, watch=look)
    assert ran.ran.code == 0, ran.ran
    whole(shut, world, before, "the whole ADD")
    first = there.index(True)
    places = evenly(list(range(first, len(there))), PLACES)
    assert len(places) == PLACES
    for place in places:
        counted = iter(range(len(there) * 2))
        attachments.box()
        killed = run_stepped(
            add(), {**shut.environment}, watch=lambda _, c=counted, p=place: next(c) == p
        )
        assert killed.killed, place
        whole(shut, world, before, place)
