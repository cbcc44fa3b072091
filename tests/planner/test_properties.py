"""What no plan may ever do, over hosts that nobody would think of."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hvtx.model.place import nft_place
from hvtx.model.plan import Action, Plan, Snapshot
from hvtx.model.reason import Reason
from hvtx.model.resource import BRIDGE_GROUP, FIREWALL_KINDS, Entry, Kind, Resource, State
from hvtx.model.vm import Liveness
from hvtx.planner.gc import plan_gc
from hvtx.planner.order import release_order
from hvtx.planner.recheck import devices_judged

from .scene import EARLIER, NOW, THEIRS, Scene, link, mark

pytestmark = pytest.mark.slow  # plans of random hosts

OF_VM = (Kind.TAP, Kind.FILTER, Kind.PUBLISH, Kind.MASQUERADE, Kind.FILE, Kind.PROCESS, Kind.LEASE)
OF_NETWORK = (Kind.BRIDGE, Kind.FILTER, Kind.SYSCTL)
SHOWN = ("whole", "whole", "whole", "absent", "bare", "other", "twice", "part", "copied")
NO_TOMBSTONE = (Kind.LEASE, Kind.PROCESS, Kind.ADDRESS, Kind.SYSCTL, Kind.FILE)


@st.composite
def scenes(draw: Any) -> Scene:
    """VMs and networks with rows in any state, and a host that fits them more or less."""
    scene = Scene()
    network = scene.network()
    for number in range(draw(st.integers(1, 3))):
        vm = scene.vm(f"vm{number}", draw(st.sampled_from(list(Liveness))))
        owner_row(draw, scene, {"vm": vm}, OF_VM, f"vm{number}", 100 + number, network)
    owner_row(draw, scene, {"network": network}, OF_NETWORK, None, 200, None)
    for number in range(draw(st.integers(0, 3))):
        foreign_object(draw, scene, number)
    for area in draw(st.sets(st.sampled_from(["links", "nftables", "addresses"]), max_size=1)):
        scene.failures[area] = "it failed"
    if "links" in scene.failures:
        scene.links, scene.addresses = [], []
    if "nftables" in scene.failures:
        scene.entries = []
    return scene


def owner_row(
    draw: Any,
    scene: Scene,
    owner: dict[str, str],
    kinds: tuple[Kind, ...],
    vm_name: str | None,
    operation: int,
    network: str | None,
) -> None:
    """Rows of one owner: committed ones, and some of one operation that has not ended."""
    scene.operation(operation, running=draw(st.booleans()), vm=vm_name)
    for kind in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=5)):
        state = draw(st.sampled_from(list(State)))
        if kind in NO_TOMBSTONE and state == State.RELEASED:
            continue
        open_ = state in (State.INTENDED, State.RELEASING)
        row = scene.row(
            kind,
            state=state,
            operation=operation if open_ else 1,
            life=draw(st.sampled_from([NOW.id, NOW.id, NOW.id, EARLIER])),
            **({"network": network, **owner} if kind == Kind.TAP else owner),
        )
        show(draw, scene, row)


def show(draw: Any, scene: Scene, row: Resource) -> None:
    how = draw(st.sampled_from(SHOWN))
    if how == "absent" or row.kind in (Kind.PROCESS, Kind.LEASE, Kind.SYSCTL):
        return
    before = len(scene.entries)
    scene.show(row)
    if row.kind in (Kind.TAP, Kind.BRIDGE):
        if how in ("bare", "other"):
            alias = None if how == "bare" else mark(row.id, "z")
            scene.links[-1] = scene.links[-1]._replace(alias=alias)
        if how == "copied":
            scene.links.append(link(row.id, f"copy{row.id}", alias=row.mark))
        if row.kind == Kind.TAP and draw(st.integers(0, 3)) == 0:
            scene.hold(row)
        if draw(st.integers(0, 4)) == 0:
            scene.links.append(link(500 + row.id, f"vl{row.id}", "vlan", lower=row.spec["ifindex"]))
    elif row.kind in FIREWALL_KINDS:
        mine = scene.entries[before:]
        if how == "part":
            mine = mine[:1]
        elif how == "twice":
            mine = mine + [entry._replace(handle=9) for entry in mine]
        elif how in ("bare", "other"):
            other = None if how == "bare" else mark(row.id, "z")
            mine = [entry._replace(mark=other) for entry in mine]
        elif how == "copied":
            mine = [*mine, mine[0]._replace(text="edited")]
        scene.entries[before:] = mine
    elif row.kind == Kind.FILE and how == "other":
        scene.files[row.spec["path"]] = mark(row.id, "z")


def foreign_object(draw: Any, scene: Scene, number: int) -> None:
    texts = [None, "uplink", "hvtx:9:what", mark(900 + number), mark(10, "k", THEIRS)]
    text = draw(st.sampled_from(texts))
    if draw(st.booleans()):
        scene.links.append(link(700 + number, f"tap{number}", alias=text))
    else:
        words = f"-s 10.77.0.{number} -j SNAT"
        mine = text if text and text.startswith("hvtx:") else None
        scene.entries.append(
            Entry("nftables", nft_place("ip", "t", "nat"), words, mine, number + 1, nat=True)
        )


MANY = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# -- a pure "apply" ----------------------------------------------------------------------------------


def apply(snapshot: Snapshot, plan: Plan) -> Snapshot:
    """The record and the host after everything that the plan wants was done, and nothing else."""
    rows = {row.id: row for row in snapshot.rows}
    links, entries, files = list(snapshot.links), list(snapshot.entries), dict(snapshot.files)
    addresses, stones = list(snapshot.addresses), dict(snapshot.tombstones)
    for item in plan.acting():
        if item.action is Action.COMMIT:
            rows[item.row] = rows[item.row]._replace(state=State.COMMITTED)
            continue
        row = rows.get(item.row)
        if item.entry is not None:
            for entry in (item.entry, *item.more):
                entries.remove(entry)
            continue
        if item.link is not None and (row is None or item.action is Action.DELETE):
            links = [seen for seen in links if seen.ifindex != item.link.ifindex]
            addresses = [a for a in addresses if a.ifindex != item.link.ifindex]
            if row is None:
                continue
        assert row is not None
        if item.action is Action.DELETE and row.kind in FIREWALL_KINDS:
            for wanted in snapshot.expected[row.id]:
                if wanted in entries:
                    entries.remove(wanted)
        if item.action is Action.DELETE:
            files.pop(row.spec.get("path", ""), None)
        del rows[row.id]
        if row.kind not in NO_TOMBSTONE:
            stones[row.mark] = row._replace(state=State.RELEASED)
    return snapshot._replace(
        rows=tuple(rows.values()),
        links=tuple(links),
        entries=tuple(entries),
        addresses=tuple(addresses),
        files=files,
        tombstones=stones,
    )


# -- the properties ----------------------------------------------------------------------------------


@MANY
@given(scenes())
def test_nothing_is_deleted_without_the_very_mark_on_record(scene: Scene) -> None:
    """Each deleted object carried the text of a row or tombstone of this store, whole.

    A bridge that was never committed may carry its other mark: the recorded MAC and the group.
    """
    snapshot = scene.snapshot()
    record = {row.mark: row for row in (*snapshot.rows, *snapshot.tombstones.values())}
    for item in plan_gc(snapshot).items:
        if item.action is not Action.DELETE:
            continue
        assert item.mark in record
        row = record[item.mark]
        assert row.id == item.row
        if item.entry is not None:
            assert {entry.mark for entry in (item.entry, *item.more)} == {row.mark}
        elif row.kind in (Kind.TAP, Kind.BRIDGE):
            assert item.link is not None
            seen = item.link
            assert seen.ifindex == row.spec["ifindex"]
            if row.kind == Kind.BRIDGE and row.state != State.COMMITTED and seen.alias is None:
                assert (seen.mac, seen.group) == (row.spec["mac"], BRIDGE_GROUP)
            else:
                assert seen.alias == row.mark
        elif row.kind in FIREWALL_KINDS:
            assert any(entry.mark == row.mark for entry in snapshot.entries)
        elif row.kind == Kind.FILE:
            assert snapshot.files[row.spec["path"]] == row.mark


@MANY
@given(scenes())
def test_nothing_is_deleted_for_a_vm_that_is_not_proven_dead(scene: Scene) -> None:
    """Alive and unknown keep everything that is on record, but for surplus copies."""
    snapshot = scene.snapshot()
    rows = {row.id: row for row in snapshot.rows}
    for item in plan_gc(snapshot).acting():
        row = rows.get(item.row)
        if row is None or row.vm is None or item.reason is Reason.DUPLICATE_COPY:
            continue
        liveness = snapshot.vms[row.vm].liveness
        if item.action is Action.COMMIT:
            assert liveness is Liveness.ALIVE
        else:
            assert liveness is Liveness.DEAD


@MANY
@given(scenes())
def test_a_held_device_keeps_all_of_its_vm(scene: Scene) -> None:
    """Nothing of a VM is deleted or forgotten in this life while one of its TAPs is held."""
    snapshot = scene.snapshot()
    there = {seen.ifindex: seen.name for seen in snapshot.links}
    held = {
        row.vm
        for row in snapshot.rows
        if row.kind == Kind.TAP and snapshot.holders.get(there.get(row.spec["ifindex"], ""))
    }
    rows = {row.id: row for row in snapshot.rows if row.life == NOW.id}
    for item in plan_gc(snapshot).acting():
        row = rows.get(item.row)
        if row is None or row.vm not in held:
            continue
        assert item.action is Action.COMMIT or item.reason is Reason.DUPLICATE_COPY, item


@MANY
@given(scenes())
def test_no_operation_that_runs_is_disturbed(scene: Scene) -> None:
    """Rows that a live process is making or removing are not acted upon."""
    snapshot = scene.snapshot()
    rows = {row.id: row for row in snapshot.rows}
    for item in plan_gc(snapshot).acting():
        row = rows.get(item.row)
        if row is not None and row.state in (State.INTENDED, State.RELEASING):
            assert not snapshot.operations[row.operation].running


@MANY
@given(scenes())
def test_nothing_that_could_not_be_read_counts_as_gone(scene: Scene) -> None:
    """With a failed dump no record of that area is closed in this life, and nothing is lost."""
    snapshot = scene.snapshot()
    blind = {
        Kind.TAP: "links" in snapshot.failures,
        Kind.BRIDGE: "links" in snapshot.failures,
        **dict.fromkeys(FIREWALL_KINDS, "nftables" in snapshot.failures),
    }
    for item in plan_gc(snapshot).items:
        if blind.get(Kind(item.kind) if item.kind != "rule" else Kind.SYSCTL):
            assert item.reason not in (Reason.ALREADY_GONE, Reason.LOST)


@MANY
@given(scenes())
def test_the_plan_after_the_plan_is_empty(scene: Scene) -> None:
    """Running gc twice is running it once."""
    snapshot = scene.snapshot()
    after = apply(snapshot, plan_gc(snapshot))
    second = plan_gc(after)
    assert second.acting() == []


@MANY
@given(scenes())
def test_half_a_plan_and_then_the_rest_is_the_whole(scene: Scene) -> None:
    """A gc that was killed in the middle leaves nothing that the next one does not finish."""
    snapshot = scene.snapshot()
    plan = plan_gc(snapshot)
    half = Plan(tuple(plan.acting()[: len(plan.acting()) // 2]))
    middle = apply(snapshot, half)
    after = apply(middle, plan_gc(middle))
    whole = apply(snapshot, plan)
    assert sorted(after.links) == sorted(whole.links)
    assert sorted(e.text for e in after.entries) == sorted(e.text for e in whole.entries)
    assert {row.id for row in after.rows} == {row.id for row in whole.rows}


@MANY
@given(scenes(), st.randoms(use_true_random=False))
def test_the_order_of_dumps_does_not_matter(scene: Scene, random: Any) -> None:
    """The same host listed in another order gives the same plan, item by item."""
    before = plan_gc(scene.snapshot(), everything=True)
    for part in (scene.links, scene.addresses, scene.entries, scene.rows):
        random.shuffle(part)
    assert plan_gc(scene.snapshot(), everything=True) == before


@MANY
@given(scenes(), st.sets(st.integers(1, 40)))
def test_traffic_control_of_what_is_not_judged_changes_nothing(
    scene: Scene, filtered: set[int]
) -> None:
    """So it is enough to ask the devices that are judged."""
    filtered |= {each.ifindex for each in scene.links[::2]}
    snapshot = scene.snapshot()._replace(filtered=frozenset(filtered))
    judged = devices_judged(snapshot.rows, snapshot.links, snapshot.settled.marks)
    asked = snapshot._replace(filtered=snapshot.filtered & judged)
    assert plan_gc(asked) == plan_gc(snapshot)


@MANY
@given(scenes())
def test_every_row_has_exactly_one_verdict(scene: Scene) -> None:
    """Nothing on record is passed over, nothing is judged twice."""
    snapshot = scene.snapshot()
    plan = plan_gc(snapshot)
    own = [item.row for item in plan.items if item.entry is None and item.row]
    ids = [row.id for row in snapshot.rows]
    assert sorted(i for i in own if i in ids) == ids


@MANY
@given(scenes())
def test_release_goes_firewall_first_and_lease_last(scene: Scene) -> None:
    """Traffic stops before devices go, addresses are free only when nothing speaks for them."""
    order = [row.kind for row in release_order(list(scene.rows))]
    ranks = [0 if kind in FIREWALL_KINDS else 2 if kind == Kind.LEASE else 1 for kind in order]
    assert ranks == sorted(ranks)
    device = [n for n, kind in enumerate(order) if kind == Kind.TAP]
    bridge = [n for n, kind in enumerate(order) if kind == Kind.BRIDGE]
    assert not device or not bridge or max(device) < min(bridge)
