"""The read-only view: what members of a group see of a store that only its owner may read."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hvtx import Host
from hvtx.model.attachment import AttachmentKey, AttachmentRequest
from integration import lab
from integration.commands.test_guest_options import KEY
from integration.lab import unprivileged, vmm_stand_in, witness
from integration.lab.program import Forked, Program, Ran, preload
from integration.lab.unprivileged import USER, Unprivileged
from integration.lab.waiting import until
from integration.security.test_privileges import death_of, sleeper

GROUP = 65531
SLEEP = ("--", "sleep", "600")
READS = (
    ("vm", "ls"),
    ("vm", "show", "web"),
    ("network", "ls"),
    ("network", "show", "lan"),
    ("log",),
)


@pytest.fixture
def home(netns: None) -> Iterator[Path]:
    with unprivileged.open_home() as path:
        yield path


@pytest.fixture
def root(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    """The owner of the store, root, with the group configured: a network and a VM."""
    preload()
    places = {"HVTX_STATE_DIR": str(home / "state"), "HVTX_RUN_DIR": str(home / "run"),
              "HVTX_CONFIG": str(home / "config.toml")}  # fmt: skip
    for name, value in places.items():
        monkeypatch.setenv(name, value)
    (home / "config.toml").write_text(f'group = "{GROUP}"\n')
    program = Forked()
    program("network", "create", "lan", "--subnet", "10.77.0.0/24")
    program(
        "vm",
        "run",
        "web",
        "--network",
        "lan",
        "-p",
        "8080:80",
        "--",
        "sh",
        "-c",
        "exec sleep 600",
        "s3cret",
    )
    yield program
    for name in ("web", "db"):
        program("vm", "rm", name, "--force", code=None)


def somebody(home: Path, *groups: int) -> Unprivileged:
    """A user without any capability, in these groups, who looks at root's store."""
    places = {"HVTX_STATE_DIR": str(home / "state"), "HVTX_RUN_DIR": str(home / "run")}
    return Unprivileged(home, groups=groups, **places)


@pytest.fixture
def member(root: Program, home: Path) -> Unprivileged:
    return somebody(home, GROUP)


def files(home: Path) -> dict[str, Path]:
    return {path.suffix: path for path in (home / "run/view").iterdir()}


def fresh(ran: Ran) -> bool:
    """Whether a member's answer says that it is not stale; by its JSON and by its note alike."""
    stale: bool = ran.json()["view"]["stale"]
    assert stale == ("changed since" in ran.err or "booted since" in ran.err), ran.err
    return not stale


def without(document: Any) -> object:
    text = re.sub(r'"mark": "[^"]*"', '"mark": null', json.dumps(document))
    document = json.loads(text)
    for vm in document["vms"] if "vms/" in document["schema"] else [document]:
        # what a VM is started with may hold secrets; a member is told nothing of it
        if vm["schema"] == "hvtx/vm/1":
            vm |= {"kernel": None, "initrd": None, "append": None, "directory": None}
            vm |= {"disks": [], "command": [], "user_data": None, "ssh_keys": []}
    return document


def test_members_see_what_root_sees_but_the_marks(root: Program, member: Unprivileged) -> None:
    for argv in READS:
        mine, theirs = root(*argv, "--json").json(), member(*argv, "--json")
        seen = theirs.json()
        assert fresh(theirs)
        assert seen.pop("view")["as_of"]
        assert seen == without(mine), argv
        assert member(*argv).out.splitlines()[0] == root(*argv).out.splitlines()[0]
        if argv[0] == "network":
            assert member(*argv).out == re.sub(r"hvtx:1:\S+", "-", root(*argv).out)
    assert "running" in member("vm", "ls").out


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs qemu-system-x86_64")
def test_members_see_with_what_a_guest_runs(
    root: Program, member: Unprivileged, home: Path
) -> None:
    disk = home / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    words = ("--network", "lan", "--disk", str(disk))
    root("vm", "run", "db", *words, HVTX_QEMU_ACCEL="tcg")
    seen = member("vm", "show", "db", "--json").json()
    assert seen["accelerator"] == "tcg"
    assert seen["accelerator_reason"] == "HVTX_QEMU_ACCEL=tcg decides"


def test_members_see_all_that_a_vm_is_set_to_but_what_it_is_started_with(
    root: Program, member: Unprivileged, home: Path
) -> None:
    data, key = home / "user-data", home / "key.pub"
    data.write_text("#cloud-config\npassword: s3cret\n")
    key.write_text(f"{KEY}\n")
    root(
        *("vm", "create", "db", "--network", "lan", "--ip", "10.77.0.60", "--ip", "10.77.0.61"),
        *("-p", "lan/8000-8002:8000-8002", "--limit", "in=10mbit", "--egress", "internet"),
        *("--allow", "10.0.0.1:443", "--deny", "192.0.2.0/24", "--queues", "2", "--user", "root"),
        *("--user-data", str(data), "--ssh-key", str(key), *SLEEP),
    )
    mine, theirs = (who("vm", "show", "db", "--json").json() for who in (root, member))
    assert theirs.pop("view")
    assert mine["user_data"]
    assert mine["ssh_keys"] == [KEY]
    assert theirs == without(mine)
    assert "user-data" not in files(home)[".json"].read_text()


def test_nothing_secret_is_in_the_view(root: Program, member: Unprivileged, home: Path) -> None:
    """No whole mark, no argument of a VM's program; and the store itself stays shut."""
    lab.run("ip", "link", "set", root.device("web"), "alias", "somebody's")
    assert "hvtx:1:" in root("vm", "stop", "web", code=9).err, (
        "a line of the history speaks of a mark"
    )
    assert "hvtx:1:…" in member("log").out
    text = files(home)[".json"].read_text()
    assert not re.search(r"hvtx:1:[a-z2-7]{10}:\d+\.", text)
    assert "s3cret" not in text
    for path, mode in ((home / "state", 0o700), (home / "state/hvtx.db", 0o600)):
        assert stat.S_IMODE(path.stat().st_mode) == mode
    for path, mode in (
        (home / "run/view", 0o750),
        (files(home)[".json"], 0o640),
        (files(home)[".seq"], 0o640),
    ):
        seen = path.stat()
        assert (stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid) == (mode, 0, GROUP)
    inside = [p for p in (home / "run").iterdir() if p.name != "view"]
    assert all(stat.S_IMODE(p.stat().st_mode) == 0o700 for p in inside), (
        "the rest of the run directory"
    )


def test_what_a_removed_vm_was_started_with_is_not_in_the_view(
    root: Program, member: Unprivileged, home: Path
) -> None:
    """Its line in the history has all of it, so that it can be made again: root's alone."""
    root("vm", "rm", "web", "--force")
    assert "s3cret" in root("log", "--json", "--detail").out
    ran = member("log", "--json", "--detail")
    assert "removed" in {entry["event"] for entry in ran.json()["entries"]}
    assert "s3cret" not in ran.out
    assert "s3cret" not in files(home)[".json"].read_text()


def test_a_guest_is_unknown_to_members(
    root: Program, member: Unprivileged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may not reach the hypervisor's socket, which is no error."""
    qemu = tmp_path / f"qemu-system-{os.uname().machine}"
    qemu.write_text(f'#!/bin/sh\nexec {sys.executable} {vmm_stand_in.__file__} qemu "$@"\n')
    qemu.chmod(0o755)
    (tmp_path / "vmlinuz").write_text("no kernel")
    for name, value in (("PATH", f"{tmp_path}:{os.environ['PATH']}"), ("TALKER", str(lab.open_place())),
                        ("HVTX_QEMU_ACCEL", "tcg")):  # fmt: skip
        monkeypatch.setenv(name, value)
    root("vm", "run", "db", "--network", "lan", "--kernel", str(tmp_path / "vmlinuz"))
    mine, theirs = (p("vm", "show", "db", "--json").json() for p in (root, member))
    assert (mine["state"], mine["guest"]) == ("running", "running")
    assert (theirs["state"], theirs["guest"]) == ("running", "unknown")


def test_all_else_stays_privileged(root: Program, member: Unprivileged) -> None:
    with witness.unchanged():
        for argv in (("gc", "--plan"), ("intents",), ("explain", "8080"), ("vm", "logs", "web"), ("vm", "stop", "web"),
                     ("gc", "--apply"), ("doctor",), ("recover",), ("vm", "create", "x", *SLEEP)):  # fmt: skip
            ran = member(*argv, code=5)
            assert "hint: " in ran.err
        ran = member("gc", "--plan", code=5)
        assert f"members of the group {GROUP} may use vm ls, vm show, network ls" in ran.err


def test_who_is_no_member_is_told_of_the_group(root: Program, home: Path) -> None:
    foreign_object = somebody(home)
    for argv in READS:
        ran = foreign_object(*argv, code=5)
        assert f"a member of the group {GROUP}" in ran.err
    assert "members of the group" not in foreign_object("gc", "--plan", code=5).err


def test_without_a_group_nothing_is_published(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preload()
    monkeypatch.setenv("HVTX_RUN_DIR", str(home / "run"))
    monkeypatch.setenv("HVTX_STATE_DIR", str(home / "state"))
    (home / "config.toml").touch()
    root = Forked(HVTX_CONFIG=str(home / "config.toml"))
    root("network", "create", "lan", "--subnet", "10.77.0.0/24")
    assert not (home / "run/view").exists()
    ran = somebody(home, GROUP)("vm", "ls", code=5)
    assert "run hvtx as root" in ran.err


def test_liveness_is_judged_when_it_is_read(root: Program, member: Unprivileged) -> None:
    """Nobody publishes when a VM dies: a member sees it all the same."""
    pid = root.vm("web")["pid"]
    assert member.vm("web")["state"] == "running"
    death_of(pid)
    assert member.vm("web")["state"] == "crashed"
    assert fresh(member("vm", "ls", "--json"))


def test_an_attached_process_of_somebody_else(root: Program, member: Unprivileged) -> None:
    root("vm", "run", "db", "--network", "lan", "--hypervisor", "external")
    assert member.vm("db")["state"] == "unknown"
    with sleeper() as pid:
        root("vm", "attach", "db", "--pid", str(pid))
        assert (member.vm("db")["state"], member.vm("db")["pid"]) == ("running", pid)
    assert member.vm("db")["state"] == "crashed"


def test_a_container_whose_namespace_has_gone(
    root: Program, member: Unprivileged, home: Path
) -> None:
    """Its pair has gone with it; by what number that would be looked for is not published."""
    box, key = lab.Namespace(), AttachmentKey("podnet", "c0ffee", "eth0")
    with Host(state_dir=home / "state", run_dir=home / "run", config=home / "config.toml") as host:
        asked = AttachmentRequest(key, "lan", f"/proc/{box.pid}/ns/net", subnets=("10.77.0.0/24",))
        made = host.attachments.add(asked)
        assert member.vm(made.vm)["state"] == "running"
        box.close()
        until(
            "the host's end of the pair gone", lambda: made.host_device not in lab.run("ip", "link")
        )
        assert root.vm(made.vm)["state"] == member.vm(made.vm)["state"] == "crashed"
        host.attachments.delete(key)


@pytest.mark.parametrize("place", ["intended", "acted:tap", "opened", "committed", "drafted:view"])
def test_a_view_that_is_behind_says_so_and_is_fixed(
    root: Program, member: Unprivileged, place: str
) -> None:
    """A command killed before it could publish; the next changing one, here recover, publishes."""
    root("vm", "create", "db", "--network", "lan", *SLEEP)
    assert fresh(member("vm", "ls", "--json"))
    root("vm", "start", "db", code=-9, HVTX_FAILPOINT=f"{place}:kill")
    ran = member("vm", "ls", "--json")
    assert not fresh(ran)
    assert "the next one does" in ran.err
    root("recover")
    assert fresh(member("vm", "ls", "--json"))
    assert member.vm("db")["state"] == root.vm("db")["state"]


def test_who_writes_without_the_group_makes_it_stale(root: Program, member: Unprivileged) -> None:
    """sudo drops the variable; a program, or a CNI plugin, has another configuration."""
    assert fresh(member("vm", "ls", "--json"))
    root("vm", "create", "db", "--network", "lan", *SLEEP, HVTX_CONFIG="/dev/null")
    ran = member("vm", "ls", "--json")
    assert not fresh(ran)
    assert [vm["name"] for vm in ran.json()["vms"]] == ["web"]
    root("recover")
    ran = member("vm", "ls", "--json")
    assert fresh(ran)
    assert [vm["name"] for vm in ran.json()["vms"]] == ["db", "web"]


def test_a_change_of_which_no_number_tells_is_published(
    root: Program, member: Unprivileged, home: Path
) -> None:
    """By the next who publishes: what counts is the store, not what was noted of it."""
    numbers = files(home)[".seq"]
    before = numbers.read_bytes()
    root("vm", "create", "db", "--network", "lan", *SLEEP, HVTX_CONFIG="/dev/null")
    numbers.write_bytes(before)
    root("recover")
    ran = member("vm", "ls", "--json")
    assert fresh(ran)
    assert [vm["name"] for vm in ran.json()["vms"]] == ["db", "web"]


def test_killed_right_after_it_was_published(root: Program, member: Unprivileged) -> None:
    root(
        "vm",
        "create",
        "db",
        "--network",
        "lan",
        *SLEEP,
        code=-9,
        HVTX_FAILPOINT="renamed:view:kill",
    )
    assert fresh(member("vm", "ls", "--json"))
    assert member.vm("db")["state"] == "defined"


def test_a_view_that_is_gone_comes_back_with_recover(
    root: Program, member: Unprivileged, home: Path
) -> None:
    for path in files(home).values():
        path.unlink()
    assert "run hvtx as root" in member("vm", "ls", code=5).err
    root("recover")
    assert fresh(member("vm", "ls", "--json"))


def test_a_change_that_was_noted_and_never_made(
    root: Program, member: Unprivileged, home: Path
) -> None:
    """Killed between note and commit: said to be stale until the next command finds that it is not."""
    numbers = files(home)[".seq"]
    seq, published = (int.from_bytes(numbers.read_bytes()[n : n + 8], "little") for n in (0, 8))
    assert seq == published
    numbers.write_bytes((seq + 1).to_bytes(8, "little") + published.to_bytes(8, "little"))
    assert not fresh(member("vm", "ls", "--json"))
    root("recover")
    assert fresh(member("vm", "ls", "--json"))


def test_another_boot(root: Program, member: Unprivileged, home: Path) -> None:
    """A view that outlived the boot (a run directory on a disk): stale, and nothing of it runs."""
    path = files(home)[".json"]
    seen = json.loads(path.read_text())
    other = "00000000-0000-4000-8000-000000000000"
    path.write_text(path.read_text().replace(seen["life"][1], other))
    ran = member("vm", "ls", "--json")
    assert not fresh(ran)
    assert ran.json()["vms"][0]["state"] == "crashed"


def test_a_view_that_others_could_have_made_is_not_believed(
    root: Program, member: Unprivileged, home: Path
) -> None:
    path = files(home)[".json"]
    text = path.read_bytes()

    def refused(word: str) -> None:
        ran = member("vm", "ls", code=5)
        assert "refusing to use" in ran.err, ran.err
        assert word in ran.err, ran.err
        assert ran.out == ""

    os.chown(path, USER + 7, GROUP)
    refused(f"belongs to user {USER + 7}")
    os.chown(path, 0, GROUP)
    path.chmod(0o660)
    refused("others may write it")
    path.unlink()
    (home / "fake.json").write_bytes(text)
    path.symlink_to(home / "fake.json")
    refused("Too many levels")
    path.unlink()
    os.mkfifo(path, 0o640)
    os.chown(path, 0, GROUP)
    refused("not a regular file")
    path.unlink()
    path.write_text("{")
    path.chmod(0o644)
    assert "cannot be read" in member("vm", "ls", code=5).err


def test_a_stranger_in_the_views_place_is_not_followed(root: Program, home: Path) -> None:
    """The publisher writes through no link, and into no directory of another's; the command is done."""
    document, directory = files(home)[".json"], home / "run/view"
    (home / "victim").write_text("untouched")
    document.with_name(document.name + ".new").symlink_to(home / "victim")
    files(home)[".seq"].unlink()
    (directory / document.name.replace(".json", ".seq")).symlink_to(home / "victim")
    ran = root("vm", "create", "db", "--network", "lan", *SLEEP)
    assert "warning: the view for group" in ran.err
    assert (home / "victim").read_text() == "untouched"
    for path in directory.iterdir():
        path.unlink()
    os.chown(directory, USER, USER)
    ran = root("vm", "rm", "db")
    assert "is not a directory of this user's" in ran.err
    assert not list(directory.iterdir())


def test_an_unknown_group_is_a_usage_error(root: Program) -> None:
    with witness.unchanged():
        ran = root("vm", "create", "db", *SLEEP, code=2, HVTX_GROUP="no-such-group")
        assert "no-such-group" in ran.err
    assert root("vm", "ls", HVTX_GROUP="no-such-group").code == 0


def test_a_users_own_store_can_be_shared(home: Path) -> None:
    """Without CAP_CHOWN a user publishes for groups that it is in, and is warned for others."""
    owner = Unprivileged(
        home, "CAP_NET_ADMIN", groups=(GROUP,), HVTX_FIREWALL="nftables", HVTX_GROUP=str(GROUP)
    )
    owner("network", "create", "lan", "--subnet", "10.77.0.0/24")
    other = Unprivileged(home, user=USER + 1, groups=(GROUP,))
    (home / "own").chmod(0o711)
    os.chown(home / "own", USER, USER)
    assert "lan" in other("network", "ls").out
    ran = owner("network", "create", "two", "--subnet", "10.78.0.0/24", HVTX_GROUP=str(GROUP + 1))
    assert "warning: the view for group" in ran.err
