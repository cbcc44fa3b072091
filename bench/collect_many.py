"""`gc --apply` of many VMs whose processes died: how many a second, durable, in process.

    python bench/collect_many.py [--vms 1000] [--runs 1] [--directory DIR]

Needs root; works in namespaces of its own (see start_stop.py). Every VM has a TAP, three firewall
records and a process record. Beside it: as many TAPs removed one after another by closing them,
which is what a loop of `ip link del` would wait for.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.harness import enter_namespace, scratch
from bench.population import World, make_world
from hvtx.commands import gc as gc_apply
from hvtx.engine import gc_plan
from hvtx.engine.runtime import Runtime
from hvtx.host import tun
from hvtx.host.tun import IFF_NO_PI, IFF_TAP

_SERIAL = 100  # devices of the comparison: each takes 15 to 20 ms


def one_after_another() -> float:
    """Devices a second."""
    begun = time.perf_counter()
    for number in range(_SERIAL):
        descriptor = tun.open_device()
        tun.attach(descriptor, f"hvserial{number}", IFF_TAP | IFF_NO_PI)
        os.close(descriptor)
    return _SERIAL / (time.perf_counter() - begun)


def collect_all(world: World) -> tuple[float, float]:
    """VMs a second of plan and apply together, and the seconds that the plan took of it."""
    world.end_processes()
    runtime = Runtime(world.settings, writable=True)
    runtime.enter()
    begun = time.perf_counter()
    gc_plan.make_plan(runtime)
    planned = time.perf_counter() - begun
    begun = time.perf_counter()
    report = gc_apply.collect(runtime)
    seconds = time.perf_counter() - begun
    left = [item for item in report.plan.acting() if item.outcome != "done"]
    runtime.close()
    if left or len(report.plan.acting()) < world.vms:
        raise SystemExit(f"{len(left)} items are not done; first: {left[:1]}")
    return world.vms / seconds, planned


def main() -> None:
    """Parse, enter namespaces, measure, tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vms", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--directory", default="/var/tmp", help="on a real disk [/var/tmp]")
    wanted = parser.parse_args()
    enter_namespace()
    made, collected, serial, plans = [], [], [], []
    for number in range(wanted.runs):
        with scratch(wanted.directory) as directory:
            world = make_world(directory / str(number), wanted.vms)
            try:
                made.append(world.populate())
                serial.append(one_after_another())
                rate, planned = collect_all(world)
                collected.append(rate)
                plans.append(planned * 1000)
            finally:
                world.close()
    print(f"{wanted.vms} VMs, {wanted.runs} runs, medians")
    print(f"made (create and start, durable)  {statistics.median(made):8.0f} VMs/s")
    print(f"collected (plan and apply)        {statistics.median(collected):8.0f} VMs/s")
    print(f"of which the plan                 {statistics.median(plans):8.0f} ms")
    print(f"bare devices, one after another   {statistics.median(serial):8.0f} /s")


if __name__ == "__main__":
    main()
