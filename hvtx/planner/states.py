"""A VM's state and liveness, from its rows and what was seen of its process. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hvtx.model.resource import (
    Kind,
    Resource,
    State,
    holder_observed,
    identity_in,
    process_observed,
)
from hvtx.model.typed import TYPE_CHECKING, StrEnum
from hvtx.model.vm import Epoch, Identity, Liveness, ProcessFacts
from hvtx.planner.liveness import classify

if TYPE_CHECKING:
    from hvtx.model.plan import Snapshot


class VmState(StrEnum):
    """What people are told of a VM; the names are those of the interface."""

    DEFINED = "defined"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    CRASHED = "crashed"
    UNKNOWN = "unknown"


_RUNNING_VERBS = {
    "start": VmState.STARTING,
    "run": VmState.STARTING,
    "recover": VmState.STARTING,
    "stop": VmState.STOPPING,
    "rm": VmState.STOPPING,
    "cni-add": VmState.STARTING,
    "cni-del": VmState.STOPPING,
}


def identity_of(row: Resource) -> Identity | None:
    """The process identity that a row holds; None before the gate was spawned."""
    return identity_in(process_observed(row))


def holder_of(row: Resource) -> Identity | None:
    """Who holds a published port (:mod:`hvtx.drivers.portholder`); None if nobody ever did."""
    return identity_in(holder_observed(row)) if row.kind == Kind.PUBLISH else None


def judge_process(
    row: Resource, identity: Identity, life: Epoch, seen: ProcessFacts
) -> tuple[Liveness, tuple[str, ...]]:
    """Whether the process of a row lives.

    One of another pid namespace cannot be inspected. A new life within one boot is entered only
    where the network namespace is another one too and the run directory was emptied: a container
    that was started again. What ran in the one before ended with it.
    """
    if seen.elsewhere and row.life != life.id and identity.boot_id == life.boot_id:
        words = f"pid {identity.pid} ran in an earlier container, which has ended"
        return Liveness.DEAD, (words,)
    return classify(identity, life.boot_id, seen)


def judge_namespace(
    row: Resource, life: Epoch, lives: Mapping[int, Epoch], seen: ProcessFacts
) -> tuple[Liveness, tuple[str, ...]]:
    """Whether the network namespace of a row lives, by its id; ``seen.exists``: the id is there.

    ``seen.elsewhere``: it is not, and the interface that was put into it is in another namespace.
    ``seen.another``: another one has it. No two that live have one id, so that of the row is gone.

    An id is given once and counts in one namespace of the host: of an earlier life within this boot
    nothing can be said. What was not committed was never its runtime's, and what is released was
    given up by it.
    """
    from hvtx.model.container import namespace_id  # VMs have none

    name = f"network namespace with id {namespace_id(row)}"
    if row.state == State.INTENDED or namespace_id(row) is None:
        return Liveness.DEAD, ("its attachment was never finished",)
    if row.state == State.RELEASING:
        return Liveness.DEAD, ("its runtime gave it up",)
    if row.life != life.id:
        born = lives[row.life].boot_id if row.life in lives else None
        if born not in (None, life.boot_id):
            return Liveness.DEAD, (f"{name} belonged to another boot ({born})",)
        return Liveness.UNKNOWN, (f"{name} was counted in another namespace of this host",)
    if seen.elsewhere:
        return Liveness.UNKNOWN, (f"{name} is gone, and {seen.error} in another one",)
    if seen.error:
        return Liveness.UNKNOWN, (f"{name} could not be looked for: {seen.error}",)
    if not seen.exists:
        return Liveness.DEAD, (f"{name} is gone",)
    if seen.another:
        return Liveness.DEAD, (f"{name} is gone, and another one has the id",)
    return Liveness.ALIVE, (f"{name} lives",)


def judge_vm(
    hypervisor: str,
    rows: Sequence[Resource],
    *,
    life: Epoch,
    lives: Mapping[int, Epoch],
    facts: Mapping[int, ProcessFacts],
) -> tuple[Liveness, tuple[str, ...]]:
    """Whether the VM that ``rows`` (its live ones) speak of is alive; ``facts`` by row."""
    processes = [row for row in rows if row.kind == Kind.PROCESS]
    verdicts: list[tuple[Liveness, tuple[str, ...]]] = []
    for row in processes:
        identity = identity_of(row)
        if identity is None:
            verdicts.append((Liveness.DEAD, ("its process was never started",)))
        else:
            seen = facts.get(row.id, ProcessFacts(False, error="it was not inspected"))
            verdicts.append(judge_process(row, identity, life, seen))
    for wanted in (Liveness.ALIVE, Liveness.UNKNOWN):
        for verdict in verdicts:
            if verdict[0] is wanted:
                return verdict
    if verdicts:
        return verdicts[0]
    for row in rows:
        if row.kind == Kind.NETNS:
            seen = facts.get(row.id, ProcessFacts(False, error="it was not looked for"))
            return judge_namespace(row, life, lives, seen)
    host = [row for row in rows if row.kind != Kind.LEASE]
    if hypervisor == "external" and any(row.state == State.COMMITTED for row in host):
        born = {lives[row.life].boot_id if row.life in lives else None for row in host}
        if not born & {life.boot_id, None}:
            return Liveness.DEAD, ("it was started in another boot",)
        return Liveness.UNKNOWN, ("its process is not attached: `hvtx vm attach`",)
    return Liveness.DEAD, ("it has no process on record",)


def state_of_verb(verb: str | None) -> VmState | None:
    """The state of a VM on which an operation with this verb is running; None: not told by it."""
    return _RUNNING_VERBS.get(verb) if verb is not None else None


def vm_state(rows: Sequence[Resource], verb: str | None, liveness: Liveness) -> VmState:
    """The state; ``verb`` is that of an operation that is running on the VM now."""
    return _state(any(row.kind != Kind.LEASE for row in rows), verb, liveness)


def states_in(snapshot: Snapshot) -> dict[str, VmState]:
    """The state of each VM (by id) when a snapshot was taken, settled or not."""
    there = {row.vm for row in snapshot.rows if row.kind != Kind.LEASE}
    there.update(snapshot.settled.vms)
    running = [known for known in snapshot.operations.values() if known.running and known.vm]
    verbs = {known.vm: known.verb for known in reversed(running)}  # of several the first
    return {
        vm: _state(vm in there, verbs.get(facts.name), facts.liveness)
        for vm, facts in snapshot.vms.items()
    }


def _state(there: bool, verb: str | None, liveness: Liveness) -> VmState:
    """``there``: whether more of the VM is on record than leases."""
    moving = state_of_verb(verb)
    if moving is not None:
        return moving
    if not there:
        return VmState.DEFINED
    return {
        Liveness.ALIVE: VmState.RUNNING,
        Liveness.DEAD: VmState.CRASHED,
        Liveness.UNKNOWN: VmState.UNKNOWN,
    }[liveness]
