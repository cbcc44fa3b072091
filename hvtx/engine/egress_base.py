"""What egress policies stand on is kept from who would take it away: a table of nftables.

Networks have it where they have only iptables' chains, from the first policy on
(:mod:`hvtx.engine.network_upkeep` makes it) until the last network goes that needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hvtx.model.typed import Any
from hvtx.planner.network_needs import Policies, legacy, limited, missing_tables
from hvtx.planner.scope import NetworkScope
from hvtx.store import records

_LOCK = "bases"


def hold(
    lock: Callable[..., None],
    read: Callable[[Iterable[str]], NetworkScope],
    scope: NetworkScope,
    policies: Policies,
) -> NetworkScope:
    """Keep the table, for guests with these policies; the networks as they stand then.

    What the caller is about to put into it is on no record yet: so whoever removes a network
    meanwhile is kept from taking the table until this run has ended (:func:`may_go`). One may have
    taken it since the scope was read. ``read`` reads networks (by id) as they are. Raises Busy.
    """
    if not legacy(limited(scope, policies)):
        return scope  # a network of nftables needs the table itself, policies or none
    lock("all", _LOCK, shared=True)
    held = scope.networks  # `network set` asks with what it is about to make of one
    now = read(held)._replace(networks=held)
    return scope if missing_tables(now, policies) == missing_tables(scope, policies) else now


def may_go(read: Callable[..., Any], try_lock: Callable[[str, str], bool], leaving: str) -> bool:
    """Whether nobody has or is about to have a policy, but for the network ``leaving`` (its id).

    Then nobody gets one that needs the table until this run ends. Who holds what keeps it is not
    waited for: it may wait for the networks, which the caller holds.
    """
    if not try_lock("all", _LOCK):
        return False
    return all(row.network == leaving for row in read(records.egress_rows))
