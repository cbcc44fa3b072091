"""The long job: each parser is fuzzed for so many seconds of a processor, over as many runs as it takes.

``python -m tests.fuzz.job [NAME…]`` gives the parser that was fuzzed least a slice, again and again,
until each has had ``--seconds``. What each has had *as its code is now* is kept in ``.cache/fuzz``
after every round, so the job may be stopped and called again at any time. A parser in which
something was found waits until its code has changed, or for ``--again``. The table is printed at the end.

``--seed N NAME`` runs one round again.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import multiprocessing
import os
import random
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from hypothesis import given, seed
from hypothesis.database import DirectoryBasedExampleDatabase

from tests.fuzz.parsers import PARSERS, Parser
from tests.fuzz.property import options, property_of
from tests.fuzz.reached import ROOT, Trace, digest, reach

PLACE = ROOT / ".cache/fuzz"
ROUND = 100
MEASURED = 400  # examples of which the lines are counted
TOO_LONG = 20.0  # seconds of a processor for one input
Entry = dict[str, Any]


class TookTooLong(AssertionError):
    """One input kept a parser busy."""


# What was done before -----------------------------------------------------------------------------


def place_of(name: str, kind: str) -> Path:
    """Where something of a parser is kept."""
    return PLACE / kind / re.sub(r"\W+", "-", name)


def had(name: str) -> Entry:
    """What a parser has had; nothing if its code is another now."""
    new: Entry = {"seconds": 0.0, "examples": 0, "hit": 0, "lines": 0, "modules": [], "found": ""}
    try:
        kept = json.loads(place_of(name, "had").read_text())
    except (FileNotFoundError, ValueError):
        return new
    return kept if kept.get("code") and kept["code"] == digest(kept["modules"]) else new


def keep(name: str, entry: Entry) -> None:
    """Write it, whole or not at all."""
    path = place_of(name, "had")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(
        json.dumps({"name": name, **entry, "code": digest(entry["modules"])}, indent=1)
    )
    draft.replace(path)


@contextlib.contextmanager
def mine(name: str) -> Iterator[bool]:
    """Whether this process has a parser for itself meanwhile."""
    path = place_of(name, "locks")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


# Rounds -------------------------------------------------------------------------------------------


def bounded(parser: Parser) -> Parser:
    """The same parser, which may not take long for any input."""

    def gave_up(*_: object) -> None:
        raise TookTooLong(f"more than {TOO_LONG:g} seconds for one input")

    def call(given_: Any) -> None:
        signal.setitimer(signal.ITIMER_VIRTUAL, TOO_LONG)
        try:
            parser.call(given_)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    signal.signal(signal.SIGVTALRM, gave_up)
    return parser._replace(call=call)


def one_round(name: str, number: int) -> None:
    """Some examples, chosen by a seed; what was found before comes first."""
    kept = DirectoryBasedExampleDatabase(place_of(name, "examples"))
    holds = property_of(bounded(PARSERS[name]))
    seed(number)(options(examples=ROUND, database=kept)(holds))()


def measure(name: str, entry: Entry) -> None:
    """Which lines some examples reach, and which modules."""
    parser, trace = PARSERS[name], Trace()

    @options(examples=MEASURED, derandomize=True, database=None)
    @given(parser.inputs)
    def look(given_: Any) -> None:
        with contextlib.suppress(Exception), trace:
            parser.call(given_)

    look()
    found = reach(parser.covers, trace.lines)
    entry.update(hit=found.hit, lines=found.lines, missed=found.missed, modules=found.modules)


def turn(name: str, seconds: float, output: TextIO) -> None:
    """A slice for one parser: kept after each round."""
    entry = had(name)
    if not entry["modules"]:
        measure(name, entry)
    end = time.process_time() + seconds
    while (begin := time.process_time()) < end and not entry["found"]:
        number = random.SystemRandom().getrandbits(32)
        try:
            one_round(name, number)
        except (Exception, BaseExceptionGroup):
            entry["found"] = f"--seed {number} '{name}'\n{traceback.format_exc()}"
            output.write(f"FOUND in {name}: {entry['found']}\n")
            output.flush()
        entry["seconds"] += time.process_time() - begin
        entry["examples"] += ROUND
        keep(name, entry)


def work(names: Sequence[str], wanted: float, piece: float, until: float) -> None:
    """Slices for whichever has had least, until all have had enough or the time is over.

    Also until whoever called for it is gone, however it was ended.
    """
    caller = os.getppid()
    while time.monotonic() < until and os.getppid() == caller:
        entries = {name: had(name) for name in names}
        waiting = [n for n, e in entries.items() if e["seconds"] < wanted and not e["found"]]
        for name in sorted(waiting, key=lambda n: float(entries[n]["seconds"])):
            with mine(name) as free:
                if free:
                    turn(name, min(piece, wanted - entries[name]["seconds"]), sys.stdout)
                    break
        else:
            return  # whoever holds the others brings them to their end


def table(names: Sequence[str]) -> str:
    """What each has had, the least fuzzed first."""
    rows = sorted(((had(name), name) for name in names), key=lambda row: row[0]["seconds"])
    lines = [f"{'parser':36} {'seconds':>8} {'examples':>9} {'lines':>10}"]
    for entry, name in rows:
        share = f"{entry['hit']}/{entry['lines']}"
        note = "  FOUND" if entry["found"] else ""
        lines.append(f"{name:36} {entry['seconds']:8.0f} {entry['examples']:9} {share:>10}{note}")
    total = sum(entry["seconds"] for entry, _ in rows), sum(entry["examples"] for entry, _ in rows)
    return "\n".join((*lines, f"{'all':36} {total[0]:8.0f} {total[1]:9}"))


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """What was asked for."""
    read = argparse.ArgumentParser(prog="python -m tests.fuzz.job", description=__doc__)
    read.add_argument("names", nargs="*", metavar="NAME", help="a parser (all of them)")
    read.add_argument("--seconds", type=float, default=float(os.environ.get("HVTX_FUZZ", "600")))
    read.add_argument("--slice", type=float, default=10.0, help="seconds of each turn")
    read.add_argument("--stop-after", type=float, default=1e9, help="seconds by the clock")
    read.add_argument(
        "--processes", type=int, default=int(os.environ.get("HVTX_TEST_PROCESSES", "2"))
    )
    read.add_argument("--seed", type=int, help="one round again")
    read.add_argument(
        "--again", action="store_true", help="also those in which something was found"
    )
    read.add_argument("--missed", action="store_true", help="the lines that are not reached")
    found = read.parse_args(words)
    for name in found.names:
        if name not in PARSERS:
            read.error(f"no parser {name!r}; there are: {', '.join(PARSERS)}")
    return found


def main() -> int:
    """1 if something was found."""
    asked = arguments()
    names = asked.names or list(PARSERS)
    if asked.seed is not None:
        for name in names:
            one_round(name, asked.seed)
        return 0
    if asked.missed:
        for name in names:
            entry: Entry = had(name)
            measure(name, entry)
            sys.stdout.write(f"{name}: {entry['hit']}/{entry['lines']} {entry['missed']}\n")
        return 0
    for name in names if asked.again else ():
        keep(name, {**had(name), "found": ""})
    until = time.monotonic() + asked.stop_after
    context = multiprocessing.get_context("spawn")
    given_ = (names, asked.seconds, asked.slice, until)
    workers = [context.Process(target=work, args=given_) for _ in range(asked.processes)]
    with contextlib.suppress(KeyboardInterrupt):
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    sys.stdout.write(table(names) + "\n")
    failed = any(worker.exitcode for worker in workers)
    return int(failed or any(had(name)["found"] for name in names))


if __name__ == "__main__":
    sys.exit(main())
