"""Whether an attachment lives: by the id of its network namespace, and by nothing else."""

from __future__ import annotations

import pytest

from hvtx.model.attachment import AttachmentKey
from hvtx.model.plan import Action
from hvtx.model.reason import Reason
from hvtx.model.resource import Kind, Resource, State
from hvtx.model.vm import Epoch, Liveness, ProcessFacts
from hvtx.planner.attaching import name_of, namespace_id
from hvtx.planner.states import VmState, judge_vm, vm_state

from .scene import Scene

NOW = Epoch(2, "this-boot", 7, recovered=True)
EARLIER = Epoch(1, "this-boot", 6, recovered=True)
OTHER = Epoch(3, "other-boot", 6, recovered=True)
LIVES = {life.id: life for life in (NOW, EARLIER, OTHER)}
THERE, GONE = ProcessFacts(True), ProcessFacts(False)
ANOTHER = ProcessFacts(True, another=True)
UNSEEN = ProcessFacts(False, error="not permitted")
MOVED = ProcessFacts(False, error="the peer of hvx lives", elsewhere=True)


def row(state: State = State.COMMITTED, life: int = NOW.id, nsid: int | None = 4711) -> Resource:
    observed = {} if nsid is None else {"nsid": nsid}
    spec = {"nsid": 4711, "path": "/run/netns/x"}
    return Resource(9, "netns", "n", state, "m", spec, observed, 1, life, "vm", "net")


def judged(row: Resource, seen: ProcessFacts) -> Liveness:
    return judge_vm("cni", [row], life=NOW, lives=LIVES, facts={row.id: seen})[0]


@pytest.mark.parametrize(
    ("row", "seen", "wanted"),
    [
        (row(), THERE, Liveness.ALIVE),
        (row(), GONE, Liveness.DEAD),
        (row(), UNSEEN, Liveness.UNKNOWN),
        (row(), MOVED, Liveness.UNKNOWN),
        (row(State.RELEASING), MOVED, Liveness.DEAD),
        (row(), ANOTHER, Liveness.DEAD),
        (row(life=EARLIER.id), ANOTHER, Liveness.UNKNOWN),
        (row(life=EARLIER.id), GONE, Liveness.UNKNOWN),  # the id was counted elsewhere
        (row(life=EARLIER.id), THERE, Liveness.UNKNOWN),
        (row(life=OTHER.id), THERE, Liveness.DEAD),  # somebody else's by now
        (row(life=99), GONE, Liveness.UNKNOWN),  # a life that nobody knows
        (row(State.INTENDED), THERE, Liveness.DEAD),
        (row(State.INTENDED, nsid=None), GONE, Liveness.DEAD),
        (row(State.RELEASING), THERE, Liveness.DEAD),
    ],
)
def test_the_id_alone_tells(row: Resource, seen: ProcessFacts, wanted: Liveness) -> None:
    assert judged(row, seen) is wanted


def test_what_nobody_looked_for_is_not_dead() -> None:
    found = judge_vm("cni", [row()], life=NOW, lives=LIVES, facts={})
    assert found[0] is Liveness.UNKNOWN


def test_without_its_evidence_an_attachment_is_dead() -> None:
    """The row of the namespace is closed first, where a DEL that the host refused left others."""
    rest = row()._replace(kind="veth", state=State.RELEASING)
    assert judged(rest, GONE) is Liveness.DEAD


def test_an_operation_that_runs_tells_its_state() -> None:
    assert vm_state([row()], "cni-add", Liveness.DEAD) is VmState.STARTING
    assert vm_state([row()], "cni-del", Liveness.ALIVE) is VmState.STOPPING


def test_the_lease_of_a_dead_attachment_goes_and_no_other() -> None:
    """A VM's lease stays while the VM is on record; an attachment's record goes with it."""
    for liveness, passing, wanted in (
        (Liveness.DEAD, True, (Action.DELETE, Reason.VM_DEAD)),
        (Liveness.DEAD, False, (Action.SKIP, Reason.RESERVED)),
        (Liveness.UNKNOWN, True, (Action.SKIP, Reason.LIVENESS_UNKNOWN)),
        (Liveness.ALIVE, True, (Action.SKIP, Reason.VM_ALIVE)),
    ):
        scene = Scene()
        vm = scene.vm("cni-x", liveness)
        scene.vms[vm] = scene.vms[vm]._replace(passing=passing)
        assert scene.verdict(scene.row(Kind.LEASE, vm=vm)) == wanted, (liveness, passing)


def test_names_and_ids_are_what_they_have_to_be() -> None:
    """Of any three a name of its own, that a VM can have; ids are numbers of 31 bits."""
    keys = [
        AttachmentKey("net", "c", "eth0"), AttachmentKey("net", "c", "eth1"),
        AttachmentKey("net", "ceth", "0"), AttachmentKey("netc", "", "eth0"),
    ]  # fmt: skip
    names = {name_of(key) for key in keys}
    assert len(names) == len(keys)
    assert all(len(name) == 20 and name.startswith("cni-") for name in names)
    assert name_of(keys[0]) == name_of(AttachmentKey("net", "c", "eth0"))
    assert 0 <= namespace_id(b"\xff\xff\xff\xff") < 1 << 31
