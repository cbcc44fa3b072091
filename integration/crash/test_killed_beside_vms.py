"""SIGKILL of commands that make what networks share, while VMs of these networks run.

What was begun must neither stay in the way of the same command, nor be taken from the VMs: after
`recover`, and without one, the command can be given again.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from integration import lab
from integration.crash.test_failpoints import NETWORK, SLEEP, end_everything
from integration.lab.beside import GUEST, exchange
from integration.lab.program import Forked, Program, preload
from integration.lab.resident import resident

WEB = ("--network", "net", "-p", "8080:80", "--ip", "10.77.0.9")
OTHER = ("--subnet", "10.78.0.0/24")
POLICY = ("--egress", "none", "--allow", "10.1.1.1:443")
DONE = ("exists already", "is running", "no network", "does not publish")  # the first time
BACKENDS = ["nftables", "iptables"]


class Beside(NamedTuple):
    """A command, and what is done before it, once VM `web` runs in network `net`."""

    argv: tuple[str, ...]
    prepare: Callable[[Program, str], None] = lambda hvtx, firewall: None
    network: tuple[str, ...] = ()


def _the_other(firewall: str) -> str:
    return next(each for each in BACKENDS if each != firewall)


def _mixed(hvtx: Program, firewall: str) -> None:
    """A network of the other backend, which is the only one that stands on some of the tables."""
    hvtx("--firewall", _the_other(firewall), "network", "create", "other", *OTHER)


def _created(hvtx: Program, _firewall: str) -> None:
    hvtx("vm", "create", "more", "--network", "net", *POLICY, *SLEEP)


def _displacing(hvtx: Program, _firewall: str) -> None:
    """The network's dnsmasq starts again, since an address was another's."""
    words = ("--network", "net", "--ip", "10.77.0.11")
    hvtx("vm", "run", "old", *words, "--hypervisor", "command", *SLEEP)
    hvtx("vm", "rm", "old", "--force")
    hvtx("vm", "create", "more", *words, *SLEEP)


def _dropping(_hvtx: Program, _firewall: str) -> None:
    """Somebody's chain drops what nobody decided: networks need accepts there."""
    for tool in ("iptables-nft", "ip6tables-nft"):
        lab.run(tool, "-P", "FORWARD", "DROP")


COMMANDS = {
    "vm set, a policy": Beside(
        ("vm", "set", "web", *POLICY, "--publish", "8081:80", "--unpublish", "8080")
    ),
    "network set, a policy": Beside(("network", "set", "net", "--egress", "internet")),
    "vm run, a policy": Beside(("vm", "run", "more", "--network", "net", *POLICY, *SLEEP)),
    "vm start, a policy": Beside(("vm", "start", "more"), _created),
    "vm set, limits": Beside(("vm", "set", "web", "--limit", "in=5mbit")),
    "network create, the other backend": Beside(
        ("--firewall", "{other}", "network", "create", "other", *OTHER)
    ),
    "network rm, the other backend": Beside(("network", "rm", "other"), _mixed),
    "network set --dhcp": Beside(("network", "set", "net", "--dhcp")),
    "network set --no-dhcp": Beside(("network", "set", "net", "--no-dhcp"), network=("--dhcp",)),
    "vm start, dnsmasq again": Beside(("vm", "start", "more"), _displacing, ("--dhcp",)),
    "network create, accepts": Beside(("network", "create", "other", *OTHER), _dropping),
    "repair, accepts": Beside(("repair",), _dropping),
}


def _prepare(hvtx: Program, name: str, firewall: str) -> tuple[int, str]:
    """The pid and the address of the VM that runs all along."""
    hvtx(*NETWORK, *COMMANDS[name].network)
    hvtx("vm", "run", "web", *WEB, "--", sys.executable, str(GUEST))
    COMMANDS[name].prepare(hvtx, firewall)
    shown = hvtx.vm("web")
    return shown["pid"], shown["interfaces"][0]["ipv4"]


def _given(name: str, firewall: str) -> tuple[str, ...]:
    other = _the_other(firewall)
    return tuple(other if word == "{other}" else word for word in COMMANDS[name].argv)


def _points(hvtx: Program, argv: tuple[str, ...], log: Path) -> list[tuple[str, bool]]:
    """Each failpoint that it passes, and whether `recover` follows.

    Both up to the first commit, before which all that is shared is made; then one or the other.
    """
    hvtx(*argv, HVTX_FAILPOINT_LOG=str(log))
    seen: dict[str, int] = {}
    found: list[tuple[str, bool]] = []
    for point in log.read_text().split():
        seen[point] = seen.get(point, 0) + 1
        both = [True, False] if "committed" not in seen else [len(found) % 2 == 0]
        found += [(f"{point}:kill:{seen[point]}", recovers) for recovers in both]
    return found if os.environ.get("HVTX_CRASH", "sample") != "sample" else _sampled(found)


def _sampled(found: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """A base or a chain half made, and every third of the others."""
    made = ("acted:filter:kill:1", "acted:iptables:kill:1")
    return [each for n, each in enumerate(found) if n % 3 == 0 or each[0] in made]


@pytest.mark.parametrize("firewall", BACKENDS)
@pytest.mark.parametrize("name", list(COMMANDS))
def test_what_was_killed_beside_a_vm_can_be_given_again(
    name: str, firewall: str, tmp_path: Path
) -> None:
    """At each failpoint, with `recover` and without: it works, and the VM missed nothing."""
    hvtx = Forked(HVTX_FIREWALL=firewall)
    preload()
    argv = _given(name, firewall)
    with resident(hvtx) as quick:
        _prepare(quick, name, firewall)
    found = _points(hvtx, argv, tmp_path / "points")
    assert found, "a command that changes something passes failpoints"
    end_everything(hvtx)
    for point, recovers in found:
        with resident(hvtx) as quick:
            pid, address = _prepare(quick, name, firewall)
        hvtx(*argv, code=-signal.SIGKILL, HVTX_FAILPOINT=point)
        if recovers:
            hvtx("recover")
        again = hvtx(*argv, code=None)
        done = again.code in (3, 4) and any(words in again.err for words in DONE)
        assert again.code == 0 or done, (point, recovers, again)
        with resident(hvtx) as quick:
            quick("recover")
            assert quick.is_clean(), point
            assert quick.vm("web")["pid"] == pid, point
            assert exchange(address), point
            assert quick("repair", "--json").json()["repaired"] == [], point
            end_everything(quick)
        left = lab.dump()
        assert left["links"][1:] == [], point  # type: ignore[index]
        assert left["nft"] == [], point
