"""How many plans of `gc` are false while VMs merely start and stop: none should be.

Writers start and stop VMs of their own, nobody is killed, and beside them plans are made. Nothing
is interrupted and nothing is left behind, so a plan that would do anything tells a falsehood, and
so does one that misses something of a VM that runs::

    python bench/false_plans.py [--vms 300] [--writers 4] [--plans 1000] [--planners 2]
                                [--apply] [--firewall nftables] [--seconds 1800] [--json]

``--apply`` runs a loop of `gc --apply` beside it. Afterwards the history must tell each removal
once, and none of them as gc's. Half of the writers' VMs have a process, half have none. Needs root;
all of it happens in a network namespace that this program makes. Ends with 1 if anything was false.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.harness import scratch
from bench.population import World, make_world
from hvtx.commands import gc as gc_apply
from hvtx.commands import metrics, vm_create, vm_start, vm_stop
from hvtx.engine import gc_plan, vm_options
from hvtx.engine.runtime import Runtime, Settings
from hvtx.errors import PartialFailure
from hvtx.model.reason import Reason

# What a plan may not say where nothing was lost, left or changed by others, whatever it would do.
UNTRUE = frozenset(
    {Reason.LOST, Reason.MARK_MISMATCH, Reason.MARK_STRIPPED, Reason.DUPLICATE_MARK,
     Reason.EDITED_COPY, Reason.UNRECORDED}
)  # fmt: skip


class Found(NamedTuple):
    """What was seen in a run."""

    plans: int
    false: int  # plans that said something untrue
    untrue: Counter[str]  # items of them
    refused: int  # plans that could not be made
    cycles: int  # of the writers
    partial: int  # stops that left something to the next start
    collected: int  # runs of `gc --apply`
    doubled: int  # marks whose removal the history tells more than once
    by_gc: int  # removals that the history tells as gc's

    @property
    def good(self) -> bool:
        """Whether nothing was false."""
        return not (self.false or self.doubled or self.by_gc)


class Crew:
    """Processes that work until they are told to stop, each with a file for what it saw."""

    def __init__(self, directory: Path, seconds: float) -> None:
        """``seconds``: after which all of them end in any case."""
        self.directory = directory
        self.deadline = time.monotonic() + seconds
        self._over = directory / "over"
        self.children: list[int] = []

    def over(self) -> bool:
        """Whether to stop."""
        return self._over.exists() or time.monotonic() > self.deadline

    def stop(self) -> None:
        """Let everybody end, and wait for them. Raises what went wrong in any of them."""
        self._over.touch()
        for pid in self.children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        failures = [path.read_text() for path in self.directory.glob("failed.*")]
        if failures:
            raise RuntimeError("\n".join(failures))

    def spawn(self, name: str, work: Callable[[], Counter[str]]) -> int:
        """Do ``work`` in a process of its own, which leaves what it counted."""
        pid = os.fork()
        if pid:
            self.children.append(pid)
            return pid
        code = 1
        try:
            (self.directory / f"seen.{name}").write_text(json.dumps(work()))
            code = 0
        except BaseException:  # noqa: BLE001 - told by Crew.stop
            import traceback

            (self.directory / f"failed.{name}").write_text(f"{name}: {traceback.format_exc()}")
        finally:
            os._exit(code)

    def seen(self, kind: str) -> Counter[str]:
        """The sum of what the processes of a kind counted."""
        total: Counter[str] = Counter()
        for path in self.directory.glob(f"seen.{kind}*"):
            total.update(json.loads(path.read_text()))
        return total


def measure(
    directory: Path, *, vms: int, writers: int, plans: int, planners: int, apply: bool,
    firewall: str, seconds: float, network: str = "n0",
) -> Found:  # fmt: skip
    """Do it, in the calling thread's network namespace for a while in one that is made."""
    world = make_world(directory, vms, firewall)
    try:
        if vms:
            world.populate()
        _make_vms(world.settings, writers, network)
        crew = Crew(directory, seconds)
        try:
            for number in range(writers):
                name = f"h{number}"
                crew.spawn(f"writer.{name}", lambda name=name: _cycle(crew, world.settings, name))
            if apply:
                crew.spawn("gc", lambda: _collect(crew, world.settings))
            share = -(-plans // planners)
            begun = len(crew.children)
            for number in range(planners):
                crew.spawn(f"planner.{number}", lambda: _plan(crew, world.settings, share))
            for pid in crew.children[begun:]:
                os.waitpid(pid, 0)
        finally:
            crew.stop()
        return _sum(crew, world)
    finally:
        world.close()


def _make_vms(settings: Settings, writers: int, network: str) -> None:
    runtime = Runtime(settings, writable=True)
    try:
        for number in range(writers):
            command = ("sleep", "600") if number % 2 else ()
            request = vm_options.parse_request(
                f"h{number}", hypervisor=None if command else "external", networks=(network,),
                publish=(f"{11000 + number}:80",), command=command,
            )  # fmt: skip
            vm_create.create_vm(runtime, request)
    finally:
        runtime.close()


def _cycle(crew: Crew, settings: Settings, name: str) -> Counter[str]:
    """Start and stop a VM; each by a runtime of its own, as commands do."""
    seen: Counter[str] = Counter()
    while not crew.over():
        for verb in (vm_start.start_vm, vm_stop.stop_vm):
            with contextlib.closing(Runtime(settings, writable=True)) as runtime:
                try:
                    verb(runtime, name)
                except PartialFailure:  # a device that somebody looked at for too long, say
                    seen["partial"] += 1
        seen["cycles"] += 1
    return seen


def _collect(crew: Crew, settings: Settings) -> Counter[str]:
    seen: Counter[str] = Counter()
    while not crew.over():
        with contextlib.closing(Runtime(settings, writable=True)) as runtime:
            seen["runs"] += 1
            gc_apply.collect(runtime)
    return seen


def _plan(crew: Crew, settings: Settings, plans: int) -> Counter[str]:
    """Make plans, every tenth of them by way of `metrics`, and count what is untrue in them."""
    seen: Counter[str] = Counter()
    for number in range(plans):
        if crew.over():
            break
        with contextlib.closing(Runtime(settings, writable=False)) as runtime:
            untrue = _metrics(runtime) if number % 10 == 9 else _items(runtime, seen)
        seen["plans"] += 1
        seen["false"] += bool(untrue)
        seen.update(f"item {words}" for words in untrue)
    return seen


def _items(runtime: Runtime, seen: Counter[str]) -> list[str]:
    report = gc_plan.make_plan(runtime)
    if report.refused is not None:
        seen["refused"] += 1
        return []
    said = [i for i in report.plan.items if i.outcome is None]
    return [
        f"{item.action.value} {item.reason.value} {item.kind}"
        for item in said
        if item.action.value != "skip" or item.reason in UNTRUE or "is gone" in item.message
    ]


def _metrics(runtime: Runtime) -> list[str]:
    """Falsehoods of `metrics`: VMs that crashed, interrupted operations, items that would act."""
    found = {gauge.name: gauge.values for gauge in metrics.gauges(runtime)}
    untrue = []
    if found["hvtx_vms"]["crashed",]:
        untrue.append("metrics: crashed")
    if found["hvtx_operations"]["interrupted",]:
        untrue.append("metrics: interrupted")
    for action, reason in found["hvtx_gc_items"]:
        if action != "skip" or reason in UNTRUE:
            untrue.append(f"metrics: {action} {reason}")
    return untrue


def _sum(crew: Crew, world: World) -> Found:
    planned = crew.seen("planner")
    with contextlib.closing(Runtime(world.settings, writable=False)) as runtime:
        sql = runtime.store.connection
        removed: list[tuple[str, str | None]] = sql.execute(
            "SELECT verb, detail FROM history WHERE event = 'removed' AND kind IS NOT NULL"
        ).fetchall()
        skipped: Iterable[Any] = sql.execute(
            "SELECT reason, kind, count(*) FROM history WHERE event = 'skipped' GROUP BY 1, 2"
        ).fetchall()
    marks = Counter(json.loads(detail)["mark"] for _, detail in removed if detail)
    marks.pop("", None)
    untrue = Counter({k[5:]: n for k, n in planned.items() if k.startswith("item ")})
    told = Counter(
        {f"history: skipped {why} {kind}": n for why, kind, n in skipped if why in UNTRUE}
    )
    return Found(
        plans=planned["plans"],
        false=planned["false"] + told.total(),
        untrue=untrue + told,
        refused=planned["refused"],
        cycles=crew.seen("writer")["cycles"],
        partial=crew.seen("writer")["partial"],
        collected=crew.seen("gc")["runs"],
        doubled=sum(number > 1 for number in marks.values()),
        by_gc=sum(verb == "gc" for verb, _ in removed),
    )


def main() -> int:
    """Measure and tell."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--vms", type=int, default=300, help="VMs that run all along")
    options.add_argument("--writers", type=int, default=4)
    options.add_argument("--plans", type=int, default=1000)
    options.add_argument("--planners", type=int, default=2)
    options.add_argument("--apply", action="store_true", help="a loop of gc --apply beside it")
    options.add_argument("--firewall", default="nftables", choices=("nftables", "iptables"))
    options.add_argument("--seconds", type=float, default=1800.0, help="at most")
    options.add_argument("--json", action="store_true")
    options.add_argument("--directory", default=None, help="where the stores are")
    chosen = options.parse_args()
    begun = time.monotonic()
    with scratch(chosen.directory) as base:
        found = measure(
            base / "world", vms=chosen.vms, writers=chosen.writers, plans=chosen.plans,
            planners=chosen.planners, apply=chosen.apply, firewall=chosen.firewall,
            seconds=chosen.seconds,
        )  # fmt: skip
    told = {**found._asdict(), "seconds": round(time.monotonic() - begun, 1), "good": found.good}
    if chosen.json:
        sys.stdout.write(json.dumps(told) + "\n")
    else:
        for name, value in told.items():
            sys.stdout.write(f"{name:10} {dict(value) if name == 'untrue' else value}\n")
    return 0 if found.good else 1


if __name__ == "__main__":
    sys.exit(main())
