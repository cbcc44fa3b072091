"""`vm start|stop|rm NAME...` with several names: an operation each, and one's failure is its own."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from hvtx import Host
from hvtx.commands import vm_start_many, vm_stop_many
from hvtx.engine import together
from hvtx.errors import Busy, StoreError
from integration import lab
from integration.commands.test_gc_foreign import hold
from integration.lab.interrupting import interrupt_after
from integration.lab.program import Forked, Program
from integration.lab.verbs import BACKENDS, create, ended, hvtx, network, state, stopped

__all__ = ["hvtx"]  # the fixture

NAMES = ("a", "b", "c")


def made(hvtx: Program, *names: str) -> None:
    network(hvtx)
    for number, name in enumerate(names):
        create(hvtx, name, "-p", f"{8080 + number}:80")


def states(hvtx: Program, *names: str) -> list[str]:
    return [state(hvtx, name) for name in names]


def operations(hvtx: Program, verb: str) -> dict[str, set[int]]:
    """The operations of a verb in the history, by VM."""
    found: dict[str, set[int]] = {}
    for entry in hvtx("log", "--json", "-n", "1000").json()["entries"]:
        if entry["verb"] == verb:
            found.setdefault(entry["vm"], set()).add(entry["operation"])
    return found


def writes(hvtx: Program) -> int:
    """How often the store was written so far."""
    path = Path(os.environ["HVTX_STATE_DIR"], "hvtx.db")
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT seq FROM meta").fetchone()[0])


@pytest.mark.parametrize("firewall", BACKENDS)
def test_each_is_whole_and_has_an_operation_of_its_own(hvtx: Program, firewall: str) -> None:
    """Start, stop and rm of three are what three commands would have done, in fewer writes."""
    hvtx("--firewall", firewall, "network", "create", "other", "--subnet", "10.99.0.0/24")
    hvtx("network", "rm", "other")
    hvtx("--firewall", firewall, "network", "create", "net", "--subnet", "10.77.0.0/24")
    for number, name in enumerate(NAMES):
        create(hvtx, name, "-p", f"{8080 + number}:80")
    before = lab.dump()
    count = writes(hvtx)
    ran = hvtx("vm", "start", *NAMES)
    assert [line.split(" (")[0] for line in ran.out.splitlines()] == [
        f"VM {name} is running" for name in NAMES
    ]
    assert writes(hvtx) - count <= 4, "each step of all three is written once"
    shown = [hvtx.vm(name) for name in NAMES]
    assert {row["state"] for vm in shown for row in vm["resources"]} == {"committed"}
    assert len({row["mark"] for vm in shown for row in vm["resources"]}) == sum(
        len(vm["resources"]) for vm in shown
    )
    ids = operations(hvtx, "start")
    assert set(ids) == set(NAMES)
    assert len(set.union(*ids.values())) == len(NAMES), ids
    assert hvtx.is_clean()
    count = writes(hvtx)
    assert hvtx("vm", "stop", *NAMES, "--force").out.splitlines() == [
        f"VM {name} is stopped" for name in NAMES
    ]
    assert writes(hvtx) - count <= 4
    assert lab.difference(before, lab.dump()) == ""
    assert len(set.union(*operations(hvtx, "stop").values())) == len(NAMES)
    assert hvtx("vm", "rm", *NAMES).out.splitlines() == [f"VM {n} is removed" for n in NAMES]
    assert hvtx("vm", "ls", "--json").json()["vms"] == []
    assert hvtx.is_clean()


def test_json_of_several_has_what_one_has(hvtx: Program) -> None:
    """One name: its object as ever. Several: these objects, and the errors of those that failed."""
    made(hvtx, *NAMES)
    one = hvtx("vm", "start", "a", "--json").json()
    assert one["schema"] == "hvtx/vm/1"
    ran = hvtx("vm", "start", "a", "b", "nope", "c", "--json", code=9)
    told = ran.json()
    assert (told["schema"], told["verb"]) == ("hvtx/several/1", "start")
    assert [vm["name"] for vm in told["vms"]] == ["b", "c"]
    assert set(told["vms"][0]) == set(one)
    assert [(f["vm"], f["code"]) for f in told["failed"]] == [
        ("a", "conflict"),
        ("nope", "not-found"),
    ]
    error = json.loads(ran.err)["error"]
    assert error["code"] == "partial"
    assert "2 of 4" in error["message"]
    removed = hvtx("vm", "rm", "--force", "a", "b", "--json").json()
    assert removed["vms"] == [
        {"schema": "hvtx/removed/1", "vm": "a"},
        {"schema": "hvtx/removed/1", "vm": "b"},
    ]
    assert removed["failed"] == []


def test_exit_codes(hvtx: Program) -> None:
    """9 where others are done; where none is, what all failed of, or 1; a name twice counts once."""
    made(hvtx, "a", "b")
    assert "there is no VM 'no'" in hvtx("vm", "start", "no", "nope", code=3).err
    ran = hvtx("vm", "start", "a", "nope", "a", code=9)
    assert ran.out.count("VM a is running") == 1
    assert ran.err.count("error: ") == 1
    assert hvtx("vm", "rm", "a", "nope", code=1).err.count("error: ") == 2
    assert "hint: hvtx vm rm a --force" in hvtx("vm", "rm", "a", "b", code=9).err
    assert hvtx("vm", "stop", "a", "a").out.splitlines() == ["VM a is stopped"]
    hvtx("vm", "start", code=2)
    hvtx("vm", "stop", "a", "--timeout", "x", code=2)


@pytest.mark.parametrize("firewall", BACKENDS)
def test_a_failure_of_one_leaves_the_others_whole(hvtx: Program, firewall: str) -> None:
    """A program that ends at once or is missing, a port that is taken, a kernel that is gone."""
    hvtx("--firewall", firewall, "network", "create", "net", "--subnet", "10.77.0.0/24")
    for name in NAMES:
        create(hvtx, name)
    base = ("vm", "create")
    hvtx(*base, "ends", "--network", "net", "--", "false")
    hvtx(*base, "missing", "--network", "net", "--", "/nowhere/hypervisor")
    create(hvtx, "taken", "-p", "9090:80")
    with socket.create_server(("", 9090)):
        names = ("a", "ends", "b", "missing", "taken", "c")
        failed = hvtx("vm", "start", *names, "--json", code=9).json()["failed"]
    assert {f["vm"]: f["code"] for f in failed} == {
        "ends": "host-refused",
        "missing": "not-found",
        "taken": "conflict",
    }
    assert states(hvtx, *names) == [
        "running", "defined", "running", "defined", "defined", "running",
    ]  # fmt: skip
    for name in ("ends", "missing", "taken"):
        assert {row["kind"] for row in hvtx.vm(name)["resources"]} == {"lease"}
    assert hvtx.is_clean()
    assert hvtx("repair", "--json").json()["repaired"] == []


@pytest.mark.parametrize("point", ["acted:filter", "registered", "intended", "up"])
def test_what_fails_for_all_is_undone_and_each_is_started_alone(hvtx: Program, point: str) -> None:
    """An error of a common step, once: all are up in the end, and nothing is left of the first."""
    made(hvtx, *NAMES)
    hvtx("vm", "start", *NAMES, code=None, HVTX_FAILPOINT=f"{point}:error")
    up = states(hvtx, *NAMES)
    if point != "up":  # which is of one VM: it alone fails
        assert up == ["running"] * 3
    else:
        assert up == ["defined", "running", "running"]
    assert hvtx.is_clean()
    assert hvtx("intents", "--json").json()["operations"] == []


@pytest.mark.parametrize(
    "point",
    ["removed", "releasing", "intended"],
)
def test_what_fails_for_all_is_stopped_alone(hvtx: Program, point: str) -> None:
    """The same of a stop."""
    made(hvtx, *NAMES)
    before = lab.dump()
    hvtx("vm", "start", *NAMES)
    hvtx("vm", "stop", *NAMES, "--force", code=None, HVTX_FAILPOINT=f"{point}:error")
    assert states(hvtx, *NAMES) == ["defined"] * 3
    assert hvtx.is_clean()
    assert lab.difference(before, lab.dump()) == ""


def test_whom_another_command_holds_is_waited_for_last(hvtx: Program) -> None:
    """The others are done meanwhile; who is not let go in time is busy, and named."""
    made(hvtx, *NAMES)
    hvtx("vm", "start", *NAMES)
    other = stopped(hvtx, "intended", "vm", "stop", "b", "--force")
    try:
        ran = hvtx("--lock-timeout", "0.2", "vm", "stop", *NAMES, "--force", "--json", code=9)
        told = ran.json()
        assert [vm["name"] for vm in told["vms"]] == ["a", "c"]
        assert [(f["vm"], f["code"]) for f in told["failed"]] == [("b", "busy")]
    finally:
        ended(other, 18)
    assert states(hvtx, *NAMES) == ["defined"] * 3
    assert hvtx.is_clean()


_LAST = """
import os, signal, sys, time
place, own, all_ = sys.argv[1], sys.argv[2], sys.argv[3].split(",")
def asked(number, frame):
    open(os.path.join(place, own), "w").close()
    for _ in range(2000):
        if set(os.listdir(place)).issuperset(all_):
            open(os.path.join(place, own + ".whole"), "w").close()
            os._exit(0)
        time.sleep(0.005)
signal.signal(signal.SIGTERM, asked)
while True:
    time.sleep(1)
"""


def test_guests_power_down_at_the_same_time(hvtx: Program, tmp_path: Path) -> None:
    """Each waits for the others to be asked: one after the other, none would end by itself."""
    place = tmp_path / "asked"
    place.mkdir()
    place.chmod(0o777)
    for parent in (tmp_path, *tmp_path.parents):
        parent.chmod(parent.stat().st_mode | 0o011)
    network(hvtx)
    for name in NAMES:
        words = (sys.executable, "-c", _LAST, str(place), name, ",".join(NAMES))
        hvtx("vm", "create", name, "--network", "net", "--user", "root", "--", *words)
    hvtx("vm", "start", *NAMES)
    hvtx("vm", "stop", *NAMES, "--timeout", "20")
    assert {file.name for file in place.iterdir()} == {*NAMES, *(f"{n}.whole" for n in NAMES)}


def test_a_held_device_keeps_its_own_vm_only(hvtx: Program) -> None:
    """Who holds a TAP is named, that VM keeps all of its things, and the others are gone."""
    network(hvtx)
    for name in NAMES:
        hvtx("vm", "create", name, "--network", "net", "--hypervisor", "external")
    hvtx("vm", "start", *NAMES)
    held = hold(hvtx.device("b"))
    try:
        ran = hvtx("vm", "stop", *NAMES, code=9)
        assert ran.out.splitlines() == ["VM a is stopped", "VM c is stopped"]
        assert f"pid {os.getpid()}" in ran.err
        assert "tap" in {row["kind"] for row in hvtx.vm("b")["resources"]}
        assert [hvtx.vm(n)["state"] for n in ("a", "c")] == ["defined", "defined"]
    finally:
        os.close(held)
    hvtx("vm", "stop", "b", "a")
    assert hvtx.is_clean()


def test_more_than_a_slice(hvtx: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five in slices of two, with a failure in two of them; the rest is up, and goes again."""
    monkeypatch.setattr(together, "SLICE", 2)
    network(hvtx)
    names = [f"n{number}" for number in range(5)]
    for name in names:
        hvtx("vm", "create", name, "--network", "net", "--hypervisor", "external")
    hvtx("vm", "start", "n1", "n4")
    ran = hvtx("vm", "start", *names, code=9)
    assert ran.err.count("error: ") == 2
    assert lab.run("ip", "-o", "link").count(": hv") == 6  # with the bridge
    hvtx("vm", "rm", "--force", *names)
    assert hvtx("vm", "ls", "--json").json()["vms"] == []
    assert hvtx.is_clean()


def test_ctrl_c_in_the_middle_takes_back_what_was_begun(hvtx: Program) -> None:
    """130, nothing half-done, and no process is left."""
    made(hvtx, *NAMES)
    run = stopped(hvtx, "registered", "vm", "start", *NAMES)
    run.send_signal(2)
    ended(run, 18)
    assert run.returncode == 130
    assert states(hvtx, *NAMES) == ["defined"] * 3
    assert hvtx.is_clean()


def test_ctrl_c_after_the_commit_comes_too_late(hvtx: Program) -> None:
    """All of them run as if it had not come, and each still holds its published port."""
    made(hvtx, *NAMES)
    run = stopped(hvtx, "committed", "vm", "start", *NAMES)
    run.send_signal(2)
    ended(run, 18)
    assert states(hvtx, *NAMES) == ["running"] * 3
    assert hvtx("repair", "--json").json()["repaired"] == [], "nobody's port was let go of"
    assert hvtx.is_clean()


@pytest.mark.parametrize(
    ("query", "found", "left"),
    [
        ("SELECT verb FROM operation WHERE ended IS NULL", "rm", ["a", "b", "c"]),
        ("SELECT count(*) FROM operation WHERE verb = 'rm' AND ended IS NOT NULL", 2, ["c"]),
    ],
    ids=["as it begins", "as it ends"],
)
def test_ctrl_c_while_a_removal_is_written_ends_the_run(
    hvtx: Program, monkeypatch: pytest.MonkeyPatch, query: str, found: object, left: list[str]
) -> None:
    """What had only begun is undone, what was written is done, and what comes after is not begun."""
    made(hvtx, *NAMES)
    monkeypatch.setattr(together, "SLICE", 2)
    interrupt_after(monkeypatch, query, (found,))
    with pytest.raises(KeyboardInterrupt):
        Host().vm.rm_each(NAMES)
    assert [vm["name"] for vm in hvtx("vm", "ls", "--json").json()["vms"]] == left
    assert hvtx("intents", "--json").json()["operations"] == []
    assert hvtx.is_clean()


def test_ctrl_c_while_starts_are_committed_begins_no_more(
    hvtx: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were committed run, with their ports; those of later slices are not begun."""
    made(hvtx, *NAMES)
    monkeypatch.setattr(together, "SLICE", 2)
    ended_starts = "SELECT count(*) FROM operation WHERE verb = 'start' AND ended IS NOT NULL"
    interrupt_after(monkeypatch, ended_starts, (2,))
    with pytest.raises(KeyboardInterrupt):
        Host().vm.start_each(NAMES)
    assert states(hvtx, *NAMES) == ["running", "running", "defined"]
    assert hvtx("repair", "--json").json()["repaired"] == []
    assert hvtx.is_clean()


def test_what_became_of_each_outlives_what_is_closed_last(
    hvtx: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together it failed, alone it went: that the rest could not be closed then takes nothing back."""
    made(hvtx, *NAMES)
    closed = []

    def fails(*_: object, **__: object) -> None:
        raise StoreError("the disk has no room", hint="make some")

    def held_up(_: object) -> None:
        closed.append("not")
        raise Busy("the state store is held", hint="try again")

    with monkeypatch.context() as patch:
        for module in (vm_start_many, vm_stop_many):
            patch.setattr(module, "begin_each", fails)
            patch.setattr(module, "close_interrupted", held_up)
        verbs = Host().vm
        for verb in (verbs.start_each, verbs.stop_each, verbs.rm_each):
            came = verb(NAMES)
            assert (list(came.done), came.failed) == ([*NAMES], {}), verb
    assert len(closed) == 3
    assert hvtx("vm", "ls", "--json").json()["vms"] == []
    assert hvtx.is_clean()


def test_ports_that_only_each_alone_can_hold(hvtx: Program) -> None:
    """The sockets of all would be too many for one process: one after the other they start."""
    network(hvtx)
    for number, name in enumerate(NAMES):
        first = 8000 + 100 * number
        ports = [word for n in range(first, first + 30) for word in ("-p", f"{n}:{n}")]
        create(hvtx, name, *ports)
    argv = ["prlimit", "--nofile=160:160", sys.executable, "-m", "hvtx", "vm", "start"]
    for names in (NAMES[:1], NAMES[1:]):
        ran = subprocess.run([*argv, *names], capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stderr) == (0, ""), names
    assert hvtx("repair", "--json").json()["repaired"] == []
    assert hvtx.is_clean()


def test_a_port_that_others_have_is_one_vms_failure(hvtx: Program, tmp_path: Path) -> None:
    """A rule of others, and another installation: looked for once, found for whose port it is."""
    made(hvtx, *NAMES)
    two = {"HVTX_STATE_DIR": str(tmp_path / "state2"), "HVTX_RUN_DIR": str(tmp_path / "run2")}
    other = Forked(**two)
    other("network", "create", "two", "--subnet", "10.78.0.0/24")
    other(
        "vm", "run", "theirs", "--network", "two", "-p", "10.78.0.1:8080:80", "--", "sleep", "600"
    )
    chain = "{ type nat hook prerouting priority -110; }"
    lab.run("nft", f"add table ip theirs; add chain ip theirs c {chain}")
    lab.run("nft", "add rule ip theirs c tcp dport 8081 dnat to 192.0.2.7:80")
    ran = hvtx("vm", "start", *NAMES, code=9)
    assert states(hvtx, *NAMES) == ["defined", "defined", "running"]
    assert "published by another installation" in ran.err
    assert "8081" in ran.err
    other("vm", "rm", "--force", "theirs")
    lab.run("nft", "delete table ip theirs")
    hvtx("vm", "start", "a", "b")
    assert states(hvtx, *NAMES) == ["running"] * 3
    other("network", "rm", "two")
    assert hvtx.is_clean()
