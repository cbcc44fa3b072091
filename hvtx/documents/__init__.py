"""The JSON objects of the interface: one module per schema, a value of the engine in, a dict out.

A module is imported when it is first used: a command pays for the objects that it prints, and one
that prints text pays for none.
"""

from __future__ import annotations

from hvtx.loader import module_named
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.documents import (
        adopt,
        apply,
        cluster,
        cni,
        completion,
        console,
        doctor,
        explain,
        forgotten,
        imported,
        intents,
        log,
        logs,
        metrics,
        network,
        networks,
        plan,
        plan_pieces,
        plan_schema,
        recover,
        registered,
        removed,
        repair,
        routes,
        several,
        store_backup,
        store_restore,
        systemd,
        view,
        vm,
        vms,
    )

__all__ = [
    "adopt",
    "apply",
    "cluster",
    "cni",
    "completion",
    "console",
    "doctor",
    "explain",
    "forgotten",
    "imported",
    "intents",
    "log",
    "logs",
    "metrics",
    "network",
    "networks",
    "plan",
    "plan_pieces",
    "plan_schema",
    "recover",
    "registered",
    "removed",
    "repair",
    "routes",
    "several",
    "store_backup",
    "store_restore",
    "systemd",
    "view",
    "vm",
    "vms",
]


def __getattr__(name: str) -> Any:
    """One of the modules, imported now."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return module_named(f"{__name__}.{name}")
