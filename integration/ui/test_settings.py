"""Options, environment and configuration; standard output and error; `--lock-timeout`."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hvtx.api.settings import settings
from integration import lab
from integration.lab import witness
from integration.lab.program import Program
from integration.lab.verbs import create, ended, hvtx, network, state, stopped

__all__ = ["hvtx"]  # the fixture


def test_flag_beats_environment_beats_file_beats_default(hvtx: Program, tmp_path: Path) -> None:
    config = tmp_path / "hvtx.toml"
    places = {name: tmp_path / name for name in ("flag", "environment", "file")}
    config.write_text(
        f'state_dir = "{places["file"]}"\nrun_dir = "{tmp_path / "run"}"\nlock_timeout = 0\nfirewall = "iptables"\n'
    )
    argv = ("network", "create", "net", "--subnet", "10.77.0.0/24", "--json")
    three = {"HVTX_STATE_DIR": "", "HVTX_RUN_DIR": "", "HVTX_CONFIG": "/nonexistent"}

    def fresh(*options: str, **environment: str) -> dict[str, Any]:
        made = hvtx(*options, *argv, **{**three, **environment}).json()
        hvtx(*options, "network", "rm", "net", **{**three, **environment})
        return made

    assert fresh("--config", str(config))["firewall"] == "iptables"
    assert [places["file"].exists(), places["environment"].exists()] == [True, False]
    made = fresh(
        "--config", str(config), HVTX_STATE_DIR=str(places["environment"]), HVTX_FIREWALL="nftables"
    )
    assert made["firewall"] == "nftables"
    assert [places["environment"].exists(), places["flag"].exists()] == [True, False]
    made = fresh("--state-dir", str(places["flag"]), "--firewall", "iptables", HVTX_CONFIG=str(config),
                 HVTX_STATE_DIR=str(places["environment"]), HVTX_FIREWALL="nftables")  # fmt: skip
    assert made["firewall"] == "iptables"
    assert places["flag"].exists()


def test_a_configured_lock_timeout_of_zero_counts(hvtx: Program, tmp_path: Path) -> None:
    """0 in the file is a value, not an absence."""
    network(hvtx)
    create(hvtx)
    config = tmp_path / "zero.toml"
    config.write_text("lock_timeout = 0\n")
    run = stopped(hvtx, "intended", "vm", "start", "web")
    assert settings({"config": str(config)}).lock_timeout == 0, "10 is the default"
    try:
        hvtx("--config", str(config), "vm", "stop", "web", code=75)
    finally:
        ended(run, signal.SIGKILL)
    hvtx("recover")


def test_relative_directories(
    hvtx: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hvtx(
        "--state-dir",
        "a/b",
        "--run-dir",
        "c",
        "network",
        "create",
        "net",
        "--subnet",
        "10.77.0.0/24",
    )
    assert (tmp_path / "a/b/hvtx.db").exists()
    hvtx("--state-dir", "a/b", "--run-dir", "c", "network", "rm", "net")


def test_busy(hvtx: Program) -> None:
    """75 once the lock timeout is over, with JSON errors too; free again when the holder ends."""
    network(hvtx)
    create(hvtx)
    run = stopped(hvtx, "intended", "vm", "start", "web")
    try:
        with witness.unchanged():
            for argv in (("stop", "web"), ("rm", "web", "--force")):
                ran = hvtx("--lock-timeout", "0.2", "vm", *argv, code=75)
                assert ran.err.startswith("error: ")
                assert "web" in ran.err
            assert "is starting" in hvtx("vm", "start", "web", code=4).err
            ran = hvtx("vm", "stop", "web", "--json", code=75, HVTX_LOCK_TIMEOUT="0")
            assert json.loads(ran.err)["error"]["code"] == "busy"
            hvtx("--lock-timeout", "0.2", "network", "rm", "net", code=75)
        assert state(hvtx) == "starting"
        assert {i["reason"] for i in hvtx.plan().get(("skip", "operation-running"), [])} == {
            "operation-running"
        }
        hvtx("gc", "--apply")
        hvtx("recover")
    finally:
        ended(run, signal.SIGCONT)
    assert run.returncode == 0
    assert state(hvtx) == "running"
    hvtx("vm", "stop", "web", "--timeout", "1")


def test_waiting_is_worth_it(hvtx: Program) -> None:
    """A second start waits for the first, and then sees a running VM."""
    network(hvtx)
    create(hvtx)
    run = stopped(hvtx, "intended", "vm", "start", "web")
    second = subprocess.Popen(
        [sys.executable, "-m", "hvtx", "vm", "start", "web"],
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    ended(run, signal.SIGCONT)
    _, err = second.communicate(timeout=60)
    assert (second.returncode, err.startswith(b"error: ")) == (4, True)


def test_python_m_and_the_script_are_one(hvtx: Program) -> None:
    script = Path(sys.executable).with_name("hvtx")
    for argv in (["--version"], ["--help"], ["vm", "--help"], ["gc", "--help"]):
        one = subprocess.run([sys.executable, "-m", "hvtx", *argv], capture_output=True, check=True)
        assert one.stdout
        assert one.stderr == b""
        if script.exists():
            assert (
                subprocess.run([script, *argv], capture_output=True, check=True).stdout
                == one.stdout
            )
    bare = subprocess.run([sys.executable, "-m", "hvtx"], capture_output=True, check=False)
    assert bare.returncode == 2


def test_results_and_errors_keep_to_their_streams(hvtx: Program) -> None:
    network(hvtx)
    ran = hvtx("vm", "show", "web", "--json", code=3)
    assert ran.out == ""
    error = json.loads(ran.err)
    assert set(error) == {"error"}
    assert set(error["error"]) == {"code", "message", "hint"}
    plain = hvtx("vm", "show", "web", code=3)
    assert (plain.out, plain.err.splitlines()[0]) == ("", f"error: {error['error']['message']}")
    loud = hvtx("-v", "vm", "ls", "--json")
    json.loads(loud.out)
    assert "Traceback" in hvtx("--debug", "vm", "show", "web", code=3).err
    assert "Traceback" not in plain.err
    usage = hvtx("vm", "start", "--json", "--nonsense", "web", code=2)
    assert json.loads(usage.err)["error"]["code"] == "usage"
    # a word of the guest's command is none of ours
    ran = hvtx("vm", "create", "BAD", "--", "prog", "--json", code=2)
    assert ran.err.startswith("error: ")


def test_nothing_is_coloured_in_a_pipe_or_against_a_request(hvtx: Program) -> None:
    """Escape sequences only on a terminal without NO_COLOR."""
    network(hvtx)
    create(hvtx)
    lab.end(hvtx("vm", "start", "web", "--json").json()["pid"])
    for argv in (
        ("vm", "ls"),
        ("network", "ls"),
        ("gc", "--plan"),
        ("log",),
        ("vm", "show", "web"),
    ):
        assert "\x1b" not in hvtx(*argv).out

    def on_a_terminal(*argv: str, **environment: str) -> str:
        master, slave = pty.openpty()
        run = subprocess.Popen(
            [sys.executable, "-m", "hvtx", *argv], stdin=subprocess.DEVNULL, stdout=slave, stderr=slave,
            env={**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, "TERM": "xterm", **environment},
        )  # fmt: skip
        os.close(slave)
        text = b""
        while True:
            try:
                text += os.read(master, 65536)
            except OSError:
                break
        run.wait()
        os.close(master)
        return text.decode()

    assert "\x1b[" in on_a_terminal("gc", "--plan")
    for argv in (("gc", "--plan"), ("vm", "ls"), ("vm", "show", "nobody")):
        coloured = re.findall(r"\x1b\[[0-9;]*m", on_a_terminal(*argv, NO_COLOR="1"))
        assert [c for c in coloured if re.search(r"[349]\d", c)] == []
    json.loads(on_a_terminal("vm", "ls", "--json"))


def test_pipes_that_are_closed_early(hvtx: Program) -> None:
    """`| head -1` ends quietly; a closed or full standard output is told."""
    network(hvtx)
    for number in range(40):
        create(hvtx, f"web{number}")
    python = f"{sys.executable} -m hvtx"
    for command in (
        "vm ls",
        "vm ls --json",
        "gc --plan --json",
        "log",
        "network ls",
        "log --json -n 5000",
    ):
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {python} {command} | true"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.stderr == "", (command, done)
        assert done.returncode in (0, 141), (command, done)
    for where in (">&-", "2>&-", ">&- 2>&-", "<&-", ">/dev/full"):
        done = subprocess.run(
            ["bash", "-c", f"{python} vm ls {where}"], capture_output=True, text=True, check=False
        )
        assert "Traceback" not in done.stderr, (where, done.stderr)
