"""What nft lists of a table of names, as values."""

from __future__ import annotations

import json

import pytest

from hvtx.errors import HostRefused
from hvtx.host.named_sets import parsed

LISTED = {
    "nftables": [
        {"metainfo": {"version": "1.0.6"}},
        {"table": {"family": "inet", "name": "hvtx-i-n", "handle": 1}},
        {"map": {"name": "owners", "type": "ether_addr", "map": "verdict",
                 "elem": [["02:00:00:00:00:01", {"jump": {"target": "vm_020000000001"}}],
                          ["02:00:00:00:00:02", {"accept": None}]]}},
        {"set": {"name": "n4", "elem": [{"elem": {"val": "192.0.2.1", "expires": 7}}]}},
        {"set": {"name": "n6", "elem": ["2001:db8::1"]}},
        {"set": {"name": "none"}},
        {"chain": {"name": "vm_020000000001", "handle": 4}},
        {"chain": {"name": "names", "type": "filter", "hook": "forward", "prio": -161,
                   "policy": "accept", "handle": 3}},
        {"rule": {"chain": "vm_020000000001", "handle": 9, "expr": [{"accept": None}]}},
        {"rule": {"chain": "names", "handle": 5, "expr": [{"drop": None}]}},
        {"rule": {"chain": "names", "handle": 6, "expr": [{"accept": None}]}},
    ]
}  # fmt: skip


def test_a_table_as_nft_lists_it() -> None:
    found = parsed(json.dumps(LISTED), "hvtx:1:i:7")
    assert found.comment == "hvtx:1:i:7"
    assert found.chains["names"] == "filter forward -161 accept"
    assert found.sets == ("n4", "n6", "none", "owners")
    assert found.leads == {
        "02:00:00:00:00:01": "vm_020000000001",
        "02:00:00:00:00:02": '{"accept": null}',
    }
    assert found.addresses["n4"] == {b"\xc0\x00\x02\x01"}
    assert len(next(iter(found.addresses["n6"]))) == 16
    assert found.addresses["none"] == frozenset()


def test_its_shape_is_of_rules_in_their_order_and_no_handle() -> None:
    shape = parsed(json.dumps(LISTED), None).shape
    other = json.loads(json.dumps(LISTED))
    for one in other["nftables"]:
        for what in one.values():
            if what.get("handle"):
                what["handle"] += 100
            if what.get("name") == "n4":
                del what["elem"]
    assert parsed(json.dumps(other), None).shape == shape
    other["nftables"][-1], other["nftables"][-2] = other["nftables"][-2], other["nftables"][-1]
    assert parsed(json.dumps(other), None).shape != shape


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"nftables": 1}', '{"nftables": [{"set": {"name": "a", "elem": ["x"]}}]}'],
)
def test_what_is_no_list_of_a_table_is_refused(text: str) -> None:
    with pytest.raises(HostRefused, match="cannot be read"):
        parsed(text, None)
