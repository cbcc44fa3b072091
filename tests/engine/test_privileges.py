"""Who needs /dev/net/tun is asked for it before anything is made; nobody else is.

A container that runs container runtimes (kind, k3s) often may not open it. The capabilities
themselves are shown on the real kernel, by integration/security/test_privileges.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hvtx import Host, NotPermitted
from hvtx.engine import privileges
from hvtx.model.resource import Kind, Resource, State
from tests.machine.attachment_verbs import SUBNETS, WORD
from tests.machine.fake_world import FakeWorld
from tests.machine.world import Ran

SHUT = "/dev/net/tun may not be opened by this user"


def row(kind: Kind) -> Resource:
    return Resource(1, kind, "hvone", State.COMMITTED, "", {}, {}, 1, 1, None, None)


@pytest.fixture
def shut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privileges, "tun_problem", lambda: NotPermitted(SHUT))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[FakeWorld]:
    made = FakeWorld(tmp_path)
    subnets = [word for subnet in SUBNETS for word in ("--subnet", subnet)]
    ran = made.hvtx("network", "create", "net", *subnets)
    assert ran.code == 0, ran.err
    with pytest.MonkeyPatch.context() as patch:  # undone before the world is
        patch.setattr(privileges, "tun_problem", lambda: NotPermitted(SHUT))
        patch.setattr("hvtx.commands.cni_status.Links", made.links)
        yield made
    made.close()


@pytest.mark.parametrize("kind", [Kind.VETH, Kind.BRIDGE, Kind.ADDRESS, Kind.NETNS])
def test_what_is_no_tap_device_goes_without_it(shut: None, kind: Kind) -> None:
    privileges.need_for([row(kind)])
    with pytest.raises(NotPermitted, match=SHUT):
        privileges.need_for([row(kind), row(Kind.TAP)])


def test_containers_come_and_go_without_it(world: FakeWorld) -> None:
    def done(*argv: str) -> Ran:
        ran = world.hvtx(*argv)
        assert ran.code == 0, ran.err
        return ran

    path = world.container()
    done(WORD, "add", path, "box")
    with world.kernel.run():
        Host().attachments.status("net", SUBNETS)
    done(WORD, "del", "box")
    done(WORD, "add", path, "box")
    world.kernel.end_namespace(path)
    done(WORD, "gc")
    done("network", "rm", "net")


def test_who_makes_a_tap_device_is_asked_for_it(world: FakeWorld) -> None:
    path = world.container()
    assert world.hvtx(WORD, "add", path, "box").code == 0
    before = [(link.name, link.up) for link in world.links().all()]
    ran = world.hvtx(WORD, "add", path, "c1", "vm0")
    assert (ran.code, SHUT in ran.err) == (NotPermitted.exit_code, True)
    with world.kernel.run(), pytest.raises(NotPermitted, match=SHUT):
        Host().attachments.status("net", SUBNETS, vm=True)
    ran = world.hvtx("network", "create", "two", "--subnet", "10.78.0.0/24")  # a passing one
    assert (ran.code, SHUT in ran.err) == (NotPermitted.exit_code, True)
    assert world.hvtx("vm", "create", "web", "--network", "net", "--", "true").code == 0
    ran = world.hvtx("vm", "start", "web")
    assert (ran.code, SHUT in ran.err) == (NotPermitted.exit_code, True)
    assert [(link.name, link.up) for link in world.links().all()] == before
    assert "box" in world.hvtx("vm", "ls", "--json").out
