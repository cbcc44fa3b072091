"""What networks need is done: what is missing of them in this life of the host, or out of date.

What is decided here is decided from a ``NetworkScope``; it is read anew only under the lock of all
networks, which comes later than the first look, and after something was released.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from hvtx.engine import egress_base, others_filters, outdated
from hvtx.engine.making import make
from hvtx.engine.network_build import build_network, refuse_taken_subnet
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import all_networks, networks_now
from hvtx.engine.transaction import begin
from hvtx.engine.undo import take_down
from hvtx.engine.unsettled import resolved_networks
from hvtx.model.resource import Resource
from hvtx.model.typed import TYPE_CHECKING
from hvtx.planner import provision
from hvtx.planner.network_needs import Needs, Policies, has_accepts, legacy, missing_tables
from hvtx.planner.scope import NetworkScope

if TYPE_CHECKING:
    from hvtx.engine.repaired import Failed, Repaired


def carry_out(
    runtime: Runtime,
    scope: NetworkScope,
    needs: Needs,
    policies: Policies,
    verb: str = "rebuild",
    *,
    resolved: bool = False,
) -> NetworkScope:
    """Do what the networks of a scope need; the networks as they stand then.

    ``verb`` begins the operation of one that is rebuilt. ``resolved``: the caller has released what
    interruptions left. Raises HvtxError; what is done by then stays.
    """
    if needs.anew:
        outdated.bring_up_to_date(runtime, scope)
    if needs.missing:
        scope = _rebuild_missing(runtime, scope, verb, resolved=resolved)
    if needs.services:
        from hvtx.engine import service_upkeep

        service_upkeep.ensure(runtime, scope)
    if needs.accepts:
        settle_accepts(runtime, scope, looked=True)
    return ensure_tables(runtime, scope, policies)


def settle_accepts(
    runtime: Runtime,
    scope: NetworkScope,
    *,
    locked: bool = False,
    looked: bool = False,
    failed: list[Failed] | None = None,
) -> list[Repaired]:
    """Let guests pass where the host's filters drop by now; what was wrong, as `repair` tells it.

    ``locked``: the caller holds the lock of the networks, and held it when they were read.
    ``looked``: it has seen that there may be something to do. ``failed`` takes what could not be
    done; None: it is a warning.
    """
    may_be = looked or has_accepts(scope)
    if not may_be and not others_filters.there_may_be(runtime.nftables().tables):
        return []
    from hvtx.engine import forward_accepts, passages

    def make_rows(network: str, wants: Sequence[provision.ResourceSpec]) -> list[Resource]:
        return make(runtime, "rebuild", wants, network)

    def release() -> None:
        resolved_networks(runtime, all_networks(runtime))

    every = legacy((*scope.every, *scope.networks.values()))
    found = forward_accepts.settle(runtime, scope, locked=locked) if every else []
    work = passages.Passages(runtime, make_rows, release)
    return found + work.settle(scope, locked=locked, failed=failed)


def _rebuild_missing(
    runtime: Runtime, scope: NetworkScope, verb: str, *, resolved: bool
) -> NetworkScope:
    only = scope.networks.keys()
    with runtime.held("all", "networks"):
        scope = all_networks(runtime, only)  # under the lock: another command may have been quicker
        if not resolved and (not runtime.life.recovered or scope.half_done()):
            # what a saved ruleset or an interrupted rebuild has left
            scope = resolved_networks(runtime, scope, only)
        # what an interrupted operation had only begun may be forgotten by now
        missing = scope.missing()
        if missing and (old := scope.of_earlier_lives(missing)):
            with begin(runtime, "rebuild") as (_, operation):
                pass
            take_down(operation, old, reason="rebooted")
        for network in missing:
            # others may have been quicker after a boot
            refuse_taken_subnet(network.subnets, block_size=network.block_size)
            rows = build_network(runtime, network, scope, verb, new=False)
            scope = scope.with_rows(rows)
        return scope


def ensure_tables(runtime: Runtime, scope: NetworkScope, policies: Policies) -> NetworkScope:
    """Make the tables that guests with these policies are the first to need; the scope then.

    A table of nftables, where networks have only iptables' chains. It is the installation's, and
    stays until the last network goes. The caller holds the networks. Raises what making it raises.
    """
    scope = egress_base.hold(runtime.lock, partial(networks_now, runtime), scope, policies)
    if not missing_tables(scope, policies):
        return scope
    held = scope.networks  # `network set` asks with what it is about to make of one
    with runtime.held("all", "networks"):
        # under the lock: another command may have been quicker
        scope = networks_now(runtime, held)._replace(networks=held)
        bases = missing_tables(scope, policies)
        if bases:
            # a table of one that was killed here is in the way, and on record as half done
            resolved_networks(runtime, all_networks(runtime))
            make(runtime, "rebuild", provision.want_bases(bases))
            scope = networks_now(runtime, held)._replace(networks=held)
        return scope
