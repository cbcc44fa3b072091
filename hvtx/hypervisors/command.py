"""Any program as the VM process: placeholders in its arguments, values in its environment."""

from __future__ import annotations

from collections.abc import Sequence

from hvtx.hypervisors.base import Launch, Nic, Probes, environment, replace, variables
from hvtx.model.vm import Vm


def render(vm: Vm, ports: Sequence[Nic], probes: Probes, directory: str) -> Launch:
    """The launch of a ``command`` VM, in the directory that it was created from.

    The program keeps the name that it was given: whoever spawns it looks for it, since a
    placeholder may be in it.
    Raises ValueError without a program.
    """
    del probes
    if not vm.command:
        raise ValueError("a command VM needs a program after --")
    words = variables(vm, ports)
    return Launch(
        argv=tuple(replace(part, words) for part in vm.command),
        environment=environment(vm, ports, directory),
        directory=vm.directory or directory,
        files={},
        ready="exec",
        power_down="none",
        console=None,
    )
