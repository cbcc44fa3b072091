"""Alive, dead or unknown; which life of the host; what state people are told."""

from __future__ import annotations

from itertools import product

import pytest

from hvtx.model.resource import Kind, Resource, State
from hvtx.model.vm import Epoch, Identity, Liveness, ProcessFacts
from hvtx.planner.epoch import EpochRelation, judge_epoch
from hvtx.planner.liveness import classify
from hvtx.planner.states import VmState, identity_of, judge_vm, vm_state

BOOT, OTHER = "boot-a", "boot-b"
WHO = Identity(BOOT, 42, 1193, 7001)
ALIVE, DEAD, UNKNOWN = Liveness.ALIVE, Liveness.DEAD, Liveness.UNKNOWN


@pytest.mark.parametrize(
    ("law", "identity", "boot", "facts", "verdict"),
    [
        ("it runs", WHO, BOOT, ProcessFacts(True, 1193, 7001), ALIVE),
        ("another boot", WHO, OTHER, ProcessFacts(True, 1193, 7001), DEAD),
        ("another boot, unreadable", WHO, OTHER, ProcessFacts(False, error="EPERM"), DEAD),
        ("its pid is nobody's", WHO, BOOT, ProcessFacts(False), DEAD),
        ("its pid is another's", WHO, BOOT, ProcessFacts(True, 1194, 7002), DEAD),
        ("same tick, another pidfd", WHO, BOOT, ProcessFacts(True, 1193, 7002), DEAD),
        ("every thread exited", WHO, BOOT, ProcessFacts(True, 1193, 7001, ended=True), DEAD),
        ("it may not be looked at", WHO, BOOT, ProcessFacts(True, error="EPERM"), UNKNOWN),
        ("hidden /proc", WHO, BOOT, ProcessFacts(False, error="hidepid"), UNKNOWN),
        ("no pidfs then", WHO._replace(inode=0), BOOT, ProcessFacts(True, 1193, 7001), ALIVE),
        ("no pidfs now", WHO, BOOT, ProcessFacts(True, 1193, 0), ALIVE),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_liveness(
    law: str, identity: Identity, boot: str, facts: ProcessFacts, verdict: Liveness
) -> None:
    """Boot id, pid, start time and pidfs inode decide; an error decides nothing."""
    found, evidence = classify(identity, boot, facts)
    assert found is verdict, law
    assert "pid 42 started 1193" in evidence[0]


def test_dead_is_only_what_is_proven() -> None:
    """Over all facts: dead needs another boot, absence, another identity or an end."""
    for exists, start, inode, ended, error in product(
        (True, False), (1193, 5), (0, 7001, 9), (True, False), ("", "EPERM")
    ):
        facts = ProcessFacts(exists, start, inode, ended, error)
        found, _ = classify(WHO, BOOT, facts)
        proven = not error and (not exists or start != 1193 or inode == 9 or ended)
        assert (found is DEAD) is proven, facts
        assert (found is UNKNOWN) is bool(error), facts


# -- the epoch ---------------------------------------------------------------------------------------

LIFE = Epoch(1, BOOT, 100, recovered=True)
EPOCHS = [
    # boot   cookie  marker  moves  it is
    ("same", "same", True, False, EpochRelation.SAME),
    ("same", "same", False, False, EpochRelation.SAME),
    ("same", "same", True, True, EpochRelation.SAME),
    ("same", "same", False, True, EpochRelation.SAME),
    ("other", "same", True, False, EpochRelation.NEW),
    ("other", "same", False, True, EpochRelation.NEW),
    ("other", "other", True, True, EpochRelation.NEW),
    ("other", "other", False, False, EpochRelation.NEW),
    ("same", "other", True, False, EpochRelation.WRONG),
    ("same", "other", True, True, EpochRelation.WRONG),
    ("same", "other", False, False, EpochRelation.NEW),
    ("same", "other", False, True, EpochRelation.WRONG),
]


@pytest.mark.parametrize(("boot", "cookie", "marker", "moves", "epoch"), EPOCHS)
def test_the_epoch(boot: str, cookie: str, marker: bool, moves: bool, epoch: EpochRelation) -> None:
    """The interface's table ("Store"), row by row."""
    found = judge_epoch(
        LIFE,
        boot_id=BOOT if boot == "same" else OTHER,
        netns=100 if cookie == "same" else 101,
        marker=marker,
        old_life_moves=moves,
    )
    assert found is epoch


def test_a_store_that_never_worked_has_no_life_yet() -> None:
    """Whatever a run directory of another store says."""
    for marker, moves in product((True, False), repeat=2):
        found = judge_epoch(None, boot_id=BOOT, netns=1, marker=marker, old_life_moves=moves)
        assert found is EpochRelation.FIRST


# -- a VM from its rows ------------------------------------------------------------------------------


def row(kind: Kind, state: State = State.COMMITTED, life: int = 1, **observed: object) -> Resource:
    number = observed.get("pid", 1)
    assert isinstance(number, int)  # a row of a process has the pid as its number here
    return Resource(number, kind, "x", state, "m", {}, dict(observed), 1, life, "id-web", None)


SEEN = {"boot_id": BOOT, "pid": 42, "start": 1193, "inode": 7001}
LIVES = {1: LIFE, 2: Epoch(2, OTHER, 5, recovered=True)}


def judged(
    rows: list[Resource],
    facts: dict[int, ProcessFacts],
    hypervisor: str = "qemu",
    life: Epoch = LIFE,
) -> Liveness:
    return judge_vm(hypervisor, rows, life=life, lives=LIVES, facts=facts)[0]


def test_the_identity_is_read_from_the_row() -> None:
    """Whole, and none before the gate was spawned; rows of kernels without pidfs lack the inode."""
    assert identity_of(row(Kind.PROCESS, **SEEN)) == WHO
    assert identity_of(row(Kind.PROCESS)) is None
    assert identity_of(row(Kind.PROCESS, boot_id=BOOT, pid=1, start=2)) == Identity(BOOT, 1, 2, 0)


def test_a_vm_lives_as_its_process_does() -> None:
    """Its rows of other kinds say nothing about it."""
    rows = [row(Kind.TAP), row(Kind.PROCESS, **SEEN)]
    assert judged(rows, {42: ProcessFacts(True, 1193, 7001)}) is ALIVE
    assert judged(rows, {42: ProcessFacts(False)}) is DEAD
    assert judged(rows, {42: ProcessFacts(False, error="no")}) is UNKNOWN
    assert judged(rows, {}) is UNKNOWN, "a process that was not looked at is not dead"


def test_a_pid_of_another_namespace_is_dead_only_with_its_container() -> None:
    """In the same life it may run; where a new one was entered in this boot its container ended."""
    rows = [row(Kind.TAP), row(Kind.PROCESS, **SEEN)]
    elsewhere = {42: ProcessFacts(False, error="no", elsewhere=True)}
    assert judged(rows, elsewhere) is UNKNOWN
    assert judged(rows, elsewhere, life=Epoch(3, BOOT, 5, recovered=False)) is DEAD
    hidden = {42: ProcessFacts(False, error="no")}
    assert judged(rows, hidden, life=Epoch(3, BOOT, 5, recovered=False)) is UNKNOWN
    assert judged(rows, {}, life=Epoch(3, BOOT, 5, recovered=False)) is UNKNOWN


def test_a_vm_whose_gate_was_never_spawned_is_dead() -> None:
    """And so is one without a process on record."""
    assert judged([row(Kind.TAP), row(Kind.PROCESS, State.INTENDED)], {}) is DEAD
    assert judged([row(Kind.TAP)], {}) is DEAD
    assert judged([], {}) is DEAD


@pytest.mark.parametrize("order", [1, -1])
def test_of_several_processes_the_liveliest_counts(order: int) -> None:
    """An old record of a dead process does not hide the one that lives, or may live."""
    rows = [row(Kind.PROCESS, **{**SEEN, "pid": pid}) for pid in (41, 42, 43)][::order]
    dead, alive = ProcessFacts(False), ProcessFacts(True, 1193, 7001)
    unknown = ProcessFacts(False, error="no")
    assert judged(rows, {41: dead, 42: unknown, 43: alive}) is ALIVE
    assert judged(rows, {41: dead, 42: unknown, 43: dead}) is UNKNOWN
    assert judged(rows, {41: dead, 42: dead, 43: dead}) is DEAD


def test_a_started_external_vm_is_unknown_until_attached() -> None:
    """Then it lives as its process does."""
    assert judged([row(Kind.TAP)], {}, "external") is UNKNOWN
    attached = [row(Kind.TAP), row(Kind.PROCESS, **SEEN)]
    assert judged(attached, {42: ProcessFacts(False)}, "external") is DEAD
    assert judged([row(Kind.LEASE)], {}, "external") is DEAD, "a defined one has no process"
    assert judged([row(Kind.TAP, State.INTENDED)], {}, "external") is DEAD


def test_another_boot_ends_external_vms() -> None:
    """But a new life within one boot does not, nor does a life that nobody knows."""
    assert judged([row(Kind.TAP)], {}, "external", Epoch(2, OTHER, 5, recovered=True)) is DEAD
    assert judged([row(Kind.TAP)], {}, "external", Epoch(3, BOOT, 5, recovered=True)) is UNKNOWN
    assert judged([row(Kind.TAP, life=99)], {}, "external") is UNKNOWN


@pytest.mark.parametrize(
    ("verb", "state"),
    [
        ("start", VmState.STARTING),
        ("run", VmState.STARTING),
        ("recover", VmState.STARTING),
        ("stop", VmState.STOPPING),
        ("rm", VmState.STOPPING),
    ],
)
def test_a_running_operation_shows(verb: str, state: VmState) -> None:
    """`starting` and `stopping` while its process works, whatever the VM's own does."""
    for liveness in Liveness:
        assert vm_state([row(Kind.TAP)], verb, liveness) is state


def test_states_without_an_operation() -> None:
    """Defined: nothing in the host. Crashed: dead with resources on record."""
    for liveness in Liveness:
        assert vm_state([row(Kind.LEASE)], None, liveness) is VmState.DEFINED
        assert vm_state([], None, liveness) is VmState.DEFINED
    tap = [row(Kind.LEASE), row(Kind.TAP)]
    assert vm_state(tap, None, ALIVE) is VmState.RUNNING
    assert vm_state(tap, None, DEAD) is VmState.CRASHED
    assert vm_state(tap, None, UNKNOWN) is VmState.UNKNOWN
    assert vm_state(tap, "repair", ALIVE) is VmState.RUNNING
