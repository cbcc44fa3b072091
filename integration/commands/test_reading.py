"""What only reads changes nothing; logs, consoles, doctor, gc, explain."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from integration import lab
from integration.commands.test_gc_saved_plans import crashed
from integration.lab import witness
from integration.lab.program import Program
from integration.lab.verbs import SLEEP, conflict, create, hvtx, network, state, stopped
from integration.lab.waiting import until

__all__ = ["hvtx"]  # the fixture


def test_reading_changes_nothing(hvtx: Program, tmp_path: Path) -> None:
    """Every reading command: host, rows, and the bytes of the store's file."""
    network(hvtx)
    hvtx("vm", "run", "web", "--network", "net", *SLEEP)
    crashed(hvtx, "dead")
    database = Path(os.environ["HVTX_STATE_DIR"], "hvtx.db")
    content = database.read_bytes()
    with witness.unchanged():
        for argv in (
            ("vm", "ls"), ("vm", "show", "web"), ("vm", "logs", "web"), ("network", "ls"),
            ("network", "show", "net"), ("gc", "--plan"), ("gc", "--plan", "--all"), ("intents",), ("log",),
            ("gc", "--plan", "--out", str(tmp_path / "plan")), ("explain", "web"), ("doctor",),
            ("explain", "10.77.0.2"),
        ):  # fmt: skip
            hvtx(*argv, code=None)
    assert database.read_bytes() == content


def test_permissions_of_the_store(hvtx: Program) -> None:
    was = os.umask(0)
    try:
        network(hvtx)
        create(hvtx)
        hvtx("vm", "start", "web")
        path = Path(os.environ["HVTX_STATE_DIR"], "hvtx.db")
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA application_id").fetchone() == (0x68767478,)
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            for place in (os.environ["HVTX_STATE_DIR"], os.environ["HVTX_RUN_DIR"]):
                for entry in Path(place).iterdir():  # what is below a private directory is private
                    mode = stat.S_IMODE(entry.lstat().st_mode)
                    assert mode & 0o077 == 0, (entry, oct(mode))
        assert stat.S_IMODE(Path(os.environ["HVTX_STATE_DIR"]).stat().st_mode) == 0o700
        assert stat.S_IMODE(Path(os.environ["HVTX_STATE_DIR"], "hvtx.db").stat().st_mode) == 0o600
    finally:
        os.umask(was)
        hvtx("vm", "rm", "web", "--force")


def test_logs(hvtx: Program) -> None:
    """What the VM's process wrote, both streams, across starts; gone with the VM."""
    network(hvtx)
    hvtx(
        "vm",
        "create",
        "web",
        "--network",
        "net",
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; exec sleep 600",
    )
    hvtx("vm", "logs", "web", code=3)
    hvtx("vm", "start", "web")
    until("both streams", lambda: {"out", "err"} <= set(hvtx("vm", "logs", "web").out.split()))
    told = hvtx("vm", "logs", "web", "--json").json()
    assert (told["schema"], told["vm"], set(told["lines"])) == (
        "hvtx/logs/1",
        "web",
        {"out", "err"},
    )
    assert sorted(Path(told["path"]).read_text().splitlines()) == ["err", "out"]
    hvtx("vm", "stop", "web", "--force")
    assert "out" in hvtx("vm", "logs", "web").out
    hvtx("vm", "rm", "web")
    assert json.loads(hvtx("vm", "logs", "web", "--json", code=3).err)["error"]["hint"]


def test_logs_that_are_no_text(hvtx: Program) -> None:
    """Lines stay lines, whatever stands in them; an empty log has none."""
    network(hvtx)
    create(hvtx, "quiet")
    hvtx("vm", "start", "quiet")
    assert hvtx("vm", "logs", "quiet", "--json").json()["lines"] == []
    path = Path(hvtx("vm", "logs", "quiet", "--json").json()["path"])
    path.write_bytes(b"one\r\n\n\xff\x1b[31m\x85two\xe2\x80\xa8x\nlast")
    lines = hvtx("vm", "logs", "quiet", "--json").json()["lines"]
    assert lines == ["one", "", "\ufffd\x1b[31m\ufffdtwo\u2028x", "last"]


def test_the_console_of_a_vm_without_one(hvtx: Program) -> None:
    """With --json as without: 4, in the same words."""
    network(hvtx)
    create(hvtx)
    for state_now in ("defined", "running"):
        error = json.loads(hvtx("vm", "console", "web", "--json", code=4).err)["error"]
        said = hvtx("vm", "console", "web", code=4).err.splitlines()
        assert said == [f"error: {error['message']}", f"hint: {error['hint']}"]
        if state_now == "defined":
            hvtx("vm", "start", "web")


def test_the_console_of_a_qemu_is_told_and_not_joined(hvtx: Program, tmp_path: Path) -> None:
    """Nobody is on the line afterwards: the one place that QEMU has is free."""
    network(hvtx)
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    hvtx("vm", "run", "web", "--network", "net", "--disk", str(disk), HVTX_QEMU_ACCEL="tcg")
    told = hvtx("vm", "console", "web", "--json").json()
    assert (told["schema"], told["vm"]) == ("hvtx/console/1", "web")
    directory, name = os.path.split(told["socket"])
    descriptor = os.open(directory, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(f"/proc/self/fd/{descriptor}/{name}")  # a longer path is none for a socket
    os.close(descriptor)
    Path(told["socket"]).unlink()
    assert "cannot be reached" in hvtx("vm", "console", "web", "--json", code=4).err
    hvtx("vm", "stop", "web", "--force")


def test_an_external_vm_is_not_called_running_before_it_is(hvtx: Program) -> None:
    """`start` prepares its network, names the device, and says what is to be done."""
    network(hvtx)
    hvtx("vm", "create", "ext", "--network", "net", "--hypervisor", "external")
    for ran in (
        hvtx("vm", "start", "ext"),
        hvtx("vm", "run", "two", "--network", "net", "--hypervisor", "external"),
    ):
        name = "ext" if "ext" in ran.out else "two"
        assert "is running" not in ran.out
        assert hvtx.device(name) in ran.out
        assert f"`hvtx vm attach {name} --pid PID`" in ran.out
    hvtx("vm", "attach", "ext", "--pid", str((1 << 31) - 1), code=3)
    assert "VM ext is running" in hvtx("vm", "attach", "ext", "--pid", str(os.getpid())).out


def test_a_socket_that_comes_between_create_and_start(hvtx: Program) -> None:
    network(hvtx)
    create(hvtx, "web", "-p", "127.0.0.1:7001:80")
    with socket.create_server(("127.0.0.1", 7001)):
        conflict(hvtx, "vm", "start", "web")
    hvtx("vm", "start", "web")


def test_strangers_are_shown_with_all(hvtx: Program) -> None:
    """By default their TAPs and the NAT rules that mention a subnet of ours; all with --all."""
    network(hvtx)
    lab.run("ip", "tuntap", "add", "tap-foo", "mode", "tap")
    lab.run("ip", "link", "add", "other0", "type", "bridge")
    lab.run("nft", "add table ip theirs; add chain ip theirs post { type nat hook postrouting priority 0; };"
            " add rule ip theirs post ip saddr 10.77.0.9 masquerade; add rule ip theirs post ip saddr 192.0.2.9"
            " masquerade")  # fmt: skip
    foreign = hvtx.plan()["skip", "foreign"]
    assert {i["kind"] for i in foreign} == {"tap", "rule"}
    assert [i["key"] for i in foreign if i["kind"] == "tap"] == ["tap-foo"]
    assert len([i for i in foreign if i["kind"] == "rule"]) == 1
    every = hvtx.plan("--all")["skip", "foreign"]
    assert len(every) > len(foreign)
    assert "other0" in json.dumps(every)


@pytest.mark.parametrize("tool", ["iptables-nft", "iptables-legacy"])
def test_all_is_all(hvtx: Program, tool: str) -> None:
    """Filter rules, whatever table they are in, and addresses; each once, and ours not as theirs."""
    network(hvtx)
    lab.run("ip", "link", "add", "other0", "type", "bridge")
    lab.run("ip", "addr", "add", "198.51.100.1/24", "dev", "other0")
    lab.run(tool, "-A", "FORWARD", "-s", "192.0.2.9", "-j", "DROP")
    lab.run(tool, "-t", "mangle", "-A", "PREROUTING", "-s", "192.0.2.10", "-j", "ACCEPT")
    lab.run(tool, "-t", "nat", "-A", "POSTROUTING", "-s", "10.77.0.9", "-j", "MASQUERADE")
    lab.run(
        "nft",
        "add table inet theirs; add chain inet theirs c; add rule inet theirs c ip saddr 192.0.2.11 drop",
    )
    with witness.unchanged():
        every = hvtx.plan("--all")["skip", "foreign"]
    keys = [item["key"] for item in every]
    for word in (
        "192.0.2.9",
        "192.0.2.10",
        "10.77.0.9",
        "192.0.2.11",
        "198.51.100.1/24",
        "127.0.0.1/8",
    ):
        assert len([key for key in keys if word in key]) == 1, (word, keys)
    assert not [key for key in keys if "10.77.0.1" in key or "hvtx-" in key.lower()], keys
    assert hvtx.plan()["skip", "foreign"][0]["key"].startswith(("nft", "iptables"))


@pytest.mark.parametrize("point", ["acted:tap", "acted:filter", "spawned", "up"])
def test_interrupted_from_the_keyboard_it_is_undone(hvtx: Program, point: str) -> None:
    """Ctrl-C is no crash: what was made is taken back before the program ends."""
    network(hvtx)
    with witness.undone():
        run = stopped(hvtx, point, "vm", "run", "web", "--network", "net", "-p", "8080:80", *SLEEP)
        os.kill(run.pid, signal.SIGINT)
        os.kill(run.pid, signal.SIGCONT)
        _, err = run.communicate(timeout=60)
        assert (run.returncode, err.splitlines()[0]) == (130, b"error: interrupted")
        assert b"Traceback" not in err
    hvtx("vm", "show", "web", code=3)
    assert hvtx.is_clean()


def test_ports_that_cannot_be_served_are_told(hvtx: Program) -> None:
    """NAT cannot serve [::1]: who asks for it is refused; else `vm show` and `doctor` say so."""
    hvtx("network", "create", "four", "--subnet", "10.78.0.0/24")
    hvtx("vm", "create", "quiet", "--network", "four", "-p", "8080:80", *SLEEP)
    assert not [n for n in hvtx("vm", "show", "quiet").out.splitlines() if n.startswith("note:")]
    assert "[::1]" not in hvtx("doctor", code=None).out
    network(hvtx, "--subnet", "fd77::/64")
    assert (
        "[::1]"
        in hvtx(
            "vm", "create", "web", "--network", "net", "-p", "[::1]:8081:80", *SLEEP, code=2
        ).err
    )
    create(hvtx, "web", "-p", "8081:80")
    assert "[::1]" in hvtx("vm", "show", "web").out
    assert "[::1]" in hvtx("doctor", code=None).out


def test_doctor(hvtx: Program) -> None:
    """Its object, and exit 1 where something keeps VMs from working: somebody else's FORWARD drop."""
    network(hvtx)
    ran = hvtx("doctor", "--json")
    document = ran.json()
    assert set(document) == {"schema", "findings"}
    assert document["schema"] == "hvtx/doctor/1"
    for finding in document["findings"]:
        assert set(finding) == {"check", "level", "message", "evidence", "hint"}
        assert finding["level"] in ("ok", "warning", "error")
        assert finding["level"] == "ok" or finding["hint"]
    assert not [f for f in document["findings"] if f["level"] == "error"]
    lab.run("nft", "add table ip theirs; add chain ip theirs FORWARD { type filter hook forward priority 0;"
            " policy drop; }")  # fmt: skip
    with witness.unchanged():
        ran = hvtx("doctor", "--json", code=1)
    assert "theirs" in json.dumps([f for f in ran.json()["findings"] if f["level"] == "error"])


def test_doctor_gc_is_gc(hvtx: Program) -> None:
    network(hvtx)
    crashed(hvtx, "one")
    with witness.unchanged():
        dry = hvtx("doctor", "--gc", "--dry-run", "--json").json()
    assert (dry["schema"], dry["applied"]) == ("hvtx/gc/1", False)
    assert hvtx("doctor", "--gc", "--json").json()["applied"] is True
    assert state(hvtx, "one") == "defined"
    hvtx("doctor", "--dry-run", code=2)


def test_explain(hvtx: Program) -> None:
    network(hvtx)
    create(hvtx, "web", "-p", "8080:80")
    shown = hvtx("vm", "start", "web", "--json").json()
    lab.run("ip", "tuntap", "add", "tap-foo", "mode", "tap")
    (tap,) = [r for r in shown["resources"] if r["kind"] == "tap"]
    for thing, owner, vm in ((tap["key"], "hvtx", "web"), (tap["mark"], "hvtx", "web"), ("10.77.0.2", "hvtx", "web"),
                             ("8080", "hvtx", "web"), ("tap-foo", "foreign", None)):  # fmt: skip
        told = hvtx("explain", thing, "--json").json()
        assert set(told) == {
            "schema", "object", "kind", "key", "owner", "vm", "network", "since", "record", "evidence",
            "gc", "why", "message", "history", "also",
        }  # fmt: skip
        assert (told["schema"], told["owner"], told["vm"]) == ("hvtx/explain/1", owner, vm)
        assert set(told["gc"]) == {"action", "reason"}
        assert told["gc"]["action"] == "skip"
