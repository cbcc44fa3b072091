"""States of guests as their hypervisors report them; no decision depends on them.

Who asks many at once pays for the slowest only. VMs whose hypervisor cannot be asked (any program,
one that hvtx did not start) cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from hvtx.engine.vm_paths import run_directory
from hvtx.model.guest import Guest
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Vm
from hvtx.planner.states import VmState

_WITHOUT = frozenset({VmState.DEFINED, VmState.CRASHED, VmState.STARTING})


class Judged(NamedTuple):
    """A VM and its state."""

    vm: Vm
    state: VmState


def unasked(state: VmState) -> Guest | None:
    """What is said of a guest that nobody can ask: None where the VM does not run."""
    return None if state in _WITHOUT else Guest.UNKNOWN


def states(runs: str, judged: Sequence[Judged]) -> dict[str, Guest | None]:
    """The state of each VM's guest by the VM's id; None where the VM does not run (yet).

    ``runs`` is the run directory.
    """
    found = {vm.id: unasked(state) for vm, state in judged}
    if not any(found.values()):
        return found
    from hvtx.hypervisors.base import SOCKETS, TRAITS

    asked = {
        vm.id: vm for vm, _ in judged if found[vm.id] and TRAITS[vm.hypervisor].ready in SOCKETS
    }
    if not asked:
        return found
    from hvtx.host.monitor_queries import Question, ask
    from hvtx.hypervisors.guest import guest_of

    questions = {}
    for vm in asked.values():
        how = TRAITS[vm.hypervisor].ready
        questions[vm.id] = Question(how, run_directory(runs, vm), SOCKETS[how])
    for identity, word in ask(questions).items():
        found[identity] = guest_of(TRAITS[asked[identity].hypervisor].ready, word)
    return found
