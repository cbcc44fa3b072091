"""The long job: claims of blocks under partitions and kills; nothing is ever two hosts'.

    python -m integration.lab.cluster.job [--claims 100000] [--partitions 100] [--seconds 3600]

What was reached is kept in `.cache/cluster`, so it may be stopped, and goes on. Root; it works in
network namespaces of its own.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

from hvtx.engine.runtime import Runtime
from hvtx.model.block import BlockState
from hvtx.store import blocks as rows
from integration import lab
from integration.lab.cluster import worker
from integration.lab.cluster.lab import HOSTS, MEMBERS, NAMES, Lab
from integration.lab.cluster.package import program

KEPT = Path(__file__).parents[3] / ".cache" / "cluster"
WORKERS = 2  # of each host
ROUNDS = 4  # partitions between two comparisons


class Job:
    """Workers, and what happens to them."""

    def __init__(self, made: Lab, seed: int) -> None:
        self.lab, self.base = made, made.base
        self.chance = random.Random(seed)
        self.figures: Counter[str] = Counter()
        self._running: dict[tuple[str, int], subprocess.Popen[bytes]] = {}
        (self.base / "held").mkdir(exist_ok=True)

    def start(self) -> None:
        """Start who does not run."""
        for host in HOSTS:
            for number in range(WORKERS):
                known = self._running.get((host, number))
                if known is None or known.poll() is not None:
                    self._begin(host, number)

    def _begin(self, host: str, number: int) -> None:
        argv = [sys.executable, "-m", "integration.lab.cluster.worker",
                str(self.base), host, str(self.chance.randrange(1 << 30))]  # fmt: skip
        with (self.base / "workers.log").open("ab") as log:
            self._running[host, number] = subprocess.Popen(
                self.lab.spaces[host].argv(*argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def stop(self) -> None:
        """Let each end what it does."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            process.wait(60)

    def kill(self) -> None:
        """End one wherever it is."""
        process = self.chance.choice(list(self._running.values()))
        process.kill()
        process.wait()
        self.figures["kills"] += 1

    def partition(self) -> None:
        """Cut something off, for a while, and kill somebody meanwhile."""
        kind = self.chance.choice(("host", "member", "half", "direction"))
        if kind == "host":
            self.lab.isolate(self.chance.choice(HOSTS))
        elif kind == "member":
            self.lab.isolate(self.chance.choice(MEMBERS))
        elif kind == "half":
            names = list(NAMES)
            self.chance.shuffle(names)
            self.lab.cut((names[:2], names[2:]), (names[2:], names[:2]))
        else:  # what is asked arrives, what is answered does not; or between members
            host = self.chance.choice(NAMES)
            self.lab.cut(([name for name in MEMBERS if name != host], [host]))
        self.figures[f"cut off: {kind}"] += 1
        self.figures["partitions"] += 1
        time.sleep(self.chance.uniform(0.3, 2))
        self.kill()
        self.start()
        time.sleep(self.chance.uniform(0.3, 2))
        self.lab.heal()

    def compare(self) -> None:
        """Everybody ended: stores and cluster say the same, once what was interrupted is asked."""
        self.stop()
        for host in HOSTS:
            self.lab.await_quorum(host)
        if (self.base / "violation").exists():
            raise SystemExit(f"two hosts have a block: {(self.base / 'violation').read_text()}")
        owners: dict[str, str] = {}
        tokens: set[tuple[str, str]] = set()
        for host in HOSTS:
            with closing(Runtime(worker.settings(self.base, host), writable=False)) as runtime:
                known, who = runtime.read(rows.blocks), runtime.installation
            for block in known:
                tokens.add((who, block.token))
                if block.state is BlockState.COMMITTED and block.cidr is not None:
                    if block.cidr in owners:
                        raise SystemExit(f"{block.cidr}: {owners[block.cidr]} and {host}")
                    owners[block.cidr] = who
        held = self.lab.status("h1")["holders"]
        cluster = {one["cidr"]: one["installation"] for one in held}
        wrong = {cidr for cidr, who in owners.items() if cluster.get(cidr) != who}
        if wrong:
            raise SystemExit(f"a host has what the cluster has not for it: {sorted(wrong)}")
        for host in HOSTS:
            apart = self.lab.status(host)["unrecorded"]
            if apart:
                raise SystemExit(f"{host} has blocks that its store does not know: {apart}")
        self.figures["comparisons"] += 1
        for path in list(self.base.iterdir()):
            what = path.name.split(".")[0]
            if what in ("claims", "busy", "returns") and path.name.count(".") == 2:
                self.figures[what] += path.stat().st_size
                path.unlink()


def main() -> None:
    """Run until all is reached, or the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--claims", type=int, default=100_000)
    parser.add_argument("--partitions", type=int, default=100)
    parser.add_argument("--between", type=float, default=8, help="seconds between partitions")
    parser.add_argument("--seconds", type=float, default=3600, help="of this run")
    asked = parser.parse_args()
    found = program()
    if found is None:
        raise SystemExit("Debian's package etcd-server cannot be had")
    KEPT.mkdir(parents=True, exist_ok=True)
    file = KEPT / "figures.json"
    before = Counter(json.loads(file.read_text())) if file.exists() else Counter()
    end = time.monotonic() + asked.seconds
    base = Path(lab.open_place())
    base.chmod(0o700)
    with lab.private_network():
        made = Lab(base, found, 1.0)
        try:
            made.await_quorum()
            job = Job(made, seed=int(before["partitions"]))
            while time.monotonic() < end:
                job.start()
                time.sleep(0.5)
                for _ in range(ROUNDS):
                    job.partition()
                    time.sleep(asked.between)  # whole claims, between what goes wrong
                job.compare()
                total = before + job.figures
                file.write_text(json.dumps(total))
                sys.stdout.write(json.dumps(dict(sorted(total.items()))) + "\n")
                sys.stdout.flush()
                reached = total["claims"] >= asked.claims
                if reached and total["partitions"] >= asked.partitions:
                    break
        finally:
            if "job" in locals():
                job.stop()
            made.close()
            shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    main()
