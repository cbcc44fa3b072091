"""Rules of the iptables backend that its golden file does not tell apart."""

from __future__ import annotations

from typing import Any

import pytest

from hvtx.model.resource import Resource
from hvtx.rulesets.iptables_rules import chain_name, outdated, rules_of

_ID, _MARK = "0123456789ab", "hvtx:1:0123456789ab:7:42"
_NET: dict[str, Any] = {
    "backend": "iptables", "what": "network", "bridge": "hv0", "nat": True, "isolate": False,
    "subnets": ["10.77.0.0/24", "fd77::/64"], "gateway6": "fe80::1", "flows": 4096,
}  # fmt: skip


def _row(spec: dict[str, Any], observed: dict[str, Any] | None = None) -> Resource:
    return Resource(1, "filter", "k", "committed", _MARK, spec, observed or {}, 1, 1, None, None)


def _by_uplink(spec: dict[str, Any]) -> list[tuple[int, str]]:
    """What names a device besides the bridge, in the chain of accepts."""
    rules = [r for r in rules_of(_ID, _row(spec)) if r.chain == chain_name(_ID, "PASS")]
    assert {rule.table for rule in rules} == {"filter"}
    return [(rule.family, rule.text) for rule in rules if "br9" in rule.text]


@pytest.mark.parametrize("nat", [True, False])
def test_an_uplink_is_in_the_accepts_of_its_own_network(nat: bool) -> None:
    """Whatever device it is: where the world is, which is all networks', a bridge is none."""
    found = _by_uplink({**_NET, "nat": nat, "uplink": "br9"})
    out = [
        (4, "-s 10.77.0.0/24 -i hv0 -o br9 -j ACCEPT"),
        (6, "-s fd77::/64 -i hv0 -o br9 -j ACCEPT"),
    ]
    back = [
        (4, "-d 10.77.0.0/24 -i br9 -o hv0 -j ACCEPT"),
        (6, "-d fd77::/64 -i br9 -o hv0 -j ACCEPT"),
    ]
    assert sorted(found) == sorted(out if nat else [*out, *back])
    assert _by_uplink({**_NET, "uplink": "br9", "passage": False}) == []
    assert _by_uplink(_NET) == []


def test_a_row_without_that_accept_is_of_an_earlier_version() -> None:
    """So the next start, and `repair`, put it there."""
    spec = {**_NET, "uplink": "br9"}
    rules = [[str(rule.place), rule.text, rule.first] for rule in rules_of(_ID, _row(spec))]
    assert not outdated(_row(spec, {"rules": rules}))
    before = [rule for rule in rules if not ("PASS" in rule[0] and "br9" in rule[1])]
    assert outdated(_row(spec, {"rules": before}))
