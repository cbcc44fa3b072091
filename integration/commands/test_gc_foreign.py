"""What is not provably ours stays, with a reason; each on the real kernel."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from integration import lab
from integration.lab.program import Forked, Program, preload
from integration.lab.vms import end_vms

BACKENDS = ["nftables", "iptables"]
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000


@pytest.fixture(params=BACKENDS)
def hvtx(request: pytest.FixtureRequest) -> Iterator[Program]:
    """A program on a backend, with a network and a running VM `web`."""
    preload()
    program = Forked(HVTX_FIREWALL=request.param)
    program("network", "create", "net", "--subnet", "10.77.0.0/24")
    program("vm", "run", "web", "--network", "net", "-p", "8080:80", "--", "sleep", "600")
    yield program
    end_vms(program)


def kill(hvtx: Program, name: str = "web") -> None:
    """End a VM's process as a crash would."""
    pid = hvtx.vm(name)["pid"]
    lab.end(pid)


def hold(device: str) -> int:
    """Open a TAP as a hypervisor does; the descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TAP | IFF_NO_PI))
    return descriptor


def rows(hvtx: Program) -> list[tuple[object, ...]]:
    path = Path(os.environ["HVTX_STATE_DIR"], "hvtx.db")
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(
            "SELECT id, kind, key, state, mark FROM resource ORDER BY id"
        ).fetchall()


def test_a_strangers_device_with_the_recorded_name(hvtx: Program) -> None:
    """A device that took the name of ours is somebody else's: mark-mismatch, and it stays."""
    device = hvtx.device("web")
    kill(hvtx)
    lab.run("ip", "link", "del", device)
    lab.run("ip", "tuntap", "add", device, "mode", "tap")
    assert hvtx.reasons("tap", device) == {("skip", "mark-mismatch")}
    hvtx("gc", "--apply")
    assert device in lab.run("ip", "-o", "link")
    lab.run("ip", "link", "del", device)
    hvtx("gc", "--apply")
    assert hvtx.is_clean()
    assert hvtx.vm("web")["state"] == "defined"


def test_a_device_without_its_mark(hvtx: Program) -> None:
    """Ours by name and index, but the alias was changed: not provable, so it stays."""
    device = hvtx.device("web")
    lab.run("ip", "link", "set", device, "alias", "mine now")
    kill(hvtx)
    assert hvtx.reasons("tap", device) == {("skip", "mark-mismatch")}
    hvtx("gc", "--apply")
    assert "mine now" in lab.run("ip", "link", "show", device)


def test_a_device_still_held_open(hvtx: Program) -> None:
    """Held by any process: in-use, and everything of the VM stays."""
    device = hvtx.device("web")
    kill(hvtx)
    holder = hold(device)
    try:
        plan = hvtx.plan()
        assert [i["key"] for i in plan["skip", "in-use"]] == [device]
        assert str(os.getpid()) in json.dumps(plan["skip", "in-use"])
        assert not [k for k in plan if k[0] == "delete"]
        assert {"publish", "masquerade", "filter"} <= {i["kind"] for i in plan["skip", "vm-alive"]}
        hvtx("gc", "--apply")
        stopped = hvtx("vm", "stop", "web", code=9)
        assert str(os.getpid()) in stopped.err
        assert device in lab.run("ip", "-o", "link")
        tap = [r for r in hvtx.vm("web")["resources"] if r["kind"] == "tap"]
        assert tap[0]["state"] == "releasing"
    finally:
        os.close(holder)
    assert hvtx.reasons("tap", device) == {("delete", "release-interrupted")}
    hvtx("gc", "--apply")
    assert hvtx.is_clean()


def test_a_device_that_is_taken_after_the_plan(hvtx: Program) -> None:
    """Taken while gc is about to act: the VM keeps all of its things, firewall elements too."""
    device = hvtx.device("web")
    kill(hvtx)
    before = lab.dump()
    with subprocess.Popen(
        [sys.executable, "-m", "hvtx", "gc", "--apply"],
        env={**os.environ, **hvtx.environment, "HVTX_FAILPOINT": "releasing:stop"},
        stdout=subprocess.DEVNULL,
    ) as collector:
        os.waitid(os.P_PID, collector.pid, os.WSTOPPED)
        holder = hold(device)
        collector.send_signal(signal.SIGCONT)
        collector.wait()
    try:
        now = lab.dump()
        for part in ("nft", "legacy"):
            assert lab.difference(before[part], now[part]) == ""
        assert device in lab.run("ip", "-o", "link")
    finally:
        os.close(holder)
    hvtx("gc", "--apply")
    assert hvtx.is_clean()


def test_a_recycled_pid_is_dead(hvtx: Program) -> None:
    """The pid lives, but started at another time: the VM is dead."""
    path = Path(os.environ["HVTX_STATE_DIR"], "hvtx.db")
    old = hvtx.vm("web")["pid"]
    with closing(sqlite3.connect(path)) as connection, connection:
        (text,) = connection.execute(
            "SELECT observed FROM resource WHERE kind = 'process'"
        ).fetchone()
        seen = {**json.loads(text), "start": 1, "inode": 0}
        connection.execute(
            "UPDATE resource SET observed = ? WHERE kind = 'process'", (json.dumps(seen),)
        )
    assert hvtx.vm("web")["state"] == "crashed"
    hvtx("gc", "--apply")
    os.kill(old, 0)  # nobody signalled it
    lab.end(old)
    assert hvtx.is_clean()


def test_a_stopped_vm_process_is_alive(hvtx: Program) -> None:
    """SIGSTOP is not death."""
    pid = hvtx.vm("web")["pid"]
    os.kill(pid, signal.SIGSTOP)
    assert hvtx.vm("web")["state"] == "running"
    assert not [k for k in hvtx.plan() if k[0] == "delete"]


def in_another_boot(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run a program that sees another boot id (a bind mount in a mount namespace of its own)."""
    fake = Path(os.environ["HVTX_STATE_DIR"]).parent / "boot_id"
    fake.write_text("11111111-2222-4333-8444-555555555555\n")
    script = 'mount --bind "$1" /proc/sys/kernel/random/boot_id && shift && exec "$@"'
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", str(fake), *argv],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_a_changed_boot_id_makes_everything_an_earlier_life(hvtx: Program) -> None:
    """After a reboot rows are closed, networks rebuilt with new marks, leases stand."""
    before = hvtx.vm("web")
    old_marks = {row[4] for row in rows(hvtx)}
    lab.end(before["pid"])
    # what a reboot does to the kernel's and the run directory's state
    lab.run("ip", "link", "del", before["interfaces"][0]["device"])
    lab.run("ip", "link", "del", hvtx("network", "show", "net", "--json").json()["bridge"])
    lab.run("nft", "flush", "ruleset")
    for table in ("nat", "filter", "mangle"):
        lab.run("iptables-legacy", "-t", table, "-F", check=False)
        lab.run("iptables-legacy", "-t", table, "-X", check=False)
    shutil.rmtree(os.environ["HVTX_RUN_DIR"])
    hv = [sys.executable, "-m", "hvtx"]
    plan = json.loads(in_another_boot(*hv, "gc", "--plan", "--json").stdout)
    reasons = {(i["action"], i["reason"], i["kind"]) for i in plan["items"]}
    assert ("forget", "rebooted", "tap") in reasons
    assert ("skip", "reserved", "lease") in reasons
    assert not [r for r in reasons if r[0] == "delete"]
    done = in_another_boot(*hv, "recover", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["networks"] == ["net"]
    again = in_another_boot(*hv, "recover", "--json")
    assert json.loads(again.stdout) == {
        "schema": "hvtx/recover/1", "refused": None,
        "resolved": [], "networks": [], "started": [], "failed": [],
    }  # fmt: skip
    live = [row for row in rows(hvtx) if row[3] == "committed" and row[1] in ("bridge", "filter")]
    assert live
    assert not {row[4] for row in live} & old_marks
    started = in_another_boot(*hv, "vm", "start", "web", "--json")
    assert started.returncode == 0, started.stderr
    assert json.loads(started.stdout)["interfaces"][0]["ipv4"] == "10.77.0.2"
    in_another_boot(*hv, "vm", "rm", "web", "--force")


def test_rules_of_an_earlier_life_that_a_restore_brought_back(tmp_path: Path) -> None:
    """Saved before the reboot, restored after it, with their marks: stale-restored, deleted."""
    hvtx = Forked(HVTX_FIREWALL="nftables")
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx("vm", "run", "web", "--network", "net", "-p", "8080:80", "--", "sleep", "600")
    pid = hvtx.vm("web")["pid"]
    saved = lab.run("nft", "list", "ruleset")
    lab.end(pid)
    hvtx("vm", "stop", "web")
    hvtx("network", "rm", "net", code=4)
    hvtx("vm", "rm", "web")
    hvtx("network", "rm", "net")
    clean = lab.dump()
    lab.run("nft", "-f", "-", stdin=saved)
    plan = hvtx.plan()
    assert ("delete", "released-leftover") in plan
    assert not plan.get(("skip", "unrecorded"))
    hvtx("gc", "--apply")
    assert lab.difference(clean, lab.dump()) == ""


def test_another_namespace_is_refused(hvtx: Program) -> None:
    """In a namespace that is not the store's nothing is concluded: wrong-namespace, exit 4."""
    before = rows(hvtx)
    inside = ["unshare", "-n", sys.executable, "-m", "hvtx"]
    plan = subprocess.run(
        [*inside, "gc", "--plan", "--json"], capture_output=True, text=True, check=False
    )
    assert plan.returncode == 4
    document = json.loads(plan.stdout)
    assert document["refused"] == "wrong-namespace"
    assert document["items"] == []
    for command in (
        ["gc", "--apply"],
        ["recover"],
        ["vm", "stop", "web"],
        ["network", "rm", "net"],
    ):
        refused = subprocess.run([*inside, *command], capture_output=True, text=True, check=False)
        assert refused.returncode == 4, (command, refused.stderr)
    assert rows(hvtx) == before
    listed = subprocess.run(
        [*inside, "vm", "ls", "--json"], capture_output=True, text=True, check=False
    )
    assert listed.returncode == 0
    assert json.loads(listed.stdout)["vms"][0]["name"] == "web"
    assert hvtx.vm("web")["state"] == "running"


def test_a_restored_older_store(hvtx: Program) -> None:
    """Behind its high-water mark it is refused; accepted, what it does not know is unrecorded."""
    state = Path(os.environ["HVTX_STATE_DIR"])
    backup = state.parent / "backup"
    shutil.copytree(state, backup)
    hvtx("vm", "run", "later", "--network", "net", "-p", "9090:90", "--", "sleep", "600")
    device, pid = hvtx.device("later"), hvtx.vm("later")["pid"]
    for suffix in ("", "-wal", "-shm"):
        (state / f"hvtx.db{suffix}").unlink(missing_ok=True)
        if (backup / f"hvtx.db{suffix}").exists():
            shutil.copy(backup / f"hvtx.db{suffix}", state / f"hvtx.db{suffix}")
    plan = hvtx("gc", "--plan", "--json", code=7).json()
    assert plan["refused"] == "store-rolled-back"
    for words in (("--plan",), ("--apply", "--yes")):
        told = hvtx("gc", *words, "--installation", "abcdefghij", "--json", code=7).json()
        assert (told["refused"], told["installation"]) == ("store-rolled-back", "abcdefghij")
    hvtx("gc", "--apply", code=7)
    hvtx("vm", "start", "web", code=7)
    hvtx("recover", code=7)
    assert hvtx("vm", "ls", "--json").json()["vms"][0]["name"] == "web"
    hvtx("recover", "--accept-rollback")
    assert hvtx.reasons("tap", device) == {("skip", "unrecorded")}
    hvtx("gc", "--apply")
    assert device in lab.run("ip", "-o", "link")
    os.kill(pid, 0)
    holder = hold(device)
    hvtx("gc", "--apply", "--unrecorded", code=None)
    assert device in lab.run("ip", "-o", "link")
    os.close(holder)
    lab.end(pid)
    hvtx("gc", "--apply", "--unrecorded")
    assert device not in lab.run("ip", "-o", "link")
    assert not hvtx.plan().get(("skip", "unrecorded"))


def test_a_copied_store(hvtx: Program) -> None:
    """A copy beside its original is refused: store-cloned."""
    state = Path(os.environ["HVTX_STATE_DIR"])
    shutil.copytree(state, state.parent / "copy")
    there = str(state.parent / "copy")
    plan = hvtx("--state-dir", there, "gc", "--plan", "--json", code=7).json()
    assert plan["refused"] == "store-cloned"
    hvtx("--state-dir", there, "vm", "stop", "web", code=7)
    assert hvtx.vm("web")["state"] == "running"


def test_a_copied_rule(hvtx: Program) -> None:
    """The mark on somebody else's rule does not make it ours, and ours is not in doubt by it."""
    mark = next(r["mark"] for r in hvtx.vm("web")["resources"] if r["kind"] == "publish")
    lab.run("nft", "add", "table", "ip", "theirs")
    lab.run("nft", "add", "chain", "ip", "theirs", "c")
    lab.run(
        "nft",
        "add",
        "rule",
        "ip",
        "theirs",
        "c",
        "tcp",
        "dport",
        "1",
        "accept",
        "comment",
        f'"{mark}"',
    )
    found = {i["reason"] for items in hvtx.plan().values() for i in items if i["mark"] == mark}
    assert found == {"vm-alive", "duplicate-mark"}
    kill(hvtx)
    hvtx("gc", "--apply")
    assert "tcp dport 1 accept" in lab.run("nft", "list", "table", "ip", "theirs")


@pytest.mark.parametrize("hvtx", ["nftables"], indirect=True)
def test_an_element_of_ours_that_was_changed(hvtx: Program) -> None:
    """edited-copy: it is told with what takes it away, no run fails on it, and none forgets it."""
    mark = next(r["mark"] for r in hvtx.vm("web")["resources"] if r["kind"] == "publish")
    table = next(line for line in lab.run("nft", "list", "tables").split() if "hvtx" in line)
    where = f"element inet {table} dnat4_any"
    elsewhere = f'{{ tcp . 8080 comment "{mark}" : 10.77.0.99 . 80 }}'
    lab.run("nft", f"delete {where} {{ tcp . 8080 }}; add {where} {elsewhere}")
    told = hvtx.plan()["skip", "edited-copy"]
    assert any("hvtx repair" in item["message"] for item in told if item["kind"] == "publish")
    hvtx("repair")
    assert ("skip", "edited-copy") not in hvtx.plan()
    lab.run("nft", f"delete {where} {{ tcp . 8080 }}; add {where} {elsewhere}")
    kill(hvtx)
    assert not [
        i for i in hvtx.plan().get(("forget", "already-gone"), ()) if i["kind"] == "publish"
    ]
    for _ in range(2):
        hvtx("gc", "--apply")
        assert "10.77.0.99" in lab.run("nft", "list", "ruleset")
    plan = hvtx.plan()
    assert {action for action, _ in plan} == {"skip"}
    told = plan["skip", "edited-copy"]
    fix = next(i["message"] for i in told if "nft delete" in i["message"])
    hvtx("vm", "start", "web", code=4)
    lab.run("sh", "-c", fix[fix.index("nft delete") :])
    hvtx("vm", "start", "web")
    assert hvtx.is_clean()


def test_surplus_copies_of_our_rules_go(hvtx: Program) -> None:
    """`iptables-restore -n` or `nft -f` of a saved file doubles rules: one stays, the rest go."""
    clean = lab.dump()
    if hvtx.environment["HVTX_FIREWALL"] == "iptables":
        saved = lab.run("iptables-legacy-save", "-t", "nat")
        lab.run("iptables-legacy-restore", "-n", stdin=saved)
    else:
        saved = lab.run("nft", "list", "ruleset")
        lab.run("nft", "-f", "-", stdin=saved)
    assert lab.difference(clean, lab.dump())
    plan = hvtx.plan()
    assert ("delete", "duplicate-copy") in plan
    hvtx("gc", "--apply")
    assert lab.difference(clean, lab.dump()) == ""


def test_strangers_things_on_our_device(hvtx: Program) -> None:
    """What others put on a device of ours keeps it: foreign-dependents."""
    device = hvtx.device("web")
    lab.run("ip", "addr", "add", "192.0.2.1/32", "dev", device)
    kill(hvtx)
    assert hvtx.reasons("tap", device) == {("skip", "foreign-dependents")}
    hvtx("gc", "--apply")
    assert "192.0.2.1" in lab.run("ip", "-o", "addr")
    lab.run("ip", "addr", "del", "192.0.2.1/32", "dev", device)
    for side in ("ingress", "egress"):  # beside the filter that is ours
        theirs = ("dev", device, side, "pref", "7")
        lab.run("tc", "filter", "add", *theirs, "bpf", "da", "bytecode", "1,6 0 0 4294967295")
        assert hvtx.reasons("tap", device) == {("skip", "foreign-dependents")}
        assert "foreign" in hvtx("gc", "--apply", "--json").out
        lab.run("tc", "filter", "del", *theirs)
    lab.run("tc", "qdisc", "replace", "dev", device, "root", "pfifo")
    assert hvtx.reasons("tap", device) == {("skip", "foreign-dependents")}
    lab.run("tc", "qdisc", "del", "dev", device, "root")
    hvtx("gc", "--apply")
    assert hvtx.is_clean()


# Addresses on our TAP and bridge, and whether somebody put them there by hand.
ADDRESSES = [
    ("fe80::1234/64", [], False),
    ("fe80::5:6:7:8/64", ["nodad"], False),
    ("169.254.7.7/16", ["scope", "link"], False),
    ("192.0.2.7/24", ["valid_lft", "900", "preferred_lft", "900"], False),
    ("2001:db8:5::7/64", ["valid_lft", "900", "preferred_lft", "900"], False),
    ("2001:db8:5::7/64", ["nodad"], True),
    ("192.0.2.7/24", [], True),
    ("169.254.169.254/32", [], True),
    ("169.254.169.254/16", [], True),
    ("169.254.169.254/32", ["scope", "link"], True),
]


@pytest.mark.parametrize("hvtx", ["nftables"], indirect=True)
@pytest.mark.parametrize(("address", "more", "theirs"), ADDRESSES)
def test_only_what_was_put_there_by_hand_keeps_a_device(
    hvtx: Program, address: str, more: list[str], *, theirs: bool
) -> None:
    """What the kernel or a manager of networks gives devices by itself goes with them."""
    preload()
    hvtx = Forked(**hvtx.environment)
    device = hvtx.device("web")
    bridge = hvtx("network", "show", "net", "--json").json()["bridge"]
    lab.run("ip", "addr", "add", address, "dev", device, *more)
    stopped = hvtx("vm", "stop", "web", "--timeout", "1", code=9 if theirs else 0)
    assert (address in stopped.err) == theirs
    if theirs:
        assert hvtx.reasons("tap", device) == {("skip", "foreign-dependents")}
        hvtx("vm", "start", "web", code=4)
        lab.run("ip", "addr", "del", address, "dev", device)
    hvtx("vm", "start", "web")
    device = hvtx.device("web")
    lab.run("ip", "addr", "add", address, "dev", device, *more)
    kill(hvtx)
    if theirs:
        assert hvtx.reasons("tap", device) == {("skip", "foreign-dependents")}
        lab.run("ip", "addr", "del", address, "dev", device)
    hvtx("gc", "--apply")
    assert hvtx.is_clean()
    hvtx("vm", "rm", "web")
    lab.run("ip", "addr", "add", address, "dev", bridge, *more)
    assert (address in hvtx("network", "rm", "net", code=4 if theirs else 0).err) == theirs


def test_a_release_that_stays_undone_sets_addrgenmode_back(hvtx: Program) -> None:
    """A device that another program holds gets no more addresses of its own meanwhile."""
    device = hvtx.device("web")
    lab.run("ip", "link", "set", device, "addrgenmode", "eui64")
    lab.run("ip", "addr", "add", "fe80::7/64", "dev", device, "nodad")
    lab.run("ip", "addr", "add", "192.0.2.7/24", "dev", device)
    assert "192.0.2.7" in hvtx("vm", "stop", "web", "--timeout", "1", code=9).err
    shown = json.loads(lab.run("ip", "-d", "-j", "link", "show", device))[0]
    assert shown["inet6_addr_gen_mode"] == "none"
    lab.run("ip", "addr", "del", "192.0.2.7/24", "dev", device)
    hvtx("gc", "--apply")
    assert hvtx.is_clean()


def test_two_installations_on_one_host(hvtx: Program, tmp_path: Path) -> None:
    """Each sees the other's things as another installation's, and takes none of them."""
    other = Forked(
        HVTX_STATE_DIR=str(tmp_path / "state2"),
        HVTX_RUN_DIR=str(tmp_path / "run2"),
        HVTX_FIREWALL=hvtx.environment["HVTX_FIREWALL"],
    )
    other("network", "create", "net", "--subnet", "10.78.0.0/24")
    other("vm", "run", "web", "--network", "net", "--", "sleep", "600")
    kill(hvtx)
    kill(other)
    device = other.device("web")
    assert hvtx.reasons("tap", device) == {("skip", "other-installation")}
    hvtx("gc", "--apply")
    assert device in lab.run("ip", "-o", "link")
    assert ("delete", "vm-dead") in other.plan()
    other("gc", "--apply")
    other("vm", "rm", "web")
    other("network", "rm", "net")
    assert hvtx.is_clean()


def test_a_renamed_device_is_still_ours(hvtx: Program) -> None:
    """The mark and the index prove it, not the name."""
    device = hvtx.device("web")
    kill(hvtx)
    lab.run("ip", "link", "set", device, "down")
    lab.run("ip", "link", "set", device, "name", "renamed0")
    assert hvtx.reasons("tap", device) == {("delete", "vm-dead")}
    hvtx("gc", "--apply")
    assert "renamed0" not in lab.run("ip", "-o", "link")
    assert hvtx.is_clean()
