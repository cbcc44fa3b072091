"""Two commits of hvtx, measured in turns in one run: `scripts/bench-against REV`.

    scripts/bench-against REV [--quick] [--cycles N] [--only PARTS] [--json FILE] [--directory DIR]

Needs root. Both commits are installed into environments of their own, with bytecode compiled, from
the files of REV and from those of this checkout as they are; each world -- a number of VMs on a
backend -- has its namespaces. Ratios are medians of pairs, after by before, with their quartiles.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import measure, report
from bench.figures import SCHEMA, Samples
from bench.harness import (
    Build,
    Failed,
    Worker,
    commit_of,
    describe_machine,
    export,
    export_checkout,
    install,
    need_root,
    say,
    scratch,
    this_build,
    worker_of,
    workers,
)
from bench.measure import Place, Run

PARTS = ("worlds", "iptables", "made", "boot", "store")
_ON_IPTABLES = (0, 500)


class Comparison:
    """Two builds, before and after, and what is measured of both."""

    def __init__(
        self, builds: Sequence[Build], directory: Path, wanted: argparse.Namespace
    ) -> None:
        """``wanted``: the options."""
        self.builds, self.directory, self.wanted = builds, directory, wanted
        self.run = Run()
        self._number = 0

    def pair(
        self, open_workers: list[Worker], vms: int, firewall: str = "nftables", room: int = 0
    ) -> list[tuple[Worker, Place]]:
        """A worker of each build, with networks for as many VMs."""
        found = []
        for build in self.builds:
            self._number += 1
            where = self.directory / f"world{self._number}"
            worker = worker_of(build, where, room or vms, firewall)
            open_workers.append(worker)
            found.append((worker, Place(self.run.samples, build.name, vms)))
        return found

    def worlds(self) -> None:
        """One VM more, plans and whole processes by how many VMs there are; then their end."""
        with workers() as every:
            groups = [self._filled(every, vms, "nftables") for vms in self.wanted.vms]
            say(f"one VM, plans, whole processes: up to {self.wanted.rounds} rounds")
            members = [pair for group in groups for pair in group]
            self.run.rounds(members, self.wanted.rounds, _world, self.wanted.seconds)
            big = [group for group in groups if group and group[0][1].vms >= 500]
            say("restarted container")
            for _ in range(3):
                self._each(big, measure.restarted)
            say("collecting all")
            self._each([g for g in big if g[0][1].vms >= 1000], measure.collected)

    def iptables(self) -> None:
        """Start and stop on the other backend, and the packets of the last of many VMs."""
        with workers() as every:
            groups = [self._filled(every, vms, "iptables") for vms in self.wanted.on_iptables]
            beside = [self._filled(every, vms, "nftables") for vms in self.wanted.on_iptables]
            members = [
                (worker, place, suffix)
                for suffix, some in ((measure.IPTABLES, groups), (measure.BESIDE_IPTABLES, beside))
                for group in some
                for worker, place in group
            ]
            say("one VM on iptables, and on nftables beside it")
            rounds, seconds = self.wanted.rounds, self.wanted.seconds / 2
            self.run.rounds(members, rounds, _world_of_backend, seconds)
            say("packets on iptables")
            with self.run.going_on():
                plain = Worker("plain", 0, sys.executable, "traffic:Plain", {})
                every.append(plain)
                last = groups[-1]
                if not last:
                    return
                for worker, _ in last:
                    worker.ask("guest")
                vms = last[0][1].vms
                scenes = [(plain, Place(self.run.samples, "plain", vms)), *last]
                self.run.rounds(scenes, self.wanted.packet_rounds, self._flows, 120)

    def _flows(self, one: tuple[Worker, Place], to: Any) -> None:
        measure.flows(
            one[0], one[1]._replace(samples=to), self.wanted.packet_seconds, measure.IPTABLES
        )

    def _filled(self, every: list[Worker], vms: int, firewall: str) -> list[tuple[Worker, Place]]:
        """A pair of worlds with so many VMs; nothing, and it is told, if that cannot be had."""
        say(f"{vms} VMs on {firewall}")
        with self.run.going_on():
            group = self.pair(every, vms, firewall)
            if firewall == "nftables" and vms not in self.run.samples.vms(measure.MADE):
                measure.fill(group, vms)
            else:
                for worker, _ in group:
                    worker.ask("grow", number=vms)
            return group
        return []

    def _each(
        self, groups: Sequence[Sequence[tuple[Worker, Place]]],
        what: Callable[[Worker, Place], None],
    ) -> None:  # fmt: skip
        for group in groups:
            for worker, place in group:
                with self.run.going_on():
                    what(worker, place)

    def made(self) -> None:
        """Many VMs made and collected, in worlds of their own, several times."""
        for number in range(self.wanted.runs):
            say(f"{self.wanted.many} VMs made and collected, {number + 1} of {self.wanted.runs}")
            with self.run.going_on(), workers() as every:
                group = self.pair(every, self.wanted.many)
                measure.fill(group, self.wanted.many)
                for worker, place in group:
                    measure.several(worker, place, self.wanted.several)
                for worker, place in group if number % 2 else reversed(group):
                    measure.collected(worker, place)

    def boot(self) -> None:
        """A boot with many VMs that start by themselves."""
        for number in range(self.wanted.runs):
            say(f"boot of {self.wanted.many}, {number + 1} of {self.wanted.runs}")
            with self.run.going_on(), workers() as every:
                group = self.pair(every, self.wanted.many)
                for worker, place in group if number % 2 else reversed(group):
                    measure.booted(worker, place)

    def store(self) -> None:
        """The store after many starts and stops."""
        say(f"{self.wanted.cycles} starts and stops")
        with self.run.going_on(), workers() as every:
            measure.cycled(self.pair(every, 0), self.wanted.cycles)


def _world(one: tuple[Worker, Place], to: Any) -> None:
    measure.one_world(one[0], one[1]._replace(samples=to))


def _world_of_backend(one: tuple[Worker, Place, str], to: Samples) -> None:
    """Start and stop under names of their own."""
    kept = Samples()
    measure.one_world(one[0], one[1]._replace(samples=kept), floor=False, more=False)
    for key, values in kept.values.items():
        for value in values:
            to.add(key.figure + one[2], key.who, key.vms, value, kept.units[key.figure])


def builds_of(wanted: argparse.Namespace, directory: Path) -> list[Build]:
    """Before and after, installed alike. Raises SystemExit."""
    if wanted.before:
        before = Build(wanted.rev, str(Path(wanted.before, ".venv/bin/python")), wanted.before)
        return [before, this_build("now")]
    after = install("now", export_checkout(directory / "now/files"), directory / "now")
    files = export(wanted.rev, directory / "before/files")
    return [install(wanted.rev, files, directory / "before"), after]


def options() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench-against", description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )  # fmt: skip
    parser.add_argument("rev", metavar="REV", help="the commit before: a name that git knows")
    parser.add_argument("--quick", action="store_true", help="a look: few VMs, few rounds")
    parser.add_argument("--vms", default="0,500,1000,5000", help="[0,500,1000,5000]")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=240, help="begin no round after [240]")
    parser.add_argument("--runs", type=int, default=3, help="of what happens once in a world [3]")
    parser.add_argument("--many", type=int, default=1000, help="made, collected, booted [1000]")
    parser.add_argument("--cycles", type=int, default=1000, help="starts and stops [1000]")
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {','.join(PARTS)}")
    parser.add_argument("--json", metavar="FILE", help="all values, for `python bench/report.py`")
    parser.add_argument("--directory", default="/var/tmp", help="on a real disk [/var/tmp]")
    parser.add_argument(
        "--before", metavar="DIR", help="files of REV with a .venv that has them installed"
    )
    return parser


def chosen() -> argparse.Namespace:
    """The options, with what --quick makes of them."""
    wanted = options().parse_args()
    wanted.vms = sorted({int(text) for text in wanted.vms.split(",")})
    wanted.on_iptables, wanted.packet_rounds, wanted.packet_seconds = _ON_IPTABLES, 4, 2
    wanted.several = 10 if wanted.quick else 50
    if wanted.quick:
        wanted.vms, wanted.on_iptables, wanted.rounds = [0, 100], (0, 50), 3
        wanted.runs, wanted.many, wanted.cycles = 1, 100, 80
        wanted.packet_rounds, wanted.packet_seconds = 1, 1
    return wanted


def main() -> None:
    """Install, measure, tell."""
    wanted = chosen()
    need_root()
    with scratch(wanted.directory) as directory:
        builds = builds_of(wanted, directory)
        machine = describe_machine(directory)
        commits = {"before": commit_of(wanted.rev), "after": commit_of()}
        comparison = Comparison(builds, directory, wanted)
        for part in PARTS:
            if part in wanted.only.split(","):
                try:
                    getattr(comparison, part)()
                except Failed as problem:
                    comparison.run.problems.append(str(problem))
    found = {
        "schema": SCHEMA,
        "kind": "against",
        "machine": {**machine, "load_after": describe_machine("/")["load"]},
        "before": builds[0].name,
        "after": builds[1].name,
        "commits": commits,
        "problems": comparison.run.problems,
        "cycles": wanted.cycles,
        "samples": comparison.run.samples.document(),
    }
    if wanted.json:
        Path(wanted.json).write_text(json.dumps(found, indent=1) + "\n")
    print(report.against_text(found))


if __name__ == "__main__":
    main()
