"""Hosts of any size as documents and diagrams, for pages to be made of."""

from __future__ import annotations

from typing import Any

from hvtx import documents
from hvtx.engine import gc_plan
from hvtx.model.diagram import Diagram, Health
from hvtx.model.plan import Plan
from hvtx.model.resource import Kind
from hvtx.model.vm import Liveness
from tests.planner.scene import Scene, link

MADE = "2026-01-02T03:04:05.000006Z"
EVIL = (
    "<script>document.title='pwned'</script>",
    '"><img src=x onerror="document.title=1">',
    "'; DROP TABLE vm;--&amp;<b>",
    "\u202egpj.exe\u202c",
    "\x1b[2J\x07\x00bell\nline",
    "</title></style></svg><h1>broken out</h1>",
    "שלום-עולם",
    "\ud800lone",
)


def scene(vms: int, *, evil: bool = False) -> Scene:
    """A host with so many VMs: one in ten dead, one in a hundred unknown, one not running."""
    made = Scene()
    if not vms and not evil:
        return made
    network = made.network("lan", "10.64.0.0/10")
    bridge, _ = made.bridge_with_address(network=network)
    made.show(bridge)
    made.operation(1, running=False)
    for number in range(vms):
        name = EVIL[number % len(EVIL)] if evil else f"vm{number:04}"
        liveness = Liveness.DEAD if number % 10 == 3 else Liveness.ALIVE
        liveness = Liveness.UNKNOWN if number % 100 == 7 else liveness
        vm = made.vm(f"{name}{number}" if evil else name, liveness)
        made.row(Kind.LEASE, vm=vm, network=network)
        if number % 100 == 11:
            continue
        tap = made.row(Kind.TAP, vm=vm, network=network, bridge=bridge.key)
        rest = [made.row(kind, vm=vm, network=network) for kind in (Kind.FILTER, Kind.PUBLISH)]
        process = made.row(Kind.PROCESS, vm=vm, network=network)
        made.show(tap, *rest, process)
    return made


def plant(made: Scene, *names: str) -> None:
    """Others' TAP devices and a bridge, with these names and aliases."""
    for number, name in enumerate(names):
        made.links.append(link(9000 + number, name[:15] or "x", alias=name or None))
    made.links.append(link(8999, "docker0", "bridge"))


def drawn(made: Scene) -> tuple[dict[str, Any], Diagram]:
    """The document of its plan, and its diagram."""
    plan: Plan = made.plan()
    report = gc_plan.Report(plan, False, None, "0b5b5e8e-boot", 4026, MADE, made.snapshot())
    return documents.plan.document(report), gc_plan.diagram(report)


def healths(diagram: Diagram) -> dict[str, Health]:
    return {vm.name: vm.health for network in diagram.networks for vm in network.vms}
