"""The guest's own state: at the start, in what is shown, at the stop; by stand-ins and a real QEMU.

The stand-ins (vmm_stand_in.py) speak as hypervisors do and say what a test wants to hear. Nothing here
asserts a time: what was done is told by what the hypervisor heard, and in which order.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hvtx.drivers.vm_process import gate as gates
from hvtx.drivers.vm_process import stop as stopping
from hvtx.engine import vm_launch
from hvtx.host import monitor_queries, monitor_socket, qmp
from integration import lab
from integration.kernel.test_vm_process import needs_qemu
from integration.lab import vmm_stand_in, witness
from integration.lab.program import Forked, preload
from integration.lab.waiting import until

NAMES = {
    "qemu": f"qemu-system-{os.uname().machine}",
    "firecracker": "firecracker",
    "cloud-hypervisor": "cloud-hypervisor",
}
DUMP = "".join(f"R{n:02d}=0000000000000000 R{n:02d}=ffffffff81000000\n" for n in range(30))
KVM_ERROR = f"KVM internal error. Suberror: 1\nemulation failure\n{DUMP}"


class Stage:
    """hvtx, a network, a VM ``web`` for each test's hypervisor, and what the stand-in is told."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.hvtx = Forked()
        self.kernel = str(place / "vmlinuz")
        Path(self.kernel).write_text("no kernel")
        self.hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")

    def orders(self, **orders: Any) -> None:
        """What the stand-in does from now on; what it has heard is forgotten."""
        draft = self.place / "orders.new"
        draft.write_text(json.dumps(orders))
        draft.rename(self.place / "orders.json")
        (self.place / "heard").write_text("")
        (self.place / "heard").chmod(0o666)  # the VM's user writes it

    def heard(self) -> list[str]:
        """What the stand-in heard, but for the looks at its state."""
        words = (self.place / "heard").read_text().splitlines()
        return [word for word in words if word != "state?"]

    def looks(self) -> int:
        """How often it was asked for its state."""
        return (self.place / "heard").read_text().count("state?\n")

    def create(self, hypervisor: str = "qemu", name: str = "web") -> None:
        """Record a VM."""
        self.hvtx("vm", "create", name, "--network", "net", "--hypervisor", hypervisor,
                  "--kernel", self.kernel)  # fmt: skip

    def up(self, hypervisor: str = "qemu", **orders: Any) -> None:
        """A VM that runs."""
        self.create(hypervisor)
        self.orders()
        self.hvtx("vm", "start", "web")
        self.orders(**orders)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    preload()
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for kind, name in NAMES.items():
        program = bin_ / name
        program.write_text(
            f'#!/bin/sh\nexec {sys.executable} {vmm_stand_in.__file__} {kind} "$@"\n'
        )
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    monkeypatch.setenv("HVTX_QEMU_ACCEL", "tcg")
    made = Stage(lab.open_place())
    monkeypatch.setenv("TALKER", str(made.place))
    yield made
    for vm in made.hvtx("vm", "ls", "--json").json()["vms"]:
        if vm["pid"]:
            lab.end(vm["pid"])


# -- the start -------------------------------------------------------------------------------------


def test_a_guest_that_cannot_go_on_was_never_up(stage: Stage) -> None:
    stage.create()
    for state, told in (
        ("internal-error", "internal-error"),
        ("guest-panicked", "panicked (guest-panicked)"),
        ("io-error", "io-error"),
        ("shutdown", "shutdown"),
    ):
        stage.orders(states=[state], say="the disk is gone\n")
        with witness.undone():
            ran = stage.hvtx("vm", "start", "web", code=6)
        assert f"of VM web began to run, but its guest cannot go on: {told}" in ran.err
        assert "the disk is gone" in ran.err
        assert "HVTX_QEMU_ACCEL" not in ran.err
        assert stage.hvtx.vm("web")["state"] == "defined"
    assert stage.hvtx.is_clean()


@pytest.mark.parametrize("json_", [(), ("--json",)])
def test_an_internal_error_of_kvm_is_told_by_the_line_that_says_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, json_: tuple[str, ...]
) -> None:
    """It comes some moments after QEMU has answered that all is well, behind it 30 lines of dump."""
    monkeypatch.setattr(gates, "LOOK_KVM_SECONDS", 60.0)  # the event ends it
    monkeypatch.setattr(gates, "SETTLE", 60.0)
    stage.create()
    stage.orders(states=["running"], then=["internal-error", 0.06], say_then=KVM_ERROR)
    with witness.undone():
        ran = stage.hvtx("vm", "start", "web", *json_, code=6, HVTX_QEMU_ACCEL="kvm")
    hint = json.loads(ran.err)["error"]["hint"] if json_ else ran.err
    assert "HVTX_QEMU_ACCEL=tcg starts it without KVM" in hint
    assert "its log says: KVM internal error. Suberror: 1 emulation failure … R27=" in hint
    assert "R26" not in hint


def test_without_kvm_there_is_a_look_too(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "LOOK_SECONDS", 60.0)
    stage.create()
    stage.orders(states=["running"], then=["internal-error", 0.06])
    with witness.undone():
        ran = stage.hvtx("vm", "start", "web", code=6)
    assert "cannot go on: internal-error" in ran.err


@pytest.mark.parametrize("hypervisor", NAMES)
def test_a_hypervisor_that_ends_right_after_its_first_answer_was_never_up(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, hypervisor: str
) -> None:
    monkeypatch.setattr(gates, "LOOK_SECONDS", 60.0)
    stage.create(hypervisor)
    stage.orders(then=["end", 0.06], say_then="could not do it\n")
    with witness.undone():
        ran = stage.hvtx("vm", "start", "web", code=6)
    assert "ended before it was up" in ran.err
    assert "could not do it" in ran.err


def test_the_look_ends_when_the_guest_speaks(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour otherwise; what it says comes some moments after QEMU's answer."""
    monkeypatch.setattr(gates, "LOOK_SECONDS", 3600.0)
    stage.create()
    stage.orders(states=["running"], then=["", 0.06], say_then="[    0.0] Linux version 6\n")
    stage.hvtx("vm", "start", "web")


def test_the_last_look_counts_too(stage: Stage) -> None:
    """No event tells of it: the state is asked for once more when the look is over."""
    stage.create()
    stage.orders(states=["running", "internal-error"])
    with witness.undone():
        stage.hvtx("vm", "start", "web", code=6)


def test_a_guest_that_does_not_run_yet_is_waited_for(stage: Stage) -> None:
    stage.create()
    stage.orders(states=["prelaunch", "inmigrate", "running"])
    assert stage.hvtx("vm", "start", "web", "--json").json()["guest"] == "running"
    assert stage.looks() >= 3


def test_a_run_that_fails_so_leaves_no_vm(stage: Stage) -> None:
    stage.orders(states=["internal-error"])
    with witness.undone():
        stage.hvtx("vm", "run", "web", "--network", "net", "--kernel", stage.kernel, code=6)
    assert stage.hvtx("vm", "ls", "--json").json()["vms"] == []


@pytest.mark.parametrize("hypervisor", ["firecracker", "cloud-hypervisor"])
def test_a_hypervisor_that_dies_soon_after_its_exec_was_never_up(
    stage: Stage, hypervisor: str
) -> None:
    stage.create(hypervisor)
    stage.orders(dies_mute=0.3)
    with witness.undone():
        ran = stage.hvtx("vm", "start", "web", code=6)
    assert "of VM web ended before it was up (exit status 1)" in ran.err
    assert "no such device" in ran.err
    assert stage.hvtx.is_clean()


@pytest.mark.parametrize(
    ("hypervisor", "states"),
    [
        ("firecracker", ["Not started", "Running"]),
        ("cloud-hypervisor", ["404", "Created", "Running"]),
    ],
)
def test_up_is_when_the_api_says_so(stage: Stage, hypervisor: str, states: list[str]) -> None:
    stage.create(hypervisor)
    stage.orders(states=states)
    vm = stage.hvtx("vm", "start", "web", "--json").json()
    assert (vm["state"], vm["guest"]) == ("running", "running")
    assert stage.looks() >= len(states)


@pytest.mark.parametrize(
    ("hypervisor", "orders", "told"),
    [
        ("qemu", {"states": ["prelaunch"]}, "its guest running within {} s: paused (prelaunch)"),
        ("qemu", {"hang": True}, "did not answer on qmp.sock within {} s"),
        ("firecracker", {"states": ["Not started"]}, "running within {} s: paused (Not started)"),
        ("firecracker", {"hang": True}, "did not answer on api.sock within {} s"),
        ("cloud-hypervisor", {"states": ["404"]}, "its guest running within {} s: unknown"),
        ("cloud-hypervisor", {"states": ["Shutdown"]}, "its guest cannot go on: shutdown"),
    ],
)
def test_who_never_says_so_is_not_up(
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    hypervisor: str,
    orders: dict[str, Any],
    told: str,
) -> None:
    """A stand-in that has not begun in so short a time, on a busy machine, is given more of it."""
    stage.create(hypervisor)
    for seconds in ("0.7", "3", "9"):
        monkeypatch.setattr(vm_launch, "READY_SECONDS", float(seconds))
        stage.orders(**orders)
        with witness.undone():
            ran = stage.hvtx("vm", "start", "web", code=6)
        if told.format(seconds) in ran.err:
            break
    assert told.format(seconds) in ran.err


# -- what is shown ---------------------------------------------------------------------------------


SAID = {
    "qemu": (
        ("running", "running", ""),
        ("paused", "paused", "the guest is paused"),
        ("suspended", "paused", "the guest is paused"),
        ("internal-error", "internal-error", "by an internal error"),
        ("guest-panicked", "panicked", "kernel panicked"),
        ("io-error", "io-error", "look at the disk"),
        ("shutdown", "shutdown", "switched itself off"),
        ("something new", "unknown", ""),
    ),
    "firecracker": (
        ("Running", "running", ""),
        ("Paused", "paused", "the guest is paused"),
    ),
    "cloud-hypervisor": (
        ("Paused", "paused", "the guest is paused"),
        ("Shutdown", "shutdown", "switched itself off"),
    ),
}


@pytest.mark.parametrize("hypervisor", SAID)
def test_each_state_is_shown(stage: Stage, hypervisor: str) -> None:
    """In `vm show` (text and JSON), `vm ls`, metrics; the process's state is another one."""
    stage.up(hypervisor)
    stage.hvtx("vm", "create", "idle", "--network", "net", "--", "sleep", "600")
    for said, guest, note in SAID[hypervisor]:
        stage.orders(states=[said])
        shown = stage.hvtx.vm("web")
        assert (shown["state"], shown["guest"]) == ("running", guest)
        assert note in " ".join(shown["notes"])
        assert bool(shown["notes"]) == bool(note)
        assert re.search(f"^guest: +{guest}$", stage.hvtx("vm", "show", "web").out, re.MULTILINE)
    listed = stage.hvtx("vm", "ls").out.split("\n")
    assert listed[0].split()[:3] == ["NAME", "STATE", "GUEST"]
    assert listed[1].split()[:3] == ["idle", "defined", "-"]
    assert listed[2].split()[:3] == ["web", "running", guest]
    metrics = stage.hvtx("metrics").out
    assert f'hvtx_guests{{guest="{guest}"}} 1.0' in metrics
    assert metrics.count("\nhvtx_guests{") == 7
    assert 'hvtx_vms{state="running"} 1.0' in metrics
    stage.hvtx("vm", "stop", "web", "--force")
    assert stage.hvtx.vm("web")["guest"] is None


def test_who_does_not_answer_is_unknown_and_keeps_nobody_waiting(stage: Stage) -> None:
    """And what stands in its way is a client that holds the socket, or nothing at all."""
    stage.up(hang=True)
    assert stage.hvtx.vm("web")["guest"] == "unknown"
    stage.orders()
    directory = Path(os.environ["HVTX_RUN_DIR"]).glob("*/vms/*")
    (room,) = [str(path) for path in directory]
    until("running", lambda: stage.hvtx.vm("web")["guest"] == "running")
    with monitor_socket.connect(room, "qmp.sock", 10):  # a person's client: ours is another socket
        assert stage.hvtx.vm("web")["guest"] == "running"
    with monitor_socket.connect(room, "monitor.sock", 10) as holder:
        holder.recv(1)
        assert stage.hvtx.vm("web")["guest"] == "unknown"
    os.unlink(f"{room}/monitor.sock")  # as of a VM that an earlier hvtx started
    assert stage.hvtx.vm("web")["guest"] == "running"
    os.unlink(f"{room}/qmp.sock")
    assert stage.hvtx.vm("web")["guest"] == "unknown"


def test_all_are_asked_in_one_round(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What hangs, hangs together: tests/host/test_monitor_queries.py has a hundred in one round."""
    rounds = stage.place / "rounds"

    def ask(questions: dict[str, monitor_queries.Question]) -> dict[str, str]:
        with rounds.open("a") as file:
            file.write(f"{len(questions)}\n")
        return asking_ask(questions)

    asking_ask = monitor_queries.ask
    stage.orders()
    for name in ("a", "b", "c"):
        stage.create(name=name)
        stage.hvtx("vm", "start", name)
    monkeypatch.setattr(monitor_queries, "ask", ask)
    stage.orders(hang=True)
    guests = [v["guest"] for v in stage.hvtx("vm", "ls", "--json").json()["vms"]]
    assert guests == ["unknown"] * 3
    metrics = stage.hvtx("metrics").out
    assert 'hvtx_guests{guest="unknown"} 3.0' in metrics
    assert rounds.read_text() == "3\n3\n"


def test_those_that_nobody_can_ask_are_unknown_without_asking(stage: Stage) -> None:
    """A program, and a VM that hvtx did not start: no socket is opened, no module loaded."""
    stage.hvtx("vm", "run", "sleeper", "--network", "net", "--", "sleep", "600")
    stage.hvtx("vm", "create", "ext", "--network", "net", "--hypervisor", "external")
    assert stage.hvtx.vm("ext")["guest"] is None
    stage.hvtx("vm", "start", "ext")
    guests = {v["name"]: v["guest"] for v in stage.hvtx("vm", "ls", "--json").json()["vms"]}
    assert guests == {"sleeper": "unknown", "ext": "unknown"}
    words = "import sys; from hvtx.cli.main import run; run(['vm', 'ls']);"
    words += "sys.exit('hvtx.host.monitor_queries' in sys.modules)"
    lab.run(sys.executable, "-c", words)
    lab.end(stage.hvtx.vm("sleeper")["pid"])
    assert stage.hvtx.vm("sleeper")["guest"] is None  # crashed


# -- the stop --------------------------------------------------------------------------------------


VAIN = {
    "qemu": {
        "paused": "paused",
        "suspended": "paused (suspended)",
        "internal-error": "internal-error",
        "guest-panicked": "panicked (guest-panicked)",
        "io-error": "io-error",
        "shutdown": "shutdown",
    },
    "firecracker": {"Paused": "paused"},
    "cloud-hypervisor": {"Shutdown": "shutdown"},
}


@pytest.mark.parametrize("hypervisor", VAIN)
def test_a_guest_that_cannot_react_is_not_waited_for(stage: Stage, hypervisor: str) -> None:
    """The timeout is a day: it would never come. TERM is what ends it, and a line says so."""
    stage.create(hypervisor)
    for state, told in VAIN[hypervisor].items():
        stage.orders()
        stage.hvtx("vm", "start", "web")
        stage.orders(states=[state], powered_down="ignore")
        ran = stage.hvtx("vm", "stop", "web", "--timeout", "86400")
        assert f"the guest web cannot power down, its state is {told}" in ran.err
        assert stage.heard()[-1] == "TERM"
        if hypervisor == "qemu":
            assert stage.heard() == ["TERM"]
        assert stage.hvtx.vm("web")["state"] == "defined"
    assert stage.hvtx.is_clean()


def test_a_restart_tells_as_a_stop_does(stage: Stage) -> None:
    stage.up(states=["paused", "running"], powered_down="ignore")
    ran = stage.hvtx("vm", "restart", "web", "--timeout", "86400")
    assert "the guest web cannot power down, its state is paused" in ran.err
    assert stage.heard() == ["TERM"]
    assert stage.hvtx.vm("web")["guest"] == "running"


def test_nothing_but_the_object_is_said_with_json(stage: Stage) -> None:
    stage.up(states=["internal-error"])
    ran = stage.hvtx("vm", "stop", "web", "--json")
    assert (ran.err, ran.json()["state"]) == ("", "defined")


def test_a_guest_that_powers_down_at_once_is_ended_without_a_word(stage: Stage) -> None:
    stage.up()
    ran = stage.hvtx("vm", "stop", "web")
    assert (ran.err, ran.out) == ("", "VM web is stopped\n")
    assert stage.heard() == ["power button"]


def test_a_guest_that_takes_no_notice_has_its_time_and_that_is_told(stage: Stage) -> None:
    stage.up(powered_down="ignore")
    ran = stage.hvtx("vm", "stop", "web", "--timeout", "1.3")
    assert ran.err.split("\n")[:2] == [
        "waiting up to 1.3 s for the guest web to power down",
        "the guest web did not power down within 1.3 s: ending its hypervisor",
    ]
    assert stage.heard() == ["power button", "TERM"]


@pytest.mark.parametrize("hypervisor", ["qemu", "firecracker", "cloud-hypervisor"])
def test_a_guest_that_stops_while_it_powers_down_is_waited_for_no_longer(
    stage: Stage, hypervisor: str
) -> None:
    """One that goes to sleep when its button is pressed, as desktops do."""
    state, told = (
        ("suspended", "paused (suspended)") if hypervisor == "qemu" else ("Paused", "paused")
    )
    stage.up(hypervisor, powered_down=state)
    ran = stage.hvtx("vm", "stop", "web", "--timeout", "86400")
    assert f"its state is {told}: ending its hypervisor" in ran.err
    assert stage.heard() == ["power button", "TERM"]


@pytest.mark.parametrize("hypervisor", ["qemu", "firecracker", "cloud-hypervisor"])
def test_a_hypervisor_that_does_not_answer_is_told_and_ended(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, hypervisor: str
) -> None:
    monkeypatch.setattr(stopping, "_ASK_SECONDS", (0.2, 0.3))
    stage.up(hypervisor, hang=True)
    ran = stage.hvtx("vm", "stop", "web", "--timeout", "86400")
    assert ran.err.split("\n")[:2] == [
        "waiting up to 0.5 s for an answer about the guest web",
        "the guest web cannot be asked to power down: ending its hypervisor",
    ]
    assert stage.heard() == ["TERM"]


LIES = {  # once, again; tests/host/test_lies.py has many more of them
    "qemu": (
        ('{"QMP": {}}\r\n{"error": "no"}\r\n', ""),
        ('{"QMP": {}}\r\n{"return": ' + "[" * 99_999 + "\r\n", ""),
        ("", " "),
        ('{"QMP": {}}\r\n', '{"event": "STOP"}\r\n' * 99),
        ('{"QMP": {}}\r\n{"return": {}}\r\n{"return": {"status": "\\ud800"}}\r\n', ""),
    ),
    "cloud-hypervisor": (
        ("HTTP/1.1 200 \r\nContent-Length: 19\r\n\r\n" + '{"state": "\\ud800"}', ""),
        ("HTTP/1.1 ", "2"),
        ("HTTP/1.1 200 \r\n", "X: y\r\n"),
        ("HTTP/1.1 500 \r\nContent-Length: 999999999999\r\n\r\n", " "),
    ),
}


@pytest.mark.parametrize("hypervisor", LIES)
def test_a_hypervisor_that_lies_is_shown_and_ended(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, hypervisor: str
) -> None:
    """It is never up by its lies; where it lies later, it is unknown, and ends as any other."""
    stage.create(hypervisor)
    monkeypatch.setattr(stopping, "_ASK_SECONDS", (0.1, 0.1))
    for told in LIES[hypervisor]:
        with monkeypatch.context() as short:
            short.setattr(vm_launch, "READY_SECONDS", 0.5)
            stage.orders(lie=told)
            with witness.undone():
                stage.hvtx("vm", "start", "web", code=6)
        stage.orders()
        stage.hvtx("vm", "start", "web")
        stage.orders(lie=told)
        assert stage.hvtx.vm("web")["guest"] == "unknown"
        stage.hvtx("vm", "stop", "web", "--timeout", "0.2")
        assert stage.heard()[-1] == "TERM"
        assert stage.hvtx.vm("web")["state"] == "defined"
    assert stage.hvtx.is_clean()


@pytest.mark.parametrize("hypervisor", ["qemu", "cloud-hypervisor"])
def test_a_link_to_the_socket_of_another_vm_is_not_followed(stage: Stage, hypervisor: str) -> None:
    """Who breaks out of a VM has no other one powered down in its place."""
    stage.up(hypervisor)
    stage.create(hypervisor, "other")
    stage.hvtx("vm", "start", "other")
    ids = {name: stage.hvtx.vm(name)["id"] for name in ("web", "other")}
    rooms = {str(path) for path in Path(os.environ["HVTX_RUN_DIR"]).glob("*/vms/*")}
    (own,) = (room for room in rooms if ids["web"] in room or room.endswith("/web"))
    (theirs,) = rooms - {own}
    for name in ("qmp.sock", "monitor.sock", "api.sock"):
        if os.path.exists(f"{own}/{name}"):
            os.unlink(f"{own}/{name}")
            os.symlink(f"{theirs}/{name}", f"{own}/{name}")
    stage.orders()
    stage.hvtx("vm", "stop", "web")
    assert stage.heard() == ["TERM"]
    assert stage.hvtx.vm("other")["state"] == "running"


def test_a_program_that_takes_its_time_is_waited_for_aloud(stage: Stage) -> None:
    slow = "trap 'sleep 1.5; exit' TERM; echo up; while :; do sleep 0.1; done"
    stage.hvtx("vm", "run", "slow", "--network", "net", "--", "sh", "-c", slow)
    until("up", lambda: "up" in stage.hvtx("vm", "logs", "slow").out)
    ran = stage.hvtx("vm", "stop", "slow", "--timeout", "77")
    assert ran.err == "waiting up to 77 s for the process of VM slow to end\n"


# -- a real QEMU -----------------------------------------------------------------------------------

# waits for a byte on the serial line, then tells the pvpanic device of a panic
PANICS = bytes.fromhex("bafd03eca80174fbba0505b001eef4ebfd").ljust(510, b"\0") + b"\x55\xaa"


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Forked, str]]:
    preload()
    monkeypatch.setenv("HVTX_QEMU_ACCEL", "tcg")
    disk = tmp_path / "disk.raw"
    disk.write_bytes(PANICS.ljust(1 << 20, b"\0"))
    hvtx = Forked()
    hvtx("vm", "run", "web", "--memory", "64", "--disk", str(disk))
    (room,) = [str(path) for path in Path(os.environ["HVTX_RUN_DIR"]).glob("*/vms/*")]
    yield hvtx, room
    hvtx("vm", "rm", "web", "--force")


def becomes(hvtx: Forked, guest: str) -> None:
    """Wait for it: a busy machine may take longer than one look does."""
    until(guest, lambda: hvtx.vm("web")["guest"] == guest)


@needs_qemu
def test_a_real_guest_is_paused_continued_and_stopped(real: tuple[Forked, str]) -> None:
    hvtx, room = real
    becomes(hvtx, "running")
    with qmp.Qmp(room, "qmp.sock", 30) as person:  # who stays: ours is another socket
        person.execute("stop")
        becomes(hvtx, "paused")
        person.execute("cont")
        becomes(hvtx, "running")
        person.execute("stop")
        becomes(hvtx, "paused")
        ran = hvtx("vm", "stop", "web", "--timeout", "86400")
    assert "the guest web cannot power down, its state is paused" in ran.err
    assert "terminating on signal 15" in hvtx("vm", "logs", "web").out


@needs_qemu
def test_a_real_guest_panics(real: tuple[Forked, str]) -> None:
    hvtx, room = real
    with qmp.Qmp(room, "qmp.sock", 30) as person:
        person.execute("set-action", {"panic": "pause"})
    with monitor_socket.connect(room, "console.sock", 30) as console:
        console.sendall(b"x")
        becomes(hvtx, "panicked")
    assert "kernel panicked" in hvtx("vm", "show", "web").out
    ran = hvtx("vm", "stop", "web", "--timeout", "86400")
    assert "its state is panicked (guest-panicked)" in ran.err
