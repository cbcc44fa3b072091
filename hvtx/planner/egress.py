"""Egress policies: whose holds for a guest, and the firewall rows of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from hvtx.model.firewall import FirewallSpec
from hvtx.model.policy import NO_POLICY, OPEN, Egress, EgressRule, Policy
from hvtx.model.vm import Interface, Network, Vm


def is_plain(policy: Policy) -> bool:
    """Whether a network's policy is what each network does without one."""
    return policy.egress in (None, OPEN) and not policy.rules


def is_limited(vm: Policy, network: Policy) -> bool:
    """Whether something other than plain ``open`` holds for a guest."""
    return vm != NO_POLICY or not is_plain(network)


def effective(*, vm: Policy, network: Policy) -> Egress:
    """What holds for a guest of a VM in a network.

    A VM that says a mode has a policy of its own; one that only has rules adds them: they come
    before those of its network.
    """
    own, shared = _ordered(vm), _ordered(network)
    if vm.egress is not None:
        return Egress(vm.egress, own, "vm")
    source = "default" if network.egress is None else "network"
    return Egress(network.egress or OPEN, own + shared, source)


def _ordered(policy: Policy) -> tuple[EgressRule, ...]:
    return tuple(sorted(policy.rules, key=lambda rule: rule.action != "deny"))


def network_spec(network: Network) -> FirewallSpec | None:
    """What a network's policy row stands for; None where it needs none."""
    if is_plain(network.policy):
        return None
    return {
        "backend": "nftables",
        "what": "egress",
        "bridge": network.bridge,
        "egress": network.policy.egress or OPEN,
        "rules": _listed(network.policy.rules),
        "alone": network.firewall != "nftables",
        "subnets": list(network.subnets),
    }


def vm_spec(vm: Vm, interface: Interface, network: Network) -> FirewallSpec | None:
    """What the policy row of a VM's interface stands for; None where it needs none.

    A guest that only its network limits has one for what is refused to it to be counted.
    """
    if not is_limited(vm.policy, network.policy):
        return None
    spec: FirewallSpec = {
        "backend": "nftables",
        "what": "egress",
        "bridge": network.bridge,
        "mac": interface.mac,
        "alone": network.firewall != "nftables",
        "ipv4": interface.ipv4,
        "ipv6": interface.ipv6,
    }
    if interface.more:
        spec["more"] = list(interface.more)
    if vm.policy != NO_POLICY:
        spec["egress"] = vm.policy.egress
        spec["rules"] = _listed(vm.policy.rules)
    return spec


def _listed(rules: Sequence[EgressRule]) -> list[list[str | int | None]]:
    return [list(rule) for rule in rules]
