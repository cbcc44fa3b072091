"""``hvtx/import/1``: `import my-hypervisor --json`."""

from __future__ import annotations

from hvtx.documents.parts import taken
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.engine.imported import Import, ImportedVm


def document(done: Import) -> dict[str, Any]:
    """What became of every VM that was found, and of its things."""
    return {
        "schema": "hvtx/import/1",
        "tool": done.tool,
        "applied": done.applied,
        "vms": [_vm(vm) for vm in done.vms],
        "summary": done.counts(),
    }


def _vm(vm: ImportedVm) -> dict[str, Any]:
    return {
        "path": vm.path,
        "id": vm.id,
        "name": vm.name,
        "status": vm.status,
        "vm": vm.vm,
        "liveness": vm.liveness,
        "outcome": vm.outcome,
        "reason": vm.reason,
        "message": vm.message,
        "spelling": dict(vm.spelling),
        "items": [taken(item) for item in vm.items],
    }
