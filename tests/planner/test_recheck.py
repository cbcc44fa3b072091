"""What is looked at again and what is doubtful, where others are at work between two looks."""

from __future__ import annotations

import pytest

from hvtx.model.resource import Kind, Resource, State
from hvtx.model.vm import Liveness
from hvtx.planner import recheck
from hvtx.planner.recheck import Before, Record, Seen
from tests.planner.scene import EARLIER, NOW, Scene, link

OLD, RUNS, NEW = 1, 2, 9  # ended before all looks; held its lock at the first; begun after it
BEFORE = Before(newest=5, running={RUNS: True, 3: False})
WHOLE = (Kind.TAP, Kind.BRIDGE, Kind.PUBLISH, Kind.FILTER, Kind.MASQUERADE)
BARE = (Kind.PROCESS, Kind.LEASE, Kind.SYSCTL, Kind.FILE)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def record(scene: Scene) -> Record:
    return Record(
        life=NOW.id,
        seq=1,
        newest=5,
        rows=scene.rows,
        tombstones=scene.tombstones,
        operations=[],
        vms=[(vm, facts.name, "command", False) for vm, facts in scene.vms.items()],
        lives={},
        networks={},
    )


def late(scene: Scene, *underway: int) -> list[Resource]:
    seen = Seen(scene.links, scene.addresses, scene.entries)
    return recheck.late(BEFORE, set(underway), record(scene), seen, scene.expected)


@pytest.mark.parametrize("operation", [OLD, 3, RUNS, NEW])
@pytest.mark.parametrize("kind", WHOLE)
def test_what_is_as_it_is_on_record_is_not_looked_at_again(
    scene: Scene, kind: Kind, operation: int
) -> None:
    scene.show(scene.row(kind, operation=operation))
    assert late(scene) == []


@pytest.mark.parametrize("operation", [OLD, 3, RUNS, NEW])
@pytest.mark.parametrize("kind", WHOLE)
def test_what_was_not_seen_though_it_is_committed(scene: Scene, kind: Kind, operation: int) -> None:
    """A dump may miss a device; a rule is missing that is gone, or that was added after the look."""
    row = scene.row(kind, operation=operation)
    again = kind in (Kind.TAP, Kind.BRIDGE) or operation in (RUNS, NEW)
    assert late(scene) == ([row] if again else [])


@pytest.mark.parametrize("operation", [OLD, 3, RUNS, NEW])
@pytest.mark.parametrize("kind", WHOLE)
def test_what_was_seen_though_it_is_released(scene: Scene, kind: Kind, operation: int) -> None:
    row = scene.row(kind, state=State.RELEASED, operation=operation)
    again = kind in (Kind.TAP, Kind.BRIDGE) or operation in (RUNS, NEW)
    assert late(scene) == ([row] if again else [])


@pytest.mark.parametrize("shown", [True, False], ids=["seen", "not seen"])
@pytest.mark.parametrize("state", [State.INTENDED, State.RELEASING])
@pytest.mark.parametrize("kind", WHOLE)
def test_what_a_running_operation_is_at_may_be_there_or_not(
    scene: Scene, kind: Kind, state: State, shown: bool
) -> None:
    row = scene.row(kind, state=state, operation=RUNS)
    if shown:
        scene.show(row)
    assert late(scene, RUNS) == []


@pytest.mark.parametrize("shown", [True, False], ids=["seen", "not seen"])
@pytest.mark.parametrize("operation", [RUNS, NEW])
@pytest.mark.parametrize("state", [State.INTENDED, State.RELEASING])
@pytest.mark.parametrize("kind", WHOLE)
def test_what_an_operation_was_at_that_died_meanwhile(
    scene: Scene, kind: Kind, state: State, operation: int, shown: bool
) -> None:
    """It may have been seen and be gone, or have been made after the look."""
    row = scene.row(kind, state=state, operation=operation)
    if shown:
        scene.show(row)
    assert late(scene) == [row]


@pytest.mark.parametrize("operation", [RUNS, NEW])
def test_an_address_is_looked_at_again_alike(scene: Scene, operation: int) -> None:
    bridge, address = scene.bridge_with_address(operation=operation)
    scene.show(bridge, address)
    assert late(scene) == []
    scene.addresses.clear()
    assert late(scene) == [address]
    scene.rows = [row._replace(state=State.INTENDED) for row in (bridge, address)]
    scene.show(address)
    assert late(scene) == scene.rows


@pytest.mark.parametrize("operation", [OLD, RUNS, NEW])
@pytest.mark.parametrize("state", [State.INTENDED, State.COMMITTED])
@pytest.mark.parametrize("kind", BARE)
def test_there_is_nothing_of_these_to_look_at(
    scene: Scene, kind: Kind, state: State, operation: int
) -> None:
    scene.row(kind, state=state, operation=operation)
    assert late(scene) == []


def test_a_device_that_is_being_made_is_marked_in_a_moment(scene: Scene) -> None:
    row = scene.row(Kind.TAP, state=State.INTENDED, operation=RUNS)
    scene.show(row)
    scene.links = [scene.links[0]._replace(alias=None)]
    assert late(scene, RUNS) == [row]


def test_no_device_survives_a_life(scene: Scene) -> None:
    scene.row(Kind.TAP, operation=OLD, life=EARLIER)
    assert late(scene) == []


def test_devices_are_asked_for_by_index_wherever_the_mark_was_seen(scene: Scene) -> None:
    tap = scene.row(Kind.TAP, state=State.RELEASED, operation=RUNS)
    port = scene.row(Kind.PUBLISH, operation=RUNS)
    scene.show(tap)
    copy = scene.links[0]._replace(ifindex=77)
    again = recheck.again([tap, port], [copy])
    assert again.devices == {tap.spec["ifindex"], 77}
    assert again.marks == {tap.mark, port.mark}
    assert (again.backends, again.addressed) == ({"nftables"}, set())


# -- the record again --------------------------------------------------------------------------------


def whereabouts(*rows: Resource) -> dict[int, recheck.Whereabouts]:
    return {row.id: (row.state, row.operation, row.observed) for row in rows}


def start(scene: Scene, name: str = "web") -> tuple[Resource, Resource, Resource]:
    """The rows of a start that was interrupted."""
    vm = scene.vm(name)
    tap, port, process = (
        scene.row(kind, vm=vm, state=State.INTENDED, operation=RUNS)
        for kind in (Kind.TAP, Kind.PUBLISH, Kind.PROCESS)
    )
    return tap, port, process


def test_what_rests_has_not_moved(scene: Scene) -> None:
    rows = start(scene)
    asked = recheck.asked_again(record(scene), rows, [])
    assert recheck.moved_since(asked, whereabouts(*rows)) == frozenset()


@pytest.mark.parametrize(
    "change",
    [{"state": State.COMMITTED}, {"operation": NEW}, {"observed": {"pid": 42}}],
    ids=["state", "operation", "what was noted"],
)
@pytest.mark.parametrize("which", [0, 1, 2], ids=["tap", "publish", "process"])
def test_with_one_row_all_of_its_vm_moved(
    scene: Scene, which: int, change: dict[str, object]
) -> None:
    """A start notes its process, opens the gate and dies: its device serves a VM that runs."""
    rows, other = start(scene), start(scene, "other")
    asked = recheck.asked_again(record(scene), [*rows, *other], [])
    now = list(rows)
    now[which] = now[which]._replace(**change)
    moved = recheck.moved_since(asked, whereabouts(*now, *other))
    assert moved == {row.id for row in rows}


def test_a_row_that_is_gone_has_moved(scene: Scene) -> None:
    tap, port, process = start(scene)
    asked = recheck.asked_again(record(scene), [process], [])
    assert recheck.moved_since(asked, whereabouts(tap, port)) == {process.id}


def test_rows_of_networks_move_each_by_itself(scene: Scene) -> None:
    network = scene.network()
    one, two = (
        scene.row(kind, network=network, state=State.RELEASING)
        for kind in (Kind.BRIDGE, Kind.FILTER)
    )
    asked = recheck.asked_again(record(scene), [one, two], [])
    assert recheck.moved_since(asked, whereabouts(one)) == {two.id}


def test_of_a_vm_that_somebody_began_to_work_on_each_row_is_asked_for(scene: Scene) -> None:
    rows, other = start(scene), start(scene, "other")
    begun = [(NEW, "stop", "web"), (NEW + 1, "gc", None)]
    assert recheck.asked_again(record(scene), [], begun).keys() == {row.id for row in rows}
    assert recheck.asked_again(record(scene), [other[0]], []).keys() == {other[0].id}


def test_doubtful_is_what_something_follows_from(scene: Scene) -> None:
    dead, alive = scene.vm("dead"), scene.vm("alive", Liveness.ALIVE)
    tap = scene.row(Kind.TAP, vm=dead)
    seen_again = scene.row(Kind.TAP, vm=alive)
    half = scene.row(Kind.PUBLISH, vm=alive, state=State.INTENDED, operation=NEW)
    scene.row(Kind.PUBLISH, vm=alive, state=State.INTENDED, operation=RUNS)
    scene.row(Kind.PUBLISH, vm=alive)
    found = recheck.doubtful(scene.rows, scene.vms, {RUNS}, [seen_again])
    assert {row.id for row in found} == {tap.id, seen_again.id, half.id}


# -- devices that are being made ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.TAP, Kind.BRIDGE, Kind.VETH])
@pytest.mark.parametrize(
    ("alias", "state", "operation", "doubted"),
    [
        (None, State.INTENDED, RUNS, True),
        ("a stranger's", State.INTENDED, RUNS, False),
        (None, State.COMMITTED, RUNS, False),
        (None, State.INTENDED, OLD, False),
    ],
    ids=["unmarked yet", "another mark", "made", "left behind"],
)
def test_of_a_device_that_is_made_and_not_marked_yet_nothing_is_concluded(
    scene: Scene, kind: Kind, alias: str | None, state: State, operation: int, doubted: bool
) -> None:
    row = scene.row(kind, state=state, operation=operation)
    found = recheck.unmarked([row], {RUNS}, [link(row.ifindex, row.key, alias=alias)])
    assert found == ({row.id} if doubted else frozenset())
