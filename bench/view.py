"""What publishing the view for a group costs a command that changes something.

    python bench/view.py [--vms 0,1000,5000] [--rounds 15] [--directory DIR]

Needs root. Whole processes: ``hvtx vm start`` and ``vm stop`` of one VM without and with a group,
in turns; and the publishing alone, in process. See bench/README.md for the population.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.figures import Samples
from bench.harness import scratch
from bench.population import ONE, World, make_world
from hvtx import documents
from hvtx.commands import publish_view as published
from hvtx.commands import published_view as view
from hvtx.engine.runtime import Runtime

GROUP = "65531"


def call(world: World, *words: str, group: str = "") -> float:
    """A whole process, in milliseconds."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "hvtx", *words],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**world.environment, "HVTX_GROUP": group},
    )
    assert done.returncode == 0
    return (time.perf_counter() - began) * 1000


def publish(world: World) -> float:
    """The publishing alone, in milliseconds."""
    runtime = Runtime(world.settings._replace(group=GROUP), writable=True)
    by = published.publisher(runtime.settings)
    try:
        os.unlink(view.place_of(world.settings).document)  # else it is fresh, and nothing is done
        began = time.perf_counter()
        published.publish(runtime, by, documents.view.document)
        return (time.perf_counter() - began) * 1000
    finally:
        by.close()
        runtime.close()


def measure(world: World, rounds: int) -> Samples:
    """Samples; the first round, which compiles, is not kept."""
    found = Samples()
    for number in range(rounds + 1):
        for name, group in (("without", ""), ("with", GROUP)):
            for verb in ("start", "stop"):
                taken = call(world, "vm", verb, ONE, group=group)
                if number:
                    found.add(f"hvtx vm {verb}", f"{name} a group", world.vms, taken)
        if number:
            found.add("publishing, in process", "alone", world.vms, publish(world))
    return found


def main() -> None:
    """Measure and print."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--vms", default="0,1000")
    asked.add_argument("--rounds", type=int, default=15)
    asked.add_argument("--directory", default="/var/tmp")
    wanted = asked.parse_args()
    with scratch(wanted.directory) as directory:
        for vms in (int(text) for text in wanted.vms.split(",")):
            world = make_world(directory / str(vms), vms)
            try:
                if vms:
                    world.populate()
                samples = measure(world, wanted.rounds)
            finally:
                world.close()
            print(f"{vms} VMs, load {os.getloadavg()[0]:.1f}")
            for key in samples.values:
                one, name = samples.spread(*key), f"{key.figure}, {key.who}"
                assert one is not None
                print(f"  {name:32} median {one.median:7.1f} ms, least {one.least:7.1f}")


if __name__ == "__main__":
    main()
