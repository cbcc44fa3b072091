"""Requests as runtimes send them, each with what hvtx understands."""

from __future__ import annotations

from typing import Any

import pytest

from hvtx.cni import errors
from hvtx.cni.configuration import decode, parse_base
from hvtx.cni.environment import parse_environment
from hvtx.cni.errors import CniError
from hvtx.cni.request import key_of, parse_request
from hvtx.model.attachment import AttachmentKey, AttachmentRequest, PodLabels, TapRequest
from hvtx.model.policy import Limits
from hvtx.model.vm import Publish
from tests.cni import recorded
from tests.cni.recorded import NETNS, POD, Recorded


def understood(one: Recorded) -> AttachmentRequest:
    call = parse_environment(one.environment)
    document = decode(one.data)
    return parse_request(call, parse_base(document, call.command), document)


def asked(container: str, netns: str, ifname: str = "eth0", **more: Any) -> AttachmentRequest:
    key = AttachmentKey("lan", container, ifname)
    return AttachmentRequest(key, "lan", netns, subnets=("10.77.0.0/24",), **more)


REQUESTS = {
    "ctr": (recorded.CTR_ADD, asked("default-web", "/proc/4242/ns/net")),
    "cri": (
        recorded.CRI_ADD,
        asked(
            POD,
            NETNS,
            publish=(Publish("tcp", None, 8080, 80), Publish("udp", None, 5353, 53)),
            limits=Limits(into_guest=10_000_000, out_of_guest=20_000_000),
            pod=PodLabels("web-0", "shop", "7d9f2c1e"),
        ),
    ),
    "podman": (
        recorded.PODMAN_ADD,
        asked(
            POD,
            "/run/netns/netns-2c1d4c7c",
            mac="02:11:22:33:44:55",
            addresses=("10.77.0.9",),
            publish=(Publish("tcp", None, 8080, 80), Publish("tcp", "127.0.0.1", 8081, 81)),
            pod=PodLabels("web"),
        ),
    ),
    "podman network reload": (
        recorded.PODMAN_RELOAD,
        asked(
            POD,
            "/run/netns/netns-2c1d4c7c",
            "eth1",
            addresses=("10.77.0.9", "fd77::9"),
            pod=PodLabels("web"),
        ),
    ),
    "libcni CHECK": (recorded.LIBCNI_CHECK, asked(POD, NETNS)),
    "firecracker": (
        recorded.FIRECRACKER_ADD,
        asked("vm-1", "/var/run/netns/vm-1", "veth0", tap=TapRequest("tap1", 123, 456)),
    ),
    "nomad": (
        recorded.NOMAD_ADD,
        asked(
            "9f5d7a52-1c49-8c1e-5b8e-2ab8f4d3c001",
            "/var/run/netns/9f5d7a52",
            pod=PodLabels("shop.web", "default", "9f5d7a52-1c49-8c1e-5b8e-2ab8f4d3c001"),
        ),
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_recorded_request_is_understood(name: str) -> None:
    one, wanted = REQUESTS[name]
    assert understood(one) == wanted


@pytest.mark.parametrize(
    "one",
    [
        recorded.CTR_DEL,
        recorded.CRI_DEL_FIRST,
        recorded.CRI_DEL_AGAIN,
        recorded.CRI_DEL_AFTER_REBOOT,
    ],
)
def test_a_del_is_told_by_its_key_alone(one: Recorded) -> None:
    call = parse_environment(one.environment)
    base = parse_base(decode(one.data), "DEL")
    assert key_of(call, base) == AttachmentKey("lan", one.environment["CNI_CONTAINERID"], "eth0")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ipRanges", [[{"subnet": "10.77.0.0/28"}]]),
        ("DeviceID", "0000:03:00.1"),
        ("infinibandGUID", "c2:11:22:33:44:55:66:77"),
    ],
)
def test_a_capability_that_hvtx_does_not_have_is_refused(key: str, value: Any) -> None:
    """Who asks for addresses of a range is not to believe that he got one."""

    def ask(said: Any) -> AttachmentRequest:
        stdin = {**recorded.CTR_ADD.stdin, "runtimeConfig": {key: said, "aliases": {"lan": ["a"]}}}
        return understood(Recorded(recorded.CTR_ADD.environment, stdin))

    with pytest.raises(CniError, match=f"(?i)runtimeConfig.{key} cannot be") as caught:
        ask(value)
    assert caught.value.code == errors.UNSUPPORTED_FIELD
    assert caught.value.details
    for empty in ("", [], None):
        assert ask(empty) == understood(recorded.CTR_ADD)


def test_arguments_come_in_any_order() -> None:
    text = recorded.CRI_ADD.environment["CNI_ARGS"]
    turned = ";".join(reversed(text.split(";")))
    other = Recorded({**recorded.CRI_ADD.environment, "CNI_ARGS": turned}, recorded.CRI_ADD.stdin)
    assert turned != text
    assert understood(other) == understood(recorded.CRI_ADD)


def test_the_network_of_hvtx_may_have_another_name_than_the_runtimes() -> None:
    stdin = {**recorded.CTR_ADD.stdin, "name": "k8s_Pod.net", "network": "lan"}
    got = understood(Recorded(recorded.CTR_ADD.environment, stdin))
    assert (got.key.network, got.bridge_network) == ("k8s_Pod.net", "lan")


def test_arguments_in_the_configuration_go_before_those_of_the_environment() -> None:
    """CONVENTIONS.md: a plugin that understands `args` ignores the same field of CNI_ARGS."""
    environment = {
        **recorded.CTR_ADD.environment,
        "CNI_ARGS": "MAC=02:00:00:00:00:aa;IP=10.77.0.3",
    }
    by_args = {"args": {"cni": {"ips": ["10.77.0.4/24"], "mac": "02-00-00-00-00-BB"}, "other": 1}}
    by_capability = {"runtimeConfig": {"IPs": ["10.77.0.5"], "MAC": "02:00:00:00:00:cc"}}
    found = []
    for more in ({}, by_args, {**by_args, **by_capability}):
        got = understood(Recorded(environment, {**recorded.CTR_ADD.stdin, **more}))
        found.append((got.mac, got.addresses))
    assert found == [
        ("02:00:00:00:00:aa", ("10.77.0.3",)),
        ("02:00:00:00:00:bb", ("10.77.0.4",)),
        ("02:00:00:00:00:cc", ("10.77.0.5",)),
    ]
