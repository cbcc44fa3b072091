"""A limit on the size of files (`ulimit -f`): named by every verb, and nothing ends in the middle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from integration import lab
from integration.crash.test_failpoints import SLEEP, end_everything
from integration.lab.program import Program, Ran

LIFT = "`ulimit -f unlimited`"
READING = (
    ("vm", "ls"), ("vm", "show", "web"), ("vm", "logs", "web"), ("network", "ls"),
    ("network", "show", "net"), ("gc", "--plan"), ("log",), ("intents",), ("metrics",),
    ("explain", "10.77.0.2"),
)  # fmt: skip
CHANGING = (
    ("vm", "set", "web", "--autostart"), ("vm", "stop", "web"), ("gc", "--apply"), ("recover",),
    ("vm", "run", "two", "--network", "net", *SLEEP), ("vm", "rm", "web", "--force"),
    ("network", "create", "other", "--subnet", "10.78.0.0/24"), ("repair",),
)  # fmt: skip


def limited(size: int, *argv: str, **environment: str) -> Ran:
    """Run the program where no file may get larger than ``size`` bytes."""
    done = subprocess.run(
        ["prlimit", f"--fsize={size}", sys.executable, "-m", "hvtx", *argv],
        capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )  # fmt: skip
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def hvtx() -> Program:
    """A network and a VM that runs."""
    program = Program(HVTX_FIREWALL="nftables")
    program("network", "create", "net", "--subnet", "10.77.0.0/24")
    program("vm", "run", "web", "--network", "net", *SLEEP)
    return program


@pytest.mark.parametrize("size", [0, 8192])
def test_every_verb_names_the_limit_and_changes_nothing(hvtx: Program, size: int) -> None:
    """Of SQLite's "disk I/O error" nobody learns what to do."""
    before = lab.dump()
    for argv in (*READING, *CHANGING):
        ran = limited(size, *argv, HVTX_FIREWALL="nftables")
        assert ran.code == 7, (argv, ran)
        assert ran.err.count("\n") == 2, (argv, ran)
        assert f"no file larger than {size} bytes (RLIMIT_FSIZE)" in ran.err, (argv, ran)
        assert LIFT in ran.err, (argv, ran)
    findings = json.loads(limited(size, "doctor", "--json").out)["findings"]
    store = [f for f in findings if f["check"] == "store"]
    assert [(f["level"], "RLIMIT_FSIZE" in f["message"]) for f in store] == [("error", True)]
    assert lab.difference(before, lab.dump()) == ""
    assert hvtx.vm("web")["state"] == "running"
    assert hvtx.is_clean()
    end_everything(hvtx)


def test_what_meets_the_limit_in_the_middle_is_carried_through(hvtx: Program) -> None:
    """The log of the store grows until it may not: the command says so, `recover` ends it."""
    met = set[str]()
    for size in range(36 << 10, 200 << 10, 24 << 10):
        for argv in (("vm", "stop", "web"), ("vm", "start", "web")):
            ran = limited(size, *argv, HVTX_FIREWALL="nftables")
            assert ran.code in (0, 4, 7), (size, argv, ran)
            assert "Traceback" not in ran.err, (size, argv, ran)
            if ran.code == 7:
                met.add(argv[1])
                assert "RLIMIT_FSIZE" in ran.err, (size, argv, ran)
                assert LIFT in ran.err, (size, argv, ran)
                assert "then run `hvtx recover`" in ran.err or "intents" in ran.err, (size, ran)
            hvtx("recover")
            assert hvtx.is_clean(), (size, argv, ran)
    assert met == {"start", "stop"}
    end_everything(hvtx)


def test_a_file_of_the_callers_that_is_too_large(hvtx: Program, tmp_path: Path) -> None:
    """A backup and standard output: what is told is about them."""
    room = 100 << 10  # the store's own files stay below it
    hvtx("vm", "ls")
    ran = limited(room, "store", "backup", str(tmp_path / "copy"))
    assert ran.code == 1, ran
    assert f"{tmp_path}/copy cannot be written: File too large" in ran.err
    assert LIFT in ran.err
    assert not [name for name in os.listdir(tmp_path) if "copy" in name]
    with (tmp_path / "out").open("wb") as out:
        out.write(bytes(room))
        out.flush()
        done = subprocess.run(
            ["prlimit", f"--fsize={room}", sys.executable, "-m", "hvtx", "vm", "ls"],
            stdout=out, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert done.returncode == 1, done
    assert "standard output cannot be written: File too large" in done.stderr
    assert LIFT in done.stderr
    end_everything(hvtx)
