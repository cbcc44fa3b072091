"""The verbs, one module each: what a command does, over the mechanism in hvtx/engine.

A module is imported when it is first used as an attribute of this package (``commands.gc``): so
:mod:`hvtx.api` has them all at hand, and a command pays for those that it calls. `__init__.pyi`
tells type checkers which there are.
"""

from __future__ import annotations

from hvtx.loader import module_named


def __getattr__(name: str) -> object:
    """One of the modules, imported now."""
    try:
        if not name.startswith("_"):
            return module_named(f"{__name__}.{name}")
    except ModuleNotFoundError as problem:
        if problem.name != f"{__name__}.{name}":
            raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
