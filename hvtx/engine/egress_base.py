"""What egress policies stand on: a table of nftables, where networks have only iptables' chains."""

from __future__ import annotations

from hvtx.engine.making import make
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import all_networks, networks_now
from hvtx.model.firewall import firewall_spec
from hvtx.model.policy import Policy
from hvtx.planner import egress, provision
from hvtx.planner.scope import NetworkScope


def ensure(runtime: Runtime, policy: Policy, scope: NetworkScope) -> NetworkScope:
    """Make the table where a VM with this policy is the first that needs it; the scope then.

    It is the installation's, and stays until the last network goes. The caller holds the networks.
    Raises what making it raises.
    """
    if not _missing(policy, scope):
        return scope
    held = scope.networks  # `network set` asks with what it is about to make of one
    runtime.lock("all", "networks")
    try:
        # under the lock: another command may have been quicker
        scope = networks_now(runtime, held)._replace(networks=held)
        bases = _missing(policy, scope)
        if bases:
            from hvtx.engine.unsettled import resolved_networks  # no start loads it but the first

            # a table of one that was killed here is in the way, and on record as half done
            resolved_networks(runtime, all_networks(runtime))
            make(runtime, "rebuild", provision.want_bases(bases))
            scope = networks_now(runtime, held)._replace(networks=held)
        return scope
    finally:
        runtime.unlock("all", "networks")


def _missing(policy: Policy, scope: NetworkScope) -> list[str]:
    there = [firewall_spec(row) for row in scope.bases()]
    found: dict[str, None] = {}
    for network in scope.networks.values():
        if egress.is_limited(policy, network.policy):
            found |= dict.fromkeys(provision.missing_bases(network.firewall, there, limited=True))
    return list(found)
