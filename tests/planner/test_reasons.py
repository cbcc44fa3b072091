"""The interface's table of actions and reasons: one law per test."""

from __future__ import annotations

import pytest

from hvtx.model.place import nft_place
from hvtx.model.plan import DELETING, Action
from hvtx.model.reason import Reason
from hvtx.model.resource import FLOWS, Entry, Kind, State, only_flows_remain
from hvtx.model.vm import Liveness

from .scene import EARLIER, NOW, THEIRS, Scene, link, mark

MAP = nft_place("inet", "t", "map")

DELETE, COMMIT, FORGET, SKIP = Action.DELETE, Action.COMMIT, Action.FORGET, Action.SKIP
ALIVE, DEAD, UNKNOWN = Liveness.ALIVE, Liveness.DEAD, Liveness.UNKNOWN


@pytest.fixture
def scene() -> Scene:
    return Scene()


# -- deletions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.TAP, Kind.FILTER, Kind.PUBLISH, Kind.MASQUERADE, Kind.FILE])
def test_what_a_dead_vm_left_goes(scene: Scene, kind: Kind) -> None:
    """Committed, mark verified, VM proven dead: delete, vm-dead."""
    row = scene.row(kind, vm=scene.vm())
    scene.show(row)
    assert scene.verdict(row) == (DELETE, Reason.VM_DEAD)


@pytest.mark.parametrize("kind", [Kind.TAP, Kind.FILTER, Kind.FILE, Kind.LEASE])
def test_an_abandoned_intent_goes(scene: Scene, kind: Kind) -> None:
    """Intended by an operation that no longer runs, and no VM uses it: delete, intent-abandoned."""
    scene.operation(5, running=False)
    row = scene.row(kind, vm=scene.vm(), state=State.INTENDED, operation=5)
    scene.show(row)
    assert scene.verdict(row) == (DELETE, Reason.INTENT_ABANDONED)


def test_an_interrupted_release_is_finished(scene: Scene) -> None:
    """Releasing, mark verified, the operation no longer runs: delete, release-interrupted."""
    scene.operation(5, running=False)
    row = scene.row(Kind.TAP, vm=scene.vm(), state=State.RELEASING, operation=5)
    scene.show(row)
    assert scene.verdict(row) == (DELETE, Reason.RELEASE_INTERRUPTED)


def test_an_interrupted_network_is_taken_back(scene: Scene) -> None:
    """A bridge, its address and its settings of an interrupted `network create` go."""
    net = scene.network()
    bridge, address = scene.bridge_with_address(network=net, state=State.INTENDED)
    scene.show(bridge, address)
    assert scene.verdict(bridge) == (DELETE, Reason.INTENT_ABANDONED)
    assert scene.verdict(address) == (DELETE, Reason.INTENT_ABANDONED)


def test_a_bridge_killed_before_its_alias_is_known_by_mac_and_group(scene: Scene) -> None:
    """The creating message sets MAC and group, the alias comes later."""
    bridge, _ = scene.bridge_with_address(network=scene.network(), state=State.INTENDED)
    scene.show(bridge)
    scene.links[0] = scene.links[0]._replace(alias=None)
    assert scene.verdict(bridge) == (DELETE, Reason.INTENT_ABANDONED)
    bare = scene.links[0]
    for change in ({"group": 0}, {"mac": "02:00:00:00:00:ff"}, {"kind": "dummy"}):
        scene.links[0] = bare._replace(**change)
        assert scene.verdict(bridge) == (SKIP, Reason.MARK_MISMATCH), change


def test_a_committed_bridge_is_known_by_its_alias_only(scene: Scene) -> None:
    """Once it was made whole, MAC and group prove nothing any more."""
    net = scene.network()
    bridge, _ = scene.bridge_with_address(network=net)
    scene.show(bridge)
    assert scene.verdict(bridge) == (SKIP, Reason.RESERVED)
    scene.links[0] = scene.links[0]._replace(alias=None)
    assert scene.verdict(bridge) == (SKIP, Reason.MARK_MISMATCH)


def test_a_removed_tap_that_is_there_again_goes(scene: Scene) -> None:
    """A tombstone's very mark on its very device: delete, released-leftover."""
    row = scene.row(Kind.TAP, vm=scene.vm(), state=State.RELEASED)
    scene.show(row)
    item = scene.item(row.key)
    assert (item.action, item.reason, item.row) == (DELETE, Reason.RELEASED_LEFTOVER, row.id)


def test_a_removed_rule_that_is_there_again_goes(scene: Scene) -> None:
    """The same for a firewall rule of this life."""
    row = scene.row(Kind.PUBLISH, vm=scene.vm(), state=State.RELEASED)
    scene.show(row)
    found = [item for item in scene.plan().items if item.row == row.id]
    assert [(item.action, item.reason) for item in found] == [(DELETE, Reason.RELEASED_LEFTOVER)]
    assert {found[0].entry, *found[0].more} == set(scene.entries)


@pytest.mark.parametrize("state", [State.COMMITTED, State.INTENDED, State.RELEASED])
def test_a_rule_of_an_earlier_life_was_restored_by_someone(scene: Scene, state: State) -> None:
    """Save and restore across a reboot brings rules back: delete, stale-restored."""
    row = scene.row(Kind.MASQUERADE, vm=scene.vm(), state=state, life=EARLIER)
    scene.show(row)
    found = [item for item in scene.plan().items if item.row == row.id]
    assert {(item.action, item.reason) for item in found} == {(DELETE, Reason.STALE_RESTORED)}


def test_surplus_copies_go_and_one_stays(scene: Scene) -> None:
    """`iptables-restore -n` doubles rules: delete, duplicate-copy, though the VM lives."""
    row = scene.row(Kind.FILTER, vm=scene.vm(liveness=ALIVE))
    scene.show(row, row, row)
    copies = [item for item in scene.plan().items if item.entry is not None]
    assert [(item.action, item.reason) for item in copies] == [(DELETE, Reason.DUPLICATE_COPY)]
    assert len(copies[0].more) == 3, "two elements, three times each, one of each stays"
    assert scene.verdict(row) == (SKIP, Reason.VM_ALIVE)


def test_copies_are_left_to_the_operation_that_makes_them(scene: Scene) -> None:
    """operation-running stands before the reasons to delete, for copies too."""
    scene.operation(5, running=True)
    row = scene.row(Kind.FILTER, vm=scene.vm(), state=State.INTENDED, operation=5)
    scene.show(row, row)
    assert {item.reason for item in scene.plan().items} == {Reason.OPERATION_RUNNING}


@pytest.mark.parametrize("liveness", [DEAD, ALIVE, UNKNOWN])
def test_rules_that_are_gone_wait_for_their_flows(scene: Scene, liveness: Liveness) -> None:
    """Releasing, absent, and flows not proven ended: delete, flows-remain; nothing is forgotten."""
    row = scene.row(
        Kind.FILTER, vm=scene.vm(liveness=liveness), state=State.RELEASING, observed={FLOWS: True}
    )
    wanted = {ALIVE: (SKIP, Reason.VM_ALIVE), UNKNOWN: (SKIP, Reason.LIVENESS_UNKNOWN)}
    assert scene.verdict(row) == wanted.get(liveness, (DELETE, Reason.FLOWS_REMAIN))
    assert only_flows_remain(row)


def test_rules_that_somebody_brought_back_go_before_their_flows(scene: Scene) -> None:
    """They are there, and make new ones: delete, release-interrupted."""
    row = scene.row(Kind.FILTER, vm=scene.vm(), state=State.RELEASING, observed={FLOWS: True})
    scene.show(row)
    assert scene.verdict(row) == (DELETE, Reason.RELEASE_INTERRUPTED)


def test_flows_of_a_host_that_cannot_be_read_are_not_ended(scene: Scene) -> None:
    """Whether the rules are gone is not known."""
    row = scene.row(Kind.FILTER, vm=scene.vm(), state=State.RELEASING, observed={FLOWS: True})
    scene.failures["nftables"] = "no"
    assert scene.verdict(row) == (SKIP, Reason.OBSERVE_FAILED)


def test_flows_of_an_earlier_life_ended_with_it(scene: Scene) -> None:
    row = scene.row(
        Kind.FILTER, vm=scene.vm(), state=State.RELEASING, life=EARLIER, observed={FLOWS: True}
    )
    assert scene.verdict(row) == (FORGET, Reason.REBOOTED)


@pytest.mark.parametrize("liveness", [ALIVE, UNKNOWN, DEAD])
def test_what_goes_past_a_published_port_is_ended(scene: Scene, liveness: Liveness) -> None:
    """Committed, there, and noted: delete, flows-remain, while its VM is up; else it goes whole."""
    row = scene.row(Kind.PUBLISH, vm=scene.vm(liveness=liveness), observed={FLOWS: True})
    scene.show(row)
    wanted = Reason.VM_DEAD if liveness is DEAD else Reason.FLOWS_REMAIN
    assert scene.verdict(row) == (DELETE, wanted)
    assert not only_flows_remain(row)


def test_what_goes_past_a_port_that_is_worked_on_is_left_alone(scene: Scene) -> None:
    scene.operation(5, running=True, vm="web")
    row = scene.row(Kind.PUBLISH, vm=scene.vm(liveness=ALIVE), observed={FLOWS: True})
    scene.show(row)
    assert scene.verdict(row) == (SKIP, Reason.OPERATION_RUNNING)


# -- records ---------------------------------------------------------------------------------------


def test_a_start_that_was_killed_late_is_completed(scene: Scene) -> None:
    """Intended, complete, and its VM is alive: commit, in-use-before-commit."""
    vm = scene.vm(liveness=ALIVE)
    rows = [
        scene.row(kind, vm=vm, state=State.INTENDED)
        for kind in (Kind.TAP, Kind.FILTER, Kind.PROCESS)
    ]
    scene.show(*rows)
    for row in rows:
        assert scene.verdict(row) == (COMMIT, Reason.IN_USE_BEFORE_COMMIT)


@pytest.mark.parametrize("missing", ["tap", "one element", "all elements"])
def test_a_start_of_which_a_piece_is_gone_is_completed_too(scene: Scene, missing: str) -> None:
    """Its VM runs, so all was made: what is gone becomes lost, and `repair` can put it back."""
    vm = scene.vm(liveness=ALIVE)
    tap = scene.row(Kind.TAP, vm=vm, state=State.INTENDED)
    wall = scene.row(Kind.FILTER, vm=vm, state=State.INTENDED)
    scene.show(tap, wall)
    if missing == "tap":
        scene.links.clear()
    else:
        del scene.entries[1 if missing == "one element" else 0 :]
    for row in (tap, wall):
        assert scene.verdict(row) == (COMMIT, Reason.IN_USE_BEFORE_COMMIT)
    if missing != "one element":
        gone = tap if missing == "tap" else wall
        item = next(item for item in scene.plan().items if item.row == gone.id)
        assert "gone, while its VM runs: `hvtx" in item.message or "cut off until" in item.message


def test_what_could_not_be_read_of_an_interrupted_start_waits(scene: Scene) -> None:
    """Whether it is there or gone: the next run says it."""
    wall = scene.row(Kind.FILTER, vm=scene.vm(liveness=ALIVE), state=State.INTENDED)
    scene.failures["nftables"] = "it failed"
    assert scene.verdict(wall) == (SKIP, Reason.VM_ALIVE)


@pytest.mark.parametrize("kind", [Kind.TAP, Kind.PUBLISH, Kind.FILE, Kind.PROCESS])
@pytest.mark.parametrize("state", [State.INTENDED, State.COMMITTED, State.RELEASING])
def test_a_record_without_an_object_is_closed(scene: Scene, kind: Kind, state: State) -> None:
    """Proven absent and the VM dead: forget, already-gone, whatever the row's state."""
    row = scene.row(kind, vm=scene.vm(), state=state)
    assert scene.verdict(row) == (FORGET, Reason.ALREADY_GONE)


@pytest.mark.parametrize("kind", [Kind.TAP, Kind.BRIDGE, Kind.PUBLISH, Kind.FILE, Kind.PROCESS])
def test_a_reboot_closes_records(scene: Scene, kind: Kind) -> None:
    """On record for an earlier life of this host: forget, rebooted."""
    owner = {"network": scene.network()} if kind == Kind.BRIDGE else {"vm": scene.vm()}
    row = scene.row(kind, life=EARLIER, **owner)
    assert scene.verdict(row) == (FORGET, Reason.REBOOTED)


def test_a_reboot_keeps_leases(scene: Scene) -> None:
    """Addresses are stable for as long as the VM is on record, reboots or not."""
    row = scene.row(Kind.LEASE, vm=scene.vm(), life=EARLIER)
    assert scene.verdict(row) == (SKIP, Reason.RESERVED)


def test_a_run_directory_that_outlived_the_boot_is_removed(scene: Scene) -> None:
    """With a run directory on a disk the file is still there: forgetting it would leak it."""
    row = scene.row(Kind.FILE, vm=scene.vm(), life=EARLIER)
    scene.show(row)
    assert scene.verdict(row) == (DELETE, Reason.VM_DEAD)


@pytest.mark.parametrize("kind", [Kind.TAP, Kind.FILTER, Kind.PROCESS, Kind.FILE, Kind.LEASE])
@pytest.mark.parametrize(
    ("liveness", "reason"), [(ALIVE, Reason.VM_ALIVE), (UNKNOWN, Reason.LIVENESS_UNKNOWN)]
)
def test_a_new_life_within_one_boot_proves_no_vm_dead(
    scene: Scene, kind: Kind, liveness: Liveness, reason: Reason
) -> None:
    """`recover --new-namespace` while a VM still runs over there: its record stays."""
    row = scene.row(kind, vm=scene.vm(liveness=liveness), life=EARLIER)
    assert scene.verdict(row) == (SKIP, reason)


def test_a_device_of_an_earlier_life_cannot_be_ours(scene: Scene) -> None:
    """No device survives a boot: what has its index and mark now is looked at by a person."""
    row = scene.row(Kind.TAP, vm=scene.vm(), life=EARLIER)
    scene.show(row)
    assert scene.verdict(row) == (SKIP, Reason.MARK_MISMATCH)


# -- owners that live ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("state", [State.COMMITTED, State.RELEASING])
def test_a_vm_that_is_up_keeps_everything(scene: Scene, kind: Kind, state: State) -> None:
    """The VM's process is alive: skip, vm-alive."""
    vm = scene.vm(liveness=ALIVE)
    if kind == Kind.ADDRESS:
        bridge, row = scene.bridge_with_address(vm=vm, state=state)
        scene.show(bridge, row)
    else:
        row = scene.row(kind, vm=vm, state=state)
        scene.show(row)
    assert scene.verdict(row) == (SKIP, Reason.VM_ALIVE)


@pytest.mark.parametrize("state", [State.INTENDED, State.COMMITTED, State.RELEASING])
def test_unknown_counts_as_alive(scene: Scene, state: State) -> None:
    """Neither alive nor dead can be proven: skip, liveness-unknown."""
    row = scene.row(Kind.TAP, vm=scene.vm(liveness=UNKNOWN), state=state)
    scene.show(row)
    assert scene.verdict(row) == (SKIP, Reason.LIVENESS_UNKNOWN)


def test_a_vm_that_nobody_looked_at_is_not_dead(scene: Scene) -> None:
    """A row whose VM is missing from the record proves nothing about its process."""
    row = scene.row(Kind.TAP, vm="id-of-nobody")
    scene.show(row)
    assert scene.verdict(row) == (SKIP, Reason.LIVENESS_UNKNOWN)


@pytest.mark.parametrize("kind", [Kind.BRIDGE, Kind.FILTER, Kind.SYSCTL])
@pytest.mark.parametrize("on_record", [True, False])
def test_a_network_on_record_keeps_its_things(scene: Scene, kind: Kind, on_record: bool) -> None:
    """A network's resources are kept while it is on record, and doubt keeps them too."""
    net = scene.network()
    row = scene.row(kind, network=net)
    scene.show(row)
    if not on_record:
        scene.networks.clear()
    assert scene.verdict(row) == (SKIP, Reason.RESERVED)


def test_the_installation_keeps_its_base(scene: Scene) -> None:
    """Tables and settings that belong to no single network are reserved."""
    base = scene.row(Kind.FILTER, what="base")
    scene.show(base)
    assert scene.verdict(base) == (SKIP, Reason.RESERVED)


@pytest.mark.parametrize("liveness", [DEAD, ALIVE, UNKNOWN])
def test_leases_stay_with_their_vm(scene: Scene, liveness: Liveness) -> None:
    """Leases of a defined VM are reserved; of one that lives or may live they follow it."""
    row = scene.row(Kind.LEASE, vm=scene.vm(liveness=liveness))
    reason = {DEAD: Reason.RESERVED, ALIVE: Reason.VM_ALIVE, UNKNOWN: Reason.LIVENESS_UNKNOWN}
    assert scene.verdict(row) == (SKIP, reason[liveness])


@pytest.mark.parametrize("state", [State.INTENDED, State.RELEASING])
@pytest.mark.parametrize(
    ("liveness", "reason"), [(ALIVE, Reason.VM_ALIVE), (UNKNOWN, Reason.LIVENESS_UNKNOWN)]
)
def test_no_bridge_goes_from_under_a_vm(
    scene: Scene, state: State, liveness: Liveness, reason: Reason
) -> None:
    """An unfinished network whose VM lives, or may live, stays whole."""
    net = scene.network()
    bridge = scene.row(Kind.BRIDGE, network=net, state=state)
    tap = scene.row(Kind.TAP, network=net, vm=scene.vm(liveness=liveness))
    scene.show(bridge, tap)
    assert scene.verdict(bridge) == (SKIP, reason)


@pytest.mark.parametrize("state", [State.INTENDED, State.RELEASING])
def test_a_setting_of_an_interrupted_network_waits_for_no_vm(scene: Scene, state: State) -> None:
    """Its record goes and the setting stays on, so that a VM of another network misses nothing."""
    net = scene.network()
    tap = scene.row(Kind.TAP, network=net, vm=scene.vm(liveness=ALIVE))
    setting = scene.row(Kind.SYSCTL, state=state)
    scene.show(tap, setting)
    reason = {
        State.INTENDED: Reason.INTENT_ABANDONED,
        State.RELEASING: Reason.RELEASE_INTERRUPTED,
    }
    assert scene.verdict(setting) == (DELETE, reason[state])


@pytest.mark.parametrize(("backend", "stays"), [("nftables", True), ("iptables", False)])
def test_the_base_of_an_interrupted_network_stays_while_it_serves_a_vm(
    scene: Scene, backend: str, stays: bool
) -> None:
    """Tables that a running VM's network has rules in stay; those of the other backend may go."""
    net = scene.network()
    tap = scene.row(Kind.TAP, network=net, vm=scene.vm(liveness=ALIVE))
    rules = scene.row(Kind.FILTER, network=net, backend="nftables")
    base = scene.row(Kind.FILTER, state=State.INTENDED, backend=backend, what="base")
    scene.show(tap, rules, base)
    kept, gone = (SKIP, Reason.VM_ALIVE), (DELETE, Reason.INTENT_ABANDONED)
    assert scene.verdict(base) == (kept if stays else gone)


@pytest.mark.parametrize("state", [State.INTENDED, State.RELEASING])
@pytest.mark.parametrize(("family", "stays"), [("bridge", True), ("inet", False)])
def test_a_table_in_which_no_vm_has_anything_goes(
    scene: Scene, family: str, stays: bool, state: State
) -> None:
    """A network of iptables has its guards in nftables' table bridge, and nothing in inet."""
    net = scene.network()
    tap = scene.row(Kind.TAP, network=net, vm=scene.vm(liveness=ALIVE))
    words = {"backend": "nftables", "what": "port", "forward": False}
    guard = scene.row(Kind.FILTER, network=net, **words)
    base = scene.row(Kind.FILTER, state=state, backend="nftables", what="base", families=[family])
    scene.show(tap, guard, base)
    action, _ = scene.verdict(base)
    assert action == (SKIP if stays else DELETE)


def test_no_bridge_goes_from_under_a_held_device(scene: Scene) -> None:
    """A dead VM's TAP that somebody holds keeps its network too."""
    net = scene.network()
    bridge = scene.row(Kind.BRIDGE, network=net, state=State.INTENDED)
    tap = scene.row(Kind.TAP, network=net, vm=scene.vm())
    scene.show(bridge, tap)
    scene.hold(tap)
    assert scene.verdict(bridge) == (SKIP, Reason.VM_ALIVE)


def test_what_went_under_a_live_vm_is_lost(scene: Scene) -> None:
    """On record, gone, and its VM is alive: skip, lost; `repair` puts it back."""
    row = scene.row(Kind.FILTER, vm=scene.vm(liveness=ALIVE))
    assert scene.verdict(row) == (SKIP, Reason.LOST)
    assert "repair" in scene.plan().items[0].message


def test_a_bridge_that_went_under_a_live_vm_is_lost(scene: Scene) -> None:
    """The same for a network's things; without a live VM they are only reserved."""
    net = scene.network()
    bridge = scene.row(Kind.BRIDGE, network=net)
    assert scene.verdict(bridge) == (SKIP, Reason.RESERVED)
    tap = scene.row(Kind.TAP, network=net, vm=scene.vm(liveness=ALIVE))
    scene.show(tap)
    assert scene.verdict(bridge) == (SKIP, Reason.LOST)


# -- operations and holders ------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.INTENDED, State.RELEASING])
def test_a_running_operation_is_left_alone(scene: Scene, state: State) -> None:
    """A live process is working on it: skip, operation-running."""
    scene.operation(5, running=True)
    row = scene.row(Kind.TAP, vm=scene.vm(), state=state, operation=5)
    scene.show(row)
    assert scene.verdict(row) == (SKIP, Reason.OPERATION_RUNNING)


def test_a_vm_that_is_being_stopped_is_left_to_that(scene: Scene) -> None:
    """Between the process's end and the release the rows still say committed."""
    vm = scene.vm()
    scene.operation(5, running=True, vm="web")
    row = scene.row(Kind.TAP, vm=vm)
    other = scene.row(Kind.TAP, vm=scene.vm("db"))
    scene.show(row, other)
    assert scene.verdict(row) == (SKIP, Reason.OPERATION_RUNNING)
    assert scene.verdict(other) == (DELETE, Reason.VM_DEAD)


def test_an_operation_of_an_earlier_life_can_still_run(scene: Scene) -> None:
    """`recover` moves rows of earlier lives under an operation of its own."""
    scene.operation(5, running=True)
    row = scene.row(Kind.FILE, vm=scene.vm(), state=State.RELEASING, operation=5, life=EARLIER)
    scene.show(row)
    assert scene.verdict(row) == (SKIP, Reason.OPERATION_RUNNING)


@pytest.mark.parametrize("state", [State.INTENDED, State.COMMITTED, State.RELEASING])
def test_a_held_device_stays_and_all_of_its_vm(scene: Scene, state: State) -> None:
    """The device is in-use and the message names the holder; the VM's other items are vm-alive."""
    vm = scene.vm()
    tap = scene.row(Kind.TAP, vm=vm, state=state)
    rest = [
        scene.row(kind, vm=vm, state=state)
        for kind in (Kind.FILTER, Kind.PUBLISH, Kind.LEASE, Kind.PROCESS, Kind.FILE)
    ]
    second = scene.row(Kind.TAP, vm=vm, state=state)
    scene.show(tap, second, *rest)
    scene.hold(tap, "socat (pid 99)")
    assert scene.verdict(tap) == (SKIP, Reason.IN_USE)
    assert "socat (pid 99)" in scene.item(tap.key).message
    for row in (*rest, second):
        assert scene.verdict(row) == (SKIP, Reason.VM_ALIVE), row.kind


def test_a_held_device_whose_mark_was_changed_still_keeps_its_vm(scene: Scene) -> None:
    """Somebody wrote another alias on it: the device is mark-mismatch, the VM is not cut off."""
    vm = scene.vm()
    tap, wall = scene.row(Kind.TAP, vm=vm), scene.row(Kind.FILTER, vm=vm)
    scene.show(tap, wall)
    scene.links[0] = scene.links[0]._replace(alias="uplink of the lab")
    scene.hold(tap)
    assert scene.verdict(tap) == (SKIP, Reason.MARK_MISMATCH)
    assert scene.verdict(wall) == (SKIP, Reason.VM_ALIVE)


def test_a_held_stranger_of_our_name_keeps_nothing(scene: Scene) -> None:
    """Another device took the name: its holder says nothing about our VM."""
    vm = scene.vm()
    tap, wall = scene.row(Kind.TAP, vm=vm), scene.row(Kind.FILTER, vm=vm)
    scene.show(wall)
    scene.links.append(link(5, tap.key))
    scene.hold(tap)
    assert scene.verdict(wall) == (DELETE, Reason.VM_DEAD)


def test_a_held_leftover_is_in_use(scene: Scene) -> None:
    """Some process holds it, whatever the record says."""
    row = scene.row(Kind.TAP, vm=scene.vm(), state=State.RELEASED)
    scene.show(row)
    scene.hold(row)
    assert scene.item(row.key).reason == Reason.IN_USE


def test_a_renamed_device_is_found_by_index_and_mark(scene: Scene) -> None:
    """An admin's rename hides nothing: it is deleted as before, and its holder counts."""
    row = scene.row(Kind.TAP, vm=scene.vm())
    scene.show(row)
    scene.links[0] = scene.links[0]._replace(name="mytap")
    assert scene.verdict(row) == (DELETE, Reason.VM_DEAD)
    scene.holders["mytap"] = ("cat (pid 1)",)
    assert scene.verdict(row) == (SKIP, Reason.IN_USE)


@pytest.mark.parametrize("what", ["vlan", "address", "xdp", "tc"])
def test_what_strangers_put_on_top_keeps_the_device(scene: Scene, what: str) -> None:
    """Deleting it would take theirs along: skip, foreign-dependents."""
    row = scene.row(Kind.TAP, vm=scene.vm())
    scene.show(row)
    on_top(scene, row.spec["ifindex"], what)
    assert scene.verdict(row) == (SKIP, Reason.FOREIGN_DEPENDENTS)


@pytest.mark.parametrize("what", ["vlan", "address", "xdp", "tc"])
def test_what_strangers_put_on_a_leftover_keeps_it(scene: Scene, what: str) -> None:
    """The same for a device that was already on record as removed."""
    row = scene.row(Kind.TAP, vm=scene.vm(), state=State.RELEASED)
    scene.show(row)
    on_top(scene, row.spec["ifindex"], what)
    assert scene.item(row.key).reason == Reason.FOREIGN_DEPENDENTS


def on_top(scene: Scene, ifindex: int, what: str) -> None:
    from hvtx.model.resource import Address

    if what == "vlan":
        scene.links.append(link(3, "theirs.5", "vlan", lower=ifindex))
    elif what == "address":
        scene.addresses.append(Address(ifindex, "192.0.2.9/32"))
    elif what == "xdp":
        scene.links[0] = scene.links[0]._replace(xdp=True)
    else:
        scene.filtered.add(ifindex)


@pytest.mark.parametrize("order", [1, -1])
def test_what_stands_in_the_way_is_told_in_one_order(scene: Scene, order: int) -> None:
    """Whatever the order of the dump: people compare plans."""
    row = scene.row(Kind.TAP, vm=scene.vm())
    scene.show(row)
    names = ["theirs.5", "theirs.6", "atheirs"][::order]
    scene.links += [link(3 + len(name), name, "vlan", lower=row.spec["ifindex"]) for name in names]
    assert scene.item(row.key).message.endswith("atheirs, theirs.5, theirs.6")


@pytest.mark.parametrize("order", [1, -1])
def test_a_bare_copy_counts_before_one_with_another_mark(scene: Scene, order: int) -> None:
    """Two rules of the recorded shape, neither ours: the reason does not depend on the dump."""
    row = scene.row(Kind.FILTER, vm=scene.vm())
    wanted = scene.expected[row.id][0]
    others = [wanted._replace(mark=None), wanted._replace(mark=mark(10, "z"), handle=2)]
    scene.entries += others[::order]
    assert scene.verdict(row) == (SKIP, Reason.MARK_STRIPPED)


def test_a_bridge_with_a_strangers_port_stays(scene: Scene) -> None:
    """Our own TAPs on it do not count, somebody else's veth does."""
    net = scene.network()
    bridge = scene.row(Kind.BRIDGE, network=net, state=State.RELEASING)
    tap = scene.row(Kind.TAP, network="net-other", vm=scene.vm())
    scene.show(bridge, tap)
    scene.links[1] = scene.links[1]._replace(master=bridge.spec["ifindex"])
    assert scene.verdict(bridge) == (DELETE, Reason.RELEASE_INTERRUPTED)
    scene.links.append(link(3, "veth0", "veth", master=bridge.spec["ifindex"]))
    assert scene.verdict(bridge) == (SKIP, Reason.FOREIGN_DEPENDENTS)


# -- marks -----------------------------------------------------------------------------------------


def test_a_strangers_tap_with_our_name_survives(scene: Scene) -> None:
    """Names prove nothing: the recorded name without the recorded mark is mark-mismatch."""
    row = scene.row(Kind.TAP, vm=scene.vm())
    scene.links.append(link(5, row.key))
    assert scene.verdict(row) == (SKIP, Reason.MARK_MISMATCH)


@pytest.mark.parametrize(
    "alias",
    [None, "", "somebody's", mark(10, "z"), mark(11), mark(10) + "x", mark(10, "k", THEIRS)],
)
def test_the_very_mark_or_nothing(scene: Scene, alias: str | None) -> None:
    """Right index, right name, another alias: skip, mark-mismatch."""
    row = scene.row(Kind.TAP, vm=scene.vm())
    scene.show(row)
    assert row.id == 10
    scene.links[0] = scene.links[0]._replace(alias=alias)
    assert scene.verdict(row) == (SKIP, Reason.MARK_MISMATCH)


def test_a_mark_on_a_device_of_another_kind_is_no_proof(scene: Scene) -> None:
    """Our alias copied onto a physical device that has the recorded index."""
    row = scene.row(Kind.TAP, vm=scene.vm())
    scene.links.append(link(row.spec["ifindex"], "eth0", "", row.mark))
    assert scene.verdict(row) == (SKIP, Reason.MARK_MISMATCH)


def test_a_rule_without_its_comment_is_stripped(scene: Scene) -> None:
    """`nft list ruleset` strips comments of some rules: skip, mark-stripped."""
    row = scene.row(Kind.FILTER, vm=scene.vm())
    scene.show(row)
    scene.entries[0] = scene.entries[0]._replace(mark=None)
    assert scene.verdict(row) == (SKIP, Reason.MARK_STRIPPED)


def test_a_rule_with_another_comment_is_not_ours(scene: Scene) -> None:
    """Same place, same words, another mark: skip, mark-mismatch."""
    row = scene.row(Kind.FILTER, vm=scene.vm())
    scene.show(row)
    scene.entries = [entry._replace(mark=mark(10, "z")) for entry in scene.entries]
    assert scene.verdict(row) == (SKIP, Reason.MARK_MISMATCH)


def test_an_address_counts_only_on_our_bridge(scene: Scene) -> None:
    """Its mark is its bridge's: on a bridge without it the address is somebody's."""
    bridge, address = scene.bridge_with_address(network=scene.network(), state=State.RELEASING)
    scene.show(bridge, address)
    assert scene.verdict(address) == (DELETE, Reason.RELEASE_INTERRUPTED)
    scene.links[0] = scene.links[0]._replace(alias=None)
    assert scene.verdict(address) == (SKIP, Reason.MARK_MISMATCH)


def test_a_directory_with_another_mark_is_not_ours(scene: Scene) -> None:
    """A run-time directory is known by the file in it."""
    row = scene.row(Kind.FILE, vm=scene.vm())
    scene.files[row.spec["path"]] = mark(row.id, "z")
    assert scene.verdict(row) == (SKIP, Reason.MARK_MISMATCH)


@pytest.mark.parametrize("where", ["link", "rule"])
def test_another_installation_is_left_alone(scene: Scene, where: str) -> None:
    """Two stores on one host never touch each other's: skip, other-installation."""
    put_mark(scene, where, mark(10, "k", THEIRS))
    assert [item.reason for item in scene.plan().items] == [Reason.OTHER_INSTALLATION]


@pytest.mark.parametrize("where", ["link", "rule"])
@pytest.mark.parametrize("text", ["hvtx:2:aaaaaaaaaa:1.x", "hvtx:", "hvtx:1:aaaaaaaaaa:10.short"])
def test_a_mark_of_a_later_version_is_left_alone(scene: Scene, where: str, text: str) -> None:
    """A mark in a form this program does not know: skip, mark-unreadable."""
    put_mark(scene, where, text)
    assert [item.reason for item in scene.plan().items] == [Reason.MARK_UNREADABLE]


@pytest.mark.parametrize("where", ["link", "rule"])
def test_marked_but_not_on_record_is_never_garbage(scene: Scene, where: str) -> None:
    """An older copy of the store may have been put back: skip, unrecorded."""
    put_mark(scene, where, mark(10))
    item = scene.plan().items[0]
    assert (item.action, item.reason) == (SKIP, Reason.UNRECORDED)
    assert "explain" in item.message


def put_mark(scene: Scene, where: str, text: str) -> None:
    if where == "link":
        scene.links.append(link(5, "tap0", alias=text))
    else:
        scene.entries.append(Entry("nftables", MAP, "10.77.0.9", text))


def test_our_mark_on_a_second_device_is_a_duplicate(scene: Scene) -> None:
    """The row's own device goes its way; the other one with its alias is duplicate-mark."""
    row = scene.row(Kind.TAP, vm=scene.vm())
    scene.show(row)
    scene.links.append(link(5, "copy", alias=row.mark))
    assert scene.verdict(row) == (DELETE, Reason.VM_DEAD)
    assert scene.item("copy").reason == Reason.DUPLICATE_MARK


def test_a_removed_devices_mark_on_another_device_is_a_duplicate(scene: Scene) -> None:
    """A tombstone is about one index and one kind."""
    row = scene.row(Kind.TAP, vm=scene.vm(), state=State.RELEASED)
    scene.links.append(link(5, "copy", alias=row.mark))
    assert scene.item("copy").reason == Reason.DUPLICATE_MARK
    scene.links = [link(row.spec["ifindex"], "copy", "bridge", row.mark)]
    assert scene.item("copy").reason == Reason.DUPLICATE_MARK


@pytest.mark.parametrize("where", ["link", "rule"])
def test_a_mark_of_another_form_and_installation_is_theirs(scene: Scene, where: str) -> None:
    """Of which program, nobody needs to know."""
    put_mark(scene, where, "hvtx:1:elsewhere:17")
    item = scene.plan().items[0]
    assert (item.action, item.reason) == (SKIP, Reason.OTHER_INSTALLATION)


def test_a_devices_mark_on_a_rule_is_a_duplicate(scene: Scene) -> None:
    """And the other way round: nothing follows from a mark in the wrong place."""
    vm = scene.vm()
    tap, wall = scene.row(Kind.TAP, vm=vm), scene.row(Kind.FILTER, vm=vm)
    scene.entries.append(Entry("nftables", MAP, "10.77.0.9", tap.mark))
    scene.links.append(link(5, "copy", alias=wall.mark))
    reasons = {item.reason for item in scene.plan().items if item.action is SKIP}
    assert reasons == {Reason.DUPLICATE_MARK}


def test_an_edited_copy_is_kept(scene: Scene) -> None:
    """An admin changed a rule and left our comment on it: skip, edited-copy."""
    row = scene.row(Kind.FILTER, vm=scene.vm())
    scene.show(row)
    scene.entries.append(scene.entries[0]._replace(text="10.77.0.200"))
    edited = [item for item in scene.plan().items if item.entry is not None]
    assert [(item.action, item.reason) for item in edited] == [(SKIP, Reason.EDITED_COPY)]


def test_a_rule_taken_over_that_was_changed_is_not_gone(scene: Scene) -> None:
    """Its mark is there: forgotten, it would stay for good, and off the record."""
    row = scene.row(Kind.FILTER, vm=scene.vm(), imported="my-hypervisor")
    scene.show(row)
    scene.entries = [entry._replace(text="printed otherwise") for entry in scene.entries]
    plan = scene.plan().items
    assert {(item.action, item.reason) for item in plan} == {(SKIP, Reason.EDITED_COPY)}


@pytest.mark.parametrize(
    ("liveness", "state", "fix"),
    [
        (DEAD, State.COMMITTED, "nft delete element inet t map '{ tcp . 80 }'"),
        (DEAD, State.RELEASING, "nft delete element inet t map '{ tcp . 80 }'"),
        (ALIVE, State.COMMITTED, "`hvtx repair` puts it back"),
        (ALIVE, State.INTENDED, "nft delete element inet t map '{ tcp . 80 }'"),
    ],
)
def test_an_element_that_was_changed_is_not_gone(
    scene: Scene, liveness: Liveness, state: State, fix: str
) -> None:
    """It stands in its place with its mark: nothing is forgotten, and what helps is named."""
    row = scene.row(Kind.PUBLISH, vm=scene.vm(liveness=liveness), state=state)
    own = Entry("nftables", MAP, "tcp 80 -> 10.77.0.2:80", row.mark)
    scene.expected[row.id] = (own,)
    scene.entries.append(own._replace(text="tcp 80 -> 10.77.0.9:80"))
    assert scene.verdict(row) == (SKIP, Reason.EDITED_COPY)
    item = next(item for item in scene.plan().items if item.entry is None)
    assert item.message.endswith(fix)
    assert not scene.plan().acting()


def test_our_mark_on_a_rule_elsewhere_is_a_duplicate(scene: Scene) -> None:
    """In a chain where no rule of that row ever stood."""
    row = scene.row(Kind.FILTER, vm=scene.vm())
    scene.show(row)
    scene.entries.append(scene.entries[0]._replace(place=nft_place("inet", "elsewhere", "map")))
    other = [item for item in scene.plan().items if item.entry is not None]
    assert [(item.action, item.reason) for item in other] == [(SKIP, Reason.DUPLICATE_MARK)]


# -- others -------------------------------------------------------------------------------------


def test_strangers_taps_are_named(scene: Scene) -> None:
    """No mark: foreign, with its holder; other devices only with --all."""
    scene.links += [link(5, "tap0"), link(6, "eth0", "", tun_flags=0), link(7, "tun0", tun_flags=1)]
    scene.holders["tap0"] = ("qemu (pid 7)",)
    shown = scene.plan().items
    assert [(i.key, i.action, i.reason) for i in shown] == [("tap0", SKIP, Reason.FOREIGN)]
    assert "qemu (pid 7)" in shown[0].evidence
    everything = scene.plan(everything=True).items
    assert {(i.key, i.kind) for i in everything} == {
        ("tap0", "tap"),
        ("eth0", "device"),
        ("tun0", "device"),
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ip daddr 10.77.0.9 dnat to 10.1.1.1", True),
        ("-A POSTROUTING -s 10.77.0.0/16 -j MASQUERADE", True),
        ("-d 10.77.0.0/25", True),
        ("-s 110.77.0.5 -j SNAT", False),
        ("-s 10.78.0.5", False),
        ("-s 0.0.0.0/0", False),
        ("-s 999.77.0.5", False),
        ("fd00:7::5 dnat", True),
        ("fd00:8::5 dnat", False),
    ],
)
def test_strangers_nat_rules_are_named_if_they_mention_a_subnet(
    scene: Scene, text: str, shown: bool
) -> None:
    """Whole addresses and prefixes count, not substrings; a default route mentions nothing."""
    scene.network("lan", "10.77.0.0/24", "fd00:7::/64")
    scene.entries.append(Entry("nftables", MAP._replace(chain="nat"), text, None, 4, nat=True))
    scene.entries.append(Entry("nftables", MAP._replace(chain="filter"), text, None, 5))
    assert [i.reason for i in scene.plan().items] == ([Reason.FOREIGN] if shown else [])
    assert len(scene.plan(everything=True).items) == 1


# -- what could not be seen ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.TAP, Kind.FILTER])
def test_silence_proves_nothing(scene: Scene, kind: Kind) -> None:
    """A failed read is unknown, never absent: skip, observe-failed."""
    row = scene.row(kind, vm=scene.vm())
    scene.failures.update(links="no", nftables="no")
    assert scene.verdict(row) == (SKIP, Reason.OBSERVE_FAILED)


def test_a_device_that_cannot_be_seen_keeps_its_vms_firewall(scene: Scene) -> None:
    """It may be held: so the elements that let it speak stay, though they were seen."""
    vm = scene.vm()
    tap, wall = scene.row(Kind.TAP, vm=vm), scene.row(Kind.PUBLISH, vm=vm)
    scene.show(wall)
    scene.failures["links"] = "the links could not be listed"
    assert scene.verdict(tap) == (SKIP, Reason.OBSERVE_FAILED)
    assert scene.verdict(wall) == (SKIP, Reason.OBSERVE_FAILED)


def test_an_address_that_cannot_be_seen_is_not_absent(scene: Scene) -> None:
    """Addresses need both dumps."""
    _, address = scene.bridge_with_address(network=scene.network(), state=State.RELEASING)
    scene.failures["links"] = "no"
    assert scene.verdict(address) == (SKIP, Reason.OBSERVE_FAILED)


# -- the form of a plan ----------------------------------------------------------------------------


def test_every_reason_belongs_to_one_action() -> None:
    """The table of the interface, once more, as data."""
    assert {r.value for r in DELETING} == {
        "vm-dead",
        "intent-abandoned",
        "release-interrupted",
        "released-leftover",
        "stale-restored",
        "replaced",
        "duplicate-copy",
        "flows-remain",
    }
    assert len(Reason) == 29


def test_an_empty_host_gives_an_empty_plan(scene: Scene) -> None:
    """Nothing on record, nothing marked, no others: no items."""
    assert scene.plan().items == ()


def test_only_acting_items_make_a_plan_nonempty(scene: Scene) -> None:
    """A plan is empty if nothing in it is delete, commit or forget."""
    row = scene.row(Kind.TAP, vm=scene.vm(liveness=ALIVE))
    scene.show(row)
    assert scene.plan().items
    assert scene.plan().acting() == []


def test_every_item_explains_itself(scene: Scene) -> None:
    """A message for a person, and evidence wherever something was seen."""
    vm = scene.vm()
    for kind in (Kind.TAP, Kind.FILTER, Kind.FILE):
        scene.show(scene.row(kind, vm=vm))
    for item in scene.plan().items:
        assert item.message
        assert item.evidence
        assert item.vm == "web"


def test_the_life_that_counts_is_the_hosts(scene: Scene) -> None:
    """Rows of this life are never `rebooted`."""
    row = scene.row(Kind.TAP, vm=scene.vm(), life=NOW.id)
    assert scene.verdict(row) == (FORGET, Reason.ALREADY_GONE)
