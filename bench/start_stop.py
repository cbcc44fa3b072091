"""Start and stop of one VM's network, `hvtx` as a whole process, and `gc --plan`: how fast.

Everything is measured in one run, in turns, beside a floor made of the bare kernel calls and two
``fdatasync`` on the same disk (floor.py), in namespaces that go with the run::

    python bench/start_stop.py [--vms 0,1000[,5000]] [--rounds 15] [--json] [--directory DIR]

Needs root. Each number of VMs has a namespace, a store and a run directory of its own; its VMs are
`external` ones with a bridge port, anti-spoofing, masquerade and one published port each, and a
process attached, so that nothing of a hypervisor is in the figures. What beside.py and against.py
measure of one build, alone: for while one changes a hot path. Never part of a test.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import measure
from bench.figures import SCHEMA, Samples, number, ratios, table
from bench.harness import (
    Worker,
    describe_machine,
    in_turns,
    need_root,
    scratch,
    this_build,
    worker_of,
    workers,
)
from bench.measure import Place
from bench.report import floor_values


def one_round(worker: Worker, place: Place) -> None:
    """All of it once, in one world."""
    measure.one_world(worker, place)
    for figure, seconds in worker.ask("again").items():
        place.add(f"{figure} again, in process", seconds * 1000)


def lines(samples: Samples, who: str) -> Iterator[list[str]]:
    """A line for each figure at each number of VMs."""
    for key, values in samples.values.items():
        one = samples.spread(*key)
        assert one is not None
        floors = floor_values(samples, key.figure, key.who, key.vms) if key.who == who else []
        multiple = ratios(values, floors)
        fewest = samples.of(key.figure, key.who, samples.vms(key.figure)[0])
        growth = ratios(values, fewest)
        yield [
            key.figure if key.who == who else f"floor: {key.figure}",
            f"{key.vms:,}", samples.units[key.figure],
            *(number(value) for value in (one.median, one.least, one.low, one.high)),
            str(one.count), number(multiple and multiple.median), number(growth and growth.median),
        ]  # fmt: skip


def show(samples: Samples, who: str, machine: dict[str, Any]) -> None:
    """The same as a table."""
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    head = ("figure", "VMs", "unit", "median", "least", "lower", "upper", "runs", "x floor")
    hidden = (measure.PEAK, measure.PART)
    told = [line for line in lines(samples, who) if not any(part in line[0] for part in hidden)]
    print(table((*head, "growth"), told))


def main() -> None:
    """Parse, measure, tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vms", default="0,1000", help="numbers of VMs present [0,1000]")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=120, help="begin no round after [120]")
    parser.add_argument("--firewall", default="nftables", choices=("nftables", "iptables"))
    parser.add_argument("--directory", default="/var/tmp", help="on a real disk [/var/tmp]")
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    need_root()
    build, samples = this_build(), Samples()
    with scratch(wanted.directory) as directory, workers() as every:
        machine = describe_machine(directory)
        for vms in sorted({int(text) for text in wanted.vms.split(",")}):
            worker = worker_of(build, directory / str(vms), vms, wanted.firewall)
            every.append(worker)
            measure.fill([(worker, Place(samples, build.name, vms))], vms)

        def one(worker: Worker, number: int) -> None:
            one_round(worker, Place(samples if number else Samples(), build.name, worker.vms))

        in_turns(every, wanted.rounds, one, seconds=wanted.seconds)
    if wanted.json:
        told = {"schema": SCHEMA, "kind": "start_stop", "machine": machine}
        print(json.dumps({**told, "samples": samples.document()}, indent=2))
    else:
        show(samples, build.name, machine)


if __name__ == "__main__":
    main()
