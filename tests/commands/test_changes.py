"""Which changes only give up what there is: a full disk keeps nobody from them."""

from __future__ import annotations

from typing import Any

import pytest

from hvtx.api.given import NETWORK_CHANGES, VM_CHANGES, options
from hvtx.api.vms import policy_change
from hvtx.commands import network_set, vm_set

VM = [
    ({"unpublish": ["8080"]}, True),
    ({"unpublish": ["8080"], "limit": "none", "autostart": False, "no_rules": True}, True),
    ({"autostart": False}, True),
    ({"limit": "none"}, True),
    ({"no_rules": True}, True),
    ({"autostart": True}, False),
    ({"limit": "in=1mbit"}, False),
    ({"limit": "none", "publish": ["8080:80"]}, False),
    ({"unpublish": ["8080"], "publish": ["9090:80"]}, False),
    ({"no_rules": True, "allow": ["192.0.2.0/24"]}, False),
    ({"no_rules": True, "egress": "none"}, False),
    ({"memory": 512}, False),
    ({"kernel": ""}, False),
    ({"autostart": False, "cpus": 1}, False),
]
NETWORK = [
    ({"dhcp": False}, True),
    ({"passage": False, "no_rules": True}, True),
    ({"dhcp": True}, False),
    ({"isolate": False}, False),
    ({"no_uplink": True}, False),
    ({"dhcp": False, "isolate": True}, False),
]


@pytest.mark.parametrize(("changes", "frees"), VM)
def test_a_change_of_a_vm(changes: dict[str, Any], frees: bool) -> None:
    given = options(changes, VM_CHANGES)
    policy = policy_change(given)
    assert vm_set.parse_changes(policy=policy, **given).frees() is frees


@pytest.mark.parametrize(("changes", "frees"), NETWORK)
def test_a_change_of_a_network(changes: dict[str, Any], frees: bool) -> None:
    given = options(changes, NETWORK_CHANGES)
    policy = policy_change(given)
    assert network_set.parse_changes(policy=policy, **given).frees() is frees
