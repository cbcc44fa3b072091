#!/usr/bin/python
"""A network of hvtx, as it is described or absent."""

from __future__ import annotations

DOCUMENTATION = r"""
module: network
short_description: Networks of hvtx
version_added: 0.2.0
description:
  - Makes a network (a bridge, its gateway addresses, its firewall rules), changes it to what is described, or removes it.
  - What is described is the whole network. An option that is not there has the default of C(hvtx network create),
    except O(bridge), O(dhcp) and O(block_size), which stay as they are.
  - In check mode an uplink and addresses that the host does not have yet are taken for what an earlier task may add, unless
    a network would be removed for one with these; and VMs of a network that is to be removed for what an earlier task may
    remove, with a warning.
options:
  name:
    description: Name of the network.
    type: str
    required: true
  state:
    description:
      - V(present) makes or changes it.
      - V(absent) removes it, and fails while VMs are in it.
    type: str
    choices: [present, absent]
    default: present
  subnets:
    description: One subnet of a family, or two. Needed with O(state=present).
    type: list
    elements: str
    aliases: [subnet]
  bridge:
    description: Name of the bridge; without it hvtx makes one.
    type: str
  mtu:
    description: MTU in bytes (1500).
    type: int
  nat:
    description: Whether guests reach the world under the host's address (yes).
    type: bool
  isolate:
    description: Whether guests are kept from each other (no).
    type: bool
  uplink:
    description: Interface by which its guests go out.
    type: str
  sources:
    description: Addresses of the host that its guests go out under, one of a family.
    type: list
    elements: str
  passage:
    description: Whether one rule in another program's chain lets it through (yes).
    type: bool
  dhcp:
    description: Whether it has dnsmasq for DHCP, router advertisements and DNS.
    type: bool
  block_size:
    description: Prefix length of the blocks of a cluster that its guests lease from, the same on every host.
    type: str
  allow_replace:
    description: Let a network that no VM uses be removed and made anew where it cannot be changed (subnets, bridge, MTU, NAT, blocks).
    type: bool
    default: false
extends_documentation_fragment: [hvtx.host.host, hvtx.host.host.policy]
author: [hvtx maintainers (@hvtx)]
"""

EXAMPLES = r"""
- name: A network of two families
  hvtx.host.network:
    name: lab
    subnets: [10.81.0.0/24, "fd00:81::/64"]
    egress: internet

- name: None
  hvtx.host.network:
    name: lab
    state: absent

- name: A network of a cluster, whose hosts lease from blocks of their own
  hvtx.host.network:
    name: pods
    subnets: [10.64.0.0/16]
    block_size: 26
    nat: false
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be, a sentence each.
  returned: always
  type: list
  elements: str
  sample: ["create network lab: 10.81.0.0/24"]
network:
  description: The network as it is now.
  returned: when it is there
  type: dict
  contains:
    name: {description: Its name., type: str, returned: always}
    bridge: {description: Its bridge., type: str, returned: always}
    subnets: {description: Its subnets., type: list, elements: str, returned: always}
    gateways: {description: The host's addresses in it., type: list, elements: str, returned: always}
    vms: {description: The VMs in it., type: list, elements: str, returned: always}
    firewall: {description: Its backend., type: str, returned: always}
    nat: {description: Whether there is NAT., type: bool, returned: always}
    isolate: {description: Whether guests are kept from each other., type: bool, returned: always}
    dhcp: {description: Whether it has DHCP., type: bool, returned: always}
    mtu: {description: In bytes., type: int, returned: always}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hvtx.host.plugins.module_utils import host as common

OPTIONS = {
    "subnets": {**common.MANY, "aliases": ["subnet"]},
    "bridge": {"type": "str"},
    "mtu": {"type": "int"},
    "nat": {"type": "bool"},
    "isolate": {"type": "bool"},
    "uplink": {"type": "str"},
    "sources": common.MANY,
    "passage": {"type": "bool"},
    "dhcp": {"type": "bool"},
    "block_size": {"type": "str"},
    **common.POLICY,
}
TOLD = ("name", "bridge", "nat", "isolate", "dhcp", "mtu", "firewall")
LISTS = ("subnets", "gateways", "vms")


def told(shown):
    """What of a network is returned."""
    return {
        **{name: getattr(shown, name) for name in TOLD},
        **{name: list(getattr(shown, name)) for name in LISTS},
    }


def find(host, name):
    """The network, or None."""
    return next((each for each in host.network.ls() if each.name == name), None)


def remove(module, host, found):
    """Remove it, unless it is gone."""
    if found is None:
        return {"changed": False, "actions": []}
    if module.check_mode and found.vms:
        users = ", ".join(found.vms)
        module.warn(
            f"network {found.name!r} is used by {users}, which an earlier task may remove; else it is not removed"
        )
    if not module.check_mode:
        host.network.rm(found.name)
    return {
        "changed": True,
        "actions": [f"remove network {found.name}"],
        "diff": {"before": told(found), "after": {}},
    }


def ensure(module, host, found):
    """Make it what is described."""
    name = module.params["name"]
    options = common.asked(module, OPTIONS)
    request = host.sets.described(networks={name: options})
    plan = host.sets.plan(request, replace=module.params["allow_replace"])
    common.refuse(module, plan)
    before, after = ({}, dict(options)) if found is None else ({}, {})
    common.differing(plan.steps, before, after)
    actions = [step.message for step in plan.steps]
    if actions and not module.check_mode:
        actions = common.apply(module, host, request, replace=module.params["allow_replace"])
    now = find(host, name)
    return {
        "changed": bool(actions),
        "actions": actions,
        "diff": {"before": before, "after": after} if actions else {"before": {}, "after": {}},
        **({"network": told(now)} if now else {}),
    }


def without(module):
    """What check mode foresees of a host without hvtx."""
    if module.params["state"] == "absent":
        return {"changed": False, "actions": [], "diff": {"before": {}, "after": {}}}
    return {
        "changed": True,
        "actions": [f"create network {module.params['name']}"],
        "diff": {"before": {}, "after": common.asked(module, OPTIONS)},
    }


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **common.SETTINGS,
            **OPTIONS,
            **common.OWN,
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["subnets"])],
        supports_check_mode=True,
    )
    with common.opened(module, lambda: without(module)) as host:
        found = find(host, module.params["name"])
        act = remove if module.params["state"] == "absent" else ensure
        result = act(module, host, found)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
