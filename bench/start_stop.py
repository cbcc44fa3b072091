"""Start and stop of one VM's network, `hvtx` as a whole process, and `gc --plan`: how fast.

Everything is measured in one run, in turns, beside a floor made of the bare kernel calls and two
``fdatasync`` on the same disk, in network namespaces that this program makes::

    python bench/start_stop.py [--vms 0,1000[,5000]] [--rounds 15] [--json] [--directory DIR]

Needs root. Each number of VMs has a namespace, a store and a run directory of its own; its VMs are
`external` ones with a bridge port, anti-spoofing, masquerade and one published port each, and a
process attached, so that nothing of a hypervisor is in the figures. Never part of a test: figures
of a shared machine prove nothing by themselves, ratios within one run do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.floor import Floor
from bench.population import ONE, World, make_world
from hvtx.commands import vm_start, vm_stop
from hvtx.engine import gc_plan
from hvtx.engine.runtime import Runtime

_INSIDE = "HVTX_BENCH_INSIDE"
# figure -> what DESIGN asks for, in milliseconds, by number of VMs (None: whatever the number)
TO_REACH: dict[str, dict[int | None, float]] = {
    "start, in process": {None: 2.5},
    "hvtx vm start": {None: 80.0},
    "gc plan, in process": {1000: 45.0, 5000: 220.0},
}
# figure -> the floor that it is compared with
FLOORS = {
    "start, in process": "floor: start",
    "start, store opened and closed": "floor: start",
    "stop, in process": "floor: stop",
    "gc plan, in process": "floor: scan",
    "hvtx vm start": "floor: python -c pass",
    "hvtx vm stop": "floor: python -c pass",
    "hvtx vm show": "floor: python -c pass",
    "hvtx --help": "floor: python -c pass",
    "hvtx gc --plan": "floor: python -c pass",
}


class Row(NamedTuple):
    """One figure: milliseconds."""

    figure: str
    vms: int
    median: float
    least: float
    p10: float
    p90: float
    runs: int


class Samples:
    """Milliseconds by figure and number of VMs, in the order of first appearance."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, int], list[float]] = {}

    @contextmanager
    def timing(self, figure: str, vms: int) -> Iterator[None]:
        """Keep how long the body takes."""
        begun = time.perf_counter()
        yield
        self.add(figure, vms, time.perf_counter() - begun)

    def add(self, figure: str, vms: int, seconds: float) -> None:
        """Keep one sample."""
        self.found.setdefault((figure, vms), []).append(seconds * 1000)

    def rows(self) -> list[Row]:
        """Medians with their spread."""
        return [_row(figure, vms, sorted(v)) for (figure, vms), v in self.found.items()]


def _row(figure: str, vms: int, values: list[float]) -> Row:
    last = len(values) - 1
    return Row(
        figure,
        vms,
        statistics.median(values),
        values[0],
        values[round(last * 0.1)],
        values[round(last * 0.9)],
        len(values),
    )


# -- what is measured ------------------------------------------------------------------------------


def measure_in_process(world: World, samples: Samples) -> None:
    """A start and a stop with a runtime that is open, and what opening and closing adds."""
    n = world.vms
    begun = time.perf_counter()
    runtime = Runtime(world.settings, writable=True)
    opened = time.perf_counter()
    vm_start.start_vm(runtime, ONE)
    started = time.perf_counter()
    runtime.close()
    closed = time.perf_counter()
    samples.add("start, in process", n, started - opened)
    samples.add("start, store opened and closed", n, closed - begun)
    runtime = Runtime(world.settings, writable=True)
    with samples.timing("stop, in process", n):
        vm_stop.stop_vm(runtime, ONE)
    with samples.timing("closing after a stop", n):
        runtime.close()


def measure_again(world: World, samples: Samples) -> None:
    """The second start and stop of one runtime: what a program that stays open pays."""
    runtime = Runtime(world.settings, writable=True)
    vm_start.start_vm(runtime, ONE)
    vm_stop.stop_vm(runtime, ONE)
    with samples.timing("start again, in process", world.vms):
        vm_start.start_vm(runtime, ONE)
    with samples.timing("stop again, in process", world.vms):
        vm_stop.stop_vm(runtime, ONE)
    runtime.close()


def measure_plan(world: World, samples: Samples) -> None:
    """`gc --plan` in process, store opened and closed."""
    with samples.timing("gc plan, in process", world.vms):
        runtime = Runtime(world.settings, writable=False)
        report = gc_plan.make_plan(runtime)
        runtime.close()
    if report.refused is not None or report.plan.acting():
        raise SystemExit(f"the plan of {world.vms} live VMs is not empty: {report}"[:2000])


def measure_processes(world: World, samples: Samples) -> None:
    """Whole processes, as a script would call them."""
    commands = {
        "hvtx vm start": ("vm", "start", ONE),
        "hvtx vm show": ("vm", "show", ONE),
        "hvtx vm stop": ("vm", "stop", ONE),
        "hvtx --help": ("--help",),
        "hvtx gc --plan": ("gc", "--plan", "--json"),
    }
    for figure, arguments in commands.items():
        with samples.timing(figure, world.vms):
            _call(world, *program(), *arguments)
    for words, code in (("python -c pass", "pass"), ("python -c 'import click'", "import click")):
        with samples.timing(f"floor: {words}", world.vms):
            _call(world, sys.executable, "-c", code)


def program() -> list[str]:
    """The installed command beside this interpreter, or the module where it is not installed."""
    script = Path(sys.executable).with_name("hvtx")
    return [str(script)] if script.exists() else [sys.executable, "-m", "hvtx"]


def _call(world: World, *argv: str) -> None:
    done = subprocess.run(
        argv, env=world.environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(argv)}: exit {done.returncode}\n{done.stderr.decode()}")


def measure_floor(world: World, samples: Samples) -> None:
    """The bare calls."""
    floor = Floor(world)
    try:
        samples.add("floor: start", world.vms, floor.start())
        samples.add("floor: stop", world.vms, floor.stop())
        samples.add("floor: scan", world.vms, floor.scan())
    finally:
        floor.close()


MEASURES: tuple[Callable[[World, Samples], None], ...] = (
    measure_floor,
    measure_in_process,
    measure_again,
    measure_plan,
    measure_processes,
)


def run_rounds(worlds: list[World], rounds: int, seconds: float) -> Samples:
    """Measure in turns; a first round warms caches and is not kept."""
    deadline = time.monotonic() + seconds
    samples = Samples()
    for number in range(rounds + 1):
        for measure in MEASURES:
            for world in worlds:
                world.enter()
                world.talk()
                measure(world, samples)
        if number == 0:
            samples = Samples()
        elif time.monotonic() > deadline and number >= 3:
            break
    return samples


# -- what is told ----------------------------------------------------------------------------------


def describe_machine(directory: str) -> dict[str, Any]:
    """What the figures depend on."""
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", directory], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "file_system": kind,
    }


def document(
    rows: list[Row], machine: dict[str, Any], populated: dict[int, float]
) -> dict[str, Any]:
    """The JSON object: figures with their floors, ratios and what is to be reached."""
    medians = {(row.figure, row.vms): row.median for row in rows}
    least = min(row.vms for row in rows)
    figures = []
    for row in rows:
        floor = medians.get((FLOORS.get(row.figure, ""), row.vms))
        wanted = TO_REACH.get(row.figure, {})
        goal = wanted.get(row.vms, wanted.get(None))
        figures.append(
            {
                **{k: round(v, 3) if isinstance(v, float) else v for k, v in row._asdict().items()},
                "floor": floor and round(floor, 3),
                "to_floor": floor and round(row.median / floor, 2),
                "growth": round(row.median / medians[row.figure, least], 2),
                "to_reach": goal,
                "to_goal": goal and round(row.median / goal, 2),
            }
        )
    rates = {str(n): round(rate, 1) for n, rate in populated.items()}
    return {
        "schema": "hvtx/bench/1",
        "machine": machine,
        "made_per_second": rates,
        "figures": figures,
    }


def show(found: dict[str, Any]) -> None:
    """The same as a table."""
    machine = ", ".join(f"{name} {value}" for name, value in found["machine"].items())
    print(f"milliseconds; {machine}")
    for number, rate in found["made_per_second"].items():
        print(f"{number} VMs were made in chunks at {rate}/s (create and start, durable)")
    head = ("figure", "VMs", "median", "least", "p10", "p90", "runs", "floor", "x floor", "growth")
    head += ("to reach", "x goal")
    lines = [head]
    for f in found["figures"]:
        numbers = [f"{f[k]:.2f}" for k in ("median", "least", "p10", "p90")]
        rest = [f[k] for k in ("floor", "to_floor", "growth", "to_reach", "to_goal")]
        shown = ["-" if v is None else f"{v:.2f}" for v in rest]
        lines.append((f["figure"], str(f["vms"]), *numbers, str(f["runs"]), *shown))
    widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        print("  ".join(cells))


def main() -> None:
    """Parse, enter namespaces, measure, tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vms", default="0,1000", help="numbers of VMs present [0,1000]")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=120, help="begin no round after [120]")
    parser.add_argument("--directory", default="/var/tmp", help="on a real disk [/var/tmp]")
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    if _INSIDE not in os.environ:
        os.environ[_INSIDE] = "1"
        os.execvp("unshare", ["unshare", "--net", "--", sys.executable, *sys.argv])
    scratch = tempfile.mkdtemp(prefix="hvtx-bench-", dir=wanted.directory)
    worlds: list[World] = []
    try:
        populated = {}
        for number in sorted({int(text) for text in wanted.vms.split(",")}):
            worlds.append(make_world(Path(scratch, str(number)), number))
            if number:
                populated[number] = worlds[-1].populate()
        samples = run_rounds(worlds, wanted.rounds, wanted.seconds)
        found = document(samples.rows(), describe_machine(scratch), populated)
    finally:
        for world in worlds:
            world.close()
        shutil.rmtree(scratch, ignore_errors=True)
    if wanted.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)


if __name__ == "__main__":
    main()
