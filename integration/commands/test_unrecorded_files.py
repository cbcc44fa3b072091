"""Directories and seeds of VMs that an older copy of the store does not know."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from integration import lab
from integration.lab.example_host import hold
from integration.lab.program import Forked, Program, preload
from integration.lab.vms import end_vms
from integration.lab.waiting import until

SLEEP = ("--", "sleep", "600")


@pytest.fixture
def hvtx() -> Iterator[Program]:
    """A program with a network and a running VM `web`."""
    preload()
    program = Forked(HVTX_FIREWALL="nftables")
    program("network", "create", "net", "--subnet", "10.77.0.0/24", "--no-dhcp")
    program("vm", "run", "web", "--network", "net", *SLEEP)
    yield program
    end_vms(program)


class Later(NamedTuple):
    """A VM that the store which was put back does not know."""

    pid: int
    identity: str
    device: str
    directory: Path


def own() -> Path:
    """The installation's own run directory."""
    (found,) = (p.parent for p in Path(os.environ["HVTX_RUN_DIR"]).glob("*/marker"))
    return found


def tree() -> dict[str, tuple[int, str]]:
    """All below the run directory that is a VM's or a mark: its mode, and what is in it."""
    found = {}
    for above in ("vms", "marks", "networks"):
        for path in sorted((own() / above).rglob("*")):
            mode = path.lstat().st_mode
            text = path.read_bytes().hex() if stat.S_ISREG(mode) else ""
            found[str(path)] = (mode, text)
    return found


def whole() -> tuple[dict[str, tuple[int, str]], Any]:
    """The run directory's and the host's state."""
    return tree(), lab.dump()


def later(hvtx: Program, name: str, *options: str) -> Later:
    """Run a VM after the backup."""
    hvtx("vm", "run", name, "--network", "net", *options, *SLEEP)
    shown = hvtx.vm(name)
    place = own() / "vms" / shown["id"]
    assert place.is_dir()
    return Later(shown["pid"], shown["id"], shown["interfaces"][0]["device"], place)


def put_back(hvtx: Program, backup: Path) -> None:
    """The older store, on a person's word."""
    hvtx("store", "restore", str(backup), "--force")
    hvtx("recover", "--accept-rollback")


def planned(hvtx: Program) -> dict[str, dict[str, Any]]:
    """What a plan says of files that are not on record, by path."""
    items = hvtx.plan().get(("skip", "unrecorded"), [])
    return {item["key"]: item for item in items if item["kind"] == "file"}


def unrecorded_of_doctor(hvtx: Program) -> list[list[str]]:
    """The evidence of each warning of `doctor` about files that are not on record."""
    told = hvtx("doctor", "--json", code=None).json()["findings"]
    about = [f for f in told if f["check"] == "store" and "not on record" in f["message"]]
    assert {(f["level"], f["hint"]) for f in about} <= {("warning", "hvtx gc --plan")}
    return [sorted(f["evidence"]) for f in about]


def test_of_a_dead_vm_they_are_told_and_go_by_a_persons_word(hvtx: Program, tmp_path: Path) -> None:
    """The directory, its mark and its seed; nothing of the VM on record."""
    before = whole()
    hvtx("store", "backup", str(tmp_path / "backup"))
    (tmp_path / "user-data").write_text("#cloud-config\n{}\n")
    gone = later(hvtx, "later", "--user-data", str(tmp_path / "user-data"))
    put_back(hvtx, tmp_path / "backup")
    lab.end(gone.pid)
    seed = gone.directory / "seed.iso"
    left = whole()
    found = planned(hvtx)
    assert found.keys() == {str(gone.directory), str(seed)}
    for path, item in found.items():
        assert item["evidence"] == [f"mark {item['mark']}", "no process is at it"]
        told = hvtx("explain", path, "--json").json()
        assert (told["owner"], told["gc"]) == (
            "unknown", {"action": "skip", "reason": "unrecorded"},
        )  # fmt: skip
        assert hvtx("explain", item["mark"], "--json").json()["object"] == item["mark"]
    assert hvtx("explain", gone.identity, "--json").json()["gc"]["reason"] == "unrecorded"
    assert unrecorded_of_doctor(hvtx) == [sorted(found)]
    hvtx("gc", "--apply")
    hvtx("recover")
    assert lab.difference(left, whole()) == ""
    hvtx("gc", "--apply", "--unrecorded")
    assert lab.difference(before, whole()) == ""
    assert hvtx.is_clean()
    assert planned(hvtx) == {}
    assert unrecorded_of_doctor(hvtx) == []


@pytest.mark.parametrize("held", [False, True], ids=["by its environment", "by its device"])
def test_what_a_vm_that_runs_has_stays(hvtx: Program, tmp_path: Path, held: bool) -> None:
    """Device, rules and files, as often as it is said; once it has ended, all of it goes."""
    before = whole()
    hvtx("store", "backup", str(tmp_path / "backup"))
    runs = later(hvtx, "later", "-p", "9090:90")
    other = later(hvtx, "other")
    lab.end(other.pid)
    put_back(hvtx, tmp_path / "backup")
    if held:  # a process that hvtx has not started, as an external VM's
        lab.end(runs.pid)
    holder = hold(runs.device) if held else None
    left = whole()
    if not held:
        assert f"sleep (pid {runs.pid}) is at it" in planned(hvtx)[str(runs.directory)]["evidence"]
    for _ in range(2):
        kept = hvtx("gc", "--apply", "--unrecorded", "--json").json()
        done = {item["outcome"] for item in kept["items"] if item["reason"] == "unrecorded"}
        assert done == {"skipped"}
        assert lab.difference(left, whole()) == ""
    if holder is not None:
        os.close(holder)
    else:
        lab.end(runs.pid)
    hvtx("gc", "--apply", "--unrecorded")
    assert lab.difference(before, whole()) == ""
    assert planned(hvtx) == {}


def test_a_strangers_word_keeps_what_is_not_on_record_alone(hvtx: Program, tmp_path: Path) -> None:
    """Anybody may say that a VM runs; who it is is told, and with its end all goes."""
    before = whole()
    hvtx("store", "backup", str(tmp_path / "backup"))
    gone = later(hvtx, "later")
    put_back(hvtx, tmp_path / "backup")
    lab.end(gone.pid)
    words = {"HVTX_TAP": "tap-of-nobody", "PATH": os.environ["PATH"]}
    stranger = subprocess.Popen(["sleep", "600"], env=words, cwd="/", user=65534, group=65534)
    try:
        assert (
            f"sleep (pid {stranger.pid}) is at it" in planned(hvtx)[str(gone.directory)]["evidence"]
        )
        left = whole()
        hvtx("gc", "--apply", "--unrecorded")
        assert lab.difference(left, whole()) == ""
        new = later(hvtx, "new", "--ip", "10.77.0.9")  # the first free one is kept, too
        lab.end(new.pid)
        hvtx("gc", "--apply")  # of what is on record nothing is
        assert lab.difference(left, whole()) == ""
    finally:
        stranger.kill()
        stranger.wait()
    hvtx("gc", "--apply", "--unrecorded")
    assert lab.difference(before, whole()) == ""
    assert planned(hvtx) == {}


def test_a_process_at_a_directory_keeps_it_alone(hvtx: Program, tmp_path: Path) -> None:
    """Whoever it is: one that works there, or has a file of it open."""
    hvtx("store", "backup", str(tmp_path / "backup"))
    first, second = later(hvtx, "later"), later(hvtx, "more")
    put_back(hvtx, tmp_path / "backup")
    for one in (first, second):
        lab.end(one.pid)
    (first.directory / "disk").touch()
    with (first.directory / "disk").open() as file:
        user = subprocess.Popen(["sleep", "600"], stdin=file)
    try:
        evidence = planned(hvtx)[str(first.directory)]["evidence"]
        assert evidence[1:] == [f"sleep (pid {user.pid}) is at it"]
        hvtx("gc", "--apply", "--unrecorded")
        assert (first.directory / "disk").exists()
        assert planned(hvtx).keys() == {str(first.directory)}
        assert not second.directory.exists()
    finally:
        user.kill()
        user.wait()


def test_what_lies_there_without_a_mark_of_ours_is_nobodys_to_remove(hvtx: Program) -> None:
    """No mark, another installation's, one that cannot be read, a draft: none goes."""
    marks, vms = own() / "marks", own() / "vms"
    token = hvtx.vm("web")["resources"][0]["mark"].split(":")[3]
    for name, text in (
        ("0a", f"hvtx:1:{'b' * 10}:{token}"),
        ("0b", "hvtx:9:what"),
        ("0c", "somebody's"),
        ("0d.new", f"hvtx:1:{own().name}:9999.{'a' * 16}"),
    ):
        (marks / name).write_text(text)
        (vms / name).mkdir()
    (vms / "0e").mkdir()
    (vms / "0e" / "mark").write_text(f"hvtx:1:{own().name}:9999.{'a' * 16}")  # a guest's own word
    left = whole()
    reasons = {
        Path(item["key"]).name: reason
        for (_, reason), items in hvtx.plan().items()
        for item in items
        if item["kind"] == "file" and item["vm"] is None
    }
    assert reasons == {"0a": "other-installation", "0b": "mark-unreadable"}
    hvtx("gc", "--apply", "--unrecorded")
    assert lab.difference(left, whole()) == ""


def test_logs_stay_for_a_later_vm_of_the_name(hvtx: Program, tmp_path: Path) -> None:
    """They have no mark: gc leaves them alone; who has the name writes on, and `vm rm` ends it."""
    logs = Path(os.environ["HVTX_STATE_DIR"]) / "logs"
    hvtx("store", "backup", str(tmp_path / "backup"))
    hvtx("vm", "run", "later", "--network", "net", "--", "sh", "-c", "echo first; sleep 600")
    until("the first word", lambda: "first" in (logs / "later.log").read_text())
    gone = hvtx.vm("later")["pid"]
    put_back(hvtx, tmp_path / "backup")
    lab.end(gone)
    said = (logs / "later.log").read_text()
    hvtx("gc", "--apply", "--unrecorded")
    assert (logs / "later.log").read_text() == said
    hvtx("vm", "run", "later", "--network", "net", "--", "sh", "-c", "echo second; sleep 600")
    until("the second word", lambda: "second" in (logs / "later.log").read_text())
    assert (logs / "later.log").read_text().startswith(said)
    hvtx("vm", "rm", "later", "--force")
    assert not (logs / "later.log").exists()
