"""A VM that runs is changed: what is published comes and goes, and what stays is not touched."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from integration.lab import vms
from integration.lab.program import Program
from integration.lab.vms import SLEEP

BACKENDS = ["nftables", "iptables"]


@pytest.fixture(params=BACKENDS)
def hvtx(request: pytest.FixtureRequest) -> Iterator[Program]:
    """A program with a network of both families, on each backend."""
    with vms.networked(request.param) as program:
        yield program


def ports(hvtx: Program, name: str = "web") -> set[str]:
    """The published ports of a VM, in short."""
    return {
        f"{p['host_ip'] or ''}:{p['host_port']}:{p['guest_port']}/{p['protocol']}"
        for interface in hvtx.vm(name)["interfaces"]
        for p in interface["publish"]
    }


def test_ports_come_and_go(hvtx: Program) -> None:
    hvtx("vm", "run", "web", "--network", "net", "-p", "8080:80", "-p", "8081:81", *SLEEP)
    marks = {r["key"]: r["mark"] for r in hvtx.vm("web")["resources"]}
    hvtx("vm", "set", "web", "--publish", "9090:90", "--unpublish", "8081")
    assert ports(hvtx) == {":8080:80/tcp", ":9090:90/tcp"}
    now = {r["key"]: r["mark"] for r in hvtx.vm("web")["resources"]}
    assert {r["state"] for r in hvtx.vm("web")["resources"]} == {"committed"}
    assert marks.items() - {("8081/tcp", marks["8081/tcp"])} <= now.items()
    assert "8081/tcp" not in now
    assert hvtx.is_clean()
    print(hvtx("log", "-n", "6").out)
    hvtx("vm", "stop", "web", "--timeout", "1")
    assert hvtx.is_clean()
