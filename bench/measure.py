"""What is asked of a worker of hvtx (bench/inside/worker.py), and under which name it is kept.

Shared by beside.py, which compares hvtx with its peers, and against.py, which compares two commits.
Milliseconds unless a unit is said. The bare calls that were measured beside a build in the same
world are kept under ``floor_of`` its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from bench.figures import Samples
from bench.harness import Failed, Worker, in_turns, say
from bench.inside.traffic import FLOWS
from bench.inside.worker import BATCH

START, STOP, PLAN = "start, in process", "stop, in process", "gc --plan, in process"
MADE, LATE = "made a second", "made a second, the last fifth"
COLLECTED = "dead collected a second"
MADE_USED, COLLECTED_USED = "made, processor a VM", "dead collected, processor a VM"
RESTARTED = "in a restarted container: "
SEVERAL = "by command, of several names, a second: "
BOOT, FIRST = "boot: recover of --autostart VMs", "boot: until something is shown"
BOOTED = "booted a second"
SIZE, SIZE_A_CYCLE = "store after the cycles", "store, grown a cycle"
RECOVER = "hvtx recover after the cycles"
STATE = "ip -j -d link; nft -j list ruleset"
_STATE = ["sh", "-c", "ip -j -d link >/dev/null && nft -j list ruleset >/dev/null"]
# In the order in which they are run: a start before what looks at it, and then its stop.
COMMANDS: dict[str, list[str]] = {
    "hvtx vm start": ["hvtx", "vm", "start", "one"],
    "hvtx vm show": ["hvtx", "vm", "show", "one"],
    "hvtx vm ls": ["hvtx", "vm", "ls"],
    "hvtx explain": ["hvtx", "explain", "one"],
    "hvtx gc --plan --json": ["hvtx", "gc", "--plan", "--json"],
    "hvtx vm stop": ["hvtx", "vm", "stop", "one"],
    "hvtx --help": ["hvtx", "--help"],
    "python -c pass": ["python", "-c", "pass"],
    "python -c 'import click'": ["python", "-c", "import click"],
    STATE: _STATE,
}
IPTABLES = ", iptables"  # what is measured on that backend, and on the other in the same rounds
BESIDE_IPTABLES = ", nftables in the same rounds"
PART = "the limit of a "
PEAK, PROCESSOR = ", peak memory", ", processor"
OPENED = ", store opened and closed"
_RESTARTED = (["hvtx", "vm", "ls"], ["hvtx", "vm", "show", "vm0"])


def floor_of(who: str) -> str:
    """The name of what is measured beside a build: bare system calls."""
    return f"floor beside {who}"


class Place(NamedTuple):
    """Where the values of a worker go."""

    samples: Samples
    who: str
    vms: int

    def add(self, figure: str, value: float, unit: str = "ms") -> None:
        """Keep a value."""
        self.samples.add(figure, self.who, self.vms, value, unit)


class Run:
    """Samples of a run, what is missing in it, and what went wrong without ending it."""

    def __init__(self) -> None:
        """Nothing was measured yet."""
        self.samples = Samples()
        self.problems: list[str] = []
        self.missing: dict[str, str] = {}

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """What a worker cannot do is said and left out, not the end of the run."""
        try:
            yield
        except Failed as problem:
            say(f"left out: {problem}"[:500])
            self.problems.append(str(problem)[:500])

    def rounds(self, contestants: Sequence[Any], rounds: int, measure: Any, seconds: float) -> None:
        """As in_turns; who fails is left out from then on. ``measure(contestant, samples)``."""
        failed: set[int] = set()

        def one(contestant: Any, number: int) -> None:
            if id(contestant) in failed:
                return
            failed.add(id(contestant))
            with self.going_on():
                measure(contestant, self.samples if number else Samples())
                failed.discard(id(contestant))

        kept = in_turns(contestants, rounds, one, seconds=seconds)
        say(f"  {kept} rounds")


def one_world(worker: Worker, place: Place, *, floor: bool = True, more: bool = True) -> None:
    """One round in one world: the floor, start and stop, the plan, whole processes."""
    beside = Place(place.samples, floor_of(place.who), place.vms)
    if floor:
        found = worker.ask("floor")
        for figure, key in ((START, "start"), (STOP, "stop"), (PLAN, "scan")):
            beside.add(figure, found[key] * 1000)
        for name, seconds in found["laps"].items():
            beside.add(PART + name, seconds * 1000)
    found = {**worker.ask("one_vm"), **(worker.ask("plan") if more else {})}
    for figure, key in ((START, "start"), (STOP, "stop"), (PLAN, "plan")):
        for suffix in ("", PROCESSOR, OPENED):
            if key + suffix in found:
                place.add(figure + suffix, found[key + suffix] * 1000)
    names = [name for name in COMMANDS if more or name in ("hvtx vm start", "hvtx vm stop")]
    answers = worker.ask("commands", commands=[COMMANDS[name] for name in names])["found"]
    for name, answer in zip(names, answers, strict=True):
        to = place if name.startswith("hvtx") else beside
        to.add(name, answer["ms"])
        to.add(name + PROCESSOR, answer["processor"])
        to.add(name + PEAK, answer["peak"], "MiB")


def fill(group: Sequence[tuple[Worker, Place]], number: int) -> None:
    """Fill worlds with VMs, an operation of each in turn."""
    for begin in range(0, number, BATCH):
        count = min(BATCH, number - begin)
        for worker, place in group:
            found = worker.ask("grow", number=count)
            place.add(MADE_USED, found["processor"] / count * 1000)
            for seconds in found["seconds"]:
                place.add(MADE, count / seconds, "VMs/s")
                if begin >= number * 4 // 5:
                    place.add(LATE, count / seconds, "VMs/s")


def restarted(worker: Worker, place: Place) -> None:
    """Commands after a restart of the container, before `recover`."""
    answers = worker.ask("restarted", commands=_RESTARTED)["found"]
    for words, answer in zip(_RESTARTED, answers, strict=True):
        if answer["code"] != 0:
            raise Failed(f"{place.who}: {' '.join(words)}: exit {answer['code']}")
        place.add(RESTARTED + " ".join(words[:3]), answer["ms"])


def collected(worker: Worker, place: Place) -> None:
    """All VMs of a world after their processes ended."""
    found = worker.ask("collect")
    place.add(COLLECTED, found["vms"] / found["seconds"], "VMs/s")
    place.add(COLLECTED_USED, found["processor"] / found["vms"] * 1000)


def several(worker: Worker, place: Place, number: int) -> None:
    """VMs started and stopped by one command; of a build without that, by one for each."""
    for verb, ms in worker.ask("several", number=number).items():
        place.add(f"{SEVERAL}{verb}", number / ms * 1000, "VMs/s")


def booted(worker: Worker, place: Place) -> None:
    """A boot with as many VMs as the place says."""
    worker.ask("define_autostart", number=place.vms)
    answer = worker.ask("boot")
    place.add(BOOT, answer["ms"])
    place.add(BOOT + PROCESSOR, answer["processor"])
    place.add(BOOT + PEAK, answer["peak"], "MiB")
    place.add(FIRST, answer["first"] or answer["ms"])
    place.add(BOOTED, place.vms / answer["ms"] * 1000, "VMs/s")


def flows(worker: Worker, place: Place, seconds: int, suffix: str = "") -> None:
    """Each flow once."""
    for name in FLOWS:
        found = worker.ask("flow", name=name, seconds=seconds)
        place.add(name + suffix, found["value"], found["unit"])


def cycled(group: Sequence[tuple[Worker, Place]], cycles: int) -> None:
    """Starts and stops in blocks, in turns; then the store's size, and what `recover` takes."""
    block = max(40, cycles // 20)
    begun = {place.who: worker.ask("size")["bytes"] for worker, place in group}
    for _ in range(0, cycles, block):
        for worker, _place in group:
            worker.ask("cycles", number=block)
    for _ in range(4):
        for worker, place in group:
            answer = worker.ask("commands", commands=[["hvtx", "recover"]])["found"][0]
            place.add(RECOVER, answer["ms"])
    for worker, place in group:
        size = worker.ask("size")["bytes"]
        place.add(SIZE, size / 1e6, "MB")
        place.add(SIZE_A_CYCLE, (size - begun[place.who]) / cycles / 1000, "KB")
