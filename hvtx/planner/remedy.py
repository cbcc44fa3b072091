"""The fix of a damaged resource, as it is printed. Pure.

Everybody who names a fix asks here, so that nobody promises what `repair` does not do: it makes no
TAP device again under a running VM, whose descriptor would still speak to the old one, and touches
nothing without its mark.
"""

from __future__ import annotations

from hvtx.model.reason import Reason
from hvtx.model.resource import DEVICES, FIREWALL_KINDS, PORTS, Kind, Resource, address_spec
from hvtx.model.shell import word
from hvtx.planner.presence import Presence

REPAIR = "hvtx repair"


def remedy(row: Resource, seen: Presence, vm: str, *, external: bool = False) -> str:
    """The command that fixes it, or what has to be done before it; ``vm`` is the row's, by name."""
    if row.kind == Kind.ADDRESS and seen.problem is not None:  # its bridge lacks the mark
        spec = address_spec(row)
        return f"ip link set dev {word(spec['device'])} alias {spec['owner']}"
    if seen.here is False and _of_start(row):
        return restart(vm, external=external)
    if row.kind not in DEVICES or (seen.here is False and row.kind not in PORTS):
        return REPAIR if seen.problem is None else _taken_place(row, seen)
    if seen.here is False:
        return _new_device(row, vm, external=external)
    if seen.problem is None:
        return REPAIR
    if seen.link is not None and seen.link.ifindex == row.ifindex:
        return f"ip link set dev {word(seen.link.name)} alias {row.mark}"
    name = row.key if seen.link is None else seen.link.name
    after = _new_device(row, vm, external=external) if row.kind in PORTS else REPAIR
    return f"hvtx explain {word(name)} shows its owner; once it is gone: {after}"


def restart(vm: str, *, external: bool = False) -> str:
    """What gives a VM a new device: its process cannot come back to the old one."""
    if external:
        return f"end its process, then: hvtx vm stop {vm}; hvtx vm start {vm}"
    return f"hvtx vm restart {vm}"


def _new_device(row: Resource, vm: str, *, external: bool = False) -> str:
    """What gives it a device again; a container gets one from its runtime alone."""
    if row.kind == Kind.VETH:
        return f"hvtx vm rm {vm} --force; then have its runtime make the container's network again"
    return restart(vm, external=external)


def gone(row: Resource, vm: str) -> str:
    """What is said of a thing that is gone while its VM runs."""
    if row.kind in PORTS:
        cut_off = "on record and gone, while its VM runs, which is cut off until"
        if row.kind == Kind.VETH:
            return f"{cut_off} its runtime makes it again: `hvtx vm rm {vm} --force`, then there"
        return f"{cut_off} `{restart(vm)}` gives it a new one"
    fix = f"`{restart(vm)}` makes it again" if _of_start(row) else f"`{REPAIR}` puts it back"
    return f"on record and gone, while its VM runs: {fix}"


def _of_start(row: Resource) -> bool:
    """Whether only a start of its VM makes it: the VM's own directory, which its process uses."""
    return row.kind == Kind.FILE and row.vm is not None and row.network is None


def _taken_place(row: Resource, seen: Presence) -> str:
    where = "; ".join(seen.evidence)
    what = "rule" if row.kind in FIREWALL_KINDS else "thing"
    if seen.problem in (Reason.MARK_STRIPPED, Reason.MARK_MISMATCH):
        return f"remove the {what} in its place ({where}), then: {REPAIR}"
    return REPAIR
