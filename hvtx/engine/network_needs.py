"""Whether networks have all that VMs need which start in them: the looks that every start takes.

What they need (:mod:`hvtx.planner.network_needs`) is done by :mod:`hvtx.engine.network_upkeep`.
"""

from __future__ import annotations

from functools import partial

from hvtx.engine import egress_base, others_filters
from hvtx.engine.registry import outdated
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import networks_now
from hvtx.planner.network_needs import Policies, has_accepts, needs_of
from hvtx.planner.scope import NetworkScope


def ready(
    runtime: Runtime, scope: NetworkScope, policies: Policies, verb: str = "rebuild"
) -> NetworkScope:
    """The networks, which the caller has locked, once they have it; as they stand then.

    ``policies`` are those of the VMs; ``verb`` begins the operation of a network that is rebuilt.
    Raises what making any of it raises.
    """
    scope = egress_base.hold(runtime.lock, partial(networks_now, runtime), scope, policies)
    filters = has_accepts(scope) or others_filters.there_may_be(runtime.nftables().tables)
    needs = needs_of(scope, policies, outdated=outdated, filters=filters)
    if not any(needs):
        return scope
    from hvtx.engine import network_upkeep

    return network_upkeep.carry_out(runtime, scope, needs, policies, verb)
