"""Whose flows a change of a policy ends."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hvtx.engine import egress_flows, egress_guests
from hvtx.host.ctmessages import Flow
from hvtx.host.netlink import DumpInterrupted
from tests.machine.fake_world import FakeWorld
from tests.machine.world import KILLED

Ends = Callable[[Flow], bool]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[FakeWorld]:
    found = FakeWorld(tmp_path)
    yield found
    found.close()


def flow(source: str, to: str) -> Flow:
    own, other = socket.inet_aton(source), socket.inet_aton(to)
    return Flow(socket.AF_INET, own, other, other, own, 6, 443, 443, b"")


def test_a_flow_to_a_guest_on_another_host_is_refused_like_any_other(
    world: FakeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster's network is on its bridge as far as this host's blocks go."""
    config = tmp_path / "config.toml"
    config.write_text('[cluster]\nsource = "static"\nblocks = { pods = ["10.64.0.0/26"] }\n')
    config.chmod(0o600)
    network = ("--subnet", "10.64.0.0/16", "--block-size", "26", "--no-nat")
    asked: list[Ends] = []
    for argv in (
        ("network", "create", "pods", *network),
        ("vm", "run", "web", "--network", "pods", "--", "sleep", "60"),
    ):
        ran = world.hvtx(*argv)
        assert ran.code == 0, ran.err
    monkeypatch.setattr(egress_flows.flows, "flush_where", asked.append)
    ran = world.hvtx("network", "set", "pods", "--deny", "10.64.0.0/16")
    assert ran.code == 0, ran.err
    (ends,) = asked
    assert ends(flow("10.64.0.2", "10.64.1.5"))
    assert not ends(flow("10.64.0.2", "10.64.0.3"))
    assert not ends(flow("10.64.1.5", "10.64.0.2")), "who is there has that host's policy"


def test_a_flow_that_is_translated_is_judged_by_where_it_leads(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A published port goes on, also of a neighbour network; what others lead elsewhere ends."""
    asked: list[Ends] = []
    for argv in (
        ("network", "create", "lab", "--subnet", "10.77.0.0/24"),
        ("network", "create", "near", "--subnet", "10.78.0.0/24"),
        ("vm", "run", "web", "--network", "lab", "--", "sleep", "60"),
    ):
        ran = world.hvtx(*argv)
        assert ran.code == 0, ran.err
    monkeypatch.setattr(egress_flows.flows, "flush_where", asked.append)
    ran = world.hvtx("vm", "set", "web", "--egress", "internet")
    assert ran.code == 0, ran.err
    (ends,) = asked
    for to, port, over in (("10.78.0.9", 443, False), ("172.17.0.2", 443, True),
                           ("203.0.113.1", 9443, True), ("8.8.8.8", 443, False)):  # fmt: skip
        led = flow("10.77.0.2", "198.51.100.1")
        led = led._replace(port=8443, reply_source=socket.inet_aton(to), reply_port=port)
        assert ends(led) is over, to


@pytest.mark.parametrize("killed", [False, True], ids=["at once", "carried on"])
def test_a_list_that_is_cut_short_leaves_the_flows_on_record(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    """Devices come and go all the time; the policy holds all the same, and gc asks again."""
    for argv in (
        ("network", "create", "lab", "--subnet", "10.77.0.0/24"),
        ("vm", "run", "web", "--network", "lab", "--egress", "none", "--", "sleep", "60"),
    ):
        ran = world.hvtx(*argv)
        assert ran.code == 0, ran.err
    policy = ("vm", "set", "web", "--egress", "internet")
    if killed:
        assert world.hvtx(*policy, failpoint="flushing:refused:kill").code == KILLED

    def cut_short(*_: object) -> None:
        raise DumpInterrupted

    with monkeypatch.context() as patch:
        patch.setattr(egress_guests, "_host", cut_short)
        ran = world.hvtx("gc", "--apply") if killed else world.hvtx(*policy)
    assert ran.code == 9, ran.err
    assert "may continue: the list was cut short" in ran.out + ran.err
    assert [row.observed for row in world.record().rows if row.state == "releasing"]
    assert world.hvtx("gc", "--apply").code == 0
    assert not [row for row in world.record().rows if row.state == "releasing"]
