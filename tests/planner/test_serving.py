"""A restored element of an earlier start, standing where one that runs now needs its own."""

from __future__ import annotations

import pytest

from hvtx.model.place import legacy_place, nft_place
from hvtx.model.plan import Action
from hvtx.model.reason import Reason
from hvtx.model.resource import Entry, Kind, Resource, State
from hvtx.model.vm import Liveness
from tests.planner.scene import Scene


def restored(scene: Scene, liveness: Liveness, *, beside: bool = False) -> Resource:
    """A tombstone's element in the place of a committed row's own (or beside it, as rules can)."""
    vm = scene.vm("web", liveness)
    old = scene.row(Kind.PUBLISH, vm=vm, state=State.RELEASED)
    new = scene.row(Kind.PUBLISH, vm=vm)
    scene.expected[old.id] = (Entry("nftables", nft_place("inet", "t", "map"), "tcp 80", old.mark),)
    scene.expected[new.id] = (Entry("nftables", nft_place("inet", "t", "map"), "tcp 80", new.mark),)
    scene.entries.append(scene.expected[old.id][0])
    if beside:
        scene.entries.append(scene.expected[new.id][0])
    return old


def verdict(scene: Scene, old: Resource) -> tuple[Action, Reason]:
    found = [item for item in scene.plan().items if item.mark == old.mark]
    assert len(found) == 1
    return found[0].action, found[0].reason


@pytest.mark.parametrize(
    ("liveness", "expected"),
    [
        (Liveness.ALIVE, (Action.SKIP, Reason.VM_ALIVE)),
        (Liveness.UNKNOWN, (Action.SKIP, Reason.LIVENESS_UNKNOWN)),
        (Liveness.DEAD, (Action.DELETE, Reason.RELEASED_LEFTOVER)),
    ],
)
def test_what_serves_a_live_vm_stays(liveness: Liveness, expected: tuple[Action, Reason]) -> None:
    scene = Scene()
    old = restored(scene, liveness)
    assert verdict(scene, old) == expected


def test_beside_the_vm_s_own_it_serves_nobody() -> None:
    scene = Scene()
    old = restored(scene, Liveness.ALIVE, beside=True)
    assert verdict(scene, old) == (Action.DELETE, Reason.RELEASED_LEFTOVER)


def test_a_start_under_way_counts() -> None:
    scene = Scene()
    old = restored(scene, Liveness.DEAD)
    scene.operation(9, running=True, vm="web")
    assert verdict(scene, old) == (Action.SKIP, Reason.OPERATION_RUNNING)


def test_a_network_s_own_rules_count() -> None:
    scene = Scene()
    network = scene.network()
    old = scene.row(Kind.FILTER, network=network, state=State.RELEASED)
    new = scene.row(Kind.FILTER, network=network)
    for row in (old, new):
        scene.expected[row.id] = (
            Entry("iptables", legacy_place("iptables", "filter", "FORWARD"), "-i hvbr1", row.mark),
        )
    scene.entries.append(scene.expected[old.id][0])
    assert verdict(scene, old) == (Action.SKIP, Reason.RESERVED)


def test_of_a_mark_that_serves_what_is_beside_its_own_goes_alone() -> None:
    """``iptables-restore -n`` puts rules into the place of ours, and adds to built-in chains."""
    scene = Scene()
    network = scene.network()
    old = scene.row(Kind.FILTER, network=network, state=State.RELEASED)
    new = scene.row(Kind.FILTER, network=network)
    own = legacy_place("iptables", "filter", "HVTX-FWD")
    inside = own._replace(chain="INPUT")
    before = legacy_place("iptables", "nat", "PREROUTING")
    for row, places in ((old, (own, inside, before)), (new, (own, inside))):
        scene.expected[row.id] = tuple(
            Entry("iptables", place, "-i hvbr1", row.mark) for place in places
        )
    scene.entries += [*scene.expected[old.id], scene.expected[old.id][1], scene.expected[new.id][1]]
    found = [item for item in scene.plan().items if item.mark == old.mark]
    assert {
        (item.action, item.reason, item.alone): {e.place for e in (item.entry, *item.more) if e}
        for item in found
    } == {
        (Action.SKIP, Reason.RESERVED, False): {own, before},
        (Action.DELETE, Reason.RELEASED_LEFTOVER, True): {inside},
    }
    (gone,) = [item for item in found if item.alone]
    assert len((gone.entry, *gone.more)) == 2  # both copies
