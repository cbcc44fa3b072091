"""The dumps by which tests tell that nothing has changed: they see what there is, of both families."""

from __future__ import annotations

import json

from integration import lab


def test_routes_and_addresses_of_both_families(world: lab.Namespace) -> None:
    """As each family's own command shows them."""
    dump = lab.dump()
    for key, family in (("routes4", "-4"), ("routes6", "-6")):
        shown = json.loads(lab.run("ip", "-j", family, "route", "show", "table", "all"))
        assert dump[key] == shown
        assert any(route["dst"] == "default" for route in shown)
    every = json.dumps(dump["addresses"])
    assert all(f'"{address}"' in every for address in (lab.HOST4, lab.HOST6))


def test_the_loopback_device_is_up(netns: None) -> None:
    (link,) = json.loads(lab.run("ip", "-j", "addr", "show", "dev", "lo"))
    assert "UP" in link["flags"]
    assert [one["local"] for one in link["addr_info"]] == ["127.0.0.1", "::1"]
