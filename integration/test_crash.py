"""SIGKILL at every failpoint of every command that changes something, then `recover`.

The oracle needs no lists: afterwards the host is as it was before the command or as it is after it,
nothing is under way, a plan is empty, and the command can be given again. Commands join by standing
in COMMANDS; failpoints by being passed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from integration import lab
from integration.program import Forked, Program, preload

BACKENDS = ["nftables", "iptables"]
NETWORK = ("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
CREATE = ("vm", "create", "web", "--network", "net", "-p", "8080:80")
SLEEP = ("--", "sleep", "600")


class Command(NamedTuple):
    """A command, what is done before it, and how its VM counts afterwards."""

    argv: tuple[str, ...]
    prepare: Callable[[Program], None]


def _network(hvtx: Program) -> None:
    hvtx(*NETWORK)


def _created(hvtx: Program) -> None:
    _network(hvtx)
    hvtx(*CREATE, *SLEEP)


def _external(hvtx: Program) -> None:
    _network(hvtx)
    hvtx("vm", "create", "web", "--network", "net", "--hypervisor", "external")
    hvtx("vm", "start", "web")

    GUESTS.append(subprocess.Popen(["sleep", "600"]))


GUESTS: list[subprocess.Popen[bytes]] = []  # processes that `vm attach` is given


@pytest.fixture(autouse=True)
def guests() -> Iterator[None]:
    yield
    while GUESTS:
        guest = GUESTS.pop()
        guest.kill()
        guest.wait()


def _running(hvtx: Program) -> None:
    _created(hvtx)
    hvtx("vm", "start", "web")


def _crashed(hvtx: Program) -> None:
    _running(hvtx)
    kill_vm(hvtx)


def _interrupted(hvtx: Program) -> None:
    _created(hvtx)
    hvtx("vm", "start", "web", code=-signal.SIGKILL, HVTX_FAILPOINT="acted:filter:kill")


def kill_vm(hvtx: Program) -> None:
    pid = hvtx.vm("web")["pid"]
    os.kill(pid, signal.SIGKILL)


COMMANDS = {
    "network create": Command(NETWORK, lambda hvtx: None),
    "network rm": Command(("network", "rm", "net"), _network),
    "vm create": Command((*CREATE, *SLEEP), _network),
    "vm start": Command(("vm", "start", "web"), _created),
    "vm start, crashed": Command(("vm", "start", "web"), _crashed),
    "vm run": Command(("vm", "run", *CREATE[2:], *SLEEP), _network),
    "vm run, no network": Command(("vm", "run", "web", *SLEEP), lambda hvtx: None),
    "vm stop": Command(("vm", "stop", "web", "--timeout", "1"), _running),
    "vm rm": Command(("vm", "rm", "web"), _created),
    "vm rm --force": Command(("vm", "rm", "web", "--force"), _running),
    "vm attach": Command(("vm", "attach", "web", "--pid", "{pid}"), _external),
    "gc --apply": Command(("gc", "--apply"), _crashed),
    "recover": Command(("recover",), _interrupted),
}


_RANDOM = (
    (r"hvtx:1:[a-z2-7]{10}:[0-9]+\.[a-z2-7]{16}", "mark"),
    (r"hvbr[a-z2-7]{11}", "bridge"),
    (r"\bhv[a-z2-7]{12}\b", "tap"),
    (r"(02|fe)(:[0-9a-f]{2}){5}", "mac"),
    (r"8000\.2:[0-9a-f:]+", "bridge-id"),
    (r"fe80::[0-9a-f:]+|0xfe80[0-9a-f]{28}", "link-local"),
    (r'"(ifindex|handle|link_index|ifi?)": \d+', '"number": 0'),
)

# What these leave is by design neither: `recover` and gc collect more than the command itself does
# (a crashed VM's remains), and the network `default` is an operation of its own before the VM's.
NEITHER = {"vm start, crashed", "vm run, no network", "gc --apply", "recover", "vm attach"}


def host() -> dict[str, object]:
    """A dump in which random names, numbers and marks count as what they are."""
    text = json.dumps(lab.dump(), sort_keys=True)
    for pattern, kind in _RANDOM:
        text = re.sub(pattern, kind, text)
    document: dict[str, list[object]] = json.loads(text)
    for part in ("links", "addresses", "routes4", "routes6"):  # in the order of random indexes
        document[part].sort(key=lambda item: json.dumps(item, sort_keys=True))
    return dict(document)


def given(name: str) -> tuple[str, ...]:
    """The command line, with the pid of a process that was started for it."""
    return tuple(str(GUESTS[-1].pid) if word == "{pid}" else word for word in COMMANDS[name].argv)


def points(name: str, firewall: str, tmp_path: Path, hvtx: Program) -> list[str]:
    """Every failpoint that the command passes, the nth passage of one as ``point:kill:n``."""
    log = tmp_path / "points"
    COMMANDS[name].prepare(hvtx)
    hvtx(*given(name), HVTX_FAILPOINT_LOG=str(log))
    seen: dict[str, int] = {}
    found = []
    for point in log.read_text().split() if log.exists() else []:
        seen[point] = seen.get(point, 0) + 1
        found.append(f"{point}:kill:{seen[point]}")
    return found


def end_everything(hvtx: Program) -> None:
    for vm in hvtx("vm", "ls", "--json").json()["vms"]:
        hvtx("vm", "rm", vm["name"], "--force")
    for network in hvtx("network", "ls", "--json").json()["networks"]:
        hvtx("network", "rm", network["name"])
    for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):  # left on, by design
        Path("/proc/sys/net", setting).write_text("0")


@pytest.mark.parametrize("firewall", BACKENDS)
@pytest.mark.parametrize("name", list(COMMANDS))
def test_killed_at_every_failpoint_it_recovers(
    name: str, firewall: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Nothing leaks, nothing is half-done, and the command works afterwards."""
    command = COMMANDS[name]
    hvtx = Forked(HVTX_FIREWALL=firewall)
    preload()
    found = points(name, firewall, tmp_path, hvtx)
    assert found, "a command that changes something passes failpoints"
    end_everything(hvtx)
    record_property("failpoints", len(found))
    for point in found:
        command.prepare(hvtx)
        before = host()
        hvtx(*given(name), code=-signal.SIGKILL, HVTX_FAILPOINT=point)
        hvtx("recover")
        assert hvtx("intents", "--json").json()["operations"] == [], point
        if name in NEITHER:
            hvtx("gc", "--apply")
        assert hvtx.is_clean(), point
        after = host()
        again = hvtx(*given(name), code=None)
        assert again.code in (0, 3, 4), (point, again)
        final = host()
        if name not in NEITHER:
            undone, done = lab.difference(before, after), lab.difference(after, final)
            assert not undone or not done, f"{point}\nbefore:\n{undone}\nafter:\n{done}"
        assert hvtx.is_clean(), point
        end_everything(hvtx)
        assert lab.dump()["links"][1:] == [], point  # type: ignore[index]
        assert lab.dump()["nft"] == [], point
