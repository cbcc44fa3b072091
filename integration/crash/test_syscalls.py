"""Killed before any of its system calls, every command recovers: the crash matrix from inside.

What is killed where, and how many kills that takes, is in `integration.lab.crash_matrix`; which states are
equal, in `integration.lab.crash_state`. The ordinary run kills a command, on the backend whose turn it is, at an
even sample of the places where something has changed, and `recover` wherever it changes something in one state of two commands.
`HVTX_CRASH=states` kills every command at every place where something has changed, and `recover`
likewise in every state that is met, to a fixpoint; `HVTX_CRASH=all` (tox -e crash) kills a command
before each of its calls, besides. Commands join by standing in `test_crash.COMMANDS`.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from integration.crash.test_failpoints import (
    BACKENDS,
    COMMANDS,
    GUESTS,
    end_everything,
    given,
    guests,
    host,
)
from integration.lab import beside as neighbours
from integration.lab.crash_matrix import Matrix
from integration.lab.isolated import run_alone
from integration.lab.program import Forked, preload

__all__ = ["guests"]  # the fixture that ends what `vm attach` was given
HOW = os.environ.get("HVTX_CRASH", "sample")  # or "states", or "all"
ALL = HOW in ("states", "all")
# of a command's places in the ordinary run, on one of the backends in turns; of DEEPER two on each
SAMPLE = 4
DEEPER = ("vm start", "vm stop")  # where `recover` is killed in the ordinary run
# Those that make the store run without the VM beside them too, which would have made it before.
ALONE = ("network create", "vm run, no network")
PLACES = [*((name, c.beside) for name, c in COMMANDS.items()), *((name, False) for name in ALONE)]
CASES = [
    (name, beside, firewall)
    for number, (name, beside) in enumerate(PLACES)
    for turn, firewall in enumerate(BACKENDS)
    if ALL or name in DEEPER or turn == number % len(BACKENDS)
]
_CLOSED: dict[tuple[str, bool], set[str]] = {}  # states whose `recover` was killed everywhere


@pytest.fixture
def directory() -> Any:
    """Where the store is: in memory if possible, since a kill loses nothing that was written."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = tempfile.mkdtemp(dir=place)
    yield Path(path)
    shutil.rmtree(path)


def matrix_of(name: str, firewall: str, directory: Path, *, beside: bool) -> Matrix:
    """The state before a command, and whoever lives beside it; in a namespace of its own."""
    os.environ.update(
        HVTX_STATE_DIR=f"{directory}/state",
        HVTX_RUN_DIR=f"{directory}/run",
        HVTX_CONFIG=f"{directory}/config.toml",
    )
    (directory / "config.toml").write_text("")
    hvtx = Forked(HVTX_FIREWALL=firewall)
    neighbours.settle_strangers()
    return Matrix(
        hvtx,
        lambda: COMMANDS[name].prepare(hvtx),
        lambda: given(name),
        reset=lambda: end_everything(hvtx, but="beside"),
        host=host,
        beside=neighbours.Beside(hvtx) if beside else None,
        how=COMMANDS[name].how,
        spared=lambda: {guest.pid for guest in GUESTS},
    )


def job(name: str, firewall: str, directory: Path, *, beside: bool, known: set[str]) -> Matrix:
    """The search for one command."""
    matrix = matrix_of(name, firewall, directory, beside=beside)
    if not ALL:
        both = name in DEEPER
        matrix.sample(SAMPLE, slice(BACKENDS.index(firewall), None, 2) if both else slice(None))
        matrix.close(known, 1 if name in DEEPER else 0)
    else:
        matrix.whole()
        if HOW == "all":
            matrix.crash_at_each()
        matrix.figures.kills += matrix.discover(given(name), name, None)
        matrix.close(known)
    matrix.go(None)
    end_everything(matrix.hvtx)
    return matrix


@pytest.mark.timeout(7200 if ALL else 1800)
@pytest.mark.parametrize(
    ("name", "beside", "firewall"), CASES, ids=lambda part: str(part).replace(" ", "_")
)
def test_killed_before_any_system_call_it_recovers(
    name: str, beside: bool, firewall: str, directory: Path,
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    """After `recover` all is as before the command or as after it, whoever lives beside it."""
    preload()  # once, and not in each process that is forked for a part
    closed = _CLOSED.setdefault((firewall, beside), set())

    def part() -> dict[str, Any]:
        known = set(closed)
        matrix = job(name, firewall, directory, beside=beside, known=known)
        figures = matrix.figures
        return {
            "figures": vars(figures), "line": figures.line(), "known": sorted(known),
            "failures": matrix.failures, "behind": list(matrix.behind_inert.values()),
        }  # fmt: skip

    found = run_alone(part)
    closed.update(found["known"])
    for key, value in found["figures"].items():
        record_property(key, value)
    sys.stdout.write(f"{name}, {firewall}{'' if beside else ', alone'}: {found['line']}\n")
    assert not found["failures"], "\n".join(found["failures"])
    if HOW == "all":
        assert not found["behind"], f"states met behind an inert call only: {found['behind']}"
