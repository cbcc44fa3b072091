"""What a crash or an interruption left of VMs is released before they start.

Hardly any start needs it: who finds a VM free does not load it, nor the planner of gc.
"""

from __future__ import annotations

from hvtx.engine import leftovers
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import vm_scope
from hvtx.errors import Conflict, NotFound
from hvtx.model.plan import Plan
from hvtx.planner.scope import VmScope
from hvtx.planner.start import Leftovers, kept, why_kept
from hvtx.store import records


def freed(runtime: Runtime, left: Leftovers, plan: Plan) -> VmScope:
    """The VM once ``plan`` has released what was left of it; its lock is held.

    Raises Conflict where some of it stays, or where it runs and that is on record now; NotFound if
    all that there was of it had only begun.
    """
    if left.refusal is not None:
        raise left.refusal
    vm = left.scope.vm
    still = kept(runtime.read(records.resources_of_vm, vm.id))  # as the release left them
    if still:
        raise Conflict(
            f"VM {vm.name!r} crashed, and what it left cannot be released:"
            f" {why_kept(still, plan.items)}",
            hint=leftovers.hint(
                runtime,
                leftovers.kept_by(plan.items, still),
                again=f"hvtx vm start {vm.name}",
            ),
        )
    if runtime.read(records.find_vm, vm.name) is None:
        again = f"run it again: hvtx vm run {vm.name}, with all that it was given"
        if "create" in left.scope.unended:
            again = f"create it again: hvtx vm create {vm.name}, with all that it was given"
        raise NotFound(
            f"VM {vm.name!r} was made by an interrupted command, which is undone now", hint=again
        )
    return vm_scope(runtime, vm.name)  # read anew: the plan closed rows of it
