"""What a whole command costs before and beside its work: imports and system calls.

    python bench/startup.py [--beside PYTHON ...] [--rounds 11] [--json]

Needs root and strace. `vm start`, `vm show`, `vm stop` and `gc --plan` of an `external` VM with one
published port run as whole processes in a network namespace that this program makes: one round
under `strace -c`, which counts system calls (and is not timed), the others with `-X importtime`,
in turns. `--beside` names the Python of another checkout's environment: it is measured in the same
rounds, so that two commits are compared and not two moments of the machine. Never part of a test.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.harness import enter_namespace

_BEFORE = (
    ("network", "create", "n0", "--subnet", "10.100.0.0/22"),
    ("vm", "create", "one", "--hypervisor", "external", "--network", "n0", "--publish", "10080:80"),
)
COMMANDS = {
    "vm start": ("vm", "start", "one"),
    "vm show": ("vm", "show", "one"),
    "gc --plan": ("gc", "--plan", "--json"),
    "vm stop": ("vm", "stop", "one"),
}
_IMPORT = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")
_SYNCS = ("fsync", "fdatasync")


class Imports(NamedTuple):
    """What one process imported: microseconds of all of it and of hvtx's own, and how many."""

    all: int
    own: int
    modules: int


class Installed(NamedTuple):
    """One hvtx, by the Python that has it, with a store of its own."""

    python: str
    environment: dict[str, str]

    def run(self, words: Sequence[str], *before: str, options: Sequence[str] = ()) -> str:
        """Run one command; its standard error."""
        done = subprocess.run(
            [*before, self.python, *options, "-m", "hvtx", *words], cwd="/", check=False,
            env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode != 0:
            told = done.stderr.strip().splitlines()[-3:]
            raise SystemExit(f"{self.python} -m hvtx {' '.join(words)}: {done.returncode}\n{told}")
        return done.stderr

    def imports(self, words: Sequence[str]) -> Imports:
        """What `-X importtime` says of one command."""
        found = _IMPORT.findall(self.run(words, options=("-X", "importtime")))
        own = sum(int(time) for time, name in found if name.partition(".")[0] == "hvtx")
        return Imports(sum(int(time) for time, _ in found), own, len(found))

    def calls(self, words: Sequence[str]) -> dict[str, int]:
        """System calls by name of the process of one command, without those of its children.

        To follow them (`-f`) would be to wait for the one that holds the VM's ports, which stays.
        """
        with tempfile.NamedTemporaryFile("r") as told:
            self.run(words, "strace", "-qq", "-c", "-U", "calls,name", "-o", told.name)
            lines = [line.split() for line in told.read().splitlines()]
        found = {line[1]: int(line[0]) for line in lines if len(line) == 2 and line[0].isdigit()}
        found.pop("total", None)
        return found


@contextmanager
def installed(pythons: Sequence[str]) -> Iterator[list[Installed]]:
    """Each with a network and a VM, in directories that go again."""
    with tempfile.TemporaryDirectory(prefix="hvtx-bench-", dir="/var/tmp") as scratch:
        found = []
        for number, python in enumerate(pythons):
            place = Path(scratch, str(number))
            place.mkdir()
            (place / "config.toml").touch()
            own = {
                "HVTX_STATE_DIR": str(place / "state"),
                "HVTX_RUN_DIR": str(place / "run"),
                "HVTX_CONFIG": str(place / "config.toml"),
                "XTABLES_LOCKFILE": str(place / "xtables.lock"),
            }
            found.append(Installed(python, {**os.environ, **own}))
        yield found


def measured(one: Installed, others: Sequence[Installed], rounds: int) -> dict[str, Any]:
    """Figures of each command, of each hvtx in turn; what was made is removed again."""
    every = [one, *others]
    samples: dict[tuple[str, str], list[Imports]] = {}
    counted: dict[tuple[str, str], dict[str, int]] = {}
    for installation in every:  # one after the other: both would use the same subnet
        for words in _BEFORE:
            installation.run(words)
        for name, words in COMMANDS.items():
            counted[installation.python, name] = installation.calls(words)
        installation.run(("vm", "rm", "one"))
        installation.run(("network", "rm", "n0"))
    for _ in range(rounds):
        for installation in every:
            for words in _BEFORE:
                installation.run(words)
            for name, words in COMMANDS.items():
                found = installation.imports(words)
                samples.setdefault((installation.python, name), []).append(found)
            installation.run(("vm", "rm", "one"))
            installation.run(("network", "rm", "n0"))
    return {
        python: {name: _figures(samples[python, name], counted[python, name]) for name in COMMANDS}
        for python in (installation.python for installation in every)
    }


def _figures(samples: Sequence[Imports], calls: dict[str, int]) -> dict[str, Any]:
    return {
        "import_ms": round(statistics.median(one.all for one in samples) / 1000, 1),
        "import_ms_least": round(min(one.all for one in samples) / 1000, 1),
        "own_ms": round(statistics.median(one.own for one in samples) / 1000, 1),
        "modules": samples[0].modules,
        "calls": sum(calls.values()),
        "syncs": sum(calls.get(name, 0) for name in _SYNCS),
        "opens": calls.get("openat", 0),
        "processes": sum(calls.get(name, 0) for name in ("clone", "clone3", "fork", "vfork")),
    }


def show(found: dict[str, Any]) -> None:
    """The same as a table."""
    print(f"load {os.getloadavg()[0]:.2f}; ms are those of -X importtime, which itself takes time")
    for python, commands in found.items():
        print(python)
        head = list(next(iter(commands.values())))
        print("  " + "command".ljust(10), *(name.rjust(15) for name in head))
        for name, figures in commands.items():
            print("  " + name.ljust(10), *(str(figures[key]).rjust(15) for key in head))


def main() -> None:
    """Parse, enter a namespace, measure, tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--beside", action="append", default=[], metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    enter_namespace()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with installed([sys.executable, *wanted.beside]) as (one, *others):
        found = measured(one, others, wanted.rounds)
    if wanted.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)


if __name__ == "__main__":
    main()
