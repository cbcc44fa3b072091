"""The log of a VM is bounded while it runs, and neither a full disk nor a dead logger hurts the VM."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvtx.drivers.vm_process import gate as gates
from hvtx.drivers.vm_process import stop as stopping
from hvtx.host import logger, procfs
from integration.kernel.test_vm_process import Room, shell
from integration.lab.loggers import is_logger
from integration.lab.waiting import until
from integration.ui.test_input import small_disk


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path)
    yield made
    made.close()


def logger_of(gate: gates.Gate) -> int:
    pid = gate.pids[1]
    until("a logger", lambda: is_logger(pid))
    return pid


def copier_of(pid: int) -> int:
    """The dd that a logger waits for."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    until("copying", children.read_text)
    return int(children.read_text())


def gone(pid: int) -> bool:
    return procfs.look(pid).ended or not procfs.look(pid).exists


def sizes(room: Room) -> tuple[int, int]:
    """Bytes of both halves, the older first."""
    older, newer = Path(logger.older(room.log)), Path(room.log)
    return older.exists() and older.stat().st_size, newer.exists() and newer.stat().st_size


def newer_half(room: Room) -> str:
    """What is in it; between two halves it is missing for a moment."""
    try:
        return room.said()
    except FileNotFoundError:
        return ""


def test_a_line_is_in_the_log_at_once(room: Room) -> None:
    room.start(shell(room.path, "printf half; sleep 0.2; echo ' a line' >&2; exec sleep 60"))
    until("half", lambda: room.said() == "half")
    until("whole", lambda: room.said() == "half a line\n")


def test_the_log_is_bounded_while_the_vm_runs(room: Room) -> None:
    """40 MB are written: two halves are kept, the last line among them."""
    text = "head -c 40M /dev/zero | tr '\\0' x; echo; echo the end; exec sleep 60"
    room.start(shell(room.path, text))
    until("written", lambda: newer_half(room).endswith("\nthe end\n"))
    older, newer = sizes(room)
    assert logger.HALF * 7 // 8 <= older <= logger.HALF
    assert 0 < newer <= logger.HALF
    assert sum(path.stat().st_size for path in Path(room.log).parent.glob("log*")) == older + newer


def test_the_bound_counts_what_was_there_before(room: Room) -> None:
    Path(room.log).write_bytes(b"x" * (logger.HALF - 5000))
    room.start(
        shell(room.path, "head -c 6000 /dev/zero | tr '\\0' y; echo; echo end; exec sleep 60")
    )
    until("written", lambda: sizes(room)[1] == 6005)  # the newer is missing for a moment
    assert sizes(room)[0] == logger.HALF - 5000
    assert room.said().endswith("end\n")


def test_the_logger_ends_with_its_vm_and_holds_nothing_of_ours(room: Room) -> None:
    leaky = os.open(room.path, os.O_RDONLY)
    os.set_inheritable(leaky, True)
    try:
        gate = room.spawn(shell(room.path, "echo up; exec sleep 60"))
    finally:
        os.close(leaky)
    pid = logger_of(gate)
    copier_of(pid)
    links = {os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
    pipes = {link for link in links if link.startswith("pipe:")}
    assert links - pipes == {"/dev/null", room.log}
    assert os.readlink(f"/proc/{pid}/fd/0") in pipes
    assert len(pipes) == 2  # and the one by which dd tells what it copied
    assert os.readlink(f"/proc/{gate.identity.pid}/fd/3") not in pipes
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    gate.open()
    until("up", lambda: room.said() == "up\n")
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
    assert not gone(pid)
    stopping.stop(gate.identity, directory="", power_down="none", force=True)
    until("the logger ended", lambda: gone(pid))


def test_a_logger_of_a_gate_that_never_opened_ends(room: Room) -> None:
    gate = room.spawn(shell(room.path, "echo ran"))
    pid = logger_of(gate)
    gate.cancel()
    until("the logger ended", lambda: gone(pid))


TALKER = "trap 'echo heard' USR1; echo up; while :; do sleep 0.02; done"


def test_a_copier_that_is_killed_is_replaced(room: Room) -> None:
    gate = room.start(shell(room.path, TALKER))
    until("up", lambda: room.said() == "up\n")
    pid = logger_of(gate)
    before = copier_of(pid)
    os.kill(before, signal.SIGKILL)
    until("another copier", lambda: copier_of(pid) != before)
    procfs.signal(gate.identity, signal.SIGUSR1)
    until("heard", lambda: room.said() == "up\nheard\n")


def test_a_vm_whose_logger_is_killed_goes_on(room: Room) -> None:
    """Neither SIGPIPE nor a pipe that fills up: writing fails, and the program runs."""
    flood = "while :; do echo said; head -c 300000 /dev/zero; echo x >>alive; sleep 0.02; done"
    gate = room.start(shell(room.path, flood))
    pid = logger_of(gate)
    alive = room.path / "alive"
    until("alive", lambda: alive.exists() and alive.stat().st_size > 4)
    copier = copier_of(pid)
    os.kill(pid, signal.SIGKILL)
    os.kill(copier, signal.SIGKILL)
    until("killed", lambda: gone(pid) and gone(copier))
    size = alive.stat().st_size
    until("going on", lambda: alive.stat().st_size > size + 20)
    assert not procfs.look(gate.identity.pid).ended


def test_a_full_disk_holds_up_no_vm(tmp_path: Path) -> None:
    """What has no room is dropped and the rest is read; with room again it is written again."""
    disk = tmp_path / "disk"
    words = (
        "import os, sys, time\n"
        "from hvtx.host import logger\n"
        "said, log = os.pipe()\n"
        "logger.spawn(sys.argv[1], said, 0)\n"
        "os.close(said)\n"
        "for _ in range(400): os.write(log, b'x' * 9999 + b'\\n')\n"
        "time.sleep(0.3)\n"
        "os.unlink(sys.argv[2])\n"
        "for _ in range(400): os.write(log, b'y' * 999 + b'\\n')\n"
        "os.close(log)\n"
        "print('went on', os.wait()[1])\n"
    )
    with small_disk(disk, "2m") as inside:
        inside("dd", "if=/dev/zero", f"of={disk}/ballast", "bs=4k", "count=450")
        ran = inside(sys.executable, "-c", words, f"{disk}/log", f"{disk}/ballast")
        assert ran.out == "went on 0\n", ran
        found = inside("tail", "-n", "1", f"{disk}/log").out
        assert set(found) == {"y", "\n"}
