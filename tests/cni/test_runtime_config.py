"""Capabilities and arguments, as runtimes spell them."""

from __future__ import annotations

from typing import Any

import pytest

from hvtx.cni import errors, runtime_config
from hvtx.cni.errors import CniError
from hvtx.cni.reading import without_case
from hvtx.model.attachment import PodLabels, TapRequest
from hvtx.model.policy import NO_LIMITS, Limits
from hvtx.model.vm import Publish

WEB = Publish("tcp", None, 8080, 80)


def ports(*entries: Any) -> tuple[Publish, ...]:
    config = without_case({"PortMappings": list(entries)}, "runtimeConfig")
    return runtime_config.published(config)


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}, (WEB,)),
        ({"HOSTPORT": 8080, "ContainerPort": 80, "Protocol": "TCP", "HostIP": ""}, (WEB,)),
        ({"hostPort": 8080, "containerPort": 80}, (WEB,)),
        ({"hostPort": 8080, "containerPort": 80, "protocol": "", "hostIP": None}, (WEB,)),
        ({"hostPort": 8080, "containerPort": 80, "hostIP": "0.0.0.0"}, (WEB,)),
        ({"hostPort": 8080, "containerPort": 80, "hostIP": "::"}, (WEB,)),
        ({"hostPort": 8080, "containerPort": 80, "hostIP": "0:0::0"}, (WEB,)),
        ({"hostPort": 8080, "containerPort": 80, "x": 1}, (WEB,)),
        ({"hostPort": 0, "containerPort": 80}, ()),
        ({"containerPort": 80}, ()),
        (
            {"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"},
            (Publish("udp", "127.0.0.1", 53, 53),),
        ),
        (
            {"hostPort": 53, "containerPort": 53, "hostIP": "FD77:0::1"},
            (Publish("tcp", "fd77::1", 53, 53),),
        ),
    ],
)
def test_a_port_is_read(entry: dict[str, Any], found: tuple[Publish, ...]) -> None:
    assert ports(entry) == found


def test_a_port_that_is_told_twice_is_one() -> None:
    entry = {"hostPort": 8080, "containerPort": 80}
    assert ports(entry, {**entry, "protocol": "tcp", "hostIP": "::"}) == (WEB,)


@pytest.mark.parametrize(
    ("entry", "code", "named"),
    [
        ({"hostPort": 80, "containerPort": 80, "protocol": "sctp"}, 2, '"sctp"'),
        ({"hostPort": 65536, "containerPort": 80}, 7, "65536"),
        ({"hostPort": -1, "containerPort": 80}, 7, "-1"),
        ({"hostPort": "80", "containerPort": 80}, 7, '"80"'),
        ({"hostPort": True, "containerPort": 80}, 7, "true"),
        ({"hostPort": 80.0, "containerPort": 80}, 7, "80.0"),
        ({"hostPort": 80}, 7, "containerPort"),
        ({"hostPort": 80, "containerPort": 80, "hostIP": "localhost"}, 7, '"localhost"'),
        ({"hostPort": 80, "containerPort": 80, "hostIP": 3}, 7, "hostIP"),
        ({"hostPort": 80, "containerPort": 80, "hostIP": "fe80::1%eth0"}, 7, "hostIP"),
        ("8080:80", 7, '"8080:80"'),
        ({"hostPort": 1, "containerPort": 2}, 7, "hostPort cannot be 1"),  # the first has it
        ({"hostPort": 1, "containerPort": 1, "hostIP": "127.0.0.1"}, 7, "hostPort cannot be 1"),
    ],
)
def test_a_port_that_cannot_be_is_refused(entry: Any, code: int, named: str) -> None:
    with pytest.raises(CniError) as caught:
        ports({"hostPort": 1, "containerPort": 1}, entry)
    assert caught.value.code == code
    assert named in caught.value.msg
    assert "portMappings[1]" in caught.value.msg


def test_a_range_of_ports_may_be_all_of_them() -> None:
    """``podman run -p 16384-32767:16384-32767/udp`` comes port by port."""
    every = [
        {"hostPort": port, "containerPort": port, "protocol": protocol}
        for protocol in ("tcp", "udp")
        for port in range(1, 65536)
    ]
    assert len(ports(*every)) == len(every)
    with pytest.raises(CniError, match="portMappings"):
        ports(*every, every[0])


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, NO_LIMITS),
        ({}, NO_LIMITS),
        ({"ingressRate": 0, "egressRate": None, "ingressBurst": 1}, NO_LIMITS),
        ({"ingressRate": 1_000_000}, Limits(into_guest=1_000_000)),
        ({"EgressRate": 5000, "EgressBurst": 4294967295}, Limits(out_of_guest=5000)),
        ({"ingressRate": 10**12}, Limits(into_guest=10**12)),
        ({"ingressRate": 10**15, "egressRate": 10**12 + 1}, NO_LIMITS),  # as Kubernetes takes them
        ({"ingressRate": 10**15, "egressRate": 5000}, Limits(out_of_guest=5000)),
    ],
)
def test_rates_are_bits_a_second(given: Any, found: Limits) -> None:
    assert runtime_config.limits({"bandwidth": given}) == found


@pytest.mark.parametrize("rate", ["1M", -1, 1.5, True, 999, 10**30])
def test_a_rate_that_cannot_be_is_refused(rate: Any) -> None:
    with pytest.raises(CniError, match="bandwidth") as caught:
        runtime_config.limits({"bandwidth": {"ingressRate": rate}})
    assert caught.value.code == errors.CONFIGURATION


def test_a_rate_is_told_in_the_words_of_whoever_asked() -> None:
    with pytest.raises(CniError, match=r'bandwidth cannot be .*"egressRate": 999'):
        runtime_config.limits({"bandwidth": {"EgressRate": 999}})


@pytest.mark.parametrize("mac", ["02:00:00:00:00", "02:00:00:00:00:0g", "0200.0000.0001", 3, "x"])
def test_a_mac_that_cannot_be_is_refused(mac: Any) -> None:
    with pytest.raises(CniError, match=r"runtimeConfig\.mac") as caught:
        runtime_config.asked_mac({"mac": mac}, {}, {})
    assert caught.value.code == errors.CONFIGURATION
    with pytest.raises(CniError, match="CNI_ARGS") as caught:
        runtime_config.asked_mac({}, {}, {"MAC": str(mac)})
    assert caught.value.code == errors.ENVIRONMENT


def test_an_empty_mac_is_none() -> None:
    assert runtime_config.asked_mac({"mac": ""}, {"mac": None}, {"MAC": ""}) == ""


@pytest.mark.parametrize(
    "ips", ["10.77.0.2", [3], ["10.77.0"], ["10.77.0.2/33"], ["host"], [["a"]], ["fd77::7%eth0"]]
)
def test_addresses_that_cannot_be_are_refused(ips: Any) -> None:
    with pytest.raises(CniError, match=r"runtimeConfig\.ips") as caught:
        runtime_config.asked_addresses({"ips": ips}, {}, {})
    assert caught.value.code == errors.CONFIGURATION


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ()),
        ("10.77.0.2", ("10.77.0.2",)),
        ("10.77.0.2/24,FD77::0:2", ("10.77.0.2", "fd77::2")),
        ("10.77.0.2, 10.77.0.2", ("10.77.0.2",)),
    ],
)
def test_addresses_among_the_arguments(text: str, found: tuple[str, ...]) -> None:
    assert runtime_config.asked_addresses({}, {}, {"IP": text}) == found


@pytest.mark.parametrize(
    ("args", "labels"),
    [
        ({}, PodLabels()),
        ({"K8S_POD_NAME": "web"}, PodLabels("web")),
        (
            {
                "K8S_POD_NAME": "a",
                "K8S_POD_NAMESPACE": "b",
                "K8S_POD_UID": "c",
                "NOMAD_JOB_ID": "d",
            },
            PodLabels("a", "b", "c"),
        ),
        ({"NOMAD_JOB_NAME": "shop", "NOMAD_JOB_ID": "shop-1"}, PodLabels("shop")),
        ({"K8S_POD_NAME": "a" * 999}, PodLabels("a" * 253)),
    ],
)
def test_whom_it_is_for(args: dict[str, str], labels: PodLabels) -> None:
    assert runtime_config.pod_labels(args) == labels


@pytest.mark.parametrize(
    ("args", "found"),
    [
        ({}, TapRequest()),
        ({"TC_REDIRECT_TAP_UID": "0"}, TapRequest("", 0, None)),
        ({"TC_REDIRECT_TAP_NAME": "tap1", "TC_REDIRECT_TAP_GID": "7"}, TapRequest("tap1", None, 7)),
    ],
)
def test_a_tap_is_asked_for(args: dict[str, str], found: TapRequest) -> None:
    assert runtime_config.tap_request(args) == found


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("NAME", "a" * 16), ("NAME", "a/b"), ("NAME", "a b"), ("NAME", ".."), ("NAME", "tap%d"),
        ("UID", "-1"), ("UID", "root"), ("GID", "4294967295"), ("GID", "²"), ("UID", "1.0"),
    ],
)  # fmt: skip
def test_a_tap_that_cannot_be_is_refused(key: str, value: str) -> None:
    with pytest.raises(CniError, match=f"TC_REDIRECT_TAP_{key} in CNI_ARGS") as caught:
        runtime_config.tap_request({f"TC_REDIRECT_TAP_{key}": value})
    assert caught.value.code == errors.ENVIRONMENT
