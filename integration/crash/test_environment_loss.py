"""What the program stands on goes from under it: its run directory, its power, its record, its caller."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hvtx import migrations
from hvtx.store import connection, creating
from integration import lab
from integration.commands.test_gc_foreign import hold
from integration.crash.test_failpoints import end_everything, host
from integration.crash.test_interrupts import commanded
from integration.lab.program import Forked, preload

SLEEP = ("--", "sleep", "600")
HVTX = (sys.executable, "-m", "hvtx")


@pytest.fixture
def hvtx() -> Iterator[Forked]:
    """A network, and a VM that is defined."""
    preload()
    program = Forked(HVTX_FIREWALL="nftables")
    program("network", "create", "net", "--subnet", "10.77.0.0/24")
    program("vm", "create", "web", "--network", "net", "-p", "8080:80", *SLEEP)
    yield program
    end_everything(program)


@pytest.mark.parametrize("how", ["removed", "covered"])
@pytest.mark.parametrize("point", ["acted:tap", "opened"])
def test_a_run_directory_that_goes_under_a_running_start(
    hvtx: Forked, point: str, how: str
) -> None:
    """Its lock went with it, its process did not: nobody takes the start for an interrupted one."""
    run = Path(os.environ["HVTX_RUN_DIR"])
    with commanded(
        "vm", "start", "web", HVTX_FAILPOINT=f"{point}:stop", HVTX_FIREWALL="nftables"
    ) as start:
        os.waitid(os.P_PID, start.pid, os.WSTOPPED)
        before = host()
        if how == "removed":
            shutil.rmtree(run)
        else:
            run.rename(run.with_name("under"))
            run.mkdir()
        hvtx("recover")
        hvtx("gc", "--apply", code=None)
        (operation,) = hvtx("intents", "--json").json()["operations"]
        assert operation["state"] == "running"
        hvtx("--lock-timeout", "0.1", "vm", "start", "web", code=4)
        assert lab.difference(before, host()) == ""
        os.kill(start.pid, signal.SIGCONT)
        start.wait(60)
    hvtx("recover")
    hvtx("gc", "--apply", code=None)
    assert hvtx.is_clean()
    assert hvtx.vm("web")["state"] in ("running", "defined")


def test_root_of_a_user_namespace_is_refused_before_anything(hvtx: Forked) -> None:
    """It has every capability, and none that counts here: exit 5, and its VM runs on."""
    hvtx("vm", "start", "web")
    before = lab.dump()
    for argv in (("vm", "stop", "web"), ("gc", "--apply"), ("recover",), ("network", "rm", "net")):
        done = subprocess.run(
            ["unshare", "-U", "-r", *HVTX, *argv], capture_output=True, text=True, check=False
        )
        assert done.returncode == 5, (argv, done)
        assert "hint: " in done.stderr
    assert hvtx.vm("web")["state"] == "running"
    assert lab.difference(before, lab.dump()) == ""
    assert hvtx.is_clean()


def test_an_answer_that_was_lost(hvtx: Forked) -> None:
    """Killed between the commit and the answer: asked again, no second VM comes of it."""
    argv = ("vm", "run", "new", "--network", "net", *SLEEP)
    hvtx(*argv, code=-signal.SIGKILL, HVTX_FAILPOINT="committed:kill")
    first = hvtx.vm("new")
    assert first["state"] == "running"
    again = hvtx(*argv, code=4)
    assert "new" in again.err
    assert hvtx.vm("new")["pid"] == first["pid"]
    assert [vm["name"] for vm in hvtx("vm", "ls", "--json").json()["vms"]] == ["new", "web"]
    assert hvtx.is_clean()


def dead_vms(hvtx: Forked) -> dict[str, str]:
    """Three of them, and their devices."""
    devices = {}
    for name in ("a", "b", "c"):
        hvtx("vm", "run", name, "--network", "net", *SLEEP)
        devices[name] = hvtx.device(name)
        lab.end(hvtx.vm(name)["pid"])
    return devices


def test_what_cannot_be_released_keeps_nothing_else(hvtx: Forked, tmp_path: Path) -> None:
    """Of three dead VMs one's device is opened after the plan: the others go, and it is told."""
    devices = dead_vms(hvtx)
    with (
        (tmp_path / "told").open("wb") as out,
        commanded(
            "gc", "--apply", "--json",
            stdout=out, HVTX_FAILPOINT="planned:stop", HVTX_FIREWALL="nftables",
        ) as gc,
    ):  # fmt: skip
        os.waitid(os.P_PID, gc.pid, os.WSTOPPED)
        holder = hold(devices["b"])
        os.kill(gc.pid, signal.SIGCONT)
        assert gc.wait(60) == 0  # what is in use is skipped, which is no failure
    left = lab.run("ip", "-o", "link")
    os.close(holder)
    assert [name for name, device in devices.items() if device in left] == ["b"]
    taps = [i for i in json.loads((tmp_path / "told").read_bytes())["items"] if i["kind"] == "tap"]
    assert {i["vm"]: i["outcome"] for i in taps} == {"a": "done", "b": "skipped", "c": "done"}
    assert all(item["message"] for item in taps if item["vm"] == "b")
    hvtx("gc", "--apply")
    assert hvtx.is_clean()


def test_a_writer_that_sleeps_inside_a_transaction(hvtx: Forked) -> None:
    """The others are told who is in the way (75), and nothing is acted; readers read on."""
    words = textwrap.dedent("""
        import os, signal, sys
        from hvtx.store.opening import open_store
        store = open_store(sys.argv[1], sys.argv[2], writable=True)
        with store.transaction() as sql:
            sql.execute("UPDATE vm SET autostart = 1")
            os.kill(os.getpid(), signal.SIGSTOP)
    """)
    before = host()
    asleep = subprocess.Popen(
        [sys.executable, "-c", words, os.environ["HVTX_STATE_DIR"], os.environ["HVTX_RUN_DIR"]]
    )
    try:
        os.waitid(os.P_PID, asleep.pid, os.WSTOPPED)
        for argv in (("vm", "start", "web"), ("vm", "rm", "web")):
            told = hvtx("--lock-timeout", "0.1", *argv, code=75)
            assert "the state store is held" in told.err
        assert hvtx.vm("web")["state"] == "defined"
        assert lab.difference(before, host()) == ""
    finally:
        asleep.kill()
        asleep.wait()
    hvtx("vm", "start", "web")
    assert hvtx.is_clean()


def test_an_upgrade_under_a_running_start(hvtx: Forked, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer program migrates the store meanwhile: the older one writes no more, the newer resolves."""
    with commanded(
        "vm", "start", "web", HVTX_FAILPOINT="up:stop", HVTX_FIREWALL="nftables"
    ) as start:
        os.waitid(os.P_PID, start.pid, os.WSTOPPED)
        newer = (*migrations.MIGRATIONS, ("9999_next", ("CREATE TABLE tomorrow (x INT) STRICT",)))
        monkeypatch.setattr(creating, "MIGRATIONS", newer)
        monkeypatch.setattr(connection, "SCHEMA", len(newer))
        hvtx("recover")
        assert [o["state"] for o in hvtx("intents", "--json").json()["operations"]] == ["running"]
        os.kill(start.pid, signal.SIGCONT)
        assert start.wait(60) == 7
    hvtx("recover")
    hvtx("gc", "--apply")
    assert hvtx.is_clean()
    assert hvtx.vm("web")["state"] in ("defined", "running")
    hvtx("vm", "rm", "web", "--force")
    assert json.loads(lab.run("ip", "-j", "link", "show", "type", "tun")) == []


def test_a_history_that_cannot_be_written(hvtx: Forked) -> None:
    """It stands in the same transactions: without it nothing counts as done, and nothing is left."""
    path = Path(os.environ["HVTX_STATE_DIR"], "hvtx.db")
    before = host()
    with closing(sqlite3.connect(path)) as sql, sql:
        sql.execute(
            "CREATE TRIGGER full BEFORE INSERT ON history WHEN NEW.event = 'made'"
            " BEGIN SELECT RAISE(ABORT, 'no room'); END"
        )
    failed = hvtx("vm", "start", "web", code=None)
    assert failed.code != 0
    assert hvtx.vm("web")["state"] == "defined"
    hvtx("recover")
    assert lab.difference(before, host()) == ""
    with closing(sqlite3.connect(path)) as sql, sql:
        sql.execute("DROP TRIGGER full")
    assert hvtx.is_clean()
    hvtx("vm", "start", "web")


def test_a_store_that_somebody_deleted(hvtx: Forked) -> None:
    """What is marked is shown, with its marks, and stays: it is another installation's now."""
    hvtx("vm", "start", "web")
    device, pid = hvtx.device("web"), hvtx.vm("web")["pid"]
    marks = {
        row["mark"] for row in hvtx.vm("web")["resources"] if row["kind"] in ("tap", "publish")
    }
    shown = lab.run("ip", "-d", "link", "show", device) + lab.run("nft", "list", "ruleset")
    assert all(mark in shown for mark in marks), "readable without this program"
    state = Path(os.environ["HVTX_STATE_DIR"])
    state.rename(state.with_name("away"))
    before = lab.dump()
    assert ("skip", "other-installation") in hvtx.reasons("tap", device)
    hvtx("gc", "--apply", code=None)
    hvtx("recover", code=None)
    assert lab.difference(before, lab.dump()) == ""
    os.kill(pid, 0)
    shutil.rmtree(state, ignore_errors=True)
    state.with_name("away").rename(state)
    assert hvtx.vm("web")["state"] == "running"
    assert hvtx.is_clean()
