"""hvtx as the plugin of a host's runtimes: installed, looked at, compared."""

from __future__ import annotations

import json
from typing import Any

from integration import lab
from integration.lab.clients.host import Host
from integration.lab.clients.leaks import configured
from integration.lab.clients.libcni import Libcni, Runtime

SUBNET, GATEWAY, FIRST = "10.77.0.0/24", "10.77.0.1", "10.77.0.2"


def hvtx(host: Host, *argv: str, code: int = 0) -> str:
    """Run hvtx; its standard output."""
    return host.run("hvtx", *argv, code=code)


def told(host: Host, *argv: str) -> Any:
    """What hvtx prints with ``--json``."""
    return json.loads(hvtx(host, *argv, "--json"))


def install(host: Host, *options: str) -> None:
    """The plugin and the network ``net``, for all runtimes."""
    hvtx(host, "cni", "install", "--network", "net", "--subnet", SUBNET, *options)


def settled(host: Host) -> dict[str, object]:
    """All of the host, once the network is made and nobody is in it."""
    netns = made_netns(host, "first")
    client, first = Libcni(host), Runtime("first", netns)
    client.add(configured(host), first)
    client.delete(configured(host), first)
    host.run("ip", "netns", "delete", "first")
    assert vms(host) == []
    return lab.dump()


def made_netns(host: Host, name: str) -> str:
    """The path of a new namespace, with loopback up."""
    host.run("ip", "netns", "add", name)
    host.run("ip", "-n", name, "link", "set", "lo", "up")
    return f"/run/netns/{name}"


def vms(host: Host) -> list[Any]:
    """What hvtx has on record."""
    found: list[Any] = told(host, "vm", "ls")["vms"]
    return found


def same(host: Host, before: dict[str, object]) -> None:
    """Nothing of any attachment is left, in the host and in the record."""
    differs = lab.difference(before, lab.dump())
    assert differs == "", repr(differs)
    assert vms(host) == []
    hvtx(host, "gc", "--plan", "--detailed-exitcode")  # 2 where something is to be done
    assert told(host, "intents")["operations"] == []


def page(address: str, port: int = 80, *enter: str) -> str:
    """What is served there; ``enter`` are words that enter the namespace of who asks.

    A server that does not listen yet is waited for: runtimes report a container before its program.
    """
    patient = ("--retry", "4", "--retry-connrefused", "--retry-delay", "1")
    url = f"http://{address}:{port}/"
    return lab.run(
        *enter, "curl", "-sS", "-m", "20", "--connect-timeout", "5", *patient, url
    ).strip()
