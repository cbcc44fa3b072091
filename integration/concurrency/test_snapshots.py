"""What is told of a host on which others start and stop VMs at that very moment: only what is so.

Record and host are not read in one moment. A command that looks is stopped between two of its
looks, others come and go whole, and it goes on: no operation is interrupted, left behind, lost or
crashed, so nothing of the kind may be said, planned or written into the history.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bench import false_plans
from bench.false_plans import UNTRUE
from hvtx.host import tun
from integration import lab
from integration.crash.test_failpoints import SLEEP
from integration.crash.test_model_replay import stopped
from integration.lab.program import Forked, preload

# Between which looks a command is stopped: after the host, after the record, after second looks.
LOOKS = ("dumped", "read", "looked")
START, STOP = ("vm", "start"), ("vm", "stop")
MORE = ("vm", "run", "more", "--network", "net", "-p", "9090:80", *SLEEP)
NETWORK = ("network", "create", "net", "--subnet", "10.77.0.0/24", "--bridge", "hvnet0")
PLAN = ("gc", "--plan", "--json", "--detailed-exitcode")
# What comes and goes meanwhile; `web` runs before and has a process, `bare` has none, `idle` rests.
ACTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "a start": ((*START, "idle"),),
    "a start and a stop": ((*START, "idle"), (*STOP, "idle")),
    "a stop": ((*STOP, "web"),),
    "a stop without a process": ((*STOP, "bare"),),
    "a restart": ((*STOP, "web"), (*START, "web")),
    "a restart without a process": ((*STOP, "bare"), (*START, "bare")),
    "two restarts": ((*STOP, "web"), (*START, "web")) * 2,
    "a run": (MORE,),
    "a run and a removal": (MORE, ("vm", "rm", "more", "--force")),
    "another network": (("network", "create", "next", "--subnet", "10.78.0.0/24"),),
    "all is made anew": (
        *(("vm", "rm", name, "--force") for name in ("web", "bare", "idle")),
        ("network", "rm", "net"), NETWORK, MORE,
    ),
}  # fmt: skip


@pytest.fixture
def hvtx(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forked]:
    """Two VMs that run, with and without a process, and one that does not."""
    preload()
    firewall = getattr(request, "param", "nftables")
    monkeypatch.setenv("HVTX_FIREWALL", firewall)
    program = Forked(HVTX_FIREWALL=firewall)
    program(*NETWORK)
    program("vm", "create", "web", "--network", "net", "-p", "8080:80", *SLEEP)
    program("vm", "create", "idle", "--network", "net", "-p", "8081:80", *SLEEP)
    program("vm", "create", "bare", "--network", "net", "-p", "8082:80", "--hypervisor", "external")
    program("vm", "start", "web")
    program("vm", "start", "bare")
    yield program
    for vm in program("vm", "ls", "--json").json()["vms"]:
        program("vm", "rm", vm["name"], "--force")


def untrue(items: Sequence[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Items that would act, and those that tell of a loss or of others' doing."""
    return [
        (item["action"], item["reason"], item["kind"], item["message"])
        for item in items
        if item["action"] != "skip" or item["reason"] in UNTRUE or "is gone" in item["message"]
    ]


def told_wrongly(hvtx: Forked) -> list[dict[str, Any]]:
    """What gc or recover tell that they did, or that was never so; removals that are told twice."""
    entries = hvtx("log", "-n", "10000", "--detail", "--json").json()["entries"]
    wrong = [
        entry
        for entry in entries
        if entry["verb"] in ("gc", "recover")
        and entry["kind"]
        and (entry["event"] != "skipped" or entry["reason"] in UNTRUE)
    ]
    removed = [
        entry["detail"]["mark"]
        for entry in entries
        if entry["event"] == "removed" and entry["kind"] and entry["detail"]
    ]
    marks = [mark for mark in removed if mark]
    return wrong + [{"twice": mark} for mark in set(marks) if marks.count(mark) > 1]


@pytest.mark.parametrize(
    ("hvtx", "act"),
    [*(("nftables", act) for act in ACTS),
     *(("iptables", act) for act in ("a restart", "a run and a removal", "all is made anew"))],
    indirect=["hvtx"],
)  # fmt: skip
def test_a_plan_beside_others_is_empty(hvtx: Forked, act: str) -> None:
    """Whatever comes and goes between two looks of a plan, and of one that is carried out."""
    with ExitStack() as stack:
        waiting = [stack.enter_context(stopped(*PLAN, at=f"{look}:stop")) for look in LOOKS]
        waiting.append(stack.enter_context(stopped("gc", "--apply", "--json", at="dumped:stop")))
        for argv in ACTS[act]:
            hvtx(*argv)
        codes = [command.go_on() for command in waiting]
    found = [untrue(json.loads(command.output)["items"]) for command in waiting]
    assert (found, codes) == ([[], [], [], []], [0, 0, 0, 0])
    assert told_wrongly(hvtx) == []
    assert hvtx.is_clean()


@pytest.mark.parametrize("look", ["dumped", "read"])
def test_nothing_else_tells_it_either(hvtx: Forked, look: str) -> None:
    """`doctor`, `metrics`, `explain` and `recover`, while a VM is restarted and another starts."""
    device = hvtx.device("web")
    with (
        stopped("doctor", "--json", at=f"{look}:stop") as doctor,
        stopped("metrics", at=f"{look}:stop") as metrics,
        stopped("explain", device, "--json", at=f"{look}:stop") as explain,
        stopped("recover", "--json", at=f"{look}:stop") as recover,
    ):
        for argv in (*ACTS["a restart"], *ACTS["a start"]):
            hvtx(*argv)
        for command in (doctor, metrics, explain, recover):
            command.go_on()
    findings = json.loads(doctor.output)["findings"]
    assert [
        f for f in findings if f["check"] in ("damage", "operations") and f["level"] != "ok"
    ] == []
    acting = re.findall(r'^hvtx_gc_items{action="(?!skip)\w+".*', metrics.output, re.MULTILINE)
    lost = re.findall(
        r'^hvtx_gc_items{.*reason="(?:lost|mark-\w+)".*', metrics.output, re.MULTILINE
    )
    assert (acting, lost) == ([], [])
    if '"error"' not in explain.output:  # or it says that there is no such thing any more
        assert json.loads(explain.output)["gc"]["action"] == "skip"
    assert json.loads(recover.output)["resolved"] == []
    assert told_wrongly(hvtx) == []


@pytest.mark.parametrize(
    ("verb", "vm", "point"),
    [("start", "idle", "intended"), ("start", "idle", "acted:tap"), ("start", "idle", "registered"),
     ("stop", "web", "intended"), ("stop", "web", "ended:process"), ("stop", "web", "releasing"),
     ("stop", "bare", "removed"), ("stop", "bare", "forgotten")],
)  # fmt: skip
def test_an_operation_that_ends_meanwhile_was_not_interrupted(
    hvtx: Forked, verb: str, vm: str, point: str
) -> None:
    """It was open when the record was read, and its lock is free when that is looked at."""
    with (
        stopped("vm", verb, vm, at=f"{point}:stop") as other,
        stopped(*PLAN, at="read:stop") as plan,
        stopped("gc", "--apply", "--json", at="read:stop") as gc,
    ):
        assert other.go_on() == 0, other.output
        assert (plan.go_on(), gc.go_on()) == (0, 0)
    assert untrue(json.loads(plan.output)["items"]) == []
    assert untrue(json.loads(gc.output)["items"]) == []
    assert told_wrongly(hvtx) == []
    assert hvtx.is_clean()


def test_who_is_stopped_did_not_crash(hvtx: Forked) -> None:
    """A VM whose process has just ended, by a stop that goes on, is `stopping` for everybody."""
    with stopped("vm", "stop", "web", at="ended:process:stop") as stop:
        assert hvtx.vm("web")["state"] == "stopping"
        assert hvtx("metrics").out.count('hvtx_vms{state="crashed"} 0') == 1
        assert stop.go_on() == 0, stop.output


def test_a_device_that_waits_for_its_mark_is_not_a_strangers(hvtx: Forked) -> None:
    """However long that takes: the lock of rtnetlink is one for all namespaces of a host."""
    with stopped("vm", "start", "idle", at="made:tap:stop") as start:
        plan = hvtx(*PLAN).json()
        hvtx("gc", "--apply")
        assert start.go_on() == 0
    taps = [i for i in plan["items"] if (i["kind"], i["vm"]) == ("tap", "idle")]
    assert [item["reason"] for item in taps] == ["operation-running"]
    assert (untrue(plan["items"]), told_wrongly(hvtx)) == ([], [])


def test_what_died_half_way_is_still_found(hvtx: Forked) -> None:
    """To doubt what moves hides nothing: what was interrupted while a plan looked is in the next."""
    with (
        stopped("vm", "stop", "web", at="releasing:stop,removed:kill") as stop,
        stopped("gc", "--plan", "--json", at="dumped:stop") as plan,
    ):
        assert stop.go_on() < 0
        plan.go_on()
    assert hvtx("intents", "--json").json()["operations"][0]["state"] == "interrupted"
    assert hvtx.plan()
    hvtx("gc", "--apply")
    assert hvtx.is_clean()


def acting(output: str) -> set[tuple[str, str, str]]:
    """Action, reason and kind of what a plan would do."""
    items = json.loads(output)["items"]
    return {(i["action"], i["reason"], i["kind"]) for i in items if i["action"] != "skip"}


def test_what_went_with_its_operation_is_not_to_be_deleted(hvtx: Forked) -> None:
    """Seen by the dump, removed by a stop that is killed then: there is only its record to close."""
    with (
        stopped("vm", "stop", "web", at="releasing:stop,removed:kill") as stop,
        stopped("gc", "--plan", "--json", at="dumped:stop") as plan,
    ):
        assert stop.go_on() < 0
        plan.go_on()
    found = acting(plan.output)
    assert {(action, reason) for action, reason, _ in found} == {("forget", "already-gone")}
    assert {"tap", "publish"} <= {kind for _, _, kind in found}


@pytest.mark.parametrize("point", ["registered", "opened"])
def test_a_process_that_was_noted_meanwhile_is_not_dead(hvtx: Forked, point: str) -> None:
    """The record knew of none, and who noted it is killed: `opened`, and the VM runs by now."""
    with (
        stopped("vm", "start", "idle", at=f"spawned:stop,{point}:kill") as start,
        stopped("gc", "--plan", "--json", at="read:stop") as plan,
        stopped("gc", "--apply", "--json", at="read:stop") as gc,
    ):
        assert start.go_on() < 0
        plan.go_on()
        assert gc.go_on() == 0, gc.output
    assert (acting(plan.output), acting(gc.output)) == (set(), set())
    assert hvtx.plan()  # the next one knows
    hvtx("gc", "--apply")
    assert hvtx.vm("idle")["state"] == ("running" if point == "opened" else "defined")
    assert hvtx.is_clean()


def test_a_leftover_that_somebody_removed_is_not_told_as_removed(hvtx: Forked) -> None:
    """Of what is gone when gc comes to it, gc did not remove it."""
    device = hvtx.device("bare")
    mark = next(r["mark"] for r in hvtx.vm("bare")["resources"] if r["key"] == device)
    index = socket.if_nametoindex(device)
    hvtx("vm", "stop", "bare")
    descriptor = tun.open_device()
    tun.create(descriptor, device, index)
    tun.set_persistent(descriptor, True)
    os.close(descriptor)
    lab.run("ip", "link", "set", device, "alias", mark)
    assert ("delete", "released-leftover") in hvtx.plan()
    with stopped("gc", "--apply", "--json", at="planned:stop") as gc:
        lab.run("ip", "link", "del", device)
        assert gc.go_on() == 0, gc.output
    (item,) = [i for i in json.loads(gc.output)["items"] if i["reason"] == "released-leftover"]
    assert (item["outcome"], "gone by now" in item["message"]) == ("skipped", True)
    assert told_wrongly(hvtx) == []


@pytest.mark.parametrize("apply", [False, True], ids=["alone", "beside gc"])
@pytest.mark.parametrize("firewall", ["nftables", "iptables"])
def test_a_crowd_that_starts_and_stops_is_told_truly(
    firewall: str, apply: bool, tmp_path: Path
) -> None:
    """A short run of bench/false_plans.py: no plan is false, each removal is told once."""
    run = lab.run(
        sys.executable, false_plans.__file__, "--json", "--vms", "0", "--plans", "30",
        "--firewall", firewall, "--seconds", "100", "--directory", str(tmp_path),
        *(["--apply"] if apply else []), check=False, timeout=200,
    )  # fmt: skip
    found = json.loads(run)
    lab.tell(**found)
    assert (found["plans"], found["cycles"] > 0) == (30, True)
    assert (found["untrue"], found["doubled"], found["by_gc"]) == ({}, 0, 0)
