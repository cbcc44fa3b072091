"""What a network and a VM are set to, as JSON objects in the store, and back.

A key is there only where its value is not the default: what an older hvtx wrote has none of them.
"""

from __future__ import annotations

from hvtx.model.policy import EgressRule, Limits, Policy
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.model.vm import Network, Vm


def of_network(network: Network) -> dict[str, Any]:
    """The object of a network's column ``settings``."""
    found = {
        "dhcp": network.dhcp,
        "policy": _from_policy(network.policy),
        "uplink": network.uplink,
        "sources": list(network.sources),
        "block_size": network.block_size,
    }
    kept = {key: value for key, value in found.items() if value}
    return kept if network.passage else {**kept, "passage": False}


def network_fields(settings: dict[str, Any]) -> dict[str, Any]:
    """What a network's settings say, as fields of :class:`hvtx.model.vm.Network`."""
    return {
        "dhcp": settings.get("dhcp", False),
        "policy": _policy(settings.get("policy", {})),
        "uplink": settings.get("uplink"),
        "sources": tuple(settings.get("sources", ())),
        "passage": settings.get("passage", True),
        "block_size": settings.get("block_size"),
    }


def of_vm(vm: Vm) -> dict[str, Any]:
    """What stands in a VM's column ``spec`` beside what every VM has."""
    found = {
        "number": vm.number,
        "queues": vm.queues if vm.queues != 1 else None,
        "limits": list(vm.limits) if any(vm.limits) else None,
        "policy": _from_policy(vm.policy),
        "user_data": vm.user_data,
        "ssh_keys": list(vm.ssh_keys),
        "user": vm.user,
    }
    return {key: value for key, value in found.items() if value}


def vm_fields(found: dict[str, Any]) -> dict[str, Any]:
    """The same, back, as fields of :class:`hvtx.model.vm.Vm`."""
    return {
        "number": found.get("number", 0),
        "queues": found.get("queues", 1),
        "limits": Limits(*found.get("limits", ())),
        "policy": _policy(found.get("policy", {})),
        "user_data": found.get("user_data"),
        "ssh_keys": tuple(found.get("ssh_keys", ())),
        "user": found.get("user"),
    }


def _from_policy(policy: Policy) -> dict[str, Any]:
    found = {"egress": policy.egress, "rules": [list(rule) for rule in policy.rules]}
    return {key: value for key, value in found.items() if value}


def _policy(found: dict[str, Any]) -> Policy:
    return Policy(found.get("egress"), tuple(EgressRule(*rule) for rule in found.get("rules", ())))
