"""Ctrl-C at any moment, a second one, other signals, a standard output that is closed or full, sleep.

Ctrl-C comes at system calls all over a command (under ptrace), those of the store's commits among
them: there a command is most of its time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from hvtx.engine import attachments as attachments_on_record
from hvtx.engine.runtime import Runtime
from hvtx.model.attachment import AttachmentKey
from hvtx.model.vm import Vm
from integration import lab
from integration.crash.test_failpoints import COMMANDS, end_everything, given, host
from integration.lab.interrupting import interrupt_after
from integration.lab.program import Forked, Program, preload
from integration.lab.stepper import run_stepped
from integration.lab.waiting import until

INTERRUPTED = 130
OPEN = "SELECT verb FROM operation WHERE ended IS NULL"
PARTS = (0.2, 0.5, 0.7, 0.82, 0.87, 0.91, 0.95)


def spread(calls: int) -> list[int]:
    """Where to interrupt: from where the command has begun to right behind its last commit."""
    return [int(calls * part) for part in PARTS]


def is_one_of(where: str, now: dict[str, object], *allowed: dict[str, object]) -> None:
    """The host is as it was before, or as it is afterwards, and nothing in between."""
    differences = [lab.difference(one, now) for one in allowed]
    assert not all(differences), f"{where}\n" + "\n--\n".join(differences)


@pytest.mark.parametrize("name", ["vm run", "network create"])
def test_ctrl_c_anywhere_leaves_all_or_nothing(name: str) -> None:
    """With nothing to recover: what was unfinished is taken back, what was committed stands."""
    preload()
    hvtx = Forked(HVTX_FIREWALL="nftables")
    COMMANDS[name].prepare(hvtx)
    before = host()
    whole = run_stepped(given(name), hvtx.environment)
    after = host()
    end_everything(hvtx)
    for point in spread(whole.calls):
        COMMANDS[name].prepare(hvtx)
        ran = run_stepped(given(name), hvtx.environment, signals={point: signal.SIGINT}).ran
        where = f"{name} at system call {point} of {whole.calls}: {ran}"
        assert ran.code in (0, INTERRUPTED), where
        assert "Traceback" not in ran.err, where
        assert hvtx.is_clean(), where
        now = host()
        is_one_of(where, now, before, after)
        if ran.code == 0:
            assert not lab.difference(after, now), where
        if name == "vm run":
            vms = [vm["state"] for vm in hvtx("vm", "ls", "--json").json()["vms"]]
            assert vms == ([] if not lab.difference(before, now) else ["running"]), where
        end_everything(hvtx)


@pytest.mark.parametrize("name", ["vm run", "network create"])
def test_ctrl_c_behind_the_commit_is_too_late(name: str) -> None:
    """The command ends as interrupted, and what it had committed stands."""
    preload()
    hvtx = Forked(HVTX_FIREWALL="nftables")
    COMMANDS[name].prepare(hvtx)
    hvtx(*given(name))
    after = host()
    end_everything(hvtx)
    COMMANDS[name].prepare(hvtx)
    environment = {"HVTX_FAILPOINT": "committed:stop", "HVTX_FIREWALL": "nftables"}
    with commanded(*given(name), **environment) as command:
        os.waitid(os.P_PID, command.pid, os.WSTOPPED)
        os.kill(command.pid, signal.SIGINT)
        os.kill(command.pid, signal.SIGCONT)
        assert command.wait(60) == INTERRUPTED
    assert hvtx.is_clean()
    assert lab.difference(after, host()) == ""
    end_everything(hvtx)


@pytest.mark.parametrize("name", ["vm run", "vm stop"])
def test_a_second_ctrl_c_is_as_a_crash(name: str) -> None:
    """It may cut off the taking back, and a stop: `recover` carries it through."""
    preload()
    hvtx = Forked(HVTX_FIREWALL="nftables")
    COMMANDS[name].prepare(hvtx)
    before = host()
    whole = run_stepped(given(name), hvtx.environment)
    after = host()
    end_everything(hvtx)
    middle = whole.calls * 2 // 3
    for later in (3, 60):
        COMMANDS[name].prepare(hvtx)
        both = {middle: signal.SIGINT, middle + later: signal.SIGINT}
        ran = run_stepped(given(name), hvtx.environment, signals=both).ran
        where = f"{name} at system calls {list(both)}: {ran}"
        assert ran.code in (INTERRUPTED, -signal.SIGINT), where
        hvtx("recover")
        assert hvtx.is_clean(), where
        is_one_of(where, host(), before, after)
        end_everything(hvtx)


def test_ctrl_c_while_a_stop_waits_leaves_the_vm_running() -> None:
    """The guest does not go down, the person gives up: the VM runs on with all of its things."""
    preload()
    hvtx = Forked(HVTX_FIREWALL="nftables")
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx(
        "vm",
        "run",
        "web",
        "--network",
        "net",
        "--",
        "sh",
        "-c",
        "trap '' TERM; sleep 600 & wait; wait",
    )
    before = host()
    with commanded("vm", "stop", "web", "--timeout", "60") as stop:
        until("a stop that waits", lambda: hvtx.vm("web")["state"] == "stopping")
        os.kill(stop.pid, signal.SIGINT)
        assert stop.wait(60) == INTERRUPTED
    hvtx("recover")
    assert hvtx.vm("web")["state"] == "running"
    assert lab.difference(before, host()) == ""
    assert hvtx.is_clean()
    end_everything(hvtx)


def interrupted(argv: Sequence[str], point: str, number: signal.Signals) -> tuple[int, str]:
    """A command that gets a signal at a failpoint: how it ended, and its standard error."""
    with subprocess.Popen(
        [sys.executable, "-m", "hvtx", *argv], stdin=subprocess.DEVNULL, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env={**os.environ, "HVTX_FIREWALL": "nftables", "HVTX_FAILPOINT": f"{point}:stop"},
    ) as command:  # fmt: skip
        os.waitid(os.P_PID, command.pid, os.WSTOPPED)
        os.kill(command.pid, number)
        os.kill(command.pid, signal.SIGCONT)
        told = command.communicate(timeout=60)[1]
    return command.returncode, told


@pytest.mark.parametrize(
    ("argv", "point"),
    [(("network", "rm", "two"), "releasing"), (("gc", "--apply"), "seized"),
     (("recover",), "seized")],
    ids=["network rm", "gc", "recover"],
)  # fmt: skip
def test_ctrl_c_in_a_removal_says_what_ends_it(argv: tuple[str, ...], point: str) -> None:
    """It is not taken back: what is left waits, and the command that is named removes it."""
    hvtx = Program(HVTX_FIREWALL="nftables")
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx("network", "create", "two", "--subnet", "10.78.0.0/24")
    hvtx("vm", "create", "web", "--network", "net", "--", "sleep", "600")
    if argv[0] == "gc":
        hvtx("vm", "start", "web")
        lab.end(hvtx.vm("web")["pid"])
    elif argv[0] == "recover":
        hvtx("vm", "start", "web", code=-signal.SIGKILL, HVTX_FAILPOINT="acted:tap:kill")
    code, told = interrupted(argv, point, signal.SIGINT)
    assert code == INTERRUPTED
    assert told.startswith("error: interrupted\nhint: ")
    assert told.count("\n") == 2
    assert "`hvtx recover` ends it" in told
    assert hvtx("intents", "--json").json()["operations"]
    hvtx("recover")
    assert hvtx("intents", "--json").json()["operations"] == []
    assert hvtx.is_clean()
    end_everything(hvtx)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["TERM", "HUP"])
@pytest.mark.parametrize(
    ("argv", "point"),
    [(("vm", "run", "web", "--network", "net", "--", "sleep", "600"), "acted:tap"),
     (("network", "create", "two", "--subnet", "10.78.0.0/24"), "acted:bridge"),
     (("network", "rm", "net"), "releasing")],
    ids=["vm run", "network create", "network rm"],
)  # fmt: skip
def test_a_signal_that_ends_it_is_as_ctrl_c(
    argv: tuple[str, ...], point: str, number: signal.Signals
) -> None:
    """systemd, a shutdown, a closed terminal: what was begun is undone, and it is told.

    Who waits for the command sees the signal, as of a program without a word for it.
    """
    hvtx = Program(HVTX_FIREWALL="nftables")
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    before = host()
    code, told = interrupted(argv, point, number)
    assert code == -number
    assert told.startswith(f"error: interrupted by {number.name}\nhint: what was being made was ")
    assert told.count("\n") == 2
    if argv[1] == "rm":
        assert hvtx("intents", "--json").json()["operations"]
        hvtx("recover")
        hvtx("network", "show", "net", code=3)
    else:
        assert lab.difference(before, host()) == ""
    assert hvtx.is_clean()
    end_everything(hvtx)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=["INT", "HUP"])
def test_who_started_it_with_the_signal_ignored_is_obeyed(number: signal.Signals) -> None:
    """A job in the background of a script, nohup: what its caller ignores ends nothing."""
    hvtx = Forked(HVTX_FIREWALL="nftables")
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    before = signal.signal(number, signal.SIG_IGN)
    try:
        words = ("vm", "run", "web", "--network", "net", "--", "sleep", "600")
        running = commanded(*words, HVTX_FAILPOINT="acted:tap:stop", HVTX_FIREWALL="nftables")
        with running as command:
            os.waitid(os.P_PID, command.pid, os.WSTOPPED)
            os.kill(command.pid, number)
            os.kill(command.pid, signal.SIGCONT)
            assert command.wait(60) == 0
    finally:
        signal.signal(number, before)
    assert hvtx.vm("web")["state"] == "running"
    end_everything(hvtx)


def interrupt_on_record(hvtx: Forked, name: str, verb: str, patches: pytest.MonkeyPatch) -> None:
    """Run a command line to which Ctrl-C comes while its operation is put on record."""
    with patches.context() as patch:
        interrupt_after(patch, OPEN, (verb,))
        hvtx(*given(name), code=INTERRUPTED)


@pytest.mark.parametrize(
    ("name", "verb"),
    [("vm set", "set"), ("vm rm", "rm"), ("vm create", "create"), ("repair", "repair"), ("gc --apply", "gc"),
     ("gc --apply --unrecorded", "gc"), ("gc --heuristic", "heuristic")],
)  # fmt: skip
def test_ctrl_c_while_an_operation_is_put_on_record_begins_nothing(
    name: str, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is as it was, with nothing to recover; given again, it is done."""
    preload()
    hvtx = Forked(HVTX_FIREWALL="nftables")
    COMMANDS[name].prepare(hvtx)
    before, vms = host(), hvtx("vm", "ls", "--json").json()["vms"]
    interrupt_on_record(hvtx, name, verb, monkeypatch)
    assert lab.difference(before, host()) == ""
    assert hvtx("vm", "ls", "--json").json()["vms"] == vms
    assert hvtx("intents", "--json").json()["operations"] == []
    hvtx(*given(name))
    assert hvtx.is_clean()
    end_everything(hvtx)


@pytest.mark.parametrize(("name", "verb"), [("vm attach", "attach"), ("import", "import")])
def test_ctrl_c_while_the_whole_is_put_on_record_is_too_late(
    name: str, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told as interrupted, and what is on record stands."""
    preload()
    hvtx = Forked(HVTX_FIREWALL="nftables")
    COMMANDS[name].prepare(hvtx)
    interrupt_on_record(hvtx, name, verb, monkeypatch)
    assert [vm["state"] for vm in hvtx("vm", "ls", "--json").json()["vms"]] == ["running"]
    assert hvtx.is_clean()
    end_everything(hvtx)


@contextmanager
def commanded(
    *argv: str, stdout: int | IO[bytes] = subprocess.DEVNULL, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A command of the program that runs beside the test; ended in any case."""
    command = subprocess.Popen(
        [sys.executable, "-m", "hvtx", *argv], env={**os.environ, **environment},
        stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield command
    finally:
        if command.poll() is None:
            command.kill()
        command.wait()


# -- standard output --------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["closed", "broken", "full"])
def test_what_cannot_be_printed_was_done_all_the_same(where: str, tmp_path: Path) -> None:
    """Results are printed after the commit: no answer is no failure of the deed, and says so."""
    hvtx = Program(HVTX_FIREWALL="nftables")
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    shell = {
        "closed": '"$@" >&-',
        "broken": 'set -o pipefail; "$@" | true',
        "full": '"$@" >/dev/full',
    }
    for argv in (
        ("vm", "run", "web", "--network", "net", "--json", "--", "sleep", "600"),
        ("vm", "stop", "web", "--timeout", "1", "--json"),
    ):
        done = subprocess.run(
            ["bash", "-c", shell[where], "bash", sys.executable, "-m", "hvtx", *argv],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        if where == "full":
            assert done.returncode == 1, (argv, done)
            assert '"code": "output"' in done.stderr, (argv, done)
        else:
            assert done.returncode in (0, 141), (argv, done)
            assert done.stderr == "", (argv, done)
        assert hvtx.vm("web")["state"] == ("defined" if "stop" in argv else "running"), argv
        assert hvtx.is_clean(), argv
    hvtx("vm", "rm", "web", "--force")


# -- commands that sleep ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "point"),
    [
        (("vm", "start", "web"), "acted:tap"),
        (("vm", "start", "web"), "opened"),
        (("vm", "stop", "web", "--timeout", "1"), "releasing"),
        (("gc", "--apply"), "seized"),
    ],
    ids=["start", "start, late", "stop", "gc"],
)
def test_a_command_that_sleeps_keeps_what_it_works_on(argv: tuple[str, ...], point: str) -> None:
    """SIGSTOP in the middle, for as long as one likes: nobody takes over, nobody else waits."""
    preload()
    hvtx = Forked(HVTX_FIREWALL="nftables")
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx("vm", "create", "web", "--network", "net", "-p", "8080:80", "--", "sleep", "600")
    if "start" not in argv:
        hvtx("vm", "start", "web")
    if "gc" in argv:
        lab.end(hvtx.vm("web")["pid"])
    with commanded(*argv, HVTX_FAILPOINT=f"{point}:stop") as asleep:
        os.waitid(os.P_PID, asleep.pid, os.WSTOPPED)
        before = host()
        for verb in ("start", "rm"):  # busy, or in a state that has no such verb
            assert hvtx("--lock-timeout", "0.1", "vm", verb, "web", code=None).code in (4, 75)
        if "gc" in argv:  # one at a time: a second by cron waits, and gives up
            for verbs in (("gc", "--apply"), ("recover",)):
                hvtx("--lock-timeout", "0.1", *verbs, code=75)
        else:
            hvtx("recover")
            hvtx("gc", "--apply", code=None)
        assert lab.difference(before, host()) == ""
        hvtx("vm", "run", "other", "--network", "net", "--", "sleep", "600")
        hvtx("vm", "rm", "other", "--force")
        assert lab.difference(before, host()) == ""
        os.kill(asleep.pid, signal.SIGCONT)
        assert asleep.wait(60) == 0
    assert hvtx.vm("web")["state"] == ("running" if "start" in argv else "defined")
    assert hvtx.is_clean()
    end_everything(hvtx)


@pytest.mark.parametrize("verb", ["add", "del"])
def test_gc_leaves_what_a_runtime_asks_of_to_it(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a DEL that was cut off only the record is left, which gc would forget: somebody has it."""
    preload()
    hvtx = Forked(HVTX_FIREWALL="nftables")
    COMMANDS["cni del"].prepare(hvtx)
    hvtx(*given("cni del"), code=-signal.SIGKILL, HVTX_FAILPOINT="forgotten:kill")
    find = attachments_on_record.find

    def found_before_gc(runtime: Runtime, key: AttachmentKey) -> Vm | None:
        vm = find(runtime, key)
        Program(HVTX_FIREWALL="nftables")("recover")
        return vm

    monkeypatch.setattr(attachments_on_record, "find", found_before_gc)
    hvtx(*given(f"cni {verb}"))
    assert len(hvtx("vm", "ls", "--json").json()["vms"]) == (verb == "add")
    assert hvtx.is_clean()
    end_everything(hvtx)
