"""Few descriptors: what is made is made whole or not at all; who cannot undo does not begin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hvtx.host import descriptors
from integration import lab
from integration.lab import witness
from integration.lab.few_descriptors import Few
from integration.lab.program import Forked, Ran, preload

SLEEP = ("--", "sleep", "600")
MAKING = (
    ("network", "create", "two", "--subnet", "10.78.0.0/24"),
    ("vm", "run", "new", "--network", "net", "-p", "8082:80", *SLEEP),
    ("vm", "create", "next", "--network", "net", *SLEEP),
    ("vm", "start", "idle"),
)
ENDING = (
    ("repair",),
    ("vm", "stop", "up"),
    ("vm", "rm", "up"),
    ("vm", "rm", "idle", "--force"),
    ("gc", "--apply"),
    ("recover",),
    ("vm", "rm", "dead"),
    ("vm", "rm", "new", "--force"),
    ("network", "rm", "two"),
)
READING = (("vm", "ls"), ("vm", "show", "up"), ("network", "ls"), ("log",), ("gc", "--plan"))


@pytest.fixture(params=["nftables"])
def hvtx(request: pytest.FixtureRequest) -> Iterator[Forked]:
    """A network, a VM that runs, one that is dead, and one that never ran."""
    preload()
    hvtx = Forked(HVTX_FIREWALL=request.param)
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24", "--bridge", "hvnet")
    hvtx("vm", "create", "idle", "--network", "net", *SLEEP)
    for name, port in (("up", "8080"), ("dead", "8081")):
        hvtx("vm", "run", name, "--network", "net", "-p", f"{port}:80", *SLEEP)
    lab.end(hvtx.vm("dead")["pid"])
    yield hvtx
    for vm in hvtx("vm", "ls", "--json").json()["vms"]:
        if vm["pid"]:
            lab.end(vm["pid"])


def is_refused(ran: Ran) -> bool:
    """Whether it says what it lacks, and what to do; it never says that this is a bug."""
    if ran.code in (0, 3, 4):  # done, or another command of the row was refused before
        return False
    assert ran.code in (6, 7), ran
    assert "too few files" in ran.err or "Too many open files" in ran.err, ran
    return "hint: " in ran.err


@pytest.mark.parametrize("limit", [8, 14, 19, 24])
@pytest.mark.parametrize("hvtx", ["nftables", "iptables"], indirect=True)
def test_whole_or_not_at_all(hvtx: Forked, limit: int) -> None:
    """Every verb, below and above what it needs: it is done, or host and store are as before."""
    few = Few(limit, **hvtx.environment)
    for argv in (*MAKING, *ENDING):
        before = witness.everything()
        ran = few(*argv, code=None)
        if is_refused(ran):
            assert lab.difference(before, witness.everything()) == "", (argv, ran)
    for argv in READING:
        is_refused(few(*argv, code=None))
    if limit > descriptors.TO_END + 3:
        assert hvtx.is_clean()
    if limit > descriptors.TO_MAKE + 3:
        assert {vm["name"] for vm in hvtx("vm", "ls", "--json").json()["vms"]} == {"next"}


def test_the_soft_limit_is_raised_as_far_as_the_hard_one_lets_it(hvtx: Forked) -> None:
    """What a login or a service has: a soft limit that anybody may raise."""
    few = Few(10, 512, **hvtx.environment)
    for argv in (*MAKING, *ENDING):
        few(*argv)
    few("vm", "rm", "next")
    few("network", "rm", "net")
    assert hvtx.is_clean()
    assert lab.dump()["nft"] == []
