"""VMs and containers that live and that an older copy of the store does not know: all is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hvtx import Host
from integration import lab
from integration.commands.test_unrecorded_files import SLEEP, later, planned, put_back, whole
from integration.lab import attachments
from integration.lab.example_host import hold
from integration.lab.program import Forked, Program, preload
from integration.lab.verbs import ended, stopped
from integration.lab.vms import end_vms

BY_HAND = ("gc", "--apply", "--unrecorded")


@pytest.fixture(params=["nftables", "iptables"])
def hvtx(request: pytest.FixtureRequest) -> Iterator[Program]:
    """A program with a network and a running VM `web`."""
    preload()
    program = Forked(HVTX_FIREWALL=request.param)
    program("network", "create", "net", "--subnet", "10.77.0.0/24", "--no-dhcp")
    program("vm", "run", "web", "--network", "net", *SLEEP)
    yield program
    end_vms(program)


def kept(hvtx: Program) -> dict[str, str]:
    """What is said of each unrecorded thing, after a run in which nothing of them may go."""
    before = whole()
    items = hvtx(*BY_HAND, "--json").json()["items"]
    found = [item for item in items if item["reason"] == "unrecorded"]
    assert {item["outcome"] for item in found} == {"skipped"}
    assert lab.difference(before, whole()) == ""
    return {item["key"]: item["message"] for item in found}


def test_a_container_that_lives_keeps_all(hvtx: Program, tmp_path: Path) -> None:
    """Its pair, its rules, and what a dead VM left; with its namespace all of it goes."""
    before = whole()
    hvtx("store", "backup", str(tmp_path / "backup"))
    attachments.box()
    try:
        with Host(firewall=hvtx.environment["HVTX_FIREWALL"]) as host:
            attached = host.attachments.add(attachments.asked(8080))
        dead = later(hvtx, "later")
        put_back(hvtx, tmp_path / "backup")
        lab.end(dead.pid)
        told = kept(hvtx)
        assert attached.host_device in told
        lives = f"on record lives: the container of {attached.host_device}"
        assert {words for words in told.values() if lives not in words} == set()
    finally:
        attachments.end_boxes()
    hvtx(*BY_HAND)
    assert lab.difference(before, whole()) == ""
    assert planned(hvtx) == {}


def test_who_cannot_be_seen_keeps_all_by_its_device(hvtx: Program, tmp_path: Path) -> None:
    """hvtx in a pid namespace of its own sees no process of the host's; the device tells."""
    hvtx("store", "backup", str(tmp_path / "backup"))
    runs = later(hvtx, "later", "-p", "9090:90")
    put_back(hvtx, tmp_path / "backup")
    lab.end(runs.pid)
    holder = hold(runs.device)
    left = whole()
    inside = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-m", "hvtx", *BY_HAND]
    try:
        ran = subprocess.run(
            inside, env=os.environ | hvtx.environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran
        assert f"{runs.device} is held open by some process" in ran.stdout
        assert lab.difference(left, whole()) == ""
    finally:
        os.close(holder)
    hvtx(*BY_HAND)
    assert planned(hvtx) == {}


def test_who_takes_a_device_meanwhile_keeps_what_is_left(hvtx: Program, tmp_path: Path) -> None:
    """After all of them were asked, and one has gone: of the other VM no rule goes, and no file."""
    hvtx("store", "backup", str(tmp_path / "backup"))
    both = [later(hvtx, "later", "-p", "9090:90"), later(hvtx, "more", "-p", "9091:91")]
    put_back(hvtx, tmp_path / "backup")
    for one in both:
        lab.end(one.pid)
    rules = {item["key"] for item in unrecorded(hvtx, "filter")}
    asked = stopped(hvtx, f"seen:tap:stop:{len(both) + 2},never", *BY_HAND)
    there = lab.run("ip", "-o", "link")
    (left,) = [one for one in both if one.device in there]
    holder = hold(left.device)
    try:
        ended(asked, signal.SIGCONT)
        assert asked.returncode == 0
        assert left.device in lab.run("ip", "-o", "link")
        assert left.directory.is_dir()
        assert {item["key"] for item in unrecorded(hvtx, "filter")} == rules
    finally:
        os.close(holder)
    hvtx(*BY_HAND)
    assert planned(hvtx) == {}


def unrecorded(hvtx: Program, kind: str) -> list[dict[str, Any]]:
    """What a plan says of things of a kind that are not on record."""
    return [item for item in hvtx.plan().get(("skip", "unrecorded"), []) if item["kind"] == kind]
