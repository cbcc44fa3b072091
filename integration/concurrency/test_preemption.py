"""Pairs of commands, the first preempted before a system call, the second run whole meanwhile.

Both end with documented codes, and what they leave is what one after the other would have left, in
one of the two orders: host, VMs and networks; nothing is under way, and a plan is empty. The
ordinary run takes a few preemptions a pair, `HVTX_COMPANY=all` (tox -e company) every one.
Pairs join by standing in PAIRS.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest

from integration import lab
from integration.crash.test_failpoints import (
    CREATE,
    NETWORK,
    SLEEP,
    _crashed,
    _created,
    _interrupted,
    _network,
    _running,
    end_everything,
    host,
)
from integration.lab.preemption import count_calls, play
from integration.lab.program import Forked, Program, preload
from integration.lab.services import services

SAMPLE = 2
ALL = os.environ.get("HVTX_COMPANY") == "all"
SECONDS = float(os.environ.get("HVTX_COMPANY_SECONDS", "120"))  # of one pair in the long job


class Pair(NamedTuple):
    """Two commands, what is done before, and with which codes each may end."""

    prepare: Callable[[Program], None]
    first: tuple[str, ...]
    second: tuple[str, ...]
    codes: tuple[set[int], set[int]]


def _nothing(hvtx: Program) -> None:
    pass


def _stopped(hvtx: Program) -> None:
    _running(hvtx)
    hvtx("vm", "stop", "web", "--timeout", "1")


def _sourced(hvtx: Program) -> None:
    """On a host with an address by which guests could leave it."""
    lab.run("ip", "addr", "replace", f"{SOURCE}/32", "dev", "lo")
    _created(hvtx)


def _unserved(hvtx: Program) -> None:
    """A network whose dnsmasq has died."""
    hvtx(*NETWORK, "--dhcp")
    lab.end(*services())


def _killed_network(hvtx: Program) -> None:
    hvtx(*NETWORK, code=-9, HVTX_FAILPOINT="acted:filter:kill")


def _default(hvtx: Program) -> None:
    hvtx("vm", "create", "web", *SLEEP)
    hvtx("vm", "rm", "web")


GC, RECOVER, START = ("gc", "--apply"), ("recover",), ("vm", "start", "web")
STOP, RM = ("vm", "stop", "web", "--timeout", "1"), ("vm", "rm", "web")
SET, SOURCE = ("network", "set", "net"), "203.0.113.7"
OTHER = ("vm", "create", "other", "--network", "net", "-p", "8080:80", *SLEEP)
FREE, FOUND = {0}, {0, 4}
PAIRS = {
    "start, gc": Pair(_created, START, GC, (FREE, FREE)),
    "start, recover": Pair(_created, START, RECOVER, (FREE, FREE)),
    "start of a crashed VM, gc": Pair(_crashed, START, GC, (FREE, {0, 9})),
    "gc, start of a crashed VM": Pair(_crashed, GC, START, ({0, 9}, FREE)),
    "gc, stop": Pair(_crashed, GC, STOP, ({0, 9}, FREE)),
    "stop, gc": Pair(_running, STOP, GC, (FREE, {0, 9})),
    "stop, recover": Pair(_running, STOP, RECOVER, (FREE, FREE)),
    "recover, recover": Pair(_interrupted, RECOVER, RECOVER, (FREE, FREE)),
    "recover, gc": Pair(_interrupted, RECOVER, GC, (FREE, FREE)),
    "recover, start": Pair(_interrupted, RECOVER, START, (FREE, FREE)),
    "start, start": Pair(_created, START, START, (FOUND, FOUND)),
    "start, network rm": Pair(_created, START, ("network", "rm", "net"), (FREE, {4})),
    "start, network set --isolate": Pair(_created, START, (*SET, "--isolate"), (FREE, FOUND)),
    "start, network set --source": Pair(_sourced, START, (*SET, "--source", SOURCE), (FREE, FREE)),
    "start, network set --dhcp": Pair(_created, START, (*SET, "--dhcp"), (FREE, FREE)),
    "stop, rm": Pair(_running, STOP, RM, (FREE | {3}, FOUND)),
    "stop, rm --force": Pair(_running, STOP, (*RM, "--force"), (FREE | {3}, FREE)),
    "rm, start": Pair(_created, RM, START, (FOUND, {0, 3})),
    "create, create": Pair(_network, (*CREATE, *SLEEP), (*CREATE, *SLEEP), (FOUND, FOUND)),
    "create, create for one port": Pair(_network, (*CREATE, *SLEEP), OTHER, (FOUND, FOUND)),
    "create, network rm": Pair(
        _network, (*CREATE, *SLEEP), ("network", "rm", "net"), ({0, 3}, FOUND)
    ),
    "network rm, network create": Pair(
        _network,
        ("network", "rm", "net"),
        ("network", "create", "next", "--subnet", "10.79.0.0/24"),
        (FREE, FREE),
    ),
    "network create, network create": Pair(
        _nothing,
        ("network", "create", "net", "--subnet", "10.79.0.0/24"),
        ("network", "create", "next", "--subnet", "10.79.0.0/16"),
        (FOUND, FOUND),
    ),
    "gc, network create": Pair(_killed_network, GC, NETWORK, (FREE, FREE)),
    "network create, gc": Pair(_killed_network, NETWORK, GC, (FREE, FREE)),
    "create in default, create in default": Pair(
        _nothing, ("vm", "create", "a", *SLEEP), ("vm", "create", "b", *SLEEP), (FREE, FREE)
    ),
    "create in default, network rm default": Pair(
        _default, ("vm", "create", "a", *SLEEP), ("network", "rm", "default"), (FREE, FOUND)
    ),
    "network rm default, create in default": Pair(
        _default, ("network", "rm", "default"), ("vm", "create", "a", *SLEEP), (FOUND, FREE)
    ),
    "network rm, recover": Pair(_unserved, ("network", "rm", "net"), RECOVER, (FREE, FREE)),
    "network set --no-dhcp, recover": Pair(_unserved, (*SET, "--no-dhcp"), RECOVER, (FREE, FREE)),
    "recover, network rm": Pair(_unserved, RECOVER, ("network", "rm", "net"), (FREE, FREE)),
    "recover, network set --no-dhcp": Pair(_unserved, RECOVER, (*SET, "--no-dhcp"), (FREE, FREE)),
}
SHORT = (
    "start, gc", "start, recover", "stop, gc", "recover, recover", "start, start",
    "start, network rm", "stop, rm", "create, create", "network rm default, create in default",
    "gc, network create",
)  # fmt: skip
# What a crash left is collected by one order and not by the other: it is, before the comparison.
SETTLED = {name for name, pair in PAIRS.items() if pair.prepare in (_crashed, _interrupted)}


def left(hvtx: Program, name: str) -> object:
    """What host and store hold when everything interrupted is resolved."""
    hvtx("recover")
    if name in SETTLED:
        hvtx("gc", "--apply")
    assert hvtx("intents", "--json").json()["operations"] == []
    assert hvtx.is_clean(), hvtx.plan()
    vms = hvtx("vm", "ls", "--json").json()["vms"]
    for vm in vms:
        if vm["state"] == "running":
            os.kill(vm["pid"], 0)
            assert {row["state"] for row in vm["resources"]} == {"committed"}
    return {
        "host": host(),
        "vms": [[vm["name"], vm["state"], vm["interfaces"][0]["ipv4"]] for vm in vms],
        "networks": [n["name"] for n in hvtx("network", "ls", "--json").json()["networks"]],
    }


def serial(hvtx: Program, name: str) -> list[object]:
    """What the two leave one after the other, in both orders."""
    pair, found = PAIRS[name], []
    for order in ((pair.first, pair.second), (pair.second, pair.first)):
        pair.prepare(hvtx)
        for argv in order:
            hvtx(*argv, code=None)
        found.append(left(hvtx, name))
        end_everything(hvtx)
    return found


def spread(calls: int, pair: int) -> Sequence[int]:
    """Which calls to preempt at: an even spread, shifted from pair to pair; or all, so ordered
    that any beginning is an even spread too (steps of the golden ratio)."""
    if not ALL:
        return sorted({(round((n + pair * 0.37 % 1) * calls / SAMPLE)) + 1 for n in range(SAMPLE)})
    step = next(
        step for step in itertools.count(round(calls * 0.618) or 1) if _coprime(step, calls)
    )
    return [1 + (n * step) % calls for n in range(calls)]


def _coprime(one: int, other: int) -> bool:
    while other:
        one, other = other, one % other
    return one == 1


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("firewall", ["nftables", "iptables"])
@pytest.mark.parametrize("name", list(PAIRS))
def test_two_commands_leave_what_one_after_the_other_would(name: str, firewall: str) -> None:
    """At every (sampled) preemption of the first by the second."""
    if not ALL and (name not in SHORT or (firewall == "iptables" and name != SHORT[0])):
        pytest.skip("in the long job: HVTX_COMPANY=all")
    preload()
    pair = PAIRS[name]
    hvtx = Forked(HVTX_FIREWALL=firewall, HVTX_LOCK_TIMEOUT="60")
    allowed = serial(hvtx, name)
    pair.prepare(hvtx)
    calls = count_calls(pair.first, hvtx.environment)
    end_everything(hvtx)
    deadline, played, waited = time.monotonic() + SECONDS, 0, 0
    for call in spread(calls, list(PAIRS).index(name)):
        if time.monotonic() > deadline:
            break
        pair.prepare(hvtx)
        one = play(pair.first, pair.second, hvtx.environment, at=call)
        if one is None:  # another way through the program this time: it was shorter
            end_everything(hvtx)
            continue
        played, waited = played + 1, waited + one.waited
        where = f"{name} on {firewall}, preempted before call {call} of {calls}: {one}"
        assert one.first.code in pair.codes[0], where
        assert one.second.code in pair.codes[1], where
        found = left(hvtx, name)
        differences = [lab.difference(other, found) for other in allowed]
        assert "" in differences, "\n".join([where, *differences])
        end_everything(hvtx)
        empty = lab.dump()
        assert (empty["links"][1:], empty["nft"]) == ([], []), where  # type: ignore[index]
    lab.tell(pair=name, firewall=firewall, calls=calls, schedules=played, waited=waited)
