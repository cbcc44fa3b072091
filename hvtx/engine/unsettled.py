"""What interruptions left of networks is released before a command works on them."""

from __future__ import annotations

from collections.abc import Collection

from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import all_networks
from hvtx.planner.scope import NetworkScope


def resolved_networks(
    runtime: Runtime, scope: NetworkScope, only: Collection[str] | None = None
) -> NetworkScope:
    """The networks, once what interruptions left of any of them is released.

    The caller holds the lock of all networks and has read ``scope`` under it: all networks, or
    ``only`` these. The whole host is looked at only where the record has rows that are half done,
    or where a ruleset of an earlier life was restored, of which no row tells.
    """
    whole = bool(scope.half_done())
    if scope.earlier and not whole:
        from hvtx.engine.restored import is_restored

        whole = is_restored(runtime)
    if not whole and not scope.unended:
        return scope
    from hvtx.engine import interrupted, resolve  # the planner of gc, which hardly any run needs

    if whole:
        resolve.resolve(runtime, networks=True)
    else:
        interrupted.close_interrupted(runtime)
    return all_networks(runtime, only)  # read again: some of it is released
