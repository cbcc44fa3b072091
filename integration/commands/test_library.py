"""hvtx as a library: one process that lives on, several threads, and nothing left behind in it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hvtx import Busy, Conflict, Host, HvtxError, NotFound, PartialFailure, StalePlan, UsageError
from hvtx.host import children
from integration import lab
from integration.lab.processes import letter
from integration.lab.program import Program
from integration.lab.waiting import until

SUBNET = "10.91.0.0/22"
SLEEPER = ["sleep", "300"]
THREADS = 8


BOTH = pytest.mark.parametrize("host", ["nftables", "iptables"], indirect=True)


@pytest.fixture
def host(request: pytest.FixtureRequest, netns: None) -> Iterator[Host]:
    """A host with a network, in the test's own namespace."""
    backend = getattr(request, "param", "nftables")
    with Host(firewall=backend, lock_timeout=60) as made:
        made.network.create("lab", [SUBNET])
        yield made
        for vm in made.vm.ls():
            made.vm.rm(vm.vm.name, force=True)
        made.network.rm("lab")
    assert [name for name in devices() if name.startswith("hv")] == []


def devices() -> list[str]:
    """Those of the test's own namespace."""
    return [link["ifname"] for link in json.loads(lab.run("ip", "-j", "link"))]


def descriptors() -> dict[str, str]:
    """What this process has open."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except OSError:  # the listing's own
            continue
    return found


def zombies() -> list[str]:
    """Children of this process that have ended and that nobody has waited for."""
    found: list[str] = []
    for task in Path("/proc/self/task").iterdir():
        children = (task / "children").read_text().split()
        found += [pid for pid in children if letter(int(pid)) == "Z"]
    return found


def at_once(*calls: Callable[[], object]) -> list[object]:
    """What each call, in a thread of its own and all at the same time, gave or raised."""
    gate = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> object:
        gate.wait(30)
        try:
            return call()
        except HvtxError as problem:
            return problem

    with ThreadPoolExecutor(len(calls)) as pool:
        return [one.result(120) for one in [pool.submit(run, call) for call in calls]]


@BOTH
def test_the_life_of_a_vm_in_values(host: Host, capfd: pytest.CaptureFixture[str]) -> None:
    made = host.vm.create("web", networks=["lab"], publish=["8080:80"], command=SLEEPER)
    assert (made.vm.name, made.state, made.pid) == ("web", "defined", None)
    with pytest.raises(Conflict, match="exists already") as caught:
        host.vm.create("web", networks=["lab"])
    assert (caught.value.exit_code, caught.value.code) == (4, "conflict")
    running = host.vm.start("web")
    assert running.state == "running"
    assert running.pid
    assert running.interfaces[0].device in devices()
    assert host.vm.show("web").pid == running.pid
    assert host.vm.set("web", publish=["8081:81"]).interfaces[0].publish[1].host_port == 8081
    assert [one.vm.name for one in host.vm.ls()] == list(host.vm.names()) == ["web"]
    assert host.explain("web").owner == "hvtx"
    assert host.network.show("lab").vms == ("web",)
    assert host.vm.logs("web").lines() == []
    assert host.intents() == []
    assert host.repair("web").repaired == ()
    assert host.recover().failed == ()
    assert {one.verb for one in host.log(vm="web", limit=500)} >= {"create", "start", "set"}
    assert host.vm.restart("web", force=True).pid != running.pid
    assert host.vm.stop("web", force=True).state == "defined"
    host.vm.rm("web")
    with pytest.raises(NotFound) as lost:
        host.vm.start("web")
    assert (lost.value.exit_code, bool(lost.value.hint)) == (3, True)
    assert capfd.readouterr() == ("", "")


@BOTH
def test_a_program_may_ignore_how_its_children_end(
    host: Host, capfd: pytest.CaptureFixture[str]
) -> None:
    """Then nobody learns how the programs of the host that are asked have ended (docs/library.md)."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        running = host.vm.run("web", networks=["lab"], publish=["8080:80"], command=SLEEPER)
        assert running.pid
        assert host.gc.plan().refused is None
        assert host.explain("web").owner == "hvtx"
        assert host.repair("web").repaired == ()
        os.kill(running.pid, signal.SIGKILL)
        until("the VM is dead", lambda: host.vm.show("web").state == "crashed")
        assert host.gc.apply().applied
        assert host.vm.restart("web", force=True).pid
        assert host.vm.stop("web", force=True).state == "defined"
        host.vm.rm("web")
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert capfd.readouterr() == ("", "")


def test_a_plan_that_was_reviewed_is_carried_out_or_refused(host: Host, tmp_path: Path) -> None:
    shown = host.vm.run("web", networks=["lab"], command=SLEEPER)
    assert host.gc.plan().plan.acting() == []
    assert shown.pid
    os.kill(shown.pid, signal.SIGKILL)
    os.waitid(os.P_PID, shown.pid, os.WEXITED | os.WNOWAIT)
    assert host.vm.show("web").state == "crashed"
    reviewed = host.gc.plan()
    file = str(tmp_path / "plan.json")
    host.gc.save(reviewed, file)
    told: list[tuple[int, int, str]] = []
    done = host.gc.apply(reviewed, progress=lambda *words: told.append(words))
    assert done.applied
    assert {item.outcome for item in done.plan.acting()} == {"done"}
    with pytest.raises(StalePlan):
        host.gc.apply(reviewed)
    with pytest.raises(StalePlan):
        host.gc.apply(file)
    with pytest.raises(UsageError, match="emergency"):
        host.gc.apply_heuristic(reviewed)
    assert host.vm.show("web").state == "defined"


@BOTH
def test_threads_start_and_stop_different_vms_and_leave_nothing_open(host: Host) -> None:
    for number in range(THREADS):
        host.vm.create(
            f"vm{number}", networks=["lab"], publish=[f"{9000 + number}:80"], command=SLEEPER
        )
    at_once(*(host.vm.ls for _ in range(THREADS)))  # what is loaded once is loaded
    host.vm.start("vm0")  # and what a process keeps for TAPs to come: a program of theirs
    host.vm.stop("vm0", force=True)
    before = descriptors()

    def cycles(name: str) -> list[str]:
        states = []
        for _ in range(2):
            states += [host.vm.start(name).state, host.vm.stop(name, force=True).state]
        return states

    done = at_once(*(lambda n=n: cycles(f"vm{n}") for n in range(THREADS)))
    assert done == [["running", "defined"] * 2] * THREADS
    assert descriptors() == before
    # a logger, or who holds a port, ends a moment after its VM; each verb forgets what has ended
    until("nothing is left of what was started", lambda: not (host.vm.ls() and children._known))
    assert zombies() == []
    assert [item for item in host.gc.plan().plan.items if item.reason != "reserved"] == []


@BOTH
def test_threads_start_the_same_vm_once(host: Host) -> None:
    host.vm.create("web", networks=["lab"], publish=["8080:80"], command=SLEEPER)
    before = descriptors()
    for _ in range(2):
        done = at_once(*(lambda: host.vm.start("web") for _ in range(THREADS)))
        kinds = Counter(type(one).__name__ for one in done)
        assert kinds == {"ShownVm": 1, "Conflict": THREADS - 1}, done
        done = at_once(*(lambda: host.vm.stop("web", force=True) for _ in range(THREADS)))
        assert Counter(type(one).__name__ for one in done) == {"ShownVm": THREADS}, done
    assert host.vm.show("web").state == "defined"
    assert descriptors() == before


@BOTH
def test_threads_that_do_as_they_please_leave_a_whole_host(host: Host) -> None:
    """The same few VMs, started, stopped, changed, listed and collected by all at once."""
    names = ["one", "two", "three"]
    for name in names:
        host.vm.create(name, networks=["lab"], command=SLEEPER)
    expected = (Conflict, Busy, NotFound, PartialFailure)

    def work(turn: int) -> list[object]:
        name = names[turn % 3]
        verbs: list[Callable[[], object]] = [
            lambda: host.vm.start(name),
            lambda: host.vm.set(name, publish=[f"{9100 + turn}:80"]),
            host.vm.ls,
            host.gc.apply,
            host.repair,
            lambda: host.vm.stop(name, force=True),
        ]
        wrong: list[object] = []
        for step in range(6):
            try:
                verbs[(turn + step) % 6]()
            except expected:
                continue
            except HvtxError as problem:
                wrong.append(problem)
        return wrong

    before = descriptors()
    done = at_once(*(lambda n=n: work(n) for n in range(THREADS)))
    assert done == [[]] * THREADS
    assert host.intents() == []
    assert descriptors() == before
    for name in names:
        host.vm.stop(name, force=True)
    plan = host.gc.plan().plan
    assert [item for item in plan.items if item.reason != "reserved"] == []


def test_a_thread_waits_for_another_no_longer_than_it_was_told(host: Host) -> None:
    host.vm.create("web", networks=["lab"], command=SLEEPER)
    impatient = Host(lock_timeout=0)
    inside, leave = threading.Event(), threading.Event()

    def hold(level: str, words: str) -> None:
        inside.set()
        leave.wait(30)

    deaf = ["sh", "-c", 'trap "" TERM; while :; do sleep 0.1; done']
    host.vm.set("web", command=deaf)
    host.vm.start("web")
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(host.vm.stop, "web", timeout=2, tell=lambda words: hold("note", words))
        assert inside.wait(30)
        with pytest.raises(Busy) as caught:
            impatient.vm.stop("web", force=True)
        assert caught.value.exit_code == 75
        leave.set()
        assert slow.result(60).state == "defined"


def test_a_vm_outlives_its_thread_and_ends_when_it_is_stopped_elsewhere(host: Host) -> None:
    """A VM process is a child of this one: ended by a command of the shell, it is not left."""
    host.vm.create("web", networks=["lab"], command=SLEEPER)
    (shown,) = at_once(lambda: host.vm.start("web"))
    assert host.vm.show("web").state == "running"
    Program()("vm", "stop", "web", "--force")
    assert host.vm.show("web").state == "defined"
    assert zombies() == []
    assert shown


def test_a_call_in_an_event_loop_is_made_in_a_thread(host: Host) -> None:
    async def both() -> list[str]:
        made = [
            asyncio.to_thread(host.vm.run, f"vm{number}", networks=["lab"], command=SLEEPER)
            for number in range(4)
        ]
        running = [one.state for one in await asyncio.gather(*made)]
        with pytest.raises(UsageError, match="event loop"):
            host.vm.show("vm0")
        gone = [asyncio.to_thread(host.vm.rm, f"vm{number}", force=True) for number in range(4)]
        await asyncio.gather(*gone)
        return running

    assert asyncio.run(both()) == ["running"] * 4
    assert host.vm.ls() == []


def test_what_is_told_of_a_verb_is_told_to_its_caller(
    host: Host, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    heard: list[tuple[str, str]] = []
    events: list[str] = []
    told = Host(
        notices=lambda *words: heard.append(words),
        events=lambda entries: events.extend(entry["verb"] for entry in entries),
    )
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(4096))
    told.vm.create("web", networks=["lab"], disks=[str(disk)])
    assert [level for level, _ in heard] == ["warning"]
    assert "no boot sector" in heard[0][1]
    assert "create" in events
    host.vm.rm("web")
    assert capfd.readouterr() == ("", "")


def test_hosts_of_two_stores_live_in_one_process(host: Host, tmp_path: Path) -> None:
    other = Host(state_dir=tmp_path / "state2", run_dir=tmp_path / "run2")
    other.network.create("lab", ["10.92.0.0/24"])
    done = at_once(
        lambda: host.vm.run("web", networks=["lab"], command=SLEEPER),
        lambda: other.vm.run("web", networks=["lab"], command=SLEEPER),
    )
    first, second = done
    assert first.interfaces[0].ipv4.startswith("10.91.")  # type: ignore[attr-defined]
    assert second.interfaces[0].ipv4.startswith("10.92.")  # type: ignore[attr-defined]
    assert {one.vm.name for one in other.vm.ls()} == {"web"}
    other.vm.rm("web", force=True)
    other.network.rm("lab")
    assert host.vm.show("web").state == "running"


_FORKS = """
import os, sys
from hvtx import Host
host = Host()
host.vm.run("one", networks=["lab"], command=["sleep", "60"])
child = os.fork()
if not child:
    host.vm.run("two", networks=["lab"], command=["sleep", "60"])
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert {v.state for v in host.vm.ls()} == {"running"}, host.vm.ls()
for name in ("one", "two"):
    host.vm.rm(name, force=True)
"""


def test_a_program_that_forks_goes_on_in_both(host: Host) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORKS], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert host.vm.ls() == []
