"""The decision table enumerated whole: every cell against an oracle that is written as data.

A cell is kind x evidence x row state x operation x liveness x held x owner x life. The oracle is a
list of patterns in the interface's order; the first that fits gives the verdict. It shares no code
with the planner.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from hvtx.model.plan import DELETING, Action
from hvtx.model.resource import FIREWALL_KINDS, Kind, State
from hvtx.model.vm import Liveness

from .scene import EARLIER, NOW, Scene, link, mark

Cell = dict[str, Any]

WALLS = {Kind.FILTER, Kind.PUBLISH, Kind.MASQUERADE}
DEVICES = {Kind.TAP, Kind.VETH, Kind.BRIDGE}
UNDONE = {"intended", "releasing"}
BAD = {"stripped", "stolen", "nonce", "kind"}

EVIDENCE = {
    Kind.TAP: ("whole", "absent", "stripped", "stolen", "nonce", "kind", "unseen", "on-top"),
    Kind.BRIDGE: ("whole", "absent", "stripped", "stolen", "nonce", "kind", "unseen", "on-top"),
    Kind.FILTER: ("whole", "part", "absent", "stripped", "nonce", "edited", "unseen"),
    Kind.PUBLISH: ("whole", "part", "absent", "stripped", "nonce", "edited", "unseen"),
    Kind.MASQUERADE: ("whole", "part", "absent", "stripped", "nonce", "edited", "unseen"),
    Kind.ADDRESS: ("whole", "absent", "nonce", "unseen"),
    Kind.FILE: ("whole", "absent", "nonce"),
    Kind.VETH: ("whole", "absent", "stripped", "stolen", "nonce", "kind", "unseen", "on-top"),
    Kind.NETNS: ("record",),
    Kind.PROCESS: ("record",),
    Kind.LEASE: ("record",),
    Kind.SYSCTL: ("record",),
}
OF_VM = (Kind.TAP, Kind.VETH, Kind.NETNS, *WALLS, Kind.FILE, Kind.PROCESS, Kind.LEASE)
OF_NETWORK = (Kind.BRIDGE, Kind.FILTER, Kind.ADDRESS, Kind.SYSCTL)

# (pattern, action, reason): a pattern's field must be in the set; fields not named are free.
MARKS = [
    ({"kind": WALLS, "evidence": {"stripped"}}, "skip", "mark-stripped"),
    ({"evidence": {"edited"}}, "skip", "edited-copy"),
    ({"evidence": BAD}, "skip", "mark-mismatch"),
    (
        {"kind": DEVICES, "life": {"earlier"}, "evidence": {"whole", "on-top"}},
        "skip",
        "mark-mismatch",
    ),
    ({"state": UNDONE, "operation": {"running"}}, "skip", "operation-running"),
    ({"operation": {"on the VM"}}, "skip", "operation-running"),
]
VM = [
    *MARKS,
    (
        {"vm": {"alive"}, "life": {"now"}, "state": {"intended"}, "evidence": {"whole", "part", "absent", "record", "on-top"}},
        "commit",
        "in-use-before-commit",
    ),
    (
        {"vm": {"alive"}, "life": {"now"}, "state": {"committed"}, "evidence": {"absent"}},
        "skip",
        "lost",
    ),
    ({"vm": {"alive"}}, "skip", "vm-alive"),
    ({"vm": {"unknown"}}, "skip", "liveness-unknown"),
    ({"vm": {"nowhere"}, "kind": {Kind.LEASE}, "state": {"committed"}}, "skip", "liveness-unknown"),
    ({"vm": {"nowhere"}, "life": {"now"}}, "skip", "liveness-unknown"),
    ({"kind": {Kind.LEASE}, "held": {False}, "state": {"committed"}}, "skip", "reserved"),
    ({"held": {True}, "kind": {Kind.TAP}, "life": {"now"}}, "skip", "in-use"),
    ({"held": {True}, "life": {"now"}}, "skip", "vm-alive"),
    ({"held": {True}, "kind": {Kind.LEASE}, "state": {"committed"}}, "skip", "vm-alive"),
    ({"life": {"earlier"}, "kind": WALLS, "evidence": {"whole", "part"}}, "delete", "stale-restored"),
    ({"life": {"earlier"}, "kind": {Kind.FILE}, "vm": {"nowhere"}, "evidence": {"whole"}}, "skip", "liveness-unknown"),
    ({"life": {"earlier"}, "kind": {Kind.FILE}, "held": {True}, "evidence": {"whole"}}, "skip", "vm-alive"),
    ({"life": {"earlier"}, "kind": {Kind.FILE}, "evidence": {"whole"}, "state": {"committed"}}, "delete", "vm-dead"),
    ({"life": {"earlier"}, "kind": {Kind.FILE}, "evidence": {"whole"}, "state": {"intended"}}, "delete", "intent-abandoned"),
    ({"life": {"earlier"}, "kind": {Kind.FILE}, "evidence": {"whole"}, "state": {"releasing"}}, "delete", "release-interrupted"),
    ({"life": {"earlier"}}, "forget", "rebooted"),
    ({"evidence": {"unseen"}}, "skip", "observe-failed"),
    ({"kind": {Kind.PROCESS, Kind.NETNS}}, "forget", "already-gone"),
    ({"evidence": {"absent"}}, "forget", "already-gone"),
    ({"evidence": {"on-top"}}, "skip", "foreign-dependents"),
    ({"state": {"intended"}}, "delete", "intent-abandoned"),
    ({"state": {"releasing"}}, "delete", "release-interrupted"),
    ({}, "delete", "vm-dead"),
]  # fmt: skip
NETWORK = [
    *MARKS[:5],
    ({"life": {"earlier"}, "kind": WALLS, "evidence": {"whole", "part"}}, "delete", "stale-restored"),
    ({"life": {"earlier"}}, "forget", "rebooted"),
    ({"state": UNDONE, "vm": {"alive"}}, "skip", "vm-alive"),
    ({"state": UNDONE, "vm": {"unknown"}}, "skip", "liveness-unknown"),
    ({"state": {"committed"}, "evidence": {"absent"}, "vm": {"alive"}}, "skip", "lost"),
    ({"state": {"committed"}}, "skip", "reserved"),
    ({"evidence": {"unseen"}}, "skip", "observe-failed"),
    ({"evidence": {"absent"}}, "forget", "already-gone"),
    ({"evidence": {"on-top"}}, "skip", "foreign-dependents"),
    ({"state": {"intended"}}, "delete", "intent-abandoned"),
    ({"state": {"releasing"}}, "delete", "release-interrupted"),
]  # fmt: skip

STATES = ("intended", "committed", "releasing")
LIVES = ("now", "earlier")


def vm_cells() -> Iterator[Cell]:
    operations = ("running", "interrupted", "on the VM")
    vms = ("alive", "dead", "unknown", "nowhere")
    for kind in OF_VM:
        for evidence, state, operation, vm, held, life in product(
            EVIDENCE[kind], STATES, operations, vms, (False, True), LIVES
        ):
            if operation == "on the VM" and vm == "nowhere":
                continue  # an operation names its VM
            if held and kind == Kind.TAP and evidence not in ("whole", "on-top"):
                continue  # the device itself is what is held
            if held and kind == Kind.VETH and evidence == "unseen":
                continue  # nor is the TAP seen then
            yield {
                "owner": "vm",
                "kind": kind,
                "evidence": evidence,
                "state": state,
                "operation": operation,
                "vm": vm,
                "held": held,
                "life": life,
            }


def network_cells() -> Iterator[Cell]:
    for kind in OF_NETWORK:
        for evidence, state, operation, vm, life in product(
            EVIDENCE[kind],
            STATES,
            ("running", "interrupted"),
            ("none", "alive", "dead", "unknown"),
            LIVES,
        ):
            yield {
                "owner": "network",
                "kind": kind,
                "evidence": evidence,
                "state": state,
                "operation": operation,
                "vm": vm,
                "held": False,
                "life": life,
            }


def oracle(cell: Cell) -> tuple[str, str]:
    rules = VM if cell["owner"] == "vm" else NETWORK
    for pattern, action, reason in rules:
        if all(cell[field] in allowed for field, allowed in pattern.items()):
            return action, reason
    raise AssertionError(f"no rule for {cell}")


# -- building a cell's host --------------------------------------------------------------------------


def build(cell: Cell) -> tuple[Scene, Any]:
    scene = Scene()
    net = scene.network()
    owner: dict[str, Any] = {"network": net}
    if cell["owner"] == "vm":
        owner = {"vm": "id-web"}
        if cell["vm"] != "nowhere":
            scene.vm(liveness=Liveness(cell["vm"]))
    elif cell["vm"] != "none":
        user = scene.vm("user", Liveness(cell["vm"]))
        scene.show(scene.row(Kind.TAP, vm=user, network=net, operation=2))
    if cell["operation"] == "on the VM":
        scene.operation(9, running=True, vm="web")
    scene.operation(5, running=cell["operation"] == "running")
    more = {
        "state": State(cell["state"]),
        "operation": 5,
        "life": NOW.id if cell["life"] == "now" else EARLIER,
        **owner,
    }
    if cell["kind"] == Kind.ADDRESS:
        bridge, row = scene.bridge_with_address(**more)
        scene.show(bridge)
    else:
        row = scene.row(cell["kind"], **more)
    if cell["held"]:
        held = row
        if cell["kind"] != Kind.TAP:
            held = scene.row(Kind.TAP, vm="id-web", operation=2)
            scene.show(held)
        scene.hold(held)
    show(scene, row, cell["evidence"])
    return scene, row


def show(scene: Scene, row: Any, evidence: str) -> None:
    if evidence in ("absent", "record"):
        return
    if evidence == "stolen":
        scene.links.append(link(5, row.key))
        return
    if evidence == "unseen":
        scene.failures["nftables" if row.kind in FIREWALL_KINDS else "links"] = "it failed"
        return
    scene.show(row)
    if row.kind in DEVICES:
        seen = scene.links.pop()
        if evidence == "stripped":
            seen = seen._replace(alias=None, group=0)
        elif evidence == "nonce":
            seen = seen._replace(alias=mark(row.id, "z"))
        elif evidence == "kind":
            seen = seen._replace(kind="dummy")
        elif evidence == "on-top":
            scene.links.append(link(3, "theirs", "vlan", lower=seen.ifindex))
        scene.links.append(seen)
    elif row.kind == Kind.ADDRESS and evidence == "nonce":
        scene.links[-1] = scene.links[-1]._replace(alias=mark(row.id, "z"))
    elif row.kind == Kind.FILE and evidence == "nonce":
        scene.files[row.spec["path"]] = mark(row.id, "z")
    elif row.kind in FIREWALL_KINDS:
        seen_entry = scene.entries.pop()
        if evidence == "stripped":
            scene.entries.append(seen_entry._replace(mark=None))
        elif evidence == "nonce":
            scene.entries.append(seen_entry._replace(mark=mark(row.id, "z")))
        elif evidence == "edited":
            text = f"{seen_entry.text} -> here"
            scene.expected[row.id] = (*scene.expected[row.id], seen_entry._replace(text=text))
            scene.entries += [seen_entry, seen_entry._replace(text=f"{seen_entry.text} -> there")]
        elif evidence == "whole":
            scene.entries.append(seen_entry)


# -- the tests ---------------------------------------------------------------------------------------


def cells_of(kind: Kind) -> list[Cell]:
    return [cell for cell in (*vm_cells(), *network_cells()) if cell["kind"] == kind]


@pytest.mark.parametrize("kind", list(Kind))
def test_every_cell_is_judged_as_the_table_says(kind: Kind) -> None:
    """The whole product, kind by kind."""
    cells = cells_of(kind)
    assert len(cells) > 20
    wrong = []
    for cell in cells:
        scene, row = build(cell)
        action, reason = scene.verdict(row)
        if (action.value, reason.value) != oracle(cell):
            wrong.append((cell, (action.value, reason.value), oracle(cell)))
    assert not wrong, f"{len(wrong)} of {len(cells)}, first: {wrong[0]}"


def test_the_table_has_no_rule_that_never_decides() -> None:
    """Each pattern of the oracle is the first that fits for some cell."""
    decided = set()
    for cell in (*vm_cells(), *network_cells()):
        rules = VM if cell["owner"] == "vm" else NETWORK
        for number, (pattern, _, _) in enumerate(rules):
            if all(cell[field] in allowed for field, allowed in pattern.items()):
                decided.add((cell["owner"], number))
                break
    assert decided == {("vm", n) for n in range(len(VM))} | {
        ("network", n) for n in range(len(NETWORK))
    }


def test_in_no_cell_is_anything_deleted_that_is_not_proven() -> None:
    """Over all cells: a deletion needs the mark, a dead or finished owner, and nobody who holds it."""
    for cell in (*vm_cells(), *network_cells()):
        scene, row = build(cell)
        action, reason = scene.verdict(row)
        if action is not Action.DELETE:
            continue
        assert reason in DELETING
        assert cell["evidence"] in ("whole", "part", "record"), cell
        assert cell["operation"] == "interrupted" or cell["state"] == "committed", cell
        if cell["owner"] == "vm" and reason.value != "stale-restored":
            assert cell["vm"] == "dead", cell
            assert not cell["held"], cell
        if cell["owner"] == "network" and cell["life"] == "now":
            assert cell["state"] != "committed", cell
            assert cell["vm"] in ("none", "dead"), cell


# -- what stays with a container's port ----------------------------------------------------------

STAYS = {
    "on-top": "foreign-dependents",
    "stripped": "mark-mismatch",
    "stolen": "mark-mismatch",
    "nonce": "mark-mismatch",
    "kind": "mark-mismatch",
    "unseen": "observe-failed",
    "whole": None,
    "absent": None,
}


@pytest.mark.parametrize("evidence", STAYS)
@pytest.mark.parametrize("kind", [*sorted(WALLS), Kind.LEASE])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("passing", [False, True])
def test_with_a_port_that_has_to_stay_stay_its_rules_and_addresses(
    kind: Kind, evidence: str, state: str, passing: bool
) -> None:
    """Its container may send by it, dead or not: without them as anybody, to everybody."""
    scene = Scene()
    vm = scene.vm()
    scene.vms[vm] = scene.vms[vm]._replace(passing=passing)
    port = scene.row(Kind.VETH, vm=vm, state=State.COMMITTED)
    row = scene.row(kind, vm=vm, state=State(state))
    show(scene, port, evidence)
    show(scene, row, "whole" if kind in WALLS else "record")
    action, reason = scene.verdict(row)
    leased = kind == Kind.LEASE and state == "committed"
    if STAYS[evidence] is not None:
        assert (action.value, reason.value) == ("skip", "reserved" if leased else STAYS[evidence])
    elif leased and not passing:
        assert reason.value == "reserved"
    else:
        assert action is Action.DELETE


def test_a_port_of_an_earlier_life_keeps_nothing() -> None:
    """Its container went with that life."""
    scene = Scene()
    vm = scene.vm()
    port = scene.row(Kind.VETH, vm=vm, life=EARLIER)
    row = scene.row(Kind.FILTER, vm=vm)
    show(scene, port, "on-top")
    scene.show(row)
    assert scene.verdict(row)[1].value == "vm-dead"


# -- the order of reasons ----------------------------------------------------------------------------

# each is a way to bend a scene whose TAP would be deleted as vm-dead, and the reason that it gives
ORDER = [
    "mark-mismatch",
    "operation-running",
    "vm-alive",
    "liveness-unknown",
    "in-use",
    "foreign-dependents",
]


def bend(scene: Scene, row: Any, reason: str) -> None:
    if reason == "mark-mismatch":
        scene.links = [
            seen._replace(alias=mark(row.id, "z")) if seen.ifindex == row.spec["ifindex"] else seen
            for seen in scene.links
        ]
    elif reason == "operation-running":
        scene.operation(9, running=True, vm="web")
    elif reason == "vm-alive":
        scene.vm(liveness=Liveness.ALIVE)
    elif reason == "liveness-unknown":
        scene.vm(liveness=Liveness.UNKNOWN)
    elif reason == "in-use":
        scene.hold(row)
    else:
        scene.links.append(link(3, "theirs", "vlan", lower=row.spec["ifindex"]))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (a, b)
        for n, a in enumerate(ORDER)
        for b in ORDER[n:]
        if {a, b} != {"vm-alive", "liveness-unknown"}
    ],
)
def test_the_first_reason_that_fits_is_given(first: str, second: str) -> None:
    """Pairwise: of two reasons that both fit, the one that stands earlier in the interface."""
    scene = Scene()
    row = scene.row(Kind.TAP, vm=scene.vm())
    scene.show(row)
    bend(scene, row, second)
    bend(scene, row, first)
    assert scene.verdict(row)[1].value == first


@pytest.mark.parametrize(
    ("bent", "reason"),
    [
        ("operation-running", "operation-running"),
        ("vm-alive", "vm-alive"),
        ("liveness-unknown", "liveness-unknown"),
        (None, "reserved"),
    ],
)
def test_a_lease_is_reserved_after_all_else(bent: str | None, reason: str) -> None:
    """`reserved` stands behind the operation and the liveness, before the reasons to delete."""
    scene = Scene()
    row = scene.row(Kind.LEASE, vm=scene.vm())
    if bent:
        bend(scene, row, bent)
    assert scene.verdict(row)[1].value == reason
