"""What a claim of a block costs: three etcd members, each in a network namespace.

    python bench/claims.py [--claims N] [--fsync] [--json]

Prints the median and the 99th percentile, in milliseconds, of the question to etcd alone (a
connection that is open, and a new one for each), and of the whole claim with its two commits in the
store. Members write to the disk with `--fsync`, as etcd does by default; without, the network and
the programs are measured. Root.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hvtx.engine.blocks import opened
from hvtx.engine.runtime import Runtime
from hvtx.host import etcd
from integration import lab
from integration.lab.cluster import worker
from integration.lab.cluster.lab import Lab
from integration.lab.cluster.package import program


def timed(work: Callable[[], object], count: int) -> dict[str, float]:
    """Milliseconds of one call."""
    found = []
    for _ in range(count):
        began = time.perf_counter()
        work()
        found.append((time.perf_counter() - began) * 1000)
    found.sort()
    return {"median": round(found[count // 2], 2), "p99": round(found[count * 99 // 100], 2)}


def measure(made: Lab, count: int) -> dict[str, dict[str, float]]:
    """The figures, asked for from the switch, with the first host's store."""
    figures = {}
    with (
        closing(Runtime(worker.settings(made.base, "h1"), writable=True)) as runtime,
        opened(runtime) as blocks,
    ):
        blocks.take(worker.POOL)
        numbers = iter(range(1_000_000, 2_000_000))

        def ask() -> None:
            token = f"{next(numbers):012d}.{os.urandom(8).hex()}"
            assert blocks.source.claim(worker.POOL, token)

        def ask_anew() -> None:
            blocks.source.close()
            ask()

        figures["whole claim, with the store"] = timed(lambda: blocks.take(worker.POOL), count)
        figures["question, open connection"] = timed(ask, count)
        figures["question, new connection"] = timed(ask_anew, count)
        reader = etcd.Etcd(runtime.settings.cluster.endpoints, timeout=5)
        figures["bare linearizable read"] = timed(lambda: reader.txn([], [etcd.get("x")]), count)
        reader.close()
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--claims", type=int, default=200)
    parser.add_argument("--fsync", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = program()
    if found is None:
        raise SystemExit("error: Debian's package etcd-server cannot be had\nhint: apt-get update")
    with TemporaryDirectory(prefix="hvtx-claims-") as base, lab.private_network():
        made = Lab(Path(base), found, 5.0, fsync=asked.fsync)
        try:
            made.await_quorum()
            lab.run(
                "ip", "addr", "add", "192.0.2.100/24", "dev", "sw"
            )  # this process, on the switch
            figures = measure(made, asked.claims)
        finally:
            made.close()
    if asked.json:
        print(json.dumps(figures))
        return
    for name, ms in figures.items():
        print(f"{name:32} {ms['median']:8.2f} ms, p99 {ms['p99']:.2f} ms")


if __name__ == "__main__":
    main()
