"""The shortest ways by which weakened protocols fail (tests/protocol), against the program itself.

Commands are stopped at failpoints, somebody else acts, and they go on. Each test names the part
of the protocol without which the model's way ends in a violation.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from integration import lab
from integration.lab.program import Forked, preload

TUNSETIFF = 0x400454CA  # linux/if_tun.h
IFF_TAP, IFF_NO_PI = 0x2, 0x1000
BUSY = 75
PATIENCE = 180  # seconds; beside other work all of this takes ten times as long


class Command:
    """A command of the program that runs beside the test, until it is stopped or killed."""

    def __init__(self, *argv: str, at: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hvtx", *argv],
            env={**os.environ, "HVTX_FAILPOINT": at},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_stopped(self) -> None:
        """Wait until it stands at its failpoint; on a host with no time for it, that takes long."""
        for _ in range(PATIENCE * 100):
            state = self._stat()[0]
            if state == "T":
                return
            assert state not in "ZX", f"it ended: {self.process.communicate()[0]}"
            time.sleep(0.01)
        raise AssertionError(f"it was not stopped within {PATIENCE} s: {self._where()}")

    def _stat(self) -> list[str]:
        """The fields of its stat from the state on."""
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()

    def _where(self) -> str:
        """Whether it waits for something or has had no time, for whoever reads of a failure."""
        stat = self._stat()
        ticks, at = int(stat[11]) + int(stat[12]), Path(f"/proc/{self.process.pid}/wchan")
        return f"state {stat[0]}, {ticks / os.sysconf('SC_CLK_TCK')} s of processor time, {at.read_text()}"

    def go_on(self) -> int:
        """Let it go on to its end; its exit code."""
        self.process.send_signal(signal.SIGCONT)
        self.output = self.process.communicate(timeout=PATIENCE)[0]
        return self.process.returncode


@contextmanager
def stopped(*argv: str, at: str) -> Iterator[Command]:
    """A command that stands at a failpoint; ended in any case."""
    command = Command(*argv, at=at)
    try:
        command.wait_stopped()
        yield command
    finally:
        if command.process.poll() is None:
            command.process.kill()
            command.process.communicate()


@pytest.fixture
def hvtx() -> Iterator[Forked]:
    """A network and a VM with a published port, defined."""
    preload()
    program = Forked(HVTX_FIREWALL="nftables")
    os.environ["HVTX_FIREWALL"] = "nftables"
    program("network", "create", "net", "--subnet", "10.77.0.0/24")
    program("vm", "create", "web", "--network", "net", "-p", "8080:80", "--", "sleep", "600")
    try:
        yield program
    finally:
        program("vm", "rm", "web", "--force", code=None)
        del os.environ["HVTX_FIREWALL"]


def is_whole(hvtx: Forked) -> None:
    """The VM runs, its device is there, its port is published, nothing is under way."""
    vm = hvtx.vm("web")
    assert vm["state"] == "running"
    assert {row["state"] for row in vm["resources"]} == {"committed"}
    assert devices() == {vm["interfaces"][0]["device"]}
    assert "8080" in published()
    assert hvtx.is_clean()


def devices() -> set[str]:
    """The TAP devices that there are."""
    return {
        link["ifname"] for link in json.loads(lab.run("ip", "-j", "link", "show", "type", "tun"))
    }


def published() -> str:
    """The elements of the maps from ports to guests."""
    lines = lab.run("nft", "list", "ruleset").splitlines()
    return "\n".join(line for line in lines if "8080" in line)


def kill_vm(hvtx: Forked) -> None:
    lab.end(hvtx.vm("web")["pid"])


def collected(hvtx: Forked) -> None:
    """recover and gc end, and nothing of the VM is left."""
    hvtx("recover", code=None)
    hvtx("gc", "--apply", code=None)
    assert hvtx.is_clean()
    assert hvtx.vm("web")["state"] == "defined"
    assert published() == ""


POINTS = ["intended", "marked:tap", "acted:tap", "acted:filter", "spawned", "registered", "opened"]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("verb", [("gc", "--apply"), ("recover",)], ids=["gc", "recover"])
def test_a_start_under_way_wins(hvtx: Forked, point: str, verb: tuple[str, ...]) -> None:
    """no-operation-lock, no-vm-lock-in-gc: whoever collects beside it takes nothing of it."""
    with stopped("vm", "start", "web", at=f"{point}:stop") as start:
        hvtx(*verb)
        assert start.go_on() == 0, start.output
    is_whole(hvtx)


def test_a_start_that_died_late_is_completed(hvtx: Forked) -> None:
    """note-overlooked: gc read the rows before the process was noted, and judges after the gate."""
    with (
        stopped("vm", "start", "web", at="spawned:stop,opened:kill") as start,
        stopped("gc", "--apply", at="read:stop") as gc,
    ):
        assert start.go_on() == -signal.SIGKILL
        gc.go_on()
        assert "nothing to do" in gc.output, "what was noted meanwhile is not concluded from"
    hvtx("recover")
    is_whole(hvtx)


def test_what_is_being_removed_is_not_forgotten_meanwhile(hvtx: Forked) -> None:
    """A run was killed, and gc looks at its VM between the stop and the removal of `rm --force`."""
    run = ("vm", "run", "two", "--network", "net", "--", "sleep", "600")
    hvtx(*run, code=-signal.SIGKILL, HVTX_FAILPOINT="acted:filter:kill")
    with stopped("vm", "rm", "two", "--force", at="ended:stop") as rm:
        hvtx("gc", "--apply")
        assert hvtx("vm", "show", "two", "--json").json()["state"] == "defined"
        assert rm.go_on() == 0, rm.output
    hvtx("vm", "show", "two", code=3)
    assert hvtx.is_clean(), hvtx("intents", "--json").out


def test_what_a_killed_run_left_is_removed_whole(hvtx: Forked) -> None:
    """Its operation is closed with its VM, alone or among several."""
    for point in ("intended", "acted:filter", "opened"):
        for others in ((), ("one",)):
            for name in ("two", *others):
                run = ("vm", "run", name, "--network", "net", "--", "sleep", "600")
                hvtx(*run, code=-signal.SIGKILL, HVTX_FAILPOINT=f"{point}:kill")
            hvtx("vm", "rm", "two", *others, "--force")
            assert hvtx.is_clean(), (point, others, hvtx("intents", "--json").out)


def test_a_gate_that_was_never_opened_leaves_nothing(hvtx: Forked) -> None:
    """gate-opened-before-noted, identity-with-the-commit: no process runs off the record."""
    for point in ("spawned", "registered"):
        hvtx("vm", "start", "web", code=-signal.SIGKILL, HVTX_FAILPOINT=f"{point}:kill")
        collected(hvtx)
        assert devices() == set()


def test_killed_before_the_device_is_persistent_none_is_left(hvtx: Forked) -> None:
    """persist-before-mark, intend-after-make."""
    for point in ("intended", "marked:tap"):
        hvtx("vm", "start", "web", code=-signal.SIGKILL, HVTX_FAILPOINT=f"{point}:kill")
        assert devices() == set(), point
    collected(hvtx)


def test_the_name_taken_between_crash_and_recovery(hvtx: Forked) -> None:
    """delete-by-name: ours goes under its new name, the other's stays under ours."""
    hvtx("vm", "start", "web", code=-signal.SIGKILL, HVTX_FAILPOINT="acted:tap:kill")
    (name,) = devices()
    lab.run("ip", "link", "set", name, "name", "moved")
    lab.run("ip", "tuntap", "add", name, "mode", "tap")
    before = lab.run("ip", "-j", "link", "show", name)
    hvtx("recover")
    assert devices() == {name}
    assert lab.run("ip", "-j", "link", "show", name) == before
    lab.run("ip", "link", "del", name)
    collected(hvtx)


def test_the_name_taken_between_look_and_attach(hvtx: Forked) -> None:
    """no-check-after-attach: what is held is not what was looked at, and is let go."""
    hvtx("vm", "start", "web")
    kill_vm(hvtx)
    (name,) = devices()
    with stopped("gc", "--apply", at="seen:tap:stop") as gc:
        lab.run("ip", "link", "set", name, "name", "moved")
        lab.run("ip", "tuntap", "add", name, "mode", "tap")
        gc.go_on()
    assert name in devices()
    lab.run("ip", "link", "del", name)
    collected(hvtx)
    assert devices() == set()


def test_a_device_opened_between_look_and_attach_stays_with_its_rules(hvtx: Forked) -> None:
    """check-then-delete, rules-before-hold."""
    hvtx("vm", "start", "web")
    kill_vm(hvtx)
    (name,) = devices()
    with stopped("gc", "--apply", at="seen:tap:stop") as gc:
        holder = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(holder, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
        gc.go_on()
    assert "is held open by" in gc.output
    assert devices() == {name}
    assert "8080" in published()
    os.close(holder)
    collected(hvtx)
    assert devices() == set()


def test_a_vm_started_again_between_plan_and_act(hvtx: Forked) -> None:
    """The rows that gc planned to release are tombstones by then: it reads them again."""
    hvtx("vm", "start", "web")
    kill_vm(hvtx)
    with stopped("gc", "--apply", at="planned:stop") as gc:
        hvtx("vm", "start", "web")
        gc.go_on()
        assert "it changed in the meantime" in gc.output
    is_whole(hvtx)


def test_a_start_waits_for_what_gc_is_releasing(hvtx: Forked) -> None:
    """gc holds the VM's lock from its second look to its tombstones."""
    hvtx("vm", "start", "web")
    kill_vm(hvtx)
    with stopped("gc", "--apply", at="releasing:stop") as gc:
        hvtx("--lock-timeout", "0.2", "vm", "start", "web", code=BUSY)
        assert gc.go_on() == 0, gc.output
    hvtx("vm", "start", "web")
    is_whole(hvtx)


def test_a_killed_recover_is_recovered_any_number_of_times(hvtx: Forked, tmp_path: Path) -> None:
    """row-first: whatever recover had begun, the next one finds it on record."""
    hvtx("vm", "start", "web", code=-signal.SIGKILL, HVTX_FAILPOINT="acted:filter:kill")
    points = [
        "read",
        "planned",
        "releasing",
        "seen:tap",
        "attached:tap",
        "seized",
        "removed",
        "forgotten",
    ]
    for point in points:
        hvtx("recover", code=-signal.SIGKILL, HVTX_FAILPOINT=f"{point}:kill")
    collected(hvtx)
    assert devices() == set()


def test_a_restored_element_that_serves_the_vm_stays(hvtx: Forked) -> None:
    """leftovers-unexamined: the model's own find; the port stays published."""
    hvtx("vm", "start", "web")
    saved = lab.run("nft", "list", "ruleset")
    hvtx("vm", "stop", "web", "--timeout", "1")
    hvtx("vm", "start", "web")
    lab.run("nft", "-f", "-", stdin=f"flush ruleset\n{saved}")
    assert "8080" in published()
    hvtx("gc", "--apply", code=None)
    assert "8080" in published()
    hvtx("vm", "stop", "web", "--timeout", "1", code=None)
    hvtx("gc", "--apply", code=None)
    collected(hvtx)


def test_a_copy_of_the_store_from_the_midst_of_a_start(hvtx: Forked, tmp_path: Path) -> None:
    """no-high-water-mark: in the copy the VM was never started, and gc would take its things."""
    store = Path(os.environ["HVTX_STATE_DIR"], "hvtx.db")
    with stopped("vm", "start", "web", at="spawned:stop") as start:
        _copy(store, tmp_path / "copy.db")
        assert start.go_on() == 0, start.output
    _copy(store, tmp_path / "newest.db")
    _put_back(tmp_path / "copy.db", store)
    for verb in (("gc", "--apply"), ("recover",), ("vm", "stop", "web")):
        refused = hvtx(*verb, code=None)
        assert refused.code != 0
        assert "older than what this host has seen" in refused.err, refused
    assert len(devices()) == 1
    assert "8080" in published()
    _put_back(tmp_path / "newest.db", store)
    is_whole(hvtx)


def _copy(store: Path, to: Path) -> None:
    with closing(sqlite3.connect(store)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)


def _put_back(copy: Path, store: Path) -> None:
    for suffix in ("-wal", "-shm"):
        Path(f"{store}{suffix}").unlink(missing_ok=True)
    store.write_bytes(copy.read_bytes())


@pytest.mark.parametrize("act", [os.kill, None], ids=["killed", "alive"])
def test_a_stop_that_died_is_finished(hvtx: Forked, act: Callable[..., None] | None) -> None:
    """A stop killed before and after the end of the process: released, or running as before."""
    hvtx("vm", "start", "web")
    point = "ended:process" if act else "intended"
    hvtx(
        "vm", "stop", "web", "--timeout", "1", code=-signal.SIGKILL, HVTX_FAILPOINT=f"{point}:kill"
    )
    if act:
        hvtx("gc", "--apply")
        collected(hvtx)
    else:
        hvtx("recover")
        is_whole(hvtx)
