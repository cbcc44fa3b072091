"""Faults that have a name: disks, netlink, tun, iptables, hypervisors; each with its exit code.

What a caller sees of a fault, what is left of it at once, and how it ends. `test_errnos` tries the
same without names, at every system call.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EAGAIN, EBUSY, EIO, EMFILE, ENOBUFS, EPERM
from pathlib import Path

import pytest

from hvtx.engine import vm_launch
from hvtx.engine.runtime import Runtime
from hvtx.errors import StoreError
from hvtx.host.links import Links
from hvtx.host.netlink import Channel, DumpInterrupted
from integration import lab
from integration.crash.test_failpoints import (
    COMMANDS,
    GUESTS,
    THEIR_TAP,
    end_everything,
    given,
    guests,
)
from integration.crash.test_model_replay import stopped
from integration.lab import witness
from integration.lab.injector import SUPPORTED, Fault, Site, run_injected
from integration.lab.program import Forked, Ran, preload
from integration.lab.waiting import until
from integration.ui.test_input import HVTX, NETWORK, SLEEP, small_disk

__all__ = ["guests"]  # the fixture that ends what `import` finds
START = ("vm", "start", "web")
BACKENDS = ["nftables", "iptables"]
_PF_EXITING = 0x4  # include/linux/sched.h
needs_injection = pytest.mark.skipif(not SUPPORTED, reason="errors are put into x86-64 registers")


def made(firewall: str = "nftables", command: tuple[str, ...] = SLEEP) -> Forked:
    """A network and a VM with a published port, defined."""
    preload()
    hvtx = Forked(HVTX_FIREWALL=firewall)
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx("vm", "create", "web", "--network", "net", "-p", "8080:80", *command)
    return hvtx


def state_of(pid: int) -> str:
    """The state letter of a process; empty for one that is not there.

    One that was killed a moment ago is waited for: until the scheduler lets it die it looks alive,
    with a signal pending (proc_pid_status(5)) or on its way out (PF_EXITING in its flags).
    """
    end = time.monotonic() + 60
    while True:
        try:
            told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            status = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return ""
        pending = re.findall(r"^(?:SigPnd|ShdPnd):\t(.*)$", status, re.MULTILINE)
        dying = int(told[6]) & _PF_EXITING or any(int(mask, 16) for mask in pending)
        if told[0] in "ZXTt" or not dying or time.monotonic() > end:
            return told[0]
        time.sleep(0.01)


# -- disks ---------------------------------------------------------------------------------------

# Runs a command that stops at a failpoint, fills the disk, lets it go on; its exit code.
FILLING = """"$@" & pid=$!
n=0; until grep -q '^State:.T' /proc/$pid/status; do n=$((n+1)); [ $n -lt 3000 ] || exit 99; sleep 0.01; done
dd if=/dev/zero of="$BALLAST" bs=4k 2>/dev/null
kill -CONT $pid; wait $pid"""


class Disk:
    """`hvtx` with its state on a small disk, which can be filled while a command runs."""

    def __init__(self, inside: object, path: Path, firewall: str) -> None:
        self._inside = inside
        self._ballast = str(path / "ballast")
        self._environment = {"HVTX_STATE_DIR": str(path / "state"), "HVTX_FIREWALL": firewall}

    def __call__(self, *argv: str, code: int = 0, **environment: str) -> Ran:
        ran: Ran = self._inside(*HVTX, *argv, **self._environment, **environment)  # type: ignore[operator]
        assert ran.code in (code, 128 - code if code < 0 else code), (argv, ran)
        return ran

    def filled(self, *argv: str, at: str) -> Ran:
        """Run a command; at the failpoint ``at`` the disk becomes full."""
        more = {**self._environment, "HVTX_FAILPOINT": f"{at}:stop", "BALLAST": self._ballast}
        return self._inside("sh", "-c", FILLING, "sh", *HVTX, *argv, **more)  # type: ignore[operator]

    def empty(self) -> None:
        self._inside("rm", self._ballast)  # type: ignore[operator]

    def state(self) -> str:
        state: str = self("vm", "show", "web", "--json").json()["state"]
        return state


@pytest.fixture(params=BACKENDS)
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Disk]:
    path = tmp_path / "disk"
    with small_disk(path, "2m") as inside:
        made = Disk(inside, path, request.param)
        made(*NETWORK)
        made("vm", "create", "web", "--network", "net", "-p", "8080:80", *SLEEP)
        yield made
        made("vm", "rm", "web", "--force")
        made("network", "rm", "net")


@pytest.mark.parametrize("point", ["acted:tap", "registered", "opened"])
def test_a_disk_that_fills_up_under_a_start(disk: Disk, point: str) -> None:
    """Intended, made, and no room for the commit: 7, and the reserve has room for the whole undo."""
    before = lab.dump()
    ran = disk.filled(*START, at=point)
    assert ran.code == 7, ran
    assert "full" in ran.err, ran
    assert "rollback incomplete" not in ran.err, "the undo has failed"
    assert disk.state() == "defined"
    assert lab.difference(before, lab.dump()) == ""
    disk("gc", "--plan", "--detailed-exitcode")
    disk("recover")
    assert disk(*START, code=7).err.startswith("error: the disk of the state store is full")
    disk.empty()
    disk(*START)


@pytest.mark.parametrize("point", ["intended", "ended:process", "releasing", "removed"])
def test_a_disk_that_fills_up_under_a_stop(disk: Disk, point: str) -> None:
    """What ends and frees goes on from the reserve, wherever in its middle the disk becomes full."""
    before = lab.dump()
    disk(*START)
    ran = disk.filled("vm", "stop", "web", at=point)
    assert ran.code == 0, ran
    disk("vm", "ls")
    disk("gc", "--apply")
    disk("recover")
    assert disk.state() == "defined"
    disk.empty()
    assert lab.difference(before, lab.dump()) == ""
    disk("gc", "--plan", "--detailed-exitcode")


def test_a_read_only_mount_can_be_read(tmp_path: Path) -> None:
    """Commands that read show what they always show, those that change say 7; a log counts."""
    path = tmp_path / "disk"
    reading = (("vm", "ls", "--json"), ("vm", "show", "web", "--json"), ("gc", "--plan", "--json"),
               ("network", "show", "net", "--json"), ("intents", "--json"), ("log", "--json"),
               ("explain", "8080", "--json"))  # fmt: skip
    with small_disk(path, "2m") as inside:
        hvtx = Disk(inside, path, "nftables")
        hvtx(*NETWORK)
        hvtx("vm", "create", "web", "--network", "net", "-p", "8080:80", *SLEEP)
        hvtx(*START)
        # killed before it could move its log into the file: what is in the log alone must be seen
        two = ("vm", "create", "two", "--network", "net", *SLEEP)
        hvtx(*two, code=-signal.SIGKILL, HVTX_FAILPOINT="ended:kill")

        def read() -> list[str]:
            return [re.sub('"made": "[^"]*"', "", hvtx(*argv).out) for argv in reading]

        shown = read()
        assert "two" in shown[0]
        state = str(path / "state")
        inside("mount", "--bind", state, state)
        inside("mount", "-o", "remount,bind,ro", state)
        assert read() == shown
        assert "mounted read-only" in hvtx("doctor", code=1).out
        for argv in (
            ("vm", "create", "x", "--network", "net", *SLEEP), ("vm", "stop", "web"), ("vm", "rm", "two"),
            ("network", "create", "x", "--subnet", "10.9.0.0/24"),
        ):  # fmt: skip
            assert "remount" in hvtx(*argv, code=7).err, argv
        inside("umount", state)
        assert read() == shown
        for name in ("web", "two"):
            hvtx("vm", "rm", name, "--force")
        hvtx("network", "rm", "net")


def test_standard_output_is_a_full_disk() -> None:
    """What could not be printed is done: 1, and the words do not blame the store."""
    made()
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*HVTX, *START], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, "standard output" in done.stderr) == (1, True), done
    hvtx = Forked()
    assert hvtx.vm("web")["state"] == "running"
    hvtx("vm", "rm", "web", "--force")


@needs_injection
@pytest.mark.parametrize("answers", [True, False])
def test_a_commit_that_did_not_say_undoes_nothing(
    answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EIO at the commit of a start. Whether the store answers again or not: the VM runs on."""
    hvtx = made()
    calls = run_injected(START, hvtx.environment).calls
    hvtx("vm", "stop", "web")
    opened = calls.index(Site("write", "pipe"))
    nth = calls[:opened].count(Site("sync", "store")) + 1

    def gone(self: Runtime) -> None:
        raise StoreError("the disk is gone")

    with monkeypatch.context() as patch:
        if not answers:
            patch.setattr(Runtime, "reopen_store", gone)
        done = run_injected(START, hvtx.environment, Fault(Site("sync", "store"), nth, EIO))
    assert done.failed == 1
    assert done.ran.code in ((0, 7) if answers else (7,)), done.ran
    assert ("outcome unknown" in done.ran.err) == (done.ran.code == 7)
    vm = hvtx.vm("web")
    assert (vm["state"], state_of(vm["pid"])) == ("running", "S")
    hvtx("recover")
    assert hvtx.vm("web")["pid"] == vm["pid"]
    assert {row["state"] for row in hvtx.vm("web")["resources"]} == {"committed"}
    assert hvtx.is_clean()
    hvtx("vm", "rm", "web", "--force")


# -- netlink -------------------------------------------------------------------------------------


def test_plans_under_link_churn(tmp_path: Path) -> None:
    """Beside devices that come and go a plan is whole or refused, and nothing looks absent."""
    hvtx = made()
    hvtx(*START)
    device = hvtx.device("web")
    script = tmp_path / "churn"
    script.write_text("link add churn0 type dummy\nlink del churn0\n" * 50000)
    churn = subprocess.Popen(["ip", "-batch", str(script)], stdin=subprocess.DEVNULL)
    try:
        for _ in range(12):
            ran = hvtx("gc", "--plan", "--json", code=None)
            plan = ran.json()
            if ran.code != 0:
                assert (ran.code, plan["refused"]) == (6, "unstable-view")
                continue
            assert [plan["summary"][word] for word in ("delete", "commit", "forget")] == [0, 0, 0]
            taps = {item["key"]: item["reason"] for item in plan["items"] if item["kind"] == "tap"}
            assert taps[device] == "vm-alive"
            assert hvtx("gc", "--apply", code=None).code in (0, 6)
    finally:
        churn.kill()
        churn.wait()
    assert hvtx.vm("web")["state"] == "running"
    assert hvtx.is_clean()
    hvtx("vm", "rm", "web", "--force")


def test_a_view_that_never_comes_to_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every dump is interrupted: 6, unstable-view, and nothing is concluded from what was seen."""
    hvtx = made()
    hvtx(*START)
    lab.end(hvtx.vm("web")["pid"])

    def interrupted(self: Channel, kind: int, body: bytes) -> list[bytes]:
        raise DumpInterrupted

    before = witness.everything()
    with monkeypatch.context() as patch:
        patch.setattr(Channel, "dump", interrupted)
        for argv in (("gc", "--plan", "--json"), ("gc", "--apply", "--json")):
            ran = hvtx(*argv, code=6)
            assert ran.json()["refused"] == "unstable-view"
        assert "too fast" in hvtx("recover", code=6).err
    assert lab.difference(before, witness.everything()) == ""
    hvtx("gc", "--apply")
    assert hvtx.is_clean()


def test_a_dump_that_misses_a_device_loses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stable entry that a dump left out is asked for by its index: neither absent nor left behind."""
    hvtx = made()
    hvtx(*START)
    device = hvtx.device("web")
    every = Links.all
    with monkeypatch.context() as patch:
        patch.setattr(Links, "all", lambda self: [x for x in every(self) if x.name != device])
        assert hvtx.reasons("tap", device) == {("skip", "vm-alive")}
        lab.end(hvtx.vm("web")["pid"])
        hvtx("gc", "--apply", code=None)
        hvtx("recover", code=None)
    hvtx("gc", "--apply", code=None)
    assert hvtx.is_clean()
    assert device not in lab.run("ip", "link")
    hvtx(*START)
    hvtx("vm", "rm", "web", "--force")


@needs_injection
def test_who_works_cannot_be_told() -> None:
    """The file of the operations' locks cannot be inspected: nobody is taken for interrupted."""
    hvtx = made()
    argv = ("gc", "--plan", "--json")
    with stopped(*START, at="acted:filter:stop") as start:
        calls = run_injected(argv, hvtx.environment).calls
        tried = 0
        for site in (Site("create", "run"), Site("open", "run"), Site("stat", "run")):
            for nth in range(1, calls.count(site) + 1):
                for errno in (EACCES, EIO):
                    done = run_injected(argv, hvtx.environment, Fault(site, nth, errno))
                    tried += done.failed
                    if done.ran.code == 0:
                        acting = [i for i in done.ran.json()["items"] if i["action"] != "skip"]
                        assert not acting, (site, nth, errno)
        assert tried
        assert start.go_on() == 0, start.output
    assert hvtx.vm("web")["state"] == "running"
    assert hvtx.is_clean()
    hvtx("vm", "rm", "web", "--force")


@needs_injection
def test_an_undo_that_fails_is_told_beside_its_cause() -> None:
    """From a call on netlink answers nothing any more: the first error, and what is left of it."""
    hvtx = made()
    before = lab.dump()
    calls = run_injected(START, hvtx.environment).calls
    hvtx("vm", "stop", "web")
    sends = calls.count(Site("send", "route"))
    told = 0
    for nth in range(1, sends + 1):
        fault = Fault(Site("send", "route"), nth, EPERM, lasting=True)
        ran = run_injected(START, hvtx.environment, fault).ran
        if nth == sends:  # the look whether udev changed the MAC address: no reason to undo
            assert ran.code == 0, (nth, ran)
            assert hvtx.is_clean()
            hvtx("vm", "stop", "web")
            assert lab.difference(before, lab.dump()) == ""
            continue
        assert ran.code == 5, (nth, ran)
        left = bool(hvtx.plan().keys() - {("skip", "reserved"), ("skip", "foreign")})
        assert ("rollback incomplete" in ran.err) == left, (nth, ran, hvtx.plan())
        told += left
        hvtx("recover")
        assert hvtx.is_clean()
        assert lab.difference(before, lab.dump()) == ""
    assert told


@needs_injection
def test_a_mark_whose_answer_was_lost_is_on_record() -> None:
    """`import` marks a device, and netlink's answer is lost: a tombstone would let gc remove it."""
    preload()
    hvtx = Forked(HVTX_FIREWALL="nftables")
    name = "import"
    calls: list[Site] = []
    lost = 0
    for nth in range(30):
        COMMANDS[name].prepare(hvtx)
        if not calls:
            calls = run_injected(given(name), hvtx.environment).calls
        else:
            fault = Fault(Site("receive", "route"), nth, ENOBUFS)
            run_injected(given(name), hvtx.environment, fault)
        link = json.loads(lab.run("ip", "-j", "link", "show", THEIR_TAP))[0]
        marks = {row["mark"] for vm in hvtx("vm", "ls", "--json").json()["vms"]
                 for row in vm["resources"]}  # fmt: skip
        if link.get("ifalias"):
            lost += nth > 0  # the first run meets no fault
            assert link["ifalias"] in marks, nth
        guest = GUESTS.pop()
        guest.kill()
        guest.wait()
        end_everything(hvtx)
        for device in (THEIR_TAP, "mybr0"):
            lab.run("ip", "link", "del", device, check=False)
        lab.run("iptables-legacy", "-t", "nat", "-F")
        if nth > calls.count(Site("receive", "route")):
            break
    assert lost


# -- tun and iptables ----------------------------------------------------------------------------


@needs_injection
@pytest.mark.parametrize(
    ("deed", "errno", "code"),
    [("ioctl", EBUSY, 4), ("ioctl", EPERM, 5), ("ioctl", EMFILE, 6), ("open", EMFILE, 6),
     ("open", EPERM, 5)],
)  # fmt: skip
def test_tun_refuses(deed: str, errno: int, code: int) -> None:
    """Each of the calls that make a device: the documented code, the device named, undone."""
    hvtx = made()
    calls = run_injected(START, hvtx.environment).calls
    hvtx("vm", "stop", "web")
    codes = set()
    for nth in range(1, calls.count(Site(deed, "tun")) + 1):
        with witness.undone():
            done = run_injected(START, hvtx.environment, Fault(Site(deed, "tun"), nth, errno))
            if done.ran.code == 0:  # a mere look beforehand, which proves nothing
                hvtx("vm", "stop", "web")
        assert done.failed == 1
        codes.add(done.ran.code)
        if done.ran.code == 0:
            continue
        assert re.search("device hv|device named hv|/dev/net/tun", done.ran.err), done.ran
        assert "hint:" in done.ran.err, done.ran
        assert hvtx.is_clean()
    assert codes - {0} == {code}
    assert codes == {code} or deed == "open"


@needs_injection
@pytest.mark.parametrize("lasting", [False, True])
def test_libiptc_is_told_to_try_again(lasting: bool) -> None:
    """EAGAIN, somebody else's commit between ours: tried again; for good: 6, undone."""
    hvtx = made("iptables")
    fault = Fault(Site("setsockopt", "xtables"), 1, EAGAIN, lasting)
    with witness.undone():
        done = run_injected(START, hvtx.environment, fault)
        if lasting:
            assert (done.ran.code, done.failed > 1) == (6, True), done
            assert hvtx.vm("web")["state"] == "defined"
        else:
            assert (done.ran.code, done.failed) == (0, 1), done
            assert hvtx.vm("web")["state"] == "running"
            hvtx("vm", "stop", "web")
    assert hvtx.is_clean()


@contextmanager
def held_lock() -> Iterator[None]:
    """The lock of iptables in somebody else's hands."""
    with open(os.environ["XTABLES_LOCKFILE"], "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_a_held_xtables_lock_is_busy() -> None:
    """Longer than --lock-timeout: 75, and nothing has changed; a stop ends what it can (9)."""
    hvtx = made("iptables")
    hasty = ("--lock-timeout", "0.2")
    with held_lock(), witness.undone():
        ran = hvtx(*hasty, *START, code=75)
        assert os.environ["XTABLES_LOCKFILE"] in ran.err
        hvtx(*hasty, "network", "create", "two", "--subnet", "10.78.0.0/24", code=75)
    assert hvtx.is_clean()
    before = lab.dump()
    hvtx(*START)
    with held_lock():
        hvtx(*hasty, "vm", "stop", "web", code=9)
        assert hvtx("gc", "--plan").code == 0
    hvtx("gc", "--apply")
    assert hvtx.is_clean()
    assert lab.difference(before, lab.dump()) == ""


@needs_injection
@pytest.mark.parametrize(
    "argv", [START, ("vm", "stop", "web"), ("network", "rm", "net")], ids=" ".join
)
def test_nothing_blocks_while_the_xtables_lock_is_held(argv: tuple[str, ...]) -> None:
    """Under the lock the tables are asked and set, and nothing else that could wait."""
    hvtx = made("iptables")
    if "stop" in argv:
        hvtx(*START)
    if "rm" in argv:
        hvtx("vm", "rm", "web")
    done = run_injected(argv, hvtx.environment)
    assert done.ran.code == 0, done.ran
    held, inside, passes = False, set(), 0
    for site in done.calls:
        if site == Site("lock", "xtables-lock"):
            held, passes = True, passes + 1
        elif site == Site("close", "xtables-lock"):
            held = False
        elif held:
            inside.add(str(site))
    assert passes
    assert not held
    assert inside <= {"socket xtables", "getsockopt xtables", "setsockopt xtables", "open proc", "read proc",
                      "open code", "read code", "stat code", "duplicate xtables"}  # fmt: skip


# -- hypervisors ---------------------------------------------------------------------------------


def test_a_hypervisor_that_hangs_at_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU runs and QMP never answers: 6, the process is ended, all is undone."""
    fake = tmp_path / "bin" / "qemu-system-x86_64"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho stuck at the firmware\nexec sleep 600\n")
    fake.chmod(0o755)
    for other in ("qemu-system-aarch64",):
        (fake.parent / other).symlink_to(fake)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HVTX_QEMU_ACCEL", "tcg")
    monkeypatch.setattr(vm_launch, "READY_SECONDS", 0.5)
    kernel = tmp_path / "vmlinuz"
    kernel.write_text("no kernel")
    hvtx = made(command=("--kernel", str(kernel)))
    pids = lab.open_place() / "pids"
    fake.write_text(f"#!/bin/sh\necho $$ >> {pids}\necho stuck at the firmware\nexec sleep 600\n")
    with witness.undone():
        ran = hvtx(*START, code=6)
    assert "did not answer" in ran.err
    assert "stuck at the firmware" in ran.err
    started = [int(pid) for pid in pids.read_text().split()]
    assert len(started) == 1
    assert state_of(started[0]) in ("", "Z")
    assert hvtx.is_clean()


def test_a_zombie_is_dead_and_collected() -> None:
    """A VM process that ended and that nobody has waited for: crashed; its things go."""
    hvtx = made(command=("--hypervisor", "external"))
    before = lab.dump()
    hvtx(*START)
    with subprocess.Popen(["sleep", "600"]) as process:
        hvtx("vm", "attach", "web", "--pid", str(process.pid))
        process.kill()
        until("a zombie", lambda: state_of(process.pid) == "Z")
        assert hvtx.vm("web")["state"] == "crashed"
        assert hvtx.plan()["delete", "vm-dead"]
        hvtx("gc", "--apply")
        assert state_of(process.pid) == "Z"
    assert hvtx.is_clean()
    assert lab.difference(before, lab.dump()) == ""


@needs_injection
def test_a_stop_that_could_not_look_is_carried_through() -> None:
    """Each look at the process fails once: whether it has ended or not, `recover` knows what to do."""
    hvtx = made()
    hvtx(*START)
    argv = ("vm", "stop", "web", "--timeout", "1")
    looks = run_injected(argv, hvtx.environment).calls.count(Site("identify", "process"))
    failed = 0
    for nth in range(1, looks + 1):
        hvtx(*START)
        pid = hvtx.vm("web")["pid"]
        fault = Fault(Site("identify", "process"), nth, EPERM)
        code = run_injected(argv, hvtx.environment, fault).ran.code
        failed += code != 0
        alive = state_of(pid) not in ("", "Z")
        hvtx("recover")
        assert hvtx.vm("web")["state"] == ("running" if alive else "defined"), (nth, code)
        assert hvtx.is_clean(), (nth, code)
        hvtx("vm", "stop", "web", "--force")
    assert failed


@needs_injection
@pytest.mark.parametrize("name", ["import", "adopt"])
def test_a_vm_is_not_taken_over_without_its_process(name: str) -> None:
    """A look at it that fails: all or nothing, since what has no process is never proven dead."""
    preload()
    hvtx = Forked()
    COMMANDS[name].prepare(hvtx)
    before = lab.dump()
    looks = run_injected((*given(name), "--dry-run"), hvtx.environment).calls
    number = looks.count(Site("identify", "process"))
    plain = hvtx(*given(name), "--dry-run", "--json").out
    tried = unknown = 0
    for nth in range(1, number + 1):
        fault = Fault(Site("identify", "process"), nth, EPERM)
        shown = run_injected((*given(name), "--dry-run", "--json"), hvtx.environment, fault).ran
        if shown.out == plain:
            continue  # a device was to be asked where it is: who has it open counts all the same
        tried += 1
        ran = run_injected((*given(name), "--json"), hvtx.environment, fault).ran
        if name == "adopt":
            assert ran.code == 6, ran
        elif ran.code == 6:  # the look was at the program that prints the rules
            error = json.loads(ran.err)["error"]
            assert (error["code"], "-legacy-save: " in error["message"]) == ("cannot-observe", True)
        else:
            assert [vm["reason"] for vm in ran.json()["vms"]] == ["liveness-unknown"]
            unknown += 1
        assert "old" not in hvtx("vm", "ls").out
        assert lab.difference(before, lab.dump()) == ""
    assert tried
    assert bool(unknown) == (name == "import")
    hvtx(*given(name))
    assert hvtx.vm("old")["pid"] == GUESTS[-1].pid


@pytest.mark.parametrize("command", [("false",), ("sh", "-c", "echo broken; exit 3")])
def test_a_hypervisor_that_ends_at_once_was_never_up(command: tuple[str, ...]) -> None:
    """Every time, not only if somebody happens to look late enough."""
    hvtx = made(command=("--", *command))
    before = lab.dump()
    for _ in range(8):
        ran = hvtx(*START, code=6)
        assert command[0] != "sh" or "broken" in ran.err
        assert hvtx.vm("web")["state"] == "defined"
    assert lab.difference(before, lab.dump()) == ""


LEADERLESS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_vm_whose_leader_thread_has_exited_lives() -> None:
    """Its leader shows Z, a thread runs on: running, kept by gc, and ended by a stop."""
    hvtx = made(command=("--", sys.executable, "-c", LEADERLESS))
    before = lab.dump()
    hvtx(*START)
    pid = hvtx.vm("web")["pid"]
    until("a leader that has exited", lambda: state_of(pid) == "Z")
    assert hvtx.vm("web")["state"] == "running"
    hvtx("gc", "--apply")
    hvtx("recover")
    assert ("skip", "vm-alive") in hvtx.reasons("tap")
    hvtx("vm", "start", "web", code=4)
    hvtx("vm", "stop", "web", "--timeout", "1")
    assert hvtx.vm("web")["state"] == "defined"
    assert lab.difference(before, lab.dump()) == ""
