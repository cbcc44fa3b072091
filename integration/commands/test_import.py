"""`import my-hypervisor` on the real kernel: what is proven is taken over, and no more."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration import lab
from integration.lab.program import Forked, Program, preload

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
ID = "aaaa1111-0000-4000-8000-00000000000a"
TAP, BRIDGE, IP = "tap-aaaa1111", "mybr0", "10.88.0.5"
RULES = [
    f"-t nat -D PREROUTING -p tcp -m tcp --dport 8080 -j DNAT --to-destination {IP}:80",
    f"-t nat -D POSTROUTING -s {IP}/32 -j MASQUERADE",
    f"-D FORWARD -d {IP}/32 -p tcp -m tcp --dport 80 -j ACCEPT",
]
_HOLD = (
    "import fcntl, os, struct, sys, time;"
    "d = os.open('/dev/net/tun', os.O_RDWR);"
    "fcntl.ioctl(d, 0x400454CA, struct.pack('16sH22x', sys.argv[1].encode(), 0x1002));"
    "print('held', flush=True); time.sleep(600)"
)


class Theirs:
    """A VM as my-hypervisor leaves it: device, rules, state file, and a process that holds it."""

    def __init__(self, directory: Path, tool: str) -> None:
        self.directory = directory / "vms"
        self.tool = tool
        self.process: subprocess.Popen[str] | None = None
        lab.run("ip", "link", "add", BRIDGE, "address", "02:00:00:00:01:01", "type", "bridge")
        lab.run("ip", "link", "set", BRIDGE, "up")
        lab.run("ip", "tuntap", "add", "dev", TAP, "mode", "tap")
        lab.run("ip", "link", "set", TAP, "master", BRIDGE, "up")
        self.neighbours()
        for rule in RULES:
            lab.run(tool, *shlex.split(rule.replace("-D ", "-A ")))
        self.neighbours()

    def neighbours(self) -> None:
        """Others' rules around theirs."""
        lab.run(self.tool, "-t", "nat", "-A", "POSTROUTING", "-s", "192.168.9.0/24", "-j", "ACCEPT")
        lab.run(self.tool, "-A", "FORWARD", "-d", "10.88.0.0/24", "-j", "ACCEPT")

    def hold(self) -> int:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _HOLD, TAP], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"
        return self.process.pid

    def end(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def state(self, pid: int | None, folder: str = "first", **more: Any) -> str:
        """Write a state.json; its path."""
        ownership: dict[str, Any] = {
            "tap_device": TAP, "bridge": BRIDGE, "ip": IP, "iptables_rules": RULES
        }  # fmt: skip
        document: dict[str, Any] = {
            "id": ID, "name": folder, "status": "running", "pid": pid,
            "network_ownership": ownership, **more,
        }  # fmt: skip
        path = self.directory / folder / "state.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({k: v for k, v in document.items() if v != "absent"}))
        return str(path)


@pytest.fixture(params=["iptables-nft", "iptables-legacy"])
def theirs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Theirs]:
    made = Theirs(tmp_path, request.param)
    yield made
    made.end()


@pytest.fixture
def hvtx() -> Program:
    preload()
    return Forked(HVTX_FIREWALL="nftables")


def rule_lines(tool: str) -> list[str]:
    return [line for line in lab.run(f"{tool}-save").splitlines() if line.startswith("-A")]


def still(dump: dict[str, object]) -> dict[str, object]:
    """A dump without what duplicate address detection changes by itself in the first second."""
    return {name: dump[name] for name in ("links", "nft", "legacy")}


def outcomes(document: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    return {i["kind"]: (i["outcome"], i["reason"]) for vm in document["vms"] for i in vm["items"]}


def dead_pid() -> int:
    done = subprocess.Popen(["true"])
    done.wait()
    return done.pid


def test_a_running_vm_is_taken_over_and_collected_when_it_dies(
    theirs: Theirs, hvtx: Program
) -> None:
    """Marked in place, kept while its process lives, collected whole once it is dead."""
    rules = rule_lines(theirs.tool)
    pid = theirs.hold()
    path = theirs.state(pid)
    requested = hvtx("import", "my-hypervisor", path, "--dry-run", "--json").json()
    assert requested["applied"] is False
    assert hvtx("vm", "ls", "--json").json()["vms"] == []
    done = hvtx("import", "my-hypervisor", path, "--json").json()
    assert done["schema"] == "hvtx/import/1"
    assert done["summary"] == {"imported": 5, "already": 0, "skipped": 0, "failed": 0}
    assert done["vms"][0]["spelling"]["device"] == "network_ownership.tap_device"
    vm = hvtx.vm("first")
    assert (vm["state"], vm["hypervisor"], vm["pid"]) == ("running", "external", pid)
    marks = {r["kind"]: r["mark"] for r in vm["resources"]}
    assert set(marks) == {"tap", "publish", "masquerade", "filter", "process"}
    assert marks["tap"] in lab.run("ip", "link", "show", TAP)
    # each rule stands where it stood, the same but for its comment
    now = rule_lines(theirs.tool)
    stripped = now
    for mark in marks.values():
        stripped = [
            line.replace(f' -m comment --comment "{mark}"', "").replace(
                f" -m comment --comment {mark}", "")
            for line in stripped
        ]  # fmt: skip
    assert sorted(stripped) == sorted(rules)
    assert stripped == rules or theirs.tool == "iptables-nft"
    assert sum("hvtx:" in line for line in now) == 3
    reasons = {(a, r) for a, r in hvtx.plan() if r != "foreign"}
    assert reasons == {("skip", "vm-alive")}
    hvtx("gc", "--apply")
    assert rule_lines(theirs.tool) == now
    again = hvtx("import", "my-hypervisor", path, "--json").json()
    assert again["summary"] == {"imported": 0, "already": 5, "skipped": 0, "failed": 0}
    hvtx("vm", "stop", "first", code=4)
    theirs.end()
    assert hvtx.vm("first")["state"] == "crashed"
    assert {i["kind"] for i in hvtx.plan()["delete", "vm-dead"]} == {
        "tap", "publish", "masquerade", "filter"
    }  # fmt: skip
    hvtx("gc", "--apply")
    assert TAP not in lab.run("ip", "-o", "link")
    left = rule_lines(theirs.tool)
    assert left == [line for line in rules if f"{IP}/32" not in line and f"{IP}:" not in line]
    assert BRIDGE in lab.run("ip", "-o", "link")
    assert hvtx.is_clean()
    hvtx("vm", "rm", "first")


def test_a_dead_vm(theirs: Theirs, hvtx: Program) -> None:
    """Its pid is gone: taken over as dead, and the next gc collects it."""
    path = theirs.state(dead_pid())
    done = hvtx("import", "my-hypervisor", path, "--json").json()
    assert done["vms"][0]["liveness"] == "dead"
    assert hvtx.vm("first")["state"] == "crashed"
    hvtx("gc", "--apply")
    assert TAP not in lab.run("ip", "-o", "link")
    assert IP + "/32" not in lab.run(f"{theirs.tool}-save")
    assert "192.168.9.0/24" in lab.run(f"{theirs.tool}-save")


@pytest.mark.parametrize("pid", ["none", "a stranger's"])
def test_a_vm_whose_process_is_not_proven(pid: str, theirs: Theirs, hvtx: Program) -> None:
    """No pid, or the pid of some process that does not hold the device: unknown, never collected."""
    path = theirs.state(None if pid == "none" else os.getpid())
    done = hvtx("import", "my-hypervisor", path, "--json").json()
    assert done["vms"][0]["liveness"] == "unknown"
    assert hvtx.vm("first")["state"] == "unknown"
    hvtx("gc", "--apply")
    assert TAP in lab.run("ip", "-o", "link")
    assert not [k for k in hvtx.plan() if k[0] != "skip"]
    hvtx("vm", "stop", "first")  # the operator knows better
    assert TAP not in lab.run("ip", "-o", "link")
    assert IP + "/32" not in lab.run(f"{theirs.tool}-save")
    hvtx("vm", "rm", "first")
    assert hvtx.is_clean()


def test_an_older_file_proves_nothing(theirs: Theirs, hvtx: Program) -> None:
    """Without ownership it is reported and skipped; the other one of the directory is taken."""
    theirs.state(None, "second", id="bbbb2222-0000-4000-8000-00000000000b",
                 network_ownership="absent")  # fmt: skip
    theirs.state(theirs.hold())
    (theirs.directory / "broken").mkdir()
    (theirs.directory / "broken" / "state.json").write_text("{")
    done = hvtx("import", "my-hypervisor", str(theirs.directory), "--json", code=9).json()
    found = {Path(vm["path"]).parent.name: (vm["outcome"], vm["reason"]) for vm in done["vms"]}
    assert found == {
        "broken": ("skipped", "unreadable"),
        "first": ("imported", None),
        "second": ("skipped", "no-ownership"),
    }
    assert [vm["name"] for vm in hvtx("vm", "ls", "--json").json()["vms"]] == ["first"]
    shown = hvtx("import", "my-hypervisor", str(theirs.directory), code=9)
    assert "no-ownership" in shown.out
    hvtx("import", "my-hypervisor", str(theirs.directory / "nothing"), code=3)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (["ip", "link", "set", TAP, "alias", "my precious"], "has-alias"),
        (["ip", "link", "set", TAP, "nomaster"], "other-bridge"),
        (["ip", "link", "set", TAP, "alias", "hvtx:1:bbbbbbbbbb:1.aaaaaaaaaaaaaaaa"], "has-alias"),
    ],
)
def test_a_device_that_is_not_as_described(
    spoil: list[str], reason: str, theirs: Theirs, hvtx: Program
) -> None:
    """Then nothing of the VM is taken over, and nothing of it changes."""
    lab.run(*spoil)
    path = theirs.state(dead_pid())
    before = lab.dump()
    done = hvtx("import", "my-hypervisor", path, "--json", code=9).json()
    assert outcomes(done)["tap"] == ("skipped", reason)
    assert {i["reason"] for i in done["vms"][0]["items"]} == {reason, "vm-not-taken"}
    assert hvtx("vm", "ls", "--json").json()["vms"] == []
    hvtx("gc", "--apply")
    assert still(before) == still(lab.dump())


def test_a_device_held_by_another_process(theirs: Theirs, hvtx: Program) -> None:
    """The state file names one pid, another holds the device."""
    theirs.hold()
    path = theirs.state(dead_pid())
    before = lab.dump()
    done = hvtx("import", "my-hypervisor", path, "--json", code=9).json()
    assert outcomes(done)["tap"] == ("skipped", "held-by-others")
    assert still(before) == still(lab.dump())


def test_rules_that_are_not_provable_stay(theirs: Theirs, hvtx: Program) -> None:
    """Twice there, gone, not about the VM, not in delete form: each skipped, the rest is taken."""
    lab.run(theirs.tool, *shlex.split(RULES[1].replace("-D ", "-A ")))
    odd = [
        *RULES,
        "-t nat -D POSTROUTING -s 192.168.9.0/24 -j ACCEPT",
        f"-D FORWARD -s {IP}/32 -j ACCEPT",
        "-D FORWARD 1",
        f"-A FORWARD -d {IP}/32 -j ACCEPT",
    ]
    ownership = {"tap": TAP, "bridge": BRIDGE, "ip_address": IP, "iptables_rules": odd}
    path = theirs.state(dead_pid(), network_ownership="absent",
                        runtime_state={"network_ownership": ownership})  # fmt: skip
    done = hvtx("import", "my-hypervisor", path, "--json", code=9).json()
    vm = done["vms"][0]
    assert vm["spelling"]["ip"] == "runtime_state.network_ownership.ip_address"
    reasons = [item["reason"] for item in vm["items"]]
    assert reasons == [None, None, "not-unique", None, "not-its-own", "already-gone",
                       "not-understood", "not-understood"]  # fmt: skip
    hvtx("gc", "--apply")
    saved = "\n".join(rule_lines(theirs.tool))
    assert saved.count(f"{IP}/32 -j MASQUERADE") == 2
    assert saved.count("192.168.9.0/24") == 2
    assert f"{IP}:80" not in saved


def test_an_import_that_is_cut_short_is_carried_through(theirs: Theirs, hvtx: Program) -> None:
    """Killed after the record, before or between the marks: gc takes nothing, a rerun completes."""
    path = theirs.state(dead_pid())
    for point in ("recorded:kill", "marked:kill", "marked:kill:3"):
        killed = hvtx("import", "my-hypervisor", path, code=None, HVTX_FAILPOINT=point)
        assert killed.code == -signal.SIGKILL, point
        plan = hvtx.plan()
        assert ("delete", "vm-dead") not in plan or point != "recorded:kill"
        assert not [key for key in plan if key[1] == "intent-abandoned"]
        hvtx("recover")
        assert TAP in lab.run("ip", "-o", "link")
    done = hvtx("import", "my-hypervisor", path, "--json").json()
    assert done["summary"]["skipped"] == done["summary"]["failed"] == 0
    assert len(hvtx.plan()["delete", "vm-dead"]) == 4
    hvtx("gc", "--apply")
    assert IP not in "\n".join(rule_lines(theirs.tool))
    assert hvtx.is_clean()


def test_a_name_of_another_vm(theirs: Theirs, hvtx: Program) -> None:
    """A VM on record keeps its name."""
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx("vm", "create", "first", "--network", "net", "--", "true")
    done = hvtx("import", "my-hypervisor", theirs.state(None), "--json", code=9).json()
    assert done["vms"][0]["reason"] == "name-taken"


def test_two_files_that_claim_the_same(theirs: Theirs, hvtx: Program) -> None:
    """Neither is believed."""
    theirs.state(None)
    theirs.state(None, "second", id="bbbb2222-0000-4000-8000-00000000000b")
    done = hvtx("import", "my-hypervisor", str(theirs.directory), "--json", code=9).json()
    assert {vm["reason"] for vm in done["vms"]} == {"claimed-twice"}


def test_the_device_is_opened_again_before_gc(theirs: Theirs, hvtx: Program) -> None:
    """Dead when taken over, but somebody opened the device since: everything of it stays."""
    hvtx("import", "my-hypervisor", theirs.state(dead_pid()))
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", TAP.encode(), IFF_TAP | IFF_NO_PI))
    hvtx("gc", "--apply")
    assert TAP in lab.run("ip", "-o", "link")
    assert f"{IP}/32" in lab.run(f"{theirs.tool}-save")
    os.close(descriptor)
    hvtx("gc", "--apply")
    assert TAP not in lab.run("ip", "-o", "link")


READING = (
    ("vm", "show", "first"), ("vm", "ls"), ("network", "ls"), ("intents",), ("log",),
    ("explain", "first"), ("explain", TAP), ("explain", IP), ("explain", "8080"),
    ("explain", "8080/tcp"), ("explain", f"{IP}/32"), ("explain", "--", "-s", f"{IP}/32"),
    ("gc", "--plan"), ("gc", "--plan", "--all"), ("metrics",),
)  # fmt: skip
REFUSED = (
    (("vm", "start", "first"), 4), (("vm", "rm", "first"), 4), (("vm", "stop", "first"), 4),
    (("vm", "restart", "first"), 4), (("vm", "console", "first"), 4),
    (("vm", "logs", "first"), 3), (("vm", "attach", "first", "--pid", "1"), 4),
    (("vm", "set", "first", "--memory", "512"), 4),
)  # fmt: skip


@pytest.mark.parametrize("theirs", ["iptables-nft", "iptables-legacy"], indirect=True)
def test_every_verb_with_a_vm_that_was_taken_over(theirs: Theirs, tmp_path: Path) -> None:
    """What reads answers and changes nothing; what cannot be done says why; the rest does it."""
    preload()
    hvtx = Forked(HVTX_FIREWALL="nftables")
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    theirs.hold()
    assert theirs.process is not None
    hvtx("import", "my-hypervisor", theirs.state(theirs.process.pid))
    before = still(lab.dump())
    for words in READING:
        ran = (
            hvtx(*words, "--json") if words[0] != "metrics" and "--" not in words else hvtx(*words)
        )
        assert "bug in hvtx" not in ran.err, words
    told = json.loads(hvtx("doctor", "--json", code=None).out)["findings"]
    assert {f["level"] for f in told if f["check"] in ("damage", "ports", "addresses")} == {"ok"}
    assert not [f for f in told if "unexpected" in str(f)], told
    assert hvtx("repair", "--json").json()["repaired"] == []
    assert hvtx("repair", "first", "--json").json()["repaired"] == []
    for words, code in REFUSED:
        said = hvtx(*words, code=code).err
        assert "error: " in said
        assert "bug in hvtx" not in said
    hvtx("recover")
    assert lab.difference(before, still(lab.dump())) == ""
    assert hvtx("gc", "--plan", "--detailed-exitcode").code == 0
    hvtx("vm", "stop", "first", "--force")
    theirs.process.wait()
    assert not [line for line in rule_lines(theirs.tool) if IP in line]
    assert hvtx.vm("first")["state"] == "defined"
    hvtx("vm", "rm", "first")
    said = hvtx("vm", "create", "first", "--from-log", code=3).err
    assert "`hvtx import --help` and `hvtx adopt --help`" in said
    assert hvtx.is_clean()
