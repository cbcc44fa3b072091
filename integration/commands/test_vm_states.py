"""Each verb of a VM in each of its states."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from integration import lab
from integration.lab import witness
from integration.lab.processes import is_alive
from integration.lab.program import Program
from integration.lab.verbs import SLEEP, conflict, create, hvtx, network, state
from integration.lab.waiting import until

__all__ = ["hvtx"]  # the fixture


def test_defined(hvtx: Program) -> None:
    network(hvtx)
    before = lab.dump()
    create(hvtx)
    assert lab.difference(before, lab.dump()) == "", "create touches no kernel object"
    assert state(hvtx) == "defined"
    with witness.unchanged():
        hvtx("vm", "stop", "web")
        hvtx("vm", "stop", "web", "--force")
    conflict(hvtx, "vm", "attach", "web", "--pid", str(os.getpid()))
    conflict(hvtx, "vm", "console", "web")
    conflict(hvtx, "vm", "create", "web", "--network", "net", *SLEEP)
    conflict(hvtx, "vm", "run", "web", "--network", "net", *SLEEP)
    conflict(hvtx, "network", "rm", "net")
    assert hvtx("vm", "logs", "web", code=3).err.startswith("error: ")
    hvtx("vm", "rm", "web")
    assert lab.difference(before, lab.dump()) == ""


def test_running(hvtx: Program) -> None:
    network(hvtx)
    create(hvtx)
    started = hvtx("vm", "start", "web", "--json").json()
    for argv in (
        ("vm", "start", "web"), ("vm", "rm", "web"), ("vm", "attach", "web", "--pid", str(os.getpid())),
        ("vm", "run", "web", "--network", "net", *SLEEP), ("network", "rm", "net"),
    ):  # fmt: skip
        conflict(hvtx, *argv)
    os.kill(started["pid"], 0)
    hvtx("vm", "rm", "web", "--force")
    hvtx("vm", "show", "web", code=3)
    assert not is_alive(started["pid"])
    assert hvtx.is_clean()


def test_crashed(hvtx: Program) -> None:
    network(hvtx)
    create(hvtx)
    before = lab.dump()

    def crash() -> None:
        lab.end(hvtx("vm", "start", "web", "--json").json()["pid"])
        shown = hvtx.vm("web")
        assert (shown["state"], shown["pid"]) == ("crashed", None)
        assert [r for r in shown["resources"] if r["kind"] == "tap"]

    crash()
    conflict(hvtx, "vm", "rm", "web")
    conflict(hvtx, "network", "rm", "net")
    hvtx("vm", "stop", "web")
    assert (state(hvtx), lab.difference(before, lab.dump())) == ("defined", "")
    crash()
    assert hvtx("vm", "start", "web", "--json").json()["state"] == "running"
    hvtx("vm", "stop", "web", "--force")
    crash()
    hvtx("vm", "rm", "web", "--force")
    assert lab.difference(before, lab.dump()) == ""
    assert hvtx.is_clean()


def test_unknown(hvtx: Program) -> None:
    """A started `external` VM without a process."""
    network(hvtx)
    hvtx("vm", "create", "ext", "--network", "net", "--hypervisor", "external")
    before = lab.dump()
    shown = hvtx("vm", "start", "ext", "--json").json()
    assert (shown["state"], shown["pid"]) == ("unknown", None)
    for argv in (("vm", "start", "ext"), ("vm", "rm", "ext")):
        conflict(hvtx, *argv)
    conflict(hvtx, "vm", "attach", "ext", "--pid", "2147483646", code=3)
    assert {
        i["reason"] for i in hvtx("gc", "--plan", "--json").json()["items"] if i["kind"] == "tap"
    } == {"liveness-unknown"}
    hvtx("gc", "--apply")
    assert state(hvtx, "ext") == "unknown"
    hvtx("vm", "stop", "ext")
    assert (state(hvtx, "ext"), lab.difference(before, lab.dump())) == ("defined", "")


def test_an_attached_process(hvtx: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not signalled without --force; with it, TERM and then KILL."""
    for module in ("commands.vm_stop", "drivers.vm_process.gate", "drivers.vm_process.stop"):
        monkeypatch.setattr(f"hvtx.{module}.TERM_SECONDS", 0.5)
    network(hvtx)
    hvtx("vm", "create", "ext", "--network", "net", "--hypervisor", "external")
    stubborn = [
        sys.executable,
        "-c",
        "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)",
    ]
    guests = [subprocess.Popen(["sleep", "600"]), subprocess.Popen(stubborn)]
    try:
        for guest in guests:
            hvtx("vm", "start", "ext")
            attached = hvtx("vm", "attach", "ext", "--pid", str(guest.pid), "--json").json()
            assert (attached["state"], attached["pid"]) == ("running", guest.pid)
            for argv in (
                ("start", "ext"),
                ("rm", "ext"),
                ("stop", "ext"),
                ("attach", "ext", "--pid", str(guest.pid)),
            ):
                conflict(hvtx, "vm", *argv)
            assert guest.poll() is None
            hvtx("vm", "stop", "ext", "--force")
            assert guest.wait(30) in (-signal.SIGTERM, -signal.SIGKILL)
            assert state(hvtx, "ext") == "defined"
    finally:
        for guest in guests:
            guest.kill()
            guest.wait()


@pytest.mark.parametrize(
    ("verb", "point", "first"),
    [
        ("start", "acted:tap", "start"),
        ("start", "acted:filter", "start"),
        ("stop", "seized", "start"),
        ("stop", "released:nftables", "start"),
        ("set", "registered", None),
        ("set", "exchanged:nftables", None),
    ],
)
def test_what_is_half_made_gets_no_process(
    hvtx: Program, verb: str, point: str, first: str | None
) -> None:
    """It would run on what is there, and the rest would never come, or go.

    ``first``: what has to be done first, as the hint says; a change is carried through.
    """
    network(hvtx)
    hvtx("vm", "create", "ext", "--network", "net", "-p", "8080:80", "--hypervisor", "external")
    if verb != "start":
        hvtx("vm", "start", "ext")
    more = ("-p", "8081:81") if verb == "set" else ()
    hvtx("vm", verb, "ext", *more, code=-9, HVTX_FAILPOINT=f"{point}:kill")
    guest = subprocess.Popen(["sleep", "600"])
    attach = ("vm", "attach", "ext", "--pid", str(guest.pid))
    try:
        if first is not None:
            assert f"hvtx vm {first} ext" in conflict(hvtx, *attach).err
            hvtx("vm", first, "ext")
        hvtx(*attach)
        found = hvtx.vm("ext")
        assert found["state"] == "running"
        assert {row["state"] for row in found["resources"]} == {"committed"}
        assert hvtx.is_clean()
        hvtx("vm", "rm", "ext", "--force")
    finally:
        guest.kill()
        guest.wait()


def test_a_process_runs_one_vm(hvtx: Program) -> None:
    """Attached to a second one it would outlive what is collected for the first."""
    network(hvtx)
    create(hvtx)
    pid = hvtx("vm", "start", "web", "--json").json()["pid"]
    hvtx("vm", "create", "ext", "--network", "net", "--hypervisor", "external")
    hvtx("vm", "start", "ext")
    assert "'web'" in conflict(hvtx, "vm", "attach", "ext", "--pid", str(pid)).err
    assert state(hvtx, "ext") == "unknown"
    hvtx("vm", "rm", "ext", "--force")


def test_a_vm_with_nothing_to_run(hvtx: Program) -> None:
    """It has its leases and ports like any other; it cannot be started, and that makes nothing."""
    network(hvtx)
    hvtx("vm", "create", "bare", "--network", "net", "-p", "8080:80")
    assert hvtx.vm("bare")["interfaces"][0]["ipv4"] == "10.77.0.2"
    assert "--kernel" in conflict(hvtx, "vm", "start", "bare", code=3).err
    conflict(hvtx, "vm", "run", "other", "--network", "net", code=3)
    assert state(hvtx, "bare") == "defined"


def test_an_interrupted_start_is_started(hvtx: Program) -> None:
    """Not alive: undone and started again, in one step; alive: completed, by start (4) or recover."""
    network(hvtx)
    create(hvtx)
    hvtx("vm", "start", "web", code=-9, HVTX_FAILPOINT="acted:tap:kill")
    assert state(hvtx) == "crashed"
    hvtx("vm", "start", "web")
    hvtx("vm", "stop", "web", "--timeout", "1")
    hvtx("vm", "start", "web", code=-9, HVTX_FAILPOINT="up:kill")
    assert state(hvtx) == "running"
    assert ("commit", "in-use-before-commit") in hvtx.plan()
    hvtx("vm", "start", "web", code=4)
    assert {r["state"] for r in hvtx.vm("web")["resources"]} == {"committed"}
    assert hvtx.is_clean()


def test_a_run_of_a_name_that_is_taken_does_nothing(hvtx: Program) -> None:
    """What a crash left is for its start, or for who wants to look at it."""
    network(hvtx)
    create(hvtx, "web", "-p", "8080:80")
    lab.end(hvtx("vm", "start", "web", "--json").json()["pid"])
    until("a crash", lambda: state(hvtx) == "crashed")
    for verb in ("run", "create"):
        assert "exists already" in conflict(hvtx, "vm", verb, "web", "--network", "net", *SLEEP).err
    assert state(hvtx) == "crashed"
    hvtx("vm", "start", "web", code=-9, HVTX_FAILPOINT="acted:tap:kill")
    conflict(hvtx, "vm", "run", "web", "--network", "net", *SLEEP)
    assert len(hvtx("intents", "--json").json()["operations"]) == 1


@pytest.mark.parametrize("then", ["run", "create", "start"])
@pytest.mark.parametrize(
    ("verb", "point"), [("create", "intended"), ("run", "intended"), ("run", "acted:tap")]
)
def test_what_was_never_made_is_undone_first(
    hvtx: Program, verb: str, point: str, then: str
) -> None:
    """Its name and its port are free, and who wants to start it is told what to give again."""
    network(hvtx)
    words = ("web", "--network", "net", "-p", "8080:80", *SLEEP)
    hvtx("vm", verb, *words, code=-9, HVTX_FAILPOINT=f"{point}:kill")
    if then == "start":
        told = hvtx("vm", "start", "web", code=3).err
        assert "an interrupted command" in told
        assert f"hvtx vm {verb} web," in told
        assert hvtx("vm", "ls", "--json").json()["vms"] == []
    else:
        hvtx("vm", then, *words)
        assert state(hvtx) == ("running" if then == "run" else "defined")
        hvtx("vm", "rm", "web", "--force")
    assert hvtx.is_clean()


def test_a_stop_that_waits(hvtx: Program) -> None:
    """TERM is given its time; --force does not wait."""
    network(hvtx)
    polite = "trap 'echo polite; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    hvtx("vm", "create", "web", "--network", "net", "--", "sh", "-c", polite)
    hvtx("vm", "start", "web")
    until("its first line", lambda: "up" in hvtx("vm", "logs", "web").out)
    hvtx("vm", "stop", "web")
    assert "polite" in hvtx("vm", "logs", "web").out
    stubborn = "trap '' TERM; echo stubborn; while :; do sleep 0.05; done"
    hvtx("vm", "run", "two", "--network", "net", "--", "sh", "-c", stubborn)
    until("its first line", lambda: "stubborn" in hvtx("vm", "logs", "two").out)
    hvtx("vm", "stop", "two", "--timeout", "0.5")
    assert state(hvtx, "two") == "defined"


def test_a_run_that_fails_leaves_nothing(hvtx: Program, tmp_path: Path) -> None:
    network(hvtx)
    program = tmp_path / "program"
    program.write_text("#!/nonexistent\n")
    program.chmod(0o755)
    with witness.undone():
        ran = hvtx(
            "vm", "run", "web", "--network", "net", "-p", "8080:80", "--", str(program), code=6
        )
        assert "hint: " in ran.err
        hvtx(
            "vm",
            "run",
            "web",
            "--network",
            "net",
            *SLEEP,
            code=6,
            HVTX_FAILPOINT="acted:filter:error",
        )
    hvtx("vm", "logs", "web", code=3)
    assert hvtx.is_clean()
    hvtx("vm", "run", "web", "--network", "net", "-p", "8080:80", *SLEEP)


def test_the_hint_of_a_failed_start_carries_the_log(hvtx: Program, tmp_path: Path) -> None:
    """A hypervisor that says why it ends: its last lines are in the hint."""
    fake = tmp_path / "bin" / "qemu-system-x86_64"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho the disk is on fire >&2\nexit 1\n")
    fake.chmod(0o755)
    kernel = tmp_path / "kernel"
    kernel.write_text("")
    network(hvtx)
    hvtx("vm", "create", "web", "--network", "net", "--kernel", str(kernel))
    path = f"{fake.parent}:{os.environ['PATH']}"
    with witness.undone():
        ran = hvtx("vm", "start", "web", code=6, PATH=path, HVTX_QEMU_ACCEL="tcg")
    assert "on fire" in ran.err.split("hint: ")[1]
    assert "on fire" in hvtx("vm", "logs", "web").out


def test_qemu_is_told_its_address(hvtx: Program, tmp_path: Path) -> None:
    """console= and ip= are appended unless --append has its own; placeholders work there too."""
    kernel = tmp_path / "kernel"
    kernel.write_text("")
    fake = tmp_path / "bin" / "qemu-system-x86_64"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nfor word; do echo "<$word>"; done\nexit 1\n')
    fake.chmod(0o755)
    network(hvtx)
    path = f"{fake.parent}:{os.environ['PATH']}"
    for name, append in (("one", None), ("two", "quiet who={vm}/{ip}/{mac}/{gateway}/{netmask}/{tap}"),
                         ("three", "console=tty1 ip=dhcp")):  # fmt: skip
        more = ("--append", append) if append else ()
        hvtx("vm", "create", name, "--network", "net", "--kernel", str(kernel), *more)
        hvtx("vm", "start", name, code=6, PATH=path, HVTX_QEMU_ACCEL="tcg")
    lines = {n: hvtx("vm", "logs", n).out.splitlines() for n in ("one", "two", "three")}
    said = {
        n: words[words.index("<-append>") + 1].strip("<>").split() for n, words in lines.items()
    }
    assert {"console=ttyS0", "ip=10.77.0.2::10.77.0.1:255.255.255.0:one::off"} <= set(said["one"])
    mac = hvtx.vm("two")["interfaces"][0]["mac"]
    who = next(word for word in said["two"] if word.startswith("who="))
    assert who.rpartition("/")[0] == f"who=two/10.77.0.3/{mac}/10.77.0.1/255.255.255.0"
    assert re.match(r"hv[a-z2-7]+\Z", who.rpartition("/")[2])
    assert {"quiet", "console=ttyS0", "ip=10.77.0.3::10.77.0.1:255.255.255.0:two::off"} <= set(
        said["two"]
    )
    assert {"console=tty1", "ip=dhcp"} <= set(said["three"])
    assert not [w for w in said["three"] if w.startswith("ip=10") or w == "console=ttyS0"]


def test_what_a_command_is_told(hvtx: Program) -> None:
    """Environment and placeholders, of every interface; other braces and line breaks stay."""
    hvtx("network", "create", "one", "--subnet", "10.77.0.0/24")
    hvtx("network", "create", "two", "--subnet", "10.78.0.0/25", "--subnet", "fd78::/64")
    script = 'env | grep ^HVTX_ | sort\nfor word in "$@"; do echo "<$word>"; done; exec sleep 600'
    hvtx("vm", "run", "web", "--network", "one", "--network", "two", "--", "sh", "-c", script, "sh",
         "{vm} {tap} {mac} {ip} {gateway} {netmask}", "{tap_2} {mac_2} {ip_2} {gateway_2} {netmask_2}",
         "{ip6_2}", "{nothing} {} {{vm}} ${HOME} %s", HVTX_TAP_3="stale")  # fmt: skip
    until("its arguments", lambda: "<{nothing}" in hvtx("vm", "logs", "web").out)
    log = hvtx("vm", "logs", "web").out
    first, second = hvtx.vm("web")["interfaces"]
    told = dict(line.split("=", 1) for line in log.splitlines() if line.startswith("HVTX_"))
    expected = {
        "HVTX_VM": "web", "HVTX_TAP": first["device"], "HVTX_MAC": first["mac"], "HVTX_IP": "10.77.0.2",
        "HVTX_GATEWAY": "10.77.0.1", "HVTX_NETMASK": "255.255.255.0", "HVTX_TAP_2": second["device"],
        "HVTX_MAC_2": second["mac"], "HVTX_IP_2": "10.78.0.2", "HVTX_GATEWAY_2": "10.78.0.1",
        "HVTX_NETMASK_2": "255.255.255.128", "HVTX_IP6_2": "fd78::2", "HVTX_GATEWAY6_2": "fd78::1",
    }  # fmt: skip
    assert expected.items() <= told.items()
    assert "HVTX_TAP_3" not in told
    assert f"<web {first['device']} {first['mac']} 10.77.0.2 10.77.0.1 255.255.255.0>" in log
    assert f"<{second['device']} {second['mac']} 10.78.0.2 10.78.0.1 255.255.255.128>" in log
    assert "<fd78::2>" in log
    assert "<{nothing} {} {web} ${HOME} %s>" in log
