"""What of a host is not hvtx's: its rules, devices, addresses and routes, for before and after."""

from __future__ import annotations

from typing import Any

from hvtx.model.firewalld_zone import ZONE
from integration import lab
from integration.lab.neighbourhood.flows import inside

_TRAFFIC = ("packets", "bytes", "handle", "valid_life_time", "preferred_life_time")


def theirs(place: str) -> dict[str, object]:
    """A dump of the namespace at ``place`` without hvtx's objects, counters and handles."""
    with inside(place):
        seen = lab.dump()
    return {
        "links": sorted(
            (link["ifname"], link.get("address"), link.get("master"), "UP" in link["flags"])
            for link in _list(seen["links"])
            if not _is_ours(link)
        ),
        "addresses": [
            (device["ifname"], [a["local"] for a in device["addr_info"] if a["scope"] != "link"])
            for device in _list(seen["addresses"])
            if not _is_ours(device)
        ],
        "routes": [
            _still(route)
            for name in ("routes4", "routes6")
            for route in _list(seen[name])
            if not str(route.get("dev", "")).startswith("hv") and route.get("protocol") != "kernel"
        ],
        "nft": [_still(item) for item in _list(seen["nft"]) if not _rule_is_ours(item)],
        "legacy": {
            table: kept
            for table, lines in dict(seen["legacy"]).items()  # type: ignore[call-overload]
            if not _is_empty(
                kept := [
                    line
                    for line in _list(lines)
                    if "hvtx:" not in line.lower() and "HVTX-" not in line
                ]
            )
        },
    }


def _list(value: object) -> list[Any]:
    assert isinstance(value, list)
    return value


def _is_empty(lines: list[str]) -> bool:
    """Whether a legacy table is as the kernel makes it for whoever asks for it."""
    return all(line.startswith("*") or line == "COMMIT" or (line.endswith(" ACCEPT") and
               line.startswith(":")) for line in lines)  # fmt: skip


def _is_ours(device: dict[str, Any]) -> bool:
    return str(device["ifname"]).startswith("hv")


def _rule_is_ours(item: dict[str, Any]) -> bool:
    for value in item.values():
        name = value.get("name", "") if "table" not in value else value["table"]
        if str(name).startswith("hvtx-") or "hvtx:1:" in str(value.get("comment", "")):
            return True
        if "HVTX-" in str(value) or _is_passage(value) or _is_of_our_zone(value):
            return True
    return False


def _is_of_our_zone(value: dict[str, Any]) -> bool:
    """Whether it is a chain of firewalld's for our zone, or a rule that leads there."""
    return value.get("table") == "firewalld" and f"_{ZONE}" in str(value)


def _is_passage(rule: dict[str, Any]) -> bool:
    """Whether a rule is an accept of ours in a table of iptables-nft.

    nft's JSON hides what its match `comment` says, so it is known by that match and our bridge.
    """
    parts = [part for part in rule.get("expr", ()) if isinstance(part, dict)]
    devices = {str(part["match"]["right"]) for part in parts if "match" in part}
    commented = {"type": "match", "name": "comment"} in [part.get("xt") for part in parts]
    return commented and any(device.startswith("hvbr") for device in devices)


def _still(value: Any) -> Any:
    """Without what traffic changes by itself."""
    if isinstance(value, dict):
        return {k: _still(v) for k, v in value.items() if k not in _TRAFFIC}
    if isinstance(value, list):
        return [_still(v) for v in value]
    return value
