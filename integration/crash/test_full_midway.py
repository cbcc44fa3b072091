"""The disk is full in the middle of what ends or frees something: nobody sees a difference.

Each write of the store that begins a commit finds no room, once. From the reserve it is made all
the same, so exit code, words, history and host are those of a run with room: nothing is done twice,
nothing that was done is untold, no operation is left open.
"""

from __future__ import annotations

import errno
import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from integration import lab
from integration.crash.test_errnos import host, plain
from integration.crash.test_failpoints import (
    COMMANDS,
    NETWORK,
    SLEEP,
    end_everything,
    kill_vm,
)
from integration.lab.injector import SUPPORTED, Fault, Injected, Site, run_injected
from integration.lab.program import Forked, preload

WRITE = Site("write", "store")
Prepare = Callable[[Forked, Path], tuple[str, ...]]  # the command line that is to be given


def _as_in(name: str) -> Prepare:
    def prepare(hvtx: Forked, _base: Path) -> tuple[str, ...]:
        COMMANDS[name].prepare(hvtx)
        return (*COMMANDS[name].argv, "--json")

    return prepare


def _reviewed(name: str, *emergency: str) -> Prepare:
    def prepare(hvtx: Forked, base: Path) -> tuple[str, ...]:
        COMMANDS[name].prepare(hvtx)
        file = str(base / "plan.json")
        hvtx("gc", *emergency, "--plan", "--out", file)
        return ("gc", *emergency, "--apply", *(["--yes"] if emergency else []), file, "--json")

    return prepare


def _lost(hvtx: Forked, base: Path) -> tuple[str, ...]:
    """An installation whose store is gone, and whose VM is dead; ``hvtx`` is another."""
    other = Forked(**{**hvtx.environment, "HVTX_STATE_DIR": str(base / "other")})
    other(*NETWORK)
    other("vm", "run", "web", "--network", "net", "-p", "8080:80", *SLEEP)
    lost = other.vm("web")["resources"][0]["mark"].split(":")[2]
    kill_vm(other)
    shutil.rmtree(base / "other")
    hvtx("network", "create", "own", "--subnet", "10.78.0.0/24")
    return ("gc", "--apply", "--installation", lost, "--yes", "--json")


def _fails_to_start(hvtx: Forked, base: Path) -> tuple[str, ...]:
    """A start that was interrupted, and two VMs to be started, of which one cannot be."""
    program = base / "program"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    COMMANDS["recover"].prepare(hvtx)
    hvtx("vm", "create", "well", "--network", "net", "--autostart", *SLEEP)
    hvtx("vm", "create", "ill", "--network", "net", "--autostart", "--", str(program))
    program.unlink()
    with closing(sqlite3.connect(base / "state" / "hvtx.db", isolation_level=None)) as sql:
        sql.execute("UPDATE life SET recovered_at = NULL")  # as after a reboot
    return ("recover", "--json")


CASES: dict[str, tuple[Prepare, int]] = {
    "gc": (_as_in("gc --apply, several"), 0),
    "gc, reviewed": (_reviewed("gc --apply, several"), 0),
    "gc, emergency": (_as_in("gc --heuristic"), 0),
    "gc, emergency, reviewed": (_reviewed("gc --heuristic", "--heuristic"), 0),
    "gc, lost": (_lost, 0),
    "recover": (_fails_to_start, 9),
    "repair": (_as_in("repair"), 0),
}


def told(text: str) -> list[str]:
    """What a command said of what it did, in no order; without what differs from run to run."""
    found = []
    for name, value in (json.loads(text) if text else {}).items():
        for each in value if isinstance(value, list) else [value]:
            own = each
            if isinstance(each, dict):
                own = {word: what for word, what in each.items() if word not in _OF_A_RUN}
            found += [] if name in _OF_A_RUN else [plain([name, own])]
    return sorted(found)


_OF_A_RUN = {"made", "plan_id", "epoch", "installation", "key", "evidence", "record", "message"}


def outcome(prepare: Prepare, base: Path, number: int = 0) -> tuple[Injected, dict[str, list[str]]]:
    """A run whose ``number``th write of the store has no room (0: all have); what is seen of it."""
    base.mkdir()
    hvtx = Forked(
        HVTX_STATE_DIR=str(base / "state"), HVTX_RUN_DIR=str(base / "run"), HVTX_FIREWALL="nftables"
    )
    with lab.private_network():
        argv = prepare(hvtx, base)
        fault = Fault(WRITE, number, errno.ENOSPC) if number else None
        done = run_injected(argv, hvtx.environment, fault)
        entries = hvtx("log", "--json", "-n", "1000").json()["entries"]
        words = [(entry["verb"], entry["event"], entry["kind"]) for entry in entries]
        seen = {
            "code": [str(done.ran.code)],
            "told": told(done.ran.out),
            "warned": plain(done.ran.err).split("\\n"),
            "open": list(map(plain, hvtx("intents", "--json").json()["operations"])),
            "history": sorted(map(plain, words)),
            "host": sorted(plain([part, each]) for part, found in host().items() for each in found),
        }
        end_everything(hvtx)
    shutil.rmtree(base)
    return done, seen


def parted(wanted: list[str], found: list[str]) -> tuple[list[str], list[str]] | None:
    """What is in one of them alone; None where they are the same."""
    if wanted == found:
        return None
    one, other = Counter(wanted), Counter(found)
    return sorted((one - other).elements()), sorted((other - one).elements())


def commits(calls: list[Site]) -> list[int]:
    """Which writes of the store are the first of a commit, as they are counted.

    After its size was set or something was read it is SQLite's index, which is made anew, or the
    checkpoint at the end, which may come to nothing. The first of all is the index, whatever was
    done before it, which differs between versions of SQLite (3.40, 3.45).
    """
    ours = [call for call in calls if call.to == "store"]
    starts = [
        n
        for n, call in enumerate(ours)
        if call == WRITE
        and ours[n - 1].deed not in ("read", "write")
        and "resize" not in {before.deed for before in ours[max(n - 3, 0) : n]}
    ]
    return [number for n in starts if (number := ours[: n + 1].count(WRITE)) > 1]


@pytest.mark.skipif(not SUPPORTED, reason="errors are put into registers of x86-64")
@pytest.mark.parametrize("name", list(CASES))
def test_nobody_sees_that_the_disk_was_full(name: str, tmp_path: Path) -> None:
    """Whichever commit it was that had no room."""
    preload()
    prepare, code = CASES[name]
    ran, wanted = outcome(prepare, tmp_path / "host")
    assert (wanted["code"], wanted["open"]) == ([str(code)], []), ran.ran
    numbers = commits(ran.calls)
    met = 0
    for number in numbers:
        done, found = outcome(prepare, tmp_path / "host", number)
        met += done.failed
        other = {part: parted(wanted[part], found[part]) for part in wanted}
        assert not any(other.values()), (number, other, done.ran.err)
    assert met > 3
