"""hvtx in company: many processes of its own, others, and another installation beside it.

The ordinary run is short; `HVTX_COMPANY=all` (tox -e company) makes it long, and both are bounded.
A failure names its seed: `HVTX_COMPANY_SEED=n` repeats the choices, though not the timing.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from integration import lab
from integration.commands.test_gc_foreign import hold, in_another_boot
from integration.crash.test_failpoints import SLEEP
from integration.crash.test_model_replay import stopped
from integration.lab import foreign_churn
from integration.lab.exclusive import ANYBODY, Act, Operation, problems
from integration.lab.foreign_churn import Stranger
from integration.lab.program import Forked, Program, preload
from integration.lab.workers import (
    Crowd,
    Entry,
    Own,
    Worker,
    end_survivors,
    registers,
    remove_all,
    share,
    survivors,
)

ALL = os.environ.get("HVTX_COMPANY") == "all"
SEED = int(os.environ.get("HVTX_COMPANY_SEED", time.time_ns() % 1_000_000))
STEPS = 150 if ALL else 7
CHANGES = 2000 if ALL else 80  # of each stranger
WORKERS = 8
LOOPS = ("gc --apply", "recover")


def open_tables(firewall: str) -> None:
    """Let the legacy tables exist, empty: once in use they stay so until the namespace goes."""
    if firewall == "iptables":
        for table in ("nat", "filter", "mangle"):
            lab.run("iptables-legacy", "-w", "-t", table, "-S")


def populate(crowd: Crowd, workers: range, steps: int) -> None:
    """Start workers, each with a VM of its own and a share in what all use, and two collectors."""

    def work(number: int) -> None:
        worker = Worker(crowd, number)
        own = Own(worker, f"own{number}", "net")
        for _ in range(steps):
            (own.step if worker.maybe(0.5) else lambda: share(worker))()
        if own.up is not None:
            own.check()

    for number in workers:
        crowd.spawn(f"worker {number}", lambda number=number: work(number))
    for number, verb in enumerate(LOOPS, workers.stop):
        crowd.loop(number, *verb.split())


def judged(crowd: Crowd) -> list[Entry]:
    """The journal, found in order; and what was interrupted is resolved without a remainder."""
    assert not crowd.undocumented(), f"seed {SEED}: {crowd.undocumented()[:3]}"
    journal = crowd.journal()
    assert problems(registers(journal)) == [], f"seed {SEED}"
    crowd.hvtx("recover")
    assert crowd.hvtx("intents", "--json").json()["operations"] == []
    crowd.hvtx("gc", "--apply")
    assert crowd.hvtx.is_clean()
    return journal


# -- one installation, many processes ------------------------------------------------------------------


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("firewall", ["nftables", "iptables"])
def test_eight_processes_and_two_collectors(firewall: str, tmp_path: Path) -> None:
    """VMs run, stopped, removed, commands killed, and gc and recover beside them without a pause."""
    preload()
    crowd = Crowd(tmp_path / "crowd", SEED, firewall=firewall)
    open_tables(firewall)
    before = lab.dump()
    crowd.hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")

    try:
        populate(crowd, range(WORKERS), STEPS)
        crowd.join(LOOPS)
        journal = judged(crowd)
        remove_all(crowd.hvtx)
        assert survivors(crowd.reports) == []
        assert lab.difference(before, lab.dump()) == "", f"seed {SEED}"
    finally:
        end_survivors(crowd.reports)
    # nobody starved: each worker did all it had to do, and the collectors went round
    done = Counter(entry.worker for entry in journal)
    assert all(done[number] >= STEPS for number in range(WORKERS)), done
    assert all(done[number] for number in range(WORKERS, WORKERS + len(LOOPS))), done
    codes = Counter(f"{' '.join(entry.argv[:2])} {entry.code}" for entry in journal)
    killed = sum(entry.code is None for entry in journal)
    lab.tell(
        firewall=firewall,
        seed=SEED,
        commands=len(journal),
        killed=killed,
        codes=sorted(codes.items()),
    )


# -- others ---------------------------------------------------------------------------------------


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("firewall", ["nftables", "iptables"])
def test_nothing_of_strangers_is_lost_doubled_moved_or_brought_back(
    firewall: str, tmp_path: Path
) -> None:
    """Their rules, elements and devices come and go in hot loops, and hvtx's beside them."""
    preload()
    crowd = Crowd(tmp_path / "crowd", SEED, firewall=firewall)
    foreign_churn.settle()
    policies, before = foreign_churn.policies(), lab.dump()

    def run(number: int) -> None:
        worker, vm = Worker(crowd, 100 + number), f"vm{number}"
        net, port = f"net{number}", f"{8080 + number}:80"
        while not crowd.over():
            worker.do("network", "create", net, "--subnet", f"10.77.{number}.0/24")
            worker.do("vm", "run", vm, "--network", net, "-p", port, *SLEEP)
            worker.do("gc", "--apply")
            worker.do("vm", "rm", vm, "--force")
            worker.do("network", "rm", net)

    def change(foreign_object: Stranger) -> None:
        for _ in range(CHANGES):
            foreign_object.step()
        differing = lab.difference(foreign_object.expected(), foreign_object.found())
        assert differing == "", f"{foreign_object.kind} {foreign_object.number}:\n{differing}"
        foreign_object.leave()

    for number, kind in enumerate(foreign_churn.KINDS * (2 if ALL else 1)):
        foreign_object = Stranger(kind, number, SEED)
        crowd.spawn(
            f"stranger {kind} {number}",
            lambda foreign_object=foreign_object: change(foreign_object),
        )
    for number in range(2):
        crowd.spawn(f"hvtx {number}", lambda number=number: run(number))
    crowd.join(("hvtx 0", "hvtx 1"))
    journal = crowd.journal()
    assert not crowd.undocumented(), f"seed {SEED}: {crowd.undocumented()[:3]}"
    remove_all(crowd.hvtx)
    assert crowd.hvtx.is_clean()
    assert foreign_churn.policies() == policies
    assert lab.difference(before, lab.dump()) == "", f"seed {SEED}"
    changes = CHANGES * len(foreign_churn.KINDS) * (2 if ALL else 1)
    lab.tell(firewall=firewall, seed=SEED, changes=changes, lost=0, commands=len(journal))


# -- two installations ---------------------------------------------------------------------------------


def taken(crowd: Crowd) -> set[str]:
    """The ports of the VMs that run, and the subnets of the networks."""
    vms = crowd.hvtx("vm", "ls", "--json").json()["vms"]
    ports = [p for vm in vms if vm["state"] == "running" for p in vm["interfaces"][0]["publish"]]
    networks = crowd.hvtx("network", "ls", "--json").json()["networks"]
    subnets = [subnet for network in networks for subnet in network["subnets"]]
    return {str(port["host_port"]) for port in ports} | set(subnets)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("firewall", ["nftables", "iptables"])
def test_two_installations_do_not_harm_each_other(firewall: str, tmp_path: Path) -> None:
    """The same names, and they want the same ports and subnets: conflicts, and nothing else."""
    preload()
    open_tables(firewall)
    before = lab.dump()
    one = Crowd(tmp_path / "one", SEED, firewall=firewall)
    two = Crowd(tmp_path / "two", SEED + 1, firewall=firewall, subnet="10.78.0")
    pair = (one, two)
    try:
        for crowd in pair:
            crowd.hvtx("network", "create", "net", "--subnet", f"{crowd.subnet}.0/24")
        populate(one, range(3), STEPS)
        populate(two, range(3, 6), STEPS)
        for crowd in pair:
            crowd.join(LOOPS)
        journals = [judged(crowd) for crowd in pair]
        assert taken(one) & taken(two) == set()
        alive = set(survivors(two.reports))
        remove_all(one.hvtx)
        assert survivors(one.reports) == []
        assert set(survivors(two.reports)) == alive
        assert two.hvtx.is_clean()
        assert all(item["reason"] != "lost" for items in two.hvtx.plan().values() for item in items)
        remove_all(two.hvtx)
        assert lab.difference(before, lab.dump()) == "", f"seed {SEED}"
    finally:
        for crowd in pair:
            end_survivors(crowd.reports)
    refused = sum("another installation" in entry.err for entry in journals[0] + journals[1])
    commands = [len(journal) for journal in journals]
    lab.tell(firewall=firewall, seed=SEED, commands=commands, refused_ports=refused)


def test_a_port_of_another_installation_is_taken(tmp_path: Path) -> None:
    """Whose chain came first would get its packets: refused before, and taken back after."""
    preload()
    for firewall in ("nftables", "iptables"):
        one, two = (
            Forked(
                HVTX_FIREWALL=firewall,
                HVTX_STATE_DIR=str(tmp_path / f"{firewall}{name}"),
                HVTX_RUN_DIR=str(tmp_path / f"run{firewall}{name}"),
            )
            for name in "ab"
        )
        for subnet, hvtx in ((77, one), (78, two)):
            hvtx("network", "create", "net", "--subnet", f"10.{subnet}.0.0/24")
            hvtx("vm", "create", "web", "--network", "net", "-p", "8080:80", *SLEEP)
        one("vm", "run", "more", "--network", "net", "-p", "8081:80", *SLEEP)
        one("vm", "start", "web")
        before = lab.dump()
        assert "another installation" in two("vm", "start", "web", code=4).err
        run = ("vm", "run", "new", "--network", "net", "-p", "127.0.0.1:8081:80", *SLEEP)
        assert "another installation" in two(*run, code=4).err
        two("vm", "run", "new", "--network", "net", "-p", "8080:80/udp", *SLEEP)
        two("vm", "rm", "new", "--force")
        assert lab.difference(before, lab.dump()) == ""
        one("vm", "rm", "web", "--force")
        one("vm", "rm", "more", "--force")
        two("vm", "start", "web")
        two("vm", "rm", "web", "--force")
        for hvtx in (one, two):
            hvtx("network", "rm", "net")


def test_of_two_that_start_at_once_none_cuts_the_other_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that is there first has the port from its first moment, as it has the subnet."""
    monkeypatch.setenv("HVTX_FIREWALL", "nftables")
    one = Program()
    two = Program(HVTX_STATE_DIR=str(tmp_path / "state2"), HVTX_RUN_DIR=str(tmp_path / "run2"))
    for subnet, hvtx in ((77, one), (78, two)):
        hvtx("network", "create", "net", "--subnet", f"10.{subnet}.0.0/24")
        hvtx("vm", "create", "web", "--network", "net", "-p", "8080:80", *SLEEP)
    with stopped("vm", "start", "web", at="intended:stop") as start:
        assert "8080/tcp of this host is in use" in two("vm", "start", "web", code=4).err
        assert start.go_on() == 0
    assert (one.vm("web")["state"], two.vm("web")["state"]) == ("running", "defined")
    assert two.is_clean()
    with stopped(
        "network", "create", "next", "--subnet", "10.79.0.0/24", at="intended:stop"
    ) as make:
        two("network", "create", "next", "--subnet", "10.79.0.0/16")
        assert make.go_on() == 4
        assert "which this host has a route to" in make.output
    assert one.is_clean()
    one("vm", "rm", "web", "--force")


# -- what company found ----------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["intended", "acted:bridge"])
def test_no_vm_joins_a_network_that_was_never_finished(point: str) -> None:
    """It would keep the network's record when `recover` takes the rest back."""
    preload()
    hvtx = Forked(HVTX_FIREWALL="nftables")
    network = ("network", "create", "net", "--subnet", "10.77.0.0/24")
    vm = ("vm", "create", "web", "--network", "net", *SLEEP)
    hvtx(*network, code=-signal.SIGKILL, HVTX_FAILPOINT=f"{point}:kill")
    assert "hvtx recover" in hvtx(*vm, code=3).err
    hvtx("recover")
    assert hvtx.is_clean()
    hvtx(*network)
    hvtx(*vm)
    hvtx("vm", "start", "web")
    hvtx("vm", "rm", "web", "--force")


def test_a_start_after_a_rebuild_that_was_killed(tmp_path: Path) -> None:
    """The rows of the interrupted rebuild are released by the start itself, as of any operation."""
    hvtx = Program(HVTX_FIREWALL="nftables")
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx("vm", "create", "web", "--network", "net", *SLEEP)
    lab.run("ip", "link", "del", hvtx("network", "show", "net", "--json").json()["bridge"])
    lab.run("nft", "flush", "ruleset")
    shutil.rmtree(os.environ["HVTX_RUN_DIR"])
    command = (sys.executable, "-m", "hvtx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HVTX_FAILPOINT", "acted:bridge:kill")
        assert in_another_boot(*command, "recover").returncode == -signal.SIGKILL
    started = in_another_boot(*command, "vm", "start", "web")
    assert started.returncode == 0, started.stderr
    assert in_another_boot(*command, "gc", "--plan", "--detailed-exitcode").returncode == 0
    in_another_boot(*command, "vm", "rm", "web", "--force")


def test_a_passing_reference_to_a_device_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads fdinfo of a dying VM process has its descriptor a moment longer than it."""
    monkeypatch.setenv("HVTX_FIREWALL", "nftables")
    hvtx = Program()
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx("vm", "run", "web", "--network", "net", *SLEEP)
    vm = hvtx.vm("web")
    os.kill(vm["pid"], signal.SIGKILL)
    ours, theirs = socket.socketpair()
    held = hold(vm["interfaces"][0]["device"])
    socket.send_fds(ours, [b"x"], [held])
    os.close(held)  # from here on no process has it
    with stopped("vm", "rm", "web", "--force", at="seen:tap:stop") as removal:
        later = threading.Timer(0.1, theirs.close)
        later.start()
        assert removal.go_on() == 0, removal.output
        later.join()
    ours.close()
    assert vm["interfaces"][0]["device"] not in lab.run("ip", "-o", "link")


# -- the checker itself --------------------------------------------------------------------------------


def op(act: Act, owner: str | None, began: int, ended: int, *, certain: bool = True) -> Operation:
    return Operation("port/8000", act, owner, began, ended, certain)


GOT, GONE, SEEN = Act.ACQUIRE, Act.RELEASE, Act.READ
POSSIBLE = {
    "one after the other": [op(GOT, "a", 1, 2), op(GONE, "a", 3, 4), op(GOT, "b", 5, 6)],
    "at once, in the other order": [op(GOT, "a", 1, 9), op(GOT, "b", 2, 4), op(GONE, "b", 3, 8)],
    "a killed one happened": [op(GOT, "a", 1, 2, certain=False), op(SEEN, "a", 3, 4)],
    "a killed one did not": [op(GOT, "a", 1, 2, certain=False), op(GOT, "b", 3, 4)],
    "a killed one was undone": [
        op(GOT, "a", 1, 2, certain=False), op(SEEN, "a", 3, 4), op(GOT, "b", 5, 6)],
    "a killed removal happened": [
        op(GOT, "a", 1, 2), op(GONE, "a", 3, 4, certain=False), op(GOT, "b", 5, 6)],
    "what others have stays theirs": [
        op(GOT, "a", 1, 2), op(Act.LET_GO, "b", 3, 4), op(SEEN, "a", 5, 6)],
}  # fmt: skip
IMPOSSIBLE = {
    "held by two": [op(GOT, "a", 1, 2), op(GOT, "b", 3, 4)],
    "held by two at once": [op(GOT, "a", 1, 4), op(GOT, "b", 2, 3)],
    "lost": [op(GOT, "a", 1, 2), op(SEEN, None, 3, 4)],
    "lost and given away": [
        op(GOT, "a", 1, 2), op(Act.LET_GO, "b", 3, 4), op(GOT, "b", 5, 6)],
    "brought back": [op(GOT, "a", 1, 2), op(GONE, "a", 3, 4), op(SEEN, "a", 5, 6)],
    "released twice": [op(GOT, "a", 1, 2), op(GONE, "a", 3, 4), op(GONE, "a", 5, 6)],
    "seen before it was": [op(SEEN, "a", 1, 2), op(GOT, "a", 3, 4)],
    "refused, though it was free": [op(SEEN, ANYBODY, 1, 2)],
    "a killed one was undone and is there": [
        op(GOT, "a", 1, 2, certain=False), op(SEEN, None, 3, 4), op(SEEN, "a", 5, 6)],
}  # fmt: skip


@pytest.mark.parametrize("history", POSSIBLE.values(), ids=POSSIBLE)
def test_a_possible_history_is_accepted(history: list[Operation]) -> None:
    assert problems(history) == []


@pytest.mark.parametrize("history", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_an_impossible_history_is_found(history: list[Operation]) -> None:
    assert problems(history)
