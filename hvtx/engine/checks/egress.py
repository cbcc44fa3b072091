"""Check of egress policies: what guests reach unless a VM of theirs says otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from hvtx.engine.finding import Finding
from hvtx.engine.runtime import Runtime
from hvtx.model.policy import INTERNET, NO_POLICY, NONE, OPEN, policy_words
from hvtx.planner.egress import effective
from hvtx.store import records

REACH = {
    OPEN: "what this host reaches, private networks and its own services too, but no link-local "
    "address and no metadata service",
    INTERNET: "their own network and the internet; of this host DHCP, DNS, echo and published "
    "ports",
    NONE: "their own network; of this host DHCP, DNS, echo and published ports",
}


def check_egress(runtime: Runtime) -> Iterator[Finding]:
    """What guests of each network reach, and which VMs say otherwise."""
    with runtime.reading() as sql:
        networks, vms = records.networks(sql), records.vms(sql)
    for network in networks:
        policy = effective(vm=NO_POLICY, network=network.policy)
        own = [
            f"VM {vm.name}: {policy_words(vm.policy)}"
            for vm in vms
            if vm.policy != NO_POLICY and any(i.network == network.id for i in vm.interfaces)
        ]
        rules = [policy_words(network.policy)] if policy.rules else []
        words = f"guests of network {network.name!r} reach {REACH[policy.mode]}"
        yield Finding("egress", "ok", words, (*rules, *own))
    if not networks:
        mode = runtime.settings.egress or OPEN
        words = f"guests of a new network would reach {REACH[mode]}"
        yield Finding("egress", "ok", words)
