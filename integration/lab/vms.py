"""The program with a network of both families, for tests; VMs that still run are ended afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

from integration.lab.firewall_contract import bridged_frames_see_iptables
from integration.lab.program import Forked, Program, preload

NETWORK = ("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
SLEEP = ("--", "sleep", "600")


def end_vms(program: Program, *, external: bool = True) -> None:
    """Kill the process of every VM, or but for external ones; nothing where no store can be read.

    A process that was killed just before has its pid in the list until the kernel has let it go.
    """
    for vm in json.loads(program("vm", "ls", "--json", code=None).out or "{}").get("vms", []):
        if vm["pid"] and (external or vm["hypervisor"] != "external"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(vm["pid"], signal.SIGKILL)


def unheld_ports(program: Program) -> list[str]:
    """The published ports of VMs that run which any program could bind; not those of containers."""
    found = []
    for vm in program("vm", "ls", "--json").json()["vms"]:
        if vm["state"] != "running" or vm["hypervisor"] == "cni":
            continue
        for interface in vm["interfaces"]:
            for port in interface["publish"]:
                kind = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}[port["protocol"]]
                address = port["host_ip"] or "0.0.0.0"
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                with socket.socket(family, kind) as other, contextlib.suppress(OSError):
                    other.bind((address, port["host_port"]))
                    found.append(f"{vm['name']}: {port['host_port']}/{port['protocol']}")
    return found


@contextlib.contextmanager
def alone(firewall: str) -> Iterator[Program]:
    """The program on a backend, where iptables sees no bridged frame; VMs are removed afterwards."""
    preload()
    bridged_frames_see_iptables(False)
    made = Forked(HVTX_FIREWALL=firewall)
    yield made
    for vm in made("vm", "ls", "--json").json()["vms"]:
        made("vm", "rm", vm["name"], "--force", code=None)


@contextlib.contextmanager
def networked(firewall: str = "nftables") -> Iterator[Program]:
    """The program on a backend, and a network ``net``."""
    preload()
    program = Forked(HVTX_FIREWALL=firewall)
    program(*NETWORK)
    yield program
    end_vms(program)


@contextlib.contextmanager
def two_guests(firewall: str = "nftables") -> Iterator[Program]:
    """The same with the guests ``web``, which has the published port 8080, and ``two``."""
    from integration.network.test_guests_network import run

    with networked(firewall) as program:
        run(program, "web", "-p", "8080:80")
        run(program, "two")
        yield program


def findings(program: Program, check: str) -> list[dict[str, Any]]:
    """What doctor says of a check, whatever its exit code."""
    told = program("doctor", "--json", code=None).json()["findings"]
    return [finding for finding in told if finding["check"] == check]
