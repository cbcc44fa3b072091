"""A row stands for something: what is on record as published is in the kernel, or is refused."""

from __future__ import annotations

import os
import signal

import pytest

from integration import lab
from integration.lab.program import Forked, Program, preload

BACKENDS = ["nftables", "iptables"]
SLEEP = ("--", "sleep", "600")
FOUR, SIX = "10.77.0.0/24", "fd77::/64"
SUBNETS = {"4": (FOUR,), "6": (SIX,), "46": (FOUR, SIX)}


@pytest.fixture(params=BACKENDS)
def hvtx(request: pytest.FixtureRequest) -> Program:
    preload()
    return Forked(HVTX_FIREWALL=request.param)


def network(hvtx: Program, families: str, *more: str) -> None:
    subnets = [word for cidr in SUBNETS[families] for word in ("--subnet", cidr)]
    hvtx("network", "create", "net", *subnets, *more)


@pytest.mark.parametrize(
    ("families", "port"),
    [
        ("4", "[2001:db8::1]:8081:80"),
        ("4", "[fd77::1]:8081:80/udp"),
        ("4", "[::1]:8081:80"),
        ("4", "[fe80::1]:8081:80"),
        ("6", "203.0.113.1:8081:80"),
        ("6", "127.0.0.1:8081:80"),
        ("6", "[::1]:8081:80"),
        ("46", "[::1]:8081:80"),
        ("46", "[fe80::1]:8081:80/udp"),
        ("46", "10.77.0.255:8081:80"),
        ("46", "10.77.0.0:8081:80"),
        ("46", "0.0.0.5:8081:80"),
    ],
)
def test_a_port_that_nothing_can_stand_for_is_refused(
    hvtx: Program, families: str, port: str
) -> None:
    """At create and at run, with what is wrong, which port, and what to do; nothing is left."""
    network(hvtx, families)
    before = lab.dump()
    for verb in ("create", "run"):
        ran = hvtx("vm", verb, "web", "--network", "net", "-p", port, *SLEEP, code=2)
        said, hint = ran.err.splitlines()[:2]
        assert said.startswith("error: ")
        assert port.rsplit(":", 2)[0].strip("[]") in said
        assert hint.startswith("hint: ")
    assert hvtx("vm", "ls", "--json").json()["vms"] == []
    assert lab.dump() == before
    assert hvtx.is_clean()


def test_the_network_that_nobody_named_has_no_ipv6(hvtx: Program) -> None:
    """Refused before the network `default` is made."""
    hvtx("vm", "run", "web", "-p", "[2001:db8::1]:8081:80", *SLEEP, code=2)
    assert hvtx("network", "ls", "--json").json()["networks"] == []


@pytest.mark.parametrize(
    ("families", "more"),
    [
        ("4", ()),
        ("6", ()),
        ("46", ("--isolate",)),
        ("46", ("--no-nat",)),
        ("6", ("--no-nat", "--isolate")),
    ],
)
def test_every_row_is_in_the_kernel(hvtx: Program, families: str, more: tuple[str, ...]) -> None:
    """Whatever the network is like and wherever the port is: nothing is missing right after."""
    network(hvtx, families, *more)
    ports = ["8080:80", "8081:81/udp", "0.0.0.0:8082:82", "[::]:8083:83"]
    if "4" in families:  # an address that no device has yet may come: keepalived moves it
        ports += ["203.0.113.77:9000:80", "127.0.0.1:9001:80", "127.1.2.3:9002:80/udp"]
        ports += ["10.77.0.1:9003:80", "169.254.1.1:9004:80"]
    if "6" in families:
        ports += ["[2001:db8::77]:9000:80", "[fd77::1]:9003:80/udp"]
    given = [word for port in ports for word in ("-p", port)]
    hvtx("vm", "run", "web", "--network", "net", *given, *SLEEP)
    try:
        rows = [r["kind"] for r in hvtx.vm("web")["resources"]]
        assert rows.count("publish") == len(ports)
        done = hvtx("repair", "--json").json()
        assert (done["repaired"], done["failed"]) == ([], [])
        assert not {reason for _, reason in hvtx.plan()} & {"lost", "already-gone"}
        said = hvtx("doctor", "--json", code=None).json()["findings"]
        assert not [f for f in said if f["check"] == "damage" and f["level"] != "ok"]
    finally:
        os.kill(hvtx.vm("web")["pid"], signal.SIGKILL)
