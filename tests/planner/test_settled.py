"""VMs of which nothing needs judging: each condition, and that a plan says the same without them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hvtx.engine.settling import Settling
from hvtx.model.plan import LeftAlone, Plan, Snapshot
from hvtx.model.reason import Reason
from hvtx.model.resource import Kind, RawResource, Resource, State
from hvtx.model.vm import Liveness
from hvtx.planner.gc import plan_gc
from hvtx.planner.settled import TAP, carried, just_device, settled, undisturbed

from .scene import EARLIER, NOW, Scene, link, mark

VM = (Kind.LEASE, Kind.PROCESS, Kind.TAP, Kind.FILTER, Kind.PUBLISH, Kind.MASQUERADE, Kind.FILE)


def raw(row: Resource, **changed: Any) -> RawResource:
    row = row._replace(**changed)
    texts = (json.dumps(row.spec), json.dumps(row.observed))
    return (row.id, row.kind, row.key, row.state, row.mark, *texts, *row[7:])  # type: ignore[return-value]


def scene_of(*names: str) -> Scene:
    """VMs that run with all of their things in one network, and one that is dead."""
    scene = Scene()
    network = scene.network()
    scene.show(scene.row(Kind.BRIDGE, network=network))
    scene.show(scene.row(Kind.FILTER, network=network, what="network", backend="nftables"))
    for name in (*names, "dead"):
        vm = scene.vm(name, Liveness.DEAD if name == "dead" else Liveness.ALIVE)
        for kind in VM:
            more = {"backend": "nftables"} if kind in (VM[3], VM[4], VM[5]) else {}
            scene.show(scene.row(kind, vm=vm, network=network, **more))
    return scene


def without(whole: Snapshot, *names: str) -> Snapshot:
    """The same snapshot with VMs settled, as the engine would have it."""
    vms = {vm for vm, facts in whole.vms.items() if facts.name in names}
    rows = [row for row in whole.rows if row.vm in vms]
    marks = {row.mark for row in rows}
    by_alias = {seen.alias: seen for seen in whole.links}
    links = {row.id: by_alias[row.mark] for row in rows if row.kind == Kind.TAP}
    return whole._replace(
        rows=tuple(row for row in whole.rows if row.vm not in vms),
        entries=tuple(entry for entry in whole.entries if entry.mark not in marks),
        expected={n: e for n, e in whole.expected.items() if n not in {row.id for row in rows}},
        settled=settled([raw(row) for row in rows], links, "nftables"),
    )


def test_a_plan_says_the_same_of_settled_vms() -> None:
    scene = scene_of("web", "db", "api")
    scene.links.append(link(900, "tap9"))
    whole = scene.snapshot()
    for names in (("web",), ("db", "web"), ("api", "db", "web")):
        found, wanted = plan_gc(without(whole, *names)), plan_gc(whole)
        assert list(found.items) == list(wanted.items)
        assert found.counts() == wanted.counts()
        assert found.acting() == wanted.acting()
        assert len(found.items) == len(wanted.items)
        assert found.items[3] == wanted.items[3]
        assert found.items == wanted.items


def test_a_plan_says_the_same_of_leases_of_an_earlier_life() -> None:
    scene = scene_of("web", "db")
    scene.rows = [r._replace(life=EARLIER) if r.kind == Kind.LEASE else r for r in scene.rows]
    whole = scene.snapshot()
    found, wanted = plan_gc(without(whole, "web", "db")), plan_gc(whole)
    assert list(found.items) == list(wanted.items)
    assert {item.reason for item in wanted.items if item.vm == "web"} == {Reason.VM_ALIVE}


def test_settled_vms_keep_what_their_networks_need() -> None:
    """A row of the network whose thing is gone is told as lost only while a VM uses the network."""
    scene = scene_of("web")
    scene.entries = [e for e in scene.entries if e.mark != scene.rows[1].mark]
    whole = scene.snapshot()
    reasons = {item.row: item.reason for item in plan_gc(whole).items}
    assert reasons[scene.rows[1].id] is Reason.LOST
    assert list(plan_gc(without(whole, "web")).items) == list(plan_gc(whole).items)
    forgotten = without(whole, "web")
    forgotten = forgotten._replace(settled=forgotten.settled._replace(networks=frozenset()))
    assert list(plan_gc(forgotten).items) != list(plan_gc(whole).items)


def test_an_item_in_between_stands_where_it_would() -> None:
    """A removed thing of a VM that runs is told beside the VM's own."""
    scene = scene_of("web", "db")
    scene.show(scene.row(Kind.PUBLISH, vm="id-web", network="net-lan", state=State.RELEASED))
    whole = scene.snapshot()
    found = plan_gc(without(whole, "web", "db"))
    assert list(found.items) == list(plan_gc(whole).items)
    assert not all(isinstance(part, LeftAlone) or part.vm != "web" for part in found.items.parts())


# -- the conditions --------------------------------------------------------------------------------


@pytest.fixture
def rows() -> list[Resource]:
    return [row for row in scene_of("web").rows if row.vm == "id-web"]


def test_a_vm_on_which_nobody_works_is_undisturbed(rows: list[Resource]) -> None:
    assert undisturbed([raw(row) for row in rows], NOW.id, (), ()).keys() == {"id-web"}


@pytest.mark.parametrize(
    "changed",
    [
        {"state": State.INTENDED.value},
        {"state": State.RELEASING.value},
        {"kind": Kind.SYSCTL.value},
        {"observed": {"flows": []}},
        {"observed": {"exchange": "made"}},
        {"operation": 77},
    ],
)
@pytest.mark.parametrize("place", [0, 3, -1])
def test_one_row_that_is_otherwise_disturbs_it(
    rows: list[Resource], changed: dict[str, Any], place: int
) -> None:
    own = [raw(row) for row in rows]
    own[place] = raw(rows[place], **changed)
    assert undisturbed(own, NOW.id, {77}, ()) == {}


def test_of_an_earlier_life_are_leases_alone(rows: list[Resource]) -> None:
    """They are made with the VM: after a boot no VM would be undisturbed any more."""
    for number, row in enumerate(rows):
        own = list(map(raw, rows))
        own[number] = raw(row, life=EARLIER)
        found = undisturbed(own, NOW.id, (), ())
        assert found.keys() == ({"id-web"} if row.kind == Kind.LEASE else set()), row.kind


def test_an_operation_on_it_disturbs_it(rows: list[Resource]) -> None:
    assert undisturbed([raw(row) for row in rows], NOW.id, (), {"id-web"}) == {}


@pytest.mark.parametrize(
    "seen",
    [
        {"name": "other"}, {"alias": None}, {"alias": mark(99)}, {"kind": "veth"}, {"ifindex": 4},
    ],
)  # fmt: skip
def test_a_device_that_is_otherwise_is_not_just_as_recorded(
    rows: list[Resource], seen: dict[str, Any]
) -> None:
    tap = next(row for row in rows if row.kind == Kind.TAP)
    here = link(tap.ifindex, tap.key, alias=tap.mark)
    assert just_device(raw(tap), tap.ifindex, carried([here], (), ())) == here
    assert just_device(raw(tap), tap.ifindex, carried([here._replace(**seen)], (), ())) is None
    twice = [here, link(5000, "copy", alias=tap.mark)]
    assert just_device(raw(tap), tap.ifindex, carried(twice, (), ())) is None


def test_a_mark_on_a_thing_of_another_kind_is_found(rows: list[Resource]) -> None:
    own = [raw(row) for row in rows]
    everywhere = [row.mark for row in rows]
    devices = [link(4000 + n, f"d{n}", alias=m) for n, m in enumerate(everywhere)]
    taps = {row[4] for row in own if row[1] == TAP}
    elements = {row.mark for row in rows if row.kind in (VM[3], VM[4], VM[5])}
    assert carried((), (), ()).elsewhere(own) == set()
    assert carried(devices, (), ()).elsewhere(own) == set(everywhere) - taps
    assert carried((), everywhere, ()).elsewhere(own) == set(everywhere) - elements
    assert carried((), (), everywhere).elsewhere(own) == set(everywhere)


def test_nothing_is_settled_where_the_elements_could_not_be_read(rows: list[Resource]) -> None:
    settling = Settling(None)
    settling.compare({"id-web": [raw(row) for row in rows]}, carried((), (), ()))
    assert not settling.vms
    assert settling.result().vms == {}
    assert settling.take_back(["id-web"]) == ([], [])
    assert isinstance(plan_gc(Scene().snapshot()), Plan)
