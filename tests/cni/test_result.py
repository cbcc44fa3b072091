"""What ADD answers, by version: against schemas of the specification's results."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from hvtx.cni.errors import CONFIGURATION, CniError
from hvtx.cni.result import Previous, parse_dns, parse_previous, result
from hvtx.model.attachment import Attached, AttachedAddress, AttachmentKey
from hvtx.model.cni_version import VERSIONS, at_least
from tests.cni import recorded
from tests.cni.recorded import NETNS, POD

MADE = Attached(
    AttachmentKey("lan", POD, "eth0"), "cni-abcdefghijklmnop", NETNS,
    "hvbridge", "02:00:00:00:00:01", "hvhost", "02:00:00:00:00:0b", "02:00:00:00:00:03", 1400,
    (AttachedAddress("10.77.0.2/24", "10.77.0.1"), AttachedAddress("fd77::2/64", "fd77::1")),
)  # fmt: skip
OF_VM = MADE._replace(
    tap="tap1", tap_mac="02:00:00:00:00:0c",
    addresses=(*MADE.addresses, AttachedAddress("10.77.0.3/24", "10.77.0.1")),
)  # fmt: skip
TEXT = {"type": "string", "minLength": 1}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": False,
    }


def schema(version: str) -> dict[str, Any]:
    """The result type of a version: SPEC.md of its tag, "Result"."""
    newest = {"mtu": {"type": "integer", "minimum": 68}} if at_least(version, "1.1.0") else {}
    interface = _object(["name"], name=TEXT, mac=TEXT, sandbox=TEXT, **newest)
    ip = {"address": TEXT, "gateway": TEXT, "interface": {"type": "integer", "minimum": 0}}
    required = ["address"]
    if not at_least(version, "1.0.0"):
        ip["version"] = {"enum": ["4", "6"]}
        required = ["version", "address"]
    dns = _object(
        [],
        domain=TEXT,
        **{name: {"type": "array", "items": TEXT} for name in ("nameservers", "search", "options")},
    )
    return _object(
        ["cniVersion"],
        cniVersion={"const": version},
        interfaces={"type": "array", "items": interface},
        ips={"type": "array", "items": _object(required, **ip)},
        routes={"type": "array", "items": _object(["dst"], dst=TEXT, gw=TEXT)},
        dns=dns,
    )


@pytest.mark.parametrize("tap", [None, "tap1"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_result_is_of_its_version(version: str, tap: str | None) -> None:
    told = result(version, NETNS, MADE._replace(tap=tap), None, {"search": ["local"]})
    jsonschema.validate(told, schema(version))
    assert all(ip["interface"] < len(told["interfaces"]) for ip in told["ips"])


def test_the_result_to_the_letter() -> None:
    assert result("1.1.0", NETNS, MADE, None, {}) == {
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": "hvbridge", "mac": "02:00:00:00:00:01", "mtu": 1400},
            {"name": "hvhost", "mac": "02:00:00:00:00:0b", "mtu": 1400},
            {"name": "eth0", "mac": "02:00:00:00:00:03", "mtu": 1400, "sandbox": NETNS},
        ],
        "ips": [
            {"interface": 2, "address": "10.77.0.2/24", "gateway": "10.77.0.1"},
            {"interface": 2, "address": "fd77::2/64", "gateway": "fd77::1"},
        ],
        "routes": [
            {"dst": "0.0.0.0/0", "gw": "10.77.0.1"},
            {"dst": "::/0", "gw": "fd77::1"},
        ],
        "dns": {},
    }


def test_a_default_route_that_was_not_made_is_not_told() -> None:
    first, second = MADE.addresses
    told = result("1.1.0", NETNS, MADE._replace(addresses=(first._replace(default=False), second)),
                  None, {})  # fmt: skip
    assert told["routes"] == [{"dst": "::/0", "gw": "fd77::1"}]
    assert [ip["gateway"] for ip in told["ips"]] == ["10.77.0.1", "fd77::1"]


def test_the_sandbox_is_the_path_that_was_given() -> None:
    told = result("1.0.0", "/proc/7/ns/net", MADE, None, {})
    assert [one.get("sandbox") for one in told["interfaces"]] == [None, None, "/proc/7/ns/net"]


def test_a_vm_is_told_as_firecracker_looks_for_it() -> None:
    """firecracker-go-sdk, cni/internal: VMTapPair and InterfaceIPs.

    One interface whose sandbox is the VM's id, one of the same name elsewhere (the TAP device), and
    exactly one address at the former, by name and sandbox; a second there would be an error.
    """
    told = result("0.3.1", NETNS, OF_VM, None, {})
    of_vm = [n for n, one in enumerate(told["interfaces"]) if one.get("sandbox") == POD]
    assert len(of_vm) == 1
    vm = told["interfaces"][of_vm[0]]
    assert vm == {"name": "tap1", "mac": "02:00:00:00:00:03", "sandbox": POD}
    taps = [
        one for one in told["interfaces"] if one["name"] == vm["name"] and one["sandbox"] != POD
    ]
    assert taps == [{"name": "tap1", "mac": "02:00:00:00:00:0c", "sandbox": NETNS}]
    assert [ip["address"] for ip in told["ips"] if ip["interface"] == of_vm[0]] == ["10.77.0.2/24"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_vm_in_a_pod_is_told_as_other_runtimes_look_for_it(version: str) -> None:
    """containerd looks for addresses at CNI_IFNAME; podman reads a MAC of each interface inside."""
    told = result(version, NETNS, OF_VM, None, {})
    inside = [one for one in told["interfaces"] if "sandbox" in one]
    assert [len(one["mac"].split(":")) for one in inside] == [6, 6, 6]
    eth0 = next(n for n, one in enumerate(told["interfaces"]) if one["name"] == "eth0")
    there = [ip["address"] for ip in told["ips"] if ip["interface"] == eth0]
    assert there == ["10.77.0.2/24", "fd77::2/64", "10.77.0.3/24"]


def test_a_vm_without_ipv4_is_told_no_address_of_its_own() -> None:
    told = result("1.0.0", NETNS, OF_VM._replace(addresses=MADE.addresses[1:]), None, {})
    assert [(ip["interface"], ip["address"]) for ip in told["ips"]] == [(2, "fd77::2/64")]


@pytest.mark.parametrize("version", ["0.4.0", "1.1.0"])
def test_an_earlier_plugins_result_is_passed_on_and_added_to(version: str) -> None:
    before = {
        "cniVersion": version,
        "interfaces": [{"name": "lo", "sandbox": NETNS, "socketPath": "/run/x"}],
        "ips": [{"interface": 0, "address": "127.0.0.1/8", "version": "4"}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "192.0.2.1"}],
        "dns": {"domain": "example.org"},
        "others": {"kept": True},
    }
    told = result(version, NETNS, MADE, parse_previous({"prevResult": before}), {"search": ["a"]})
    assert told["interfaces"][0] == before["interfaces"][0]
    assert told["ips"][0] == before["ips"][0]
    assert [one["name"] for one in told["interfaces"]] == ["lo", "hvbridge", "hvhost", "eth0"]
    assert [ip["interface"] for ip in told["ips"]] == [0, 3, 3]
    # the first default route stays the only one of its family
    assert told["routes"] == [
        {"dst": "0.0.0.0/0", "gw": "192.0.2.1"},
        {"dst": "::/0", "gw": "fd77::1"},
    ]
    assert told["dns"] == {"domain": "example.org", "search": ["a"]}
    assert told["others"] == {"kept": True}


@pytest.mark.parametrize("document", [{}, {"prevResult": None}, {"prevResult": {}}])
def test_there_may_be_no_earlier_result(document: dict[str, Any]) -> None:
    assert parse_previous(document) is None


def test_parts_of_an_earlier_result_may_be_missing() -> None:
    assert parse_previous({"prevResult": {"cniVersion": "1.0.0", "ips": None}}) == Previous()


@pytest.mark.parametrize(
    "before",
    [
        3, [], "a", {"interfaces": {}}, {"interfaces": [3]}, {"ips": [{"interface": 0}]},
        {"interfaces": [{}], "ips": [{"interface": 1}]},
        {"interfaces": [{}], "ips": [{"interface": -1}]},
        {"interfaces": [{}], "ips": [{"interface": "0"}]},
        {"interfaces": [{"name": 3}]}, {"ips": [{"address": []}]}, {"routes": "none"}, {"dns": []},
    ],
)  # fmt: skip
def test_an_earlier_result_of_other_types_is_refused(before: Any) -> None:
    with pytest.raises(CniError, match="prevResult") as caught:
        parse_previous({"prevResult": before})
    assert caught.value.code == CONFIGURATION


@pytest.mark.parametrize(
    ("document", "found"),
    [
        ({}, {}),
        ({"dns": None, "runtimeConfig": None}, {}),
        (
            {"dns": {"nameservers": ["192.0.2.1"], "domain": "a", "search": [], "options": ["b"]}},
            {"nameservers": ["192.0.2.1"], "domain": "a", "options": ["b"]},
        ),
        (
            recorded.CRI_ADD.stdin,
            {"nameservers": ["192.0.2.53"], "search": ["cluster.local"], "options": ["ndots:5"]},
        ),
        (
            {"dns": {"domain": "a"}, "runtimeConfig": {"dns": {"servers": ["192.0.2.2"]}}},
            {"nameservers": ["192.0.2.2"]},
        ),
        (
            {"dns": {"domain": "a"}, "runtimeConfig": {"DNS": {"Servers": [], "Options": None}}},
            {"domain": "a"},
        ),
    ],
)
def test_what_is_said_of_dns(document: dict[str, Any], found: dict[str, Any]) -> None:
    assert parse_dns(document) == found


@pytest.mark.parametrize("dns", ["192.0.2.1", {"nameservers": "192.0.2.1"}, {"domain": 3}])
def test_dns_of_other_types_is_refused(dns: Any) -> None:
    with pytest.raises(CniError, match="dns"):
        parse_dns({"dns": dns})
