"""A VM that someone else starts: hvtx prepares its network, and launches nothing."""

from __future__ import annotations

from collections.abc import Sequence

from hvtx.hypervisors.base import Launch, Nic, Probes
from hvtx.model.vm import Vm


def render(vm: Vm, ports: Sequence[Nic], probes: Probes, directory: str) -> Launch:
    """An empty launch: no argv, ready at once, not powered down by us."""
    del vm, ports, probes
    return Launch((), {}, directory, {}, "none", "none", None)
