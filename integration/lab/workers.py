"""Many processes that use one installation at once, some killed at random, and what each saw.

Each worker has a VM of its own, which nobody else may touch, and shares names, ports, addresses and
networks with the others. Every command goes into a journal with the moments around it and its exit
code (none: it was killed), from which `history` judges.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from integration import lab
from integration.lab.exclusive import ANYBODY, Act, Operation
from integration.lab.program import Forked, Program, Ran, child, text_of

# Which codes a command may end with here; 75 and 6 never: nobody waits for ever, nothing refuses.
CODES = {
    "vm create": {0, 3, 4},
    "vm run": {0, 3, 4},
    "vm start": {0, 3, 4},
    "vm stop": {0, 3},
    "vm rm": {0, 3, 4},
    "vm show": {0, 3},
    "vm ls": {0},
    "network create": {0, 4},
    "network rm": {0, 3, 4},
    "gc --apply": {0, 9},
    "gc --plan": {0},
    "recover": {0},
}
POINTS = (
    "intended", "marked:tap", "acted:tap", "acted:filter", "acted:bridge", "spawned", "registered",
    "opened", "up", "committed", "ended:process", "releasing", "attached:tap", "seized", "removed",
    "forgotten", "ended", "released:nftables", "released:iptables", "undoing",
)  # fmt: skip

GUEST = """
import errno, fcntl, os, signal, struct, sys, time
tap, report, name = sys.argv[1:4]
out = open(f"{report}/{name}.{os.getpid()}", "w", buffering=1)
def ended(*_):
    out.write("term\\n")
    os._exit(0)
signal.signal(signal.SIGTERM, ended)
held = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(held, 0x400454CA, struct.pack("16sH22x", tap.encode(), 0x1002))
mac = bytes.fromhex(sys.argv[4].replace(":", ""))
frame = b"\\xff" * 6 + mac + b"\\x88\\xb5" + bytes(46)
out.write("up\\n")
end = time.monotonic() + 1800
while time.monotonic() < end:
    try:
        os.write(held, frame)
    except OSError as problem:
        if problem.errno != errno.EIO:  # the device is not up yet
            out.write(f"cut {problem}\\n")
            os._exit(1)
    time.sleep(0.1)
"""


def guest(reports: Path) -> tuple[str, ...]:
    """What a VM is here: it keeps its device open, sends, and reports whatever goes wrong."""
    return ("--", sys.executable, "-S", "-E", "-c", GUEST, "{tap}", str(reports), "{vm}", "{mac}")


def wrong(reports: Path, name: str, pid: int) -> str:
    """What a VM process reported that should not have happened to it."""
    path = reports / f"{name}.{pid}"
    words = path.read_text() if path.exists() else ""
    return words.removeprefix("up\n")


class Entry(NamedTuple):
    """A command as the journal has it."""

    worker: int
    argv: list[str]
    began: int
    ended: int
    code: int | None
    out: str
    err: str


class Crowd:
    """An installation, its workers, its journal."""

    def __init__(self, base: Path, seed: int, *, firewall: str, subnet: str = "10.77.0") -> None:
        self.base, self.seed, self.subnet = base, seed, subnet
        base.mkdir(parents=True, exist_ok=True)
        self.reports = lab.open_place()  # each guest is a user of its own
        self.hvtx = Forked(
            HVTX_FIREWALL=firewall,
            HVTX_LOCK_TIMEOUT="120",
            HVTX_STATE_DIR=str(base / "state"),
            HVTX_RUN_DIR=str(base / "run"),
        )
        self._over = base / "over"
        self._children: dict[int, str] = {}

    # -- processes -----------------------------------------------------------------------------

    def spawn(self, what: str, work: Callable[[], None]) -> None:
        """Do something in a process of its own; a failure is told by :meth:`join`."""
        pid = os.fork()
        if pid:
            self._children[pid] = what
            return
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            (self.base / f"failed.{os.getpid()}").write_text(f"{what}: {traceback.format_exc()}")
        finally:
            os._exit(code)

    def loop(self, number: int, *argv: str, pause: float = 0.05) -> None:
        """Give a command again and again until the workers are done."""

        def work() -> None:
            worker = Worker(self, number)
            for _ in range(100_000):
                if self.over():
                    return
                worker.do(*argv)
                time.sleep(pause)

        self.spawn(" ".join(argv), work)

    def over(self) -> bool:
        """Whether those who have an end have come to it."""
        return self._over.exists()

    def join(self, only: Iterable[str] = ()) -> None:
        """Wait for the workers, then end the loops; raises what went wrong in any of them."""
        loops = {pid: what for pid, what in self._children.items() if what in set(only)}
        for pid in self._children.keys() - loops:
            os.waitpid(pid, 0)
        self._over.touch()
        for pid in loops:
            os.waitpid(pid, 0)
        self._children.clear()
        failures = [path.read_text() for path in sorted(self.base.glob("failed.*"))]
        assert not failures, f"seed {self.seed}\n" + "\n".join(failures)

    # -- what they left ------------------------------------------------------------------------

    def journal(self) -> list[Entry]:
        """All commands, by the moment at which they began."""
        lines = [
            line for path in self.base.glob("journal.*") for line in path.read_text().splitlines()
        ]
        return sorted((Entry(*json.loads(line)) for line in lines), key=lambda entry: entry.began)

    def undocumented(self) -> list[Entry]:
        """Commands that ended as they must not."""
        return [
            entry
            for entry in self.journal()
            if entry.code is not None and entry.code not in CODES[" ".join(entry.argv[:2])]
        ]


class Worker:
    """One process of the crowd."""

    def __init__(self, crowd: Crowd, number: int) -> None:
        self.crowd, self.number = crowd, number
        self.dice = random.Random(crowd.seed * 1000 + number)
        self._journal = open(crowd.base / f"journal.{number}", "a", buffering=1)  # noqa: SIM115
        self._usual = 0.1  # seconds that a command takes
        self.hvtx = crowd.hvtx

    def do(self, *argv: str, may_die: bool = False) -> Ran:
        """Run a command, now and then to its death at a failpoint or at any moment."""
        environment, delay = dict(self.hvtx.environment), 0.0
        if may_die and self.dice.random() < 0.5:
            point, nth = self.dice.choice(POINTS), self.dice.choice((1, 1, 2, 3))
            environment["HVTX_FAILPOINT"] = f"{point}:kill:{nth}"
        elif may_die:
            delay = self._usual * self.dice.random() * 1.2
        began = time.monotonic_ns()
        ran = _run(argv, environment, delay)
        ended = time.monotonic_ns()
        if not delay:
            self._usual = 0.8 * self._usual + 0.2 * (ended - began) / 1e9
        code = None if ran.code == -signal.SIGKILL else ran.code
        entry = Entry(self.number, list(argv), began, ended, code, ran.out, ran.err)
        self._journal.write(json.dumps(entry) + "\n")
        return ran

    def maybe(self, chance: float) -> bool:
        """Whether something of this chance happens."""
        return self.dice.random() < chance


def _run(argv: Sequence[str], environment: Mapping[str, str], delay: float) -> Ran:
    out, err = os.memfd_create("out"), os.memfd_create("err")
    pid = os.fork()
    if pid == 0:
        child(argv, environment, out, err)
    if delay:
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return Ran(os.waitstatus_to_exitcode(status), text_of(out), text_of(err))


# -- a VM that only its owner may touch --------------------------------------------------------------


class Own:
    """A worker's own VM: up from its start to its stop, whatever anybody else does."""

    def __init__(self, worker: Worker, name: str, network: str) -> None:
        self.worker, self.name, self.network = worker, name, network
        self.up: dict[str, Any] | None = None  # as `vm show` showed it when it came up

    def step(self) -> None:
        """Start it or stop it, each now and then killed; check it in between."""
        worker, dies = self.worker, self.worker.maybe(0.35)
        if self.up is not None:
            self.check()
            if worker.maybe(0.5):
                return
            self.up = None
            verb = ("vm", "rm", self.name, "--force") if worker.maybe(0.4) else None
            worker.do(*(verb or ("vm", "stop", self.name, "--timeout", "20")), may_die=dies)
            return
        port = str(9000 + worker.number)
        argv = ("vm", "run", self.name, "--network", self.network, "-p", f"{port}:80")
        ran = worker.do(*argv, "--json", *guest(worker.crowd.reports), may_die=dies)
        if ran.code == 4:  # it is there: stopped, crashed, or run by a command that was killed
            ran = worker.do("vm", "start", self.name, "--json", may_die=dies)
        if ran.code == 0:
            self.up = json.loads(ran.out)
            self.check()
        elif ran.code == 4:
            worker.do("vm", "rm", self.name, "--force")

    def check(self) -> None:
        """Process, device, elements and record are those that came up."""
        assert self.up is not None
        now = json.loads(self.worker.do("vm", "show", self.name, "--json").out)
        assert now == self.up, f"{self.name} changed while it was up:\n{self.up}\n{now}"
        os.kill(now["pid"], 0)
        complaint = wrong(self.worker.crowd.reports, self.name, now["pid"])
        assert not complaint, f"{self.name}, pid {now['pid']}: {complaint}"
        marks = {row["kind"]: row["mark"] for row in now["resources"]}
        device = now["interfaces"][0]["device"]
        assert marks["tap"] in lab.run("ip", "link", "show", device), self.name
        rules = lab.run("nft", "list", "ruleset")
        if self.worker.hvtx.environment["HVTX_FIREWALL"] == "iptables":
            rules += lab.run("iptables-legacy-save", "-t", "nat")
            rules += lab.run("iptables-legacy-save", "-t", "filter")
        for kind in ("publish", "masquerade", "filter"):
            assert marks[kind] in rules, f"{self.name} lost its {kind} {marks[kind]}"


# -- what all share ----------------------------------------------------------------------------------


def share(worker: Worker) -> None:
    """Something with names, ports, addresses or networks that the others use too."""
    dice, subnet = worker.dice, worker.crowd.subnet
    name = f"shared{dice.randrange(4)}"
    choice = dice.random()
    dies = dice.random() < 0.4
    if choice < 0.45:
        argv = ["vm", dice.choice(("create", "run")), name, "--json"]
        argv += ["--network", dice.choice(("net", "net", "net", "wide"))]
        argv += ["-p", f"{8000 + dice.randrange(4)}:80"]
        if "wide" not in argv and dice.random() < 0.5:
            argv += ["--ip", f"{subnet}.{200 + dice.randrange(3)}"]
        if dice.random() < 0.5:
            argv += ["--mac", f"02:00:00:00:00:0{dice.randrange(3)}"]
        worker.do(*argv, *guest(worker.crowd.reports), may_die=dies)
    elif choice < 0.55:
        worker.do("vm", "start", name, "--json", may_die=dies)
    elif choice < 0.65:
        worker.do("vm", "stop", name, "--timeout", "20", may_die=dies)
    elif choice < 0.85:
        worker.do("vm", "rm", name, "--force", may_die=dies)
    else:
        network = dice.choice(("wide", "broad"))  # both want the same subnet
        verb = dice.choice(("create", "rm"))
        more = ("--subnet", "10.81.0.0/24") if verb == "create" else ()
        worker.do("network", verb, network, *more, may_die=dies)


# -- the journal as histories of registers -------------------------------------------------------------

_HELD = (
    (re.compile(r"port (\d+)/tcp is published for VM '([^']+)'"), "port"),
    (re.compile(r"the address (\S+) is VM '([^']+)'s"), "ip"),
    (re.compile(r"the MAC address (\S+) is VM '([^']+)'s"), "mac"),
)
_ABSENT = re.compile(r"there is no (VM|network) '([^']+)'")
_EXISTS = re.compile(r"(VM|network) '([^']+)' exists already")
_OVERLAP = re.compile(r"overlaps (\S+) of another network")


def registers(journal: Iterable[Entry]) -> list[Operation]:
    """What each command did to names, ports, addresses, MACs and subnets, as far as it tells."""
    journal = list(journal)
    found = [operation for entry in journal for operation in _told(entry)]
    keys = {one.key for one in found}
    # Who was removed lets go of all it had; who was killed may have got any address.
    for entry in journal:
        found += _let_go(entry, keys)
        found += _may_have_got(entry, keys)
    return found


def _told(entry: Entry) -> Iterator[Operation]:
    verb, name = " ".join(entry.argv[:2]), entry.argv[2] if len(entry.argv) > 2 else ""
    times = (entry.began, entry.ended)
    words = " ".join(entry.argv[:14])
    kind = entry.argv[0]
    if verb in ("vm create", "vm run", "network create"):
        for key in _wanted(entry):
            yield Operation(key, Act.ACQUIRE, name, *times, entry.code == 0, words)
    if verb in ("vm rm", "network rm"):
        if entry.code == 0:
            yield Operation(f"{kind}/{name}", Act.RELEASE, name, *times, True, words)
        elif entry.code is None:
            yield Operation(f"{kind}/{name}", Act.LET_GO, name, *times, False, words)
    if entry.code in (3, 4):
        yield from _read(entry, words)


def _wanted(entry: Entry) -> Iterator[str]:
    argv = entry.argv
    yield f"{argv[0]}/{argv[2]}"
    pairs = dict(itertools.pairwise(argv))
    if "--subnet" in pairs:
        yield f"subnet/{pairs['--subnet']}"
    if "-p" in pairs:
        yield f"port/{pairs['-p'].partition(':')[0]}"
    if entry.code == 0 and argv[0] == "vm":
        (interface,) = json.loads(entry.out)["interfaces"]
        yield f"ip/{interface['ipv4']}"
        yield f"mac/{interface['mac']}"
    else:
        if "--ip" in pairs:
            yield f"ip/{pairs['--ip']}"
        if "--mac" in pairs:
            yield f"mac/{pairs['--mac']}"


def _read(entry: Entry, words: str) -> Iterator[Operation]:
    times = (entry.began, entry.ended, True, words)
    for pattern, kind in _HELD:
        for value, owner in pattern.findall(entry.err):
            yield Operation(f"{kind}/{value}", Act.READ, owner, *times)
    for kind, name in _ABSENT.findall(entry.err):
        yield Operation(f"{kind.lower()}/{name}", Act.READ, None, *times)
    for kind, name in _EXISTS.findall(entry.err):
        yield Operation(f"{kind.lower()}/{name}", Act.READ, name, *times)
    for subnet in _OVERLAP.findall(entry.err):
        yield Operation(f"subnet/{subnet}", Act.READ, ANYBODY, *times)


def _let_go(entry: Entry, keys: set[str]) -> Iterator[Operation]:
    verb = " ".join(entry.argv[:2])
    if entry.code not in (0, None) or verb not in ("vm rm", "network rm"):
        return
    mine = ("port/", "ip/", "mac/") if entry.argv[0] == "vm" else ("subnet/",)
    for key in keys:
        if key.startswith(mine):
            certain = entry.code == 0
            yield Operation(key, Act.LET_GO, entry.argv[2], entry.began, entry.ended, certain, verb)


def _may_have_got(entry: Entry, keys: set[str]) -> Iterator[Operation]:
    verb = " ".join(entry.argv[:2])
    if verb not in ("vm create", "vm run") or entry.code == 0 or "--ip" in entry.argv:
        return
    for key in keys:
        if key.startswith("ip/"):
            yield Operation(key, Act.ACQUIRE, entry.argv[2], entry.began, entry.ended, False, verb)


# -- the end -------------------------------------------------------------------------------------------


def remove_all(hvtx: Program) -> None:
    """Remove every VM and every network; what is left on, by design, is turned off."""
    for vm in hvtx("vm", "ls", "--json").json()["vms"]:
        hvtx("vm", "rm", vm["name"], "--force")
    for network in hvtx("network", "ls", "--json").json()["networks"]:
        hvtx("network", "rm", network["name"])
    Path("/proc/sys/net/ipv4/ip_forward").write_text("0")


def survivors(reports: Path) -> list[int]:
    """VM processes that still run."""
    found = []
    for path in reports.iterdir():
        pid = int(path.name.rpartition(".")[2])
        with contextlib.suppress(OSError):
            if str(reports).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def end_survivors(reports: Path) -> None:
    """End them, however the test went."""
    for pid in survivors(reports):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
