"""The configuration on standard input."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hvtx.cni import configuration, errors
from hvtx.cni.configuration import NetworkWish, decode, parse_base, parse_network, valid_attachments
from hvtx.cni.errors import CniError
from hvtx.model.cni_version import VERSIONS, at_least
from tests.cni import recorded

BASE = {"cniVersion": "1.1.0", "name": "lan", "type": "hvtx"}


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"3", b"null", b"{", b'{"a": NaN}', b"\xff\xfe", b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": 1e400}', b'{"prevResult": {"a": [{"b": -1e400}]}}', b"[" * 990 + b"]" * 990,
        b'{"a":' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"a":' + b"[" * 100000 + b"]" * 100000 + b"}",
        b" " * configuration.MOST + b"{}",
    ],
)  # fmt: skip
def test_what_is_no_object_cannot_be_decoded(data: bytes) -> None:
    with pytest.raises(CniError) as caught:
        decode(data)
    assert caught.value.code == errors.DECODING_FAILED
    assert caught.value.details


def test_a_list_of_gc_may_be_long() -> None:
    """libcni writes it under both of its keys: here for 10,000 attachments of Kubernetes."""
    listed = [{"containerID": f"{number:064x}", "ifname": "eth0"} for number in range(10_000)]
    both = {"cni.dev/valid-attachments": listed, "cni.dev/attachments": listed}
    document = decode(json.dumps({**BASE, **both}).encode())
    assert len(valid_attachments(document)) == len(listed)


def test_nesting_has_an_end() -> None:
    def nested(depth: int) -> bytes:
        return b'{"a":' * depth + b"1" + b"}" * depth

    assert decode(nested(60))
    with pytest.raises(CniError, match="nested deeper than 64"):
        decode(nested(66))


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_is_known(version: str) -> None:
    assert parse_base({**BASE, "cniVersion": version}, "ADD").version == version


@pytest.mark.parametrize("version", ["", "0.1.0", "0.2.0", "1.2.0", "2", 1.0, None, [], {}])
def test_other_versions_are_refused_and_told(version: Any) -> None:
    with pytest.raises(CniError) as caught:
        parse_base({**BASE, "cniVersion": version}, "DEL")
    assert caught.value.code == errors.INCOMPATIBLE_VERSION
    assert "0.3.1" in caught.value.details


@pytest.mark.parametrize(
    ("command", "first"), [("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")]
)
def test_a_command_needs_a_version_that_has_it(command: str, first: str) -> None:
    for version in VERSIONS:
        document = {**BASE, "cniVersion": version}
        if at_least(version, first):
            assert parse_base(document, command).version == version
            continue
        with pytest.raises(CniError, match=command) as caught:
            parse_base(document, command)
        assert caught.value.code == errors.INCOMPATIBLE_VERSION


@pytest.mark.parametrize("name", ["", None, "-a", "a b", "a/b", "ä", 3, [], "a" * 256])
def test_a_network_has_a_name(name: Any) -> None:
    with pytest.raises(CniError, match="name") as caught:
        parse_base({**BASE, "name": name}, "DEL")
    assert caught.value.code == errors.CONFIGURATION


def test_settings_are_arguments_of_the_host() -> None:
    document = {
        **BASE,
        "stateDir": "/s", "runDir": "/r", "config": "/c", "firewall": "nftables", "lockTimeout": 2.5,
    }  # fmt: skip
    document |= {"egress": "none", "dhcp": "off", "group": "kvm", "historyLines": 1000}
    assert parse_base(document, "ADD").settings == {
        "egress": "none",
        "dhcp": "off",
        "group": "kvm",
        "history_lines": "1000",
        "state_dir": "/s",
        "run_dir": "/r",
        "config": "/c",
        "firewall": "nftables",
        "lock_timeout": "2.5",
    }


@pytest.mark.parametrize("key", sorted(configuration.SETTINGS))
@pytest.mark.parametrize("value", ["", 3, True, ["a"]])
def test_a_setting_that_is_no_text_is_refused(key: str, value: Any) -> None:
    if key in ("lockTimeout", "historyLines") and value == 3 and value is not True:
        return
    with pytest.raises(CniError, match=key):
        parse_base({**BASE, key: value}, "ADD")


@pytest.mark.parametrize("command", ["DEL", "GC"])
def test_what_ends_an_attachment_reads_where_the_store_is_and_no_more(command: str) -> None:
    """Whatever else was edited since ADD: nobody stays attached for it."""
    edited: dict[str, Any] = {"network": 5, "firewall": "pf", "stateDir": "/s"}
    for wait in (-1, True, "soon", "", [5], 1e9, "9" * 400, None):
        base = parse_base({**BASE, **edited, "cniVersion": "1.1.0", "lockTimeout": wait}, command)
        assert base.settings == {"state_dir": "/s"}
        assert base.network == base.name
    for wait in (0, 2.5, "30"):
        found = parse_base({**BASE, "cniVersion": "1.1.0", "lockTimeout": wait}, command)
        assert found.settings == {"lock_timeout": str(wait)}
    for lines in (99, True, "many", 100.5, [5], 10**10, None):
        base = parse_base({**BASE, **edited, "cniVersion": "1.1.0", "historyLines": lines}, command)
        assert base.settings == {"state_dir": "/s"}
    kept = parse_base({**BASE, "cniVersion": "1.1.0", "historyLines": 1_000_000}, command)
    assert kept.settings == {"history_lines": "1000000"}
    with pytest.raises(CniError, match="stateDir"):
        parse_base({**BASE, "cniVersion": "1.1.0", "stateDir": 3}, command)


@pytest.mark.parametrize("key", ["stateDir", "runDir", "config"])
def test_a_relative_path_is_refused(key: str) -> None:
    """Each runtime would have a store of its own, in whatever directory it was started."""
    with pytest.raises(CniError, match=f'{key} cannot be "state/hvtx"') as caught:
        parse_base({**BASE, key: "state/hvtx"}, "ADD")
    assert caught.value.code == errors.CONFIGURATION


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("--firewall cannot be 'pf'", "firewall cannot be 'pf'"),
        ("--lock-timeout cannot be 'x'", "lockTimeout cannot be 'x'"),
        ("HVTX_FIREWALL cannot be 'pf'", "HVTX_FIREWALL cannot be 'pf'"),
        ("the host refused --firewall", "the host refused --firewall"),
    ],
)
def test_settings_are_called_as_the_configuration_calls_them(said: str, told: str) -> None:
    assert configuration.in_its_words(said) == told


@pytest.mark.parametrize(
    ("more", "wish"),
    [
        ({}, NetworkWish((), None, nat=None, isolate=None, vm=False)),
        (
            {"subnets": ["10.77.0.0/24", "fd77::/64"], "mtu": 1400, "nat": False, "isolate": True},
            NetworkWish(("10.77.0.0/24", "fd77::/64"), 1400, nat=False, isolate=True, vm=False),
        ),
        (
            {"subnet": "10.77.0.0/24", "subnets": ["", "10.77.0.0/24"], "vm": True, "mtu": 0},
            NetworkWish(("10.77.0.0/24",), None, nat=None, isolate=None, vm=True),
        ),
        (
            {"subnets": None, "nat": None, "mtu": None, "dns": {}, "args": {"x": 1}, "ipam": {}},
            NetworkWish((), None, nat=None, isolate=None, vm=False),
        ),
        (
            {"nat": True, "isolate": False, "ipam": {"type": "", "dns": {}}},
            NetworkWish((), None, nat=True, isolate=False, vm=False),
        ),
    ],
)
def test_what_is_said_of_the_network(more: dict[str, Any], wish: NetworkWish) -> None:
    assert parse_network({**BASE, **more}) == wish


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        ("isolat", True, errors.UNSUPPORTED_FIELD),
        ("ipMasq", True, errors.UNSUPPORTED_FIELD),
        ("ipam", {"type": "host-local"}, errors.UNSUPPORTED_FIELD),
        ("ipam", "host-local", errors.UNSUPPORTED_FIELD),
        ("ipam", {"subnet": "10.77.0.0/24"}, errors.UNSUPPORTED_FIELD),
        ("ipam", {"type": "", "ranges": [[{}]]}, errors.UNSUPPORTED_FIELD),
        ("ipam", ["x"], errors.UNSUPPORTED_FIELD),
        ("subnets", "10.77.0.0/24", errors.CONFIGURATION),
        ("subnets", [1], errors.CONFIGURATION),
        ("subnets", ["{{.PodCIDR}}"], errors.CONFIGURATION),
        ("subnets", ["10.77.0.0/24", "10.78.0.0/24"], errors.CONFIGURATION),
        ("network", "Lan", errors.CONFIGURATION),
        ("network", "a b", errors.CONFIGURATION),
        ("network", "-lan", errors.CONFIGURATION),
        ("network", "lan-", errors.CONFIGURATION),
        ("network", "l" * 64, errors.CONFIGURATION),
        ("network", 3, errors.CONFIGURATION),
        ("mtu", 575, errors.CONFIGURATION),
        ("mtu", 65522, errors.CONFIGURATION),
        ("nat", "false", errors.CONFIGURATION),
        ("isolate", 1, errors.CONFIGURATION),
        ("vm", "yes", errors.CONFIGURATION),
        ("mtu", "1500", errors.CONFIGURATION),
        ("mtu", -1, errors.CONFIGURATION),
        ("mtu", True, errors.CONFIGURATION),
        ("mtu", 1500.5, errors.CONFIGURATION),
    ],
)
def test_an_error_names_key_and_value(key: str, value: Any, code: int) -> None:
    with pytest.raises(CniError) as caught:
        parse_network({**BASE, key: value})
    assert caught.value.code == code
    assert key in caught.value.msg
    shown = value[0] if isinstance(value, list) else value
    assert json.dumps(shown)[:30] in caught.value.msg
    assert caught.value.details


@pytest.mark.parametrize("network", ["lan", "l", "0", "a-b", "l" * 63])
def test_a_network_of_hvtx(network: str) -> None:
    """The runtime's own name may be another that no network of hvtx can have."""
    parse_network({**BASE, "name": "K8s_Pods.net", "network": network})
    with pytest.raises(CniError, match="name cannot be") as caught:
        parse_network({**BASE, "name": "K8s_Pods.net"})
    assert '"network"' in caught.value.details


def test_ipv6_needs_a_larger_packet() -> None:
    four, six = {"subnets": ["10.77.0.0/24"]}, {"subnets": ["10.77.0.0/24", "fd77::/64"]}
    assert parse_network({**BASE, **four, "mtu": 1279}).mtu == 1279
    assert parse_network({**BASE, **six, "mtu": 1280}).mtu == 1280
    with pytest.raises(CniError, match="mtu"):
        parse_network({**BASE, **six, "mtu": 1279})


def test_keys_of_others_pass() -> None:
    parse_network({**BASE, "cni.dev/attachments": [], "io.kubernetes.cri": 3, "x": None})


@pytest.mark.parametrize(
    ("document", "found"),
    [
        (recorded.LIBCNI_GC.stdin, ((recorded.POD, "eth0"),)),
        (recorded.LIBCNI_GC_ALL.stdin, ()),
        ({"cni.dev/valid-attachments": None}, ()),
        ({"cni.dev/valid-attachments": []}, ()),
        ({"cni.dev/attachments": [{"ContainerID": "a", "IfName": "eth1"}]}, (("a", "eth1"),)),
        (
            {
                "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}],
                "cni.dev/attachments": [{"containerID": "b", "ifname": "eth0", "more": 1}],
            },
            (("a", "eth0"), ("b", "eth0")),
        ),
    ],
)
def test_what_is_valid(document: dict[str, Any], found: Any) -> None:
    assert valid_attachments(document) == found


@pytest.mark.parametrize(
    "entry", [None, 3, "a", [], {}, {"containerID": "a"}, {"containerID": 1, "ifname": "eth0"}]
)
def test_a_list_with_an_entry_that_names_nothing_is_refused(entry: Any) -> None:
    with pytest.raises(CniError) as caught:
        valid_attachments({"cni.dev/attachments": [{"containerID": "a", "ifname": "b"}, entry]})
    assert caught.value.code == errors.CONFIGURATION
    assert "[1]" in caught.value.msg


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_an_error(data: bytes) -> None:
    try:
        assert isinstance(decode(data), dict)
    except CniError as problem:
        assert problem.code == errors.DECODING_FAILED
