"""The interface, promise by promise, through the whole program: commands, states, exits, JSON, options."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hvtx.cli.settings import settings
from integration import lab, witness
from integration.program import Forked, Program, Ran, preload

BACKENDS = ["nftables", "iptables"]
SLEEP = ("--", "sleep", "600")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z\Z")
MARK = re.compile(r"hvtx:1:[a-z2-7]{10}:[0-9]+\.[a-z2-7]{16}\Z")
KINDS = {
    "tap",
    "bridge",
    "address",
    "masquerade",
    "publish",
    "filter",
    "lease",
    "process",
    "sysctl",
    "file",
}


@pytest.fixture
def hvtx() -> Iterator[Program]:
    """The program; VM processes that a test leaves are ended."""
    preload()
    program = Forked()
    yield program
    for vm in json.loads(program("vm", "ls", "--json", code=None).out or "{}").get("vms", []):
        if vm["pid"] and vm["hypervisor"] != "external":
            os.kill(vm["pid"], signal.SIGKILL)


def network(hvtx: Program, *more: str) -> None:
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24", *more)


def create(hvtx: Program, name: str = "web", *more: str) -> None:
    hvtx("vm", "create", name, "--network", "net", *more, *SLEEP)


def state(hvtx: Program, name: str = "web") -> str:
    word: str = hvtx.vm(name)["state"]
    return word


def is_alive(pid: int) -> bool:
    """Whether a process runs (one that nobody has waited for yet does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def conflict(hvtx: Program, *argv: str, code: int = 4) -> Ran:
    """A refusal in the wrong state, which changes nothing."""
    with witness.unchanged():
        ran = hvtx(*argv, code=code)
    assert ran.err.startswith("error: "), ran
    return ran


def stopped(hvtx: Program, point: str, *argv: str) -> subprocess.Popen[bytes]:
    """A run of the program that has stopped itself at a point of the protocol."""
    run = subprocess.Popen(
        [sys.executable, "-m", "hvtx", *argv],
        env={**os.environ, **hvtx.environment, "HVTX_FAILPOINT": f"{point}:stop"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    pid, status = os.waitpid(run.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), (pid, status, run.communicate())
    return run


def ended(run: subprocess.Popen[bytes], how: int) -> None:
    """Continue or kill a stopped run, and wait for its end."""
    os.kill(run.pid, how)
    run.communicate(timeout=60)


# -- JSON ------------------------------------------------------------------------------------------


def check_resources(resources: list[dict[str, Any]]) -> None:
    for resource in resources:
        assert set(resource) == {"kind", "key", "state", "mark"}
        assert resource["kind"] in KINDS
        assert resource["state"] in ("intended", "committed", "releasing")
        assert MARK.match(resource["mark"])


def test_the_object_of_a_vm(hvtx: Program) -> None:
    """`vm show --json` to the letter, defined and running; acting commands print the same."""
    network(hvtx)
    made = hvtx("vm", "create", "web", "--network", "net", "-p", "8080:80", "-p", "203.0.113.1:53:5353/udp",
                "--json", *SLEEP).json()  # fmt: skip
    assert made == hvtx.vm("web")
    assert {"schema", "name", "id", "state", "hypervisor", "pid", "interfaces", "resources"} <= set(
        made
    )
    assert (made["schema"], made["name"], made["state"]) == ("hvtx/vm/1", "web", "defined")
    assert (made["hypervisor"], made["pid"]) == ("command", None)
    (interface,) = made["interfaces"]
    ways = {"prefix", "gateway", "prefix6", "gateway6"}
    assert set(interface) == {"network", "device", "mac", "ipv4", "ipv6", "publish"} | ways
    assert (interface["network"], interface["device"]) == ("net", None)
    assert (interface["ipv4"], interface["ipv6"]) == ("10.77.0.2", None)
    assert re.match(r"02(:[0-9a-f]{2}){5}\Z", interface["mac"])
    assert interface["publish"] == [
        {"protocol": "tcp", "host_ip": None, "host_port": 8080, "guest_port": 80},
        {"protocol": "udp", "host_ip": "203.0.113.1", "host_port": 53, "guest_port": 5353},
    ]
    assert {r["kind"] for r in made["resources"]} == {"lease"}
    check_resources(made["resources"])
    started = hvtx("vm", "start", "web", "--json").json()
    assert started == hvtx.vm("web")
    assert started["state"] == "running"
    os.kill(started["pid"], 0)
    assert {k: v for k, v in started["interfaces"][0].items() if k != "device"} == {
        k: v for k, v in interface.items() if k != "device"
    }
    check_resources(started["resources"])
    assert {"tap", "publish", "masquerade", "filter", "lease", "process"} <= {
        r["kind"] for r in started["resources"]
    }
    listed = hvtx("vm", "ls", "--json").json()
    assert listed == {"schema": "hvtx/vms/1", "vms": [started]}
    assert hvtx("vm", "stop", "web", "--timeout", "1", "--json").json() == {**made}
    assert hvtx("vm", "rm", "web", "--json").json()["schema"].startswith("hvtx/")
    assert hvtx("vm", "ls", "--json").json() == {"schema": "hvtx/vms/1", "vms": []}


def test_the_object_of_a_network(hvtx: Program) -> None:
    made = hvtx("network", "create", "net", "--subnet", "fd77::/64", "--subnet", "10.77.0.0/24", "--isolate",
                "--no-nat", "--mtu", "1400", "--bridge", "br-mine", "--json").json()  # fmt: skip
    assert made == hvtx("network", "show", "net", "--json").json()
    assert set(made) == {
        "schema", "name", "id", "bridge", "subnets", "gateway", "nat", "isolate", "mtu", "firewall", "vms",
        "resources",
    }  # fmt: skip
    assert (made["schema"], made["name"], made["bridge"]) == ("hvtx/network/1", "net", "br-mine")
    assert sorted(made["subnets"]) == ["10.77.0.0/24", "fd77::/64"]
    assert sorted(made["gateway"]) == ["10.77.0.1", "fd77::1"]
    assert [s.split("/")[0][:4] for s in made["subnets"]] == [g[:4] for g in made["gateway"]]
    assert (made["nat"], made["isolate"], made["mtu"], made["vms"]) == (False, True, 1400, [])
    assert made["firewall"] in BACKENDS
    check_resources(made["resources"])
    assert {"bridge", "address", "filter"} <= {r["kind"] for r in made["resources"]}
    create(hvtx)
    assert hvtx("network", "show", "net", "--json").json()["vms"] == ["web"]
    listed = hvtx("network", "ls", "--json").json()
    assert (listed["schema"], [n["name"] for n in listed["networks"]]) == (
        "hvtx/networks/1",
        ["net"],
    )
    (link,) = json.loads(lab.run("ip", "-j", "-d", "link", "show", "br-mine"))
    assert link["mtu"] == 1400
    assert MARK.match(link["ifalias"])


def test_the_objects_of_an_empty_store(hvtx: Program) -> None:
    """A missing store reads as an empty one, and is not made by reading."""
    assert hvtx("vm", "ls", "--json").json() == {"schema": "hvtx/vms/1", "vms": []}
    assert hvtx("network", "ls", "--json").json() == {"schema": "hvtx/networks/1", "networks": []}
    assert hvtx("intents", "--json").json() == {"schema": "hvtx/intents/1", "operations": []}
    assert hvtx("log", "--json").json() == {"schema": "hvtx/log/1", "entries": []}
    plan = hvtx("gc", "--plan", "--json").json()
    assert (plan["schema"], plan["items"], plan["applied"], plan["refused"]) == (
        "hvtx/gc/1",
        [],
        False,
        None,
    )
    assert plan["summary"] == {"delete": 0, "commit": 0, "forget": 0, "skip": 0}
    hvtx("gc", "--plan", "--detailed-exitcode")
    for argv in (("vm", "show", "web"), ("network", "show", "net"), ("vm", "logs", "web")):
        hvtx(*argv, code=3)
    for argv in (("vm", "ls"), ("network", "ls"), ("intents",), ("log",), ("gc", "--plan")):
        hvtx(*argv)
    assert not Path(os.environ["HVTX_STATE_DIR"]).exists()
    assert not Path(os.environ["HVTX_RUN_DIR"]).exists()


def test_the_objects_of_intents_and_log(hvtx: Program) -> None:
    network(hvtx)
    create(hvtx)
    run = stopped(hvtx, "acted:tap", "vm", "start", "web")
    try:
        (operation,) = hvtx("intents", "--json").json()["operations"]
        assert {"id", "verb", "vm", "state", "since", "resources"} <= set(operation)
        assert (operation["verb"], operation["vm"], operation["state"]) == (
            "start",
            "web",
            "running",
        )
        assert TIME.match(operation["since"])
        check_resources(operation["resources"])
        assert {r["state"] for r in operation["resources"]} == {"intended"}
        assert state(hvtx) == "starting"
    finally:
        ended(run, signal.SIGKILL)
    (operation,) = hvtx("intents", "--json").json()["operations"]
    assert operation["state"] == "interrupted"
    assert "tap" in hvtx("intents").out
    hvtx("recover")
    assert hvtx("intents", "--json").json()["operations"] == []
    log = hvtx("log", "--json").json()
    assert log["schema"] == "hvtx/log/1"
    for entry in log["entries"]:
        assert set(entry) == {
            "time", "operation", "verb", "vm", "kind", "key", "event", "reason", "message",
        }  # fmt: skip
        assert TIME.match(entry["time"])
    assert [e["time"] for e in log["entries"]] == sorted(e["time"] for e in log["entries"])
    of_web = hvtx("log", "--vm", "web", "--json").json()["entries"]
    assert of_web
    assert {e["vm"] for e in of_web} == {"web"}
    assert len(hvtx("log", "-n", "2", "--json").json()["entries"]) == 2
    assert hvtx("log", "-n", "2", "--json").json()["entries"] == log["entries"][-2:]


def test_the_object_of_a_plan(hvtx: Program) -> None:
    network(hvtx)
    create(hvtx, "web", "-p", "8080:80")
    lab.end(hvtx("vm", "start", "web", "--json").json()["pid"])
    ran = hvtx("gc", "--plan", "--json", "--detailed-exitcode", code=2)
    plan = ran.json()
    assert set(plan) == {
        "schema", "plan_id", "made", "applied", "refused", "epoch", "items", "summary"
    }  # fmt: skip
    assert set(plan["epoch"]) == {"boot_id", "netns"}
    assert plan["epoch"]["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    for item in plan["items"]:
        assert {
            "action",
            "reason",
            "kind",
            "key",
            "vm",
            "record",
            "evidence",
            "message",
            "outcome",
        } <= set(item)
        assert item["outcome"] is None
        assert item["record"] is None or set(item["record"]) == {"id", "state"}
        assert isinstance(item["evidence"], list)
        assert item["message"]
    counts = dict.fromkeys(("delete", "commit", "forget", "skip"), 0)
    for item in plan["items"]:
        counts[item["action"]] += 1
    assert plan["summary"] == counts
    (tap,) = [i for i in plan["items"] if i["kind"] == "tap"]
    assert (tap["action"], tap["reason"], tap["vm"]) == ("delete", "vm-dead", "web")
    assert (tap["record"]["state"]) == "committed"
    reserved = {i["kind"] for i in plan["items"] if i["reason"] == "reserved"}
    assert {"bridge", "lease"} <= reserved
    assert hvtx("gc", "--plan", "--json").json()["plan_id"] == plan["plan_id"]
    applied = hvtx("gc", "--apply", "--json").json()
    assert applied["applied"] is True
    assert {i["outcome"] for i in applied["items"] if i["action"] == "delete"} == {"done"}
    assert {i["outcome"] for i in applied["items"] if i["action"] == "skip"} == {"skipped"}
    assert hvtx.is_clean()


# -- options, environment, configuration ---------------------------------------------------------


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


# -- verbs in each state ---------------------------------------------------------------------------


def test_defined(hvtx: Program) -> None:
    network(hvtx)
    before = lab.dump()
    create(hvtx)
    assert lab.difference(before, lab.dump()) == "", "create touches no kernel object"
    assert state(hvtx) == "defined"
    with witness.unchanged():
        hvtx("vm", "stop", "web")
        hvtx("vm", "stop", "web", "--force")
    conflict(hvtx, "vm", "attach", "web", "--pid", str(os.getpid()))
    conflict(hvtx, "vm", "console", "web")
    conflict(hvtx, "vm", "create", "web", "--network", "net", *SLEEP)
    conflict(hvtx, "vm", "run", "web", "--network", "net", *SLEEP)
    conflict(hvtx, "network", "rm", "net")
    assert hvtx("vm", "logs", "web", code=3).err.startswith("error: ")
    hvtx("vm", "rm", "web")
    assert lab.difference(before, lab.dump()) == ""


def test_running(hvtx: Program) -> None:
    network(hvtx)
    create(hvtx)
    started = hvtx("vm", "start", "web", "--json").json()
    for argv in (
        ("vm", "start", "web"), ("vm", "rm", "web"), ("vm", "attach", "web", "--pid", str(os.getpid())),
        ("vm", "run", "web", "--network", "net", *SLEEP), ("network", "rm", "net"),
    ):  # fmt: skip
        conflict(hvtx, *argv)
    os.kill(started["pid"], 0)
    hvtx("vm", "rm", "web", "--force")
    hvtx("vm", "show", "web", code=3)
    assert not is_alive(started["pid"])
    assert hvtx.is_clean()


def test_crashed(hvtx: Program) -> None:
    network(hvtx)
    create(hvtx)
    before = lab.dump()

    def crash() -> None:
        lab.end(hvtx("vm", "start", "web", "--json").json()["pid"])
        shown = hvtx.vm("web")
        assert (shown["state"], shown["pid"]) == ("crashed", None)
        assert [r for r in shown["resources"] if r["kind"] == "tap"]

    crash()
    conflict(hvtx, "vm", "rm", "web")
    conflict(hvtx, "network", "rm", "net")
    hvtx("vm", "stop", "web")
    assert (state(hvtx), lab.difference(before, lab.dump())) == ("defined", "")
    crash()
    assert hvtx("vm", "start", "web", "--json").json()["state"] == "running"
    hvtx("vm", "stop", "web", "--force")
    crash()
    hvtx("vm", "rm", "web", "--force")
    assert lab.difference(before, lab.dump()) == ""
    assert hvtx.is_clean()


def test_unknown(hvtx: Program) -> None:
    """A started `external` VM without a process."""
    network(hvtx)
    hvtx("vm", "create", "ext", "--network", "net", "--hypervisor", "external")
    before = lab.dump()
    shown = hvtx("vm", "start", "ext", "--json").json()
    assert (shown["state"], shown["pid"]) == ("unknown", None)
    for argv in (("vm", "start", "ext"), ("vm", "rm", "ext")):
        conflict(hvtx, *argv)
    conflict(hvtx, "vm", "attach", "ext", "--pid", "2147483646", code=3)
    assert {
        i["reason"] for i in hvtx("gc", "--plan", "--json").json()["items"] if i["kind"] == "tap"
    } == {"liveness-unknown"}
    hvtx("gc", "--apply")
    assert state(hvtx, "ext") == "unknown"
    hvtx("vm", "stop", "ext")
    assert (state(hvtx, "ext"), lab.difference(before, lab.dump())) == ("defined", "")


def test_an_attached_process(hvtx: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not signalled without --force; with it, TERM and then KILL."""
    for module in ("commands.vm_stop", "drivers.vm_process.gate", "drivers.vm_process.stop"):
        monkeypatch.setattr(f"hvtx.{module}.TERM_SECONDS", 0.5)
    network(hvtx)
    hvtx("vm", "create", "ext", "--network", "net", "--hypervisor", "external")
    stubborn = [
        sys.executable,
        "-c",
        "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)",
    ]
    guests = [subprocess.Popen(["sleep", "600"]), subprocess.Popen(stubborn)]
    try:
        for guest in guests:
            hvtx("vm", "start", "ext")
            attached = hvtx("vm", "attach", "ext", "--pid", str(guest.pid), "--json").json()
            assert (attached["state"], attached["pid"]) == ("running", guest.pid)
            for argv in (
                ("start", "ext"),
                ("rm", "ext"),
                ("stop", "ext"),
                ("attach", "ext", "--pid", str(guest.pid)),
            ):
                conflict(hvtx, "vm", *argv)
            assert guest.poll() is None
            hvtx("vm", "stop", "ext", "--force")
            assert guest.wait(30) in (-signal.SIGTERM, -signal.SIGKILL)
            assert state(hvtx, "ext") == "defined"
    finally:
        for guest in guests:
            guest.kill()
            guest.wait()


def test_a_process_runs_one_vm(hvtx: Program) -> None:
    """Attached to a second one it would outlive what is collected for the first."""
    network(hvtx)
    create(hvtx)
    pid = hvtx("vm", "start", "web", "--json").json()["pid"]
    hvtx("vm", "create", "ext", "--network", "net", "--hypervisor", "external")
    hvtx("vm", "start", "ext")
    assert "'web'" in conflict(hvtx, "vm", "attach", "ext", "--pid", str(pid)).err
    assert state(hvtx, "ext") == "unknown"
    hvtx("vm", "rm", "ext", "--force")


def test_a_vm_with_nothing_to_run(hvtx: Program) -> None:
    """It has its leases and ports like any other; it cannot be started, and that makes nothing."""
    network(hvtx)
    hvtx("vm", "create", "bare", "--network", "net", "-p", "8080:80")
    assert hvtx.vm("bare")["interfaces"][0]["ipv4"] == "10.77.0.2"
    assert "--kernel" in conflict(hvtx, "vm", "start", "bare", code=3).err
    conflict(hvtx, "vm", "run", "other", "--network", "net", code=3)
    assert state(hvtx, "bare") == "defined"


def test_an_interrupted_start_is_started(hvtx: Program) -> None:
    """Not alive: undone and started again, in one step; alive: completed, by start (4) or recover."""
    network(hvtx)
    create(hvtx)
    hvtx("vm", "start", "web", code=-9, HVTX_FAILPOINT="acted:tap:kill")
    assert state(hvtx) == "crashed"
    hvtx("vm", "start", "web")
    hvtx("vm", "stop", "web", "--timeout", "1")
    hvtx("vm", "start", "web", code=-9, HVTX_FAILPOINT="up:kill")
    assert state(hvtx) == "running"
    assert ("commit", "in-use-before-commit") in hvtx.plan()
    hvtx("vm", "start", "web", code=4)
    assert {r["state"] for r in hvtx.vm("web")["resources"]} == {"committed"}
    assert hvtx.is_clean()


def test_a_stop_that_waits(hvtx: Program) -> None:
    """TERM is given its time; --force does not wait."""
    network(hvtx)
    polite = "trap 'echo polite; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    hvtx("vm", "create", "web", "--network", "net", "--", "sh", "-c", polite)
    hvtx("vm", "start", "web")
    _until(lambda: "up" in hvtx("vm", "logs", "web").out)
    hvtx("vm", "stop", "web")
    assert "polite" in hvtx("vm", "logs", "web").out
    stubborn = "trap '' TERM; echo stubborn; while :; do sleep 0.05; done"
    hvtx("vm", "run", "two", "--network", "net", "--", "sh", "-c", stubborn)
    _until(lambda: "stubborn" in hvtx("vm", "logs", "two").out)
    hvtx("vm", "stop", "two", "--timeout", "0.5")
    assert state(hvtx, "two") == "defined"


def _until(condition: Any) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come")


def test_a_run_that_fails_leaves_nothing(hvtx: Program, tmp_path: Path) -> None:
    network(hvtx)
    program = tmp_path / "program"
    program.write_text("#!/nonexistent\n")
    program.chmod(0o755)
    with witness.undone():
        ran = hvtx(
            "vm", "run", "web", "--network", "net", "-p", "8080:80", "--", str(program), code=6
        )
        assert "hint: " in ran.err
        hvtx(
            "vm",
            "run",
            "web",
            "--network",
            "net",
            *SLEEP,
            code=6,
            HVTX_FAILPOINT="acted:filter:error",
        )
    hvtx("vm", "logs", "web", code=3)
    assert hvtx.is_clean()
    hvtx("vm", "run", "web", "--network", "net", "-p", "8080:80", *SLEEP)


def test_the_hint_of_a_failed_start_carries_the_log(hvtx: Program, tmp_path: Path) -> None:
    """A hypervisor that says why it ends: its last lines are in the hint."""
    fake = tmp_path / "bin" / "qemu-system-x86_64"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho the disk is on fire >&2\nexit 1\n")
    fake.chmod(0o755)
    kernel = tmp_path / "kernel"
    kernel.write_text("")
    network(hvtx)
    hvtx("vm", "create", "web", "--network", "net", "--kernel", str(kernel))
    path = f"{fake.parent}:{os.environ['PATH']}"
    with witness.undone():
        ran = hvtx("vm", "start", "web", code=6, PATH=path, HVTX_QEMU_ACCEL="tcg")
    assert "on fire" in ran.err.split("hint: ")[1]
    assert "on fire" in hvtx("vm", "logs", "web").out


def test_qemu_is_told_its_address(hvtx: Program, tmp_path: Path) -> None:
    """console= and ip= are appended unless --append has its own; placeholders work there too."""
    kernel = tmp_path / "kernel"
    kernel.write_text("")
    fake = tmp_path / "bin" / "qemu-system-x86_64"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nfor word; do echo "<$word>"; done\nexit 1\n')
    fake.chmod(0o755)
    network(hvtx)
    path = f"{fake.parent}:{os.environ['PATH']}"
    for name, append in (("one", None), ("two", "quiet who={vm}/{ip}/{mac}/{gateway}/{netmask}/{tap}"),
                         ("three", "console=tty1 ip=dhcp")):  # fmt: skip
        more = ("--append", append) if append else ()
        hvtx("vm", "create", name, "--network", "net", "--kernel", str(kernel), *more)
        hvtx("vm", "start", name, code=6, PATH=path, HVTX_QEMU_ACCEL="tcg")
    lines = {n: hvtx("vm", "logs", n).out.splitlines() for n in ("one", "two", "three")}
    said = {
        n: words[words.index("<-append>") + 1].strip("<>").split() for n, words in lines.items()
    }
    assert {"console=ttyS0", "ip=10.77.0.2::10.77.0.1:255.255.255.0:one::off"} <= set(said["one"])
    mac = hvtx.vm("two")["interfaces"][0]["mac"]
    who = next(word for word in said["two"] if word.startswith("who="))
    assert who.rpartition("/")[0] == f"who=two/10.77.0.3/{mac}/10.77.0.1/255.255.255.0"
    assert re.match(r"hv[a-z2-7]+\Z", who.rpartition("/")[2])
    assert {"quiet", "console=ttyS0", "ip=10.77.0.3::10.77.0.1:255.255.255.0:two::off"} <= set(
        said["two"]
    )
    assert {"console=tty1", "ip=dhcp"} <= set(said["three"])
    assert not [w for w in said["three"] if w.startswith("ip=10") or w == "console=ttyS0"]


def test_what_a_command_is_told(hvtx: Program) -> None:
    """Environment and placeholders, of every interface; other braces and line breaks stay."""
    hvtx("network", "create", "one", "--subnet", "10.77.0.0/24")
    hvtx("network", "create", "two", "--subnet", "10.78.0.0/25", "--subnet", "fd78::/64")
    script = 'env | grep ^HVTX_ | sort\nfor word in "$@"; do echo "<$word>"; done; exec sleep 600'
    hvtx("vm", "run", "web", "--network", "one", "--network", "two", "--", "sh", "-c", script, "sh",
         "{vm} {tap} {mac} {ip} {gateway} {netmask}", "{tap_2} {mac_2} {ip_2} {gateway_2} {netmask_2}",
         "{ip6_2}", "{nothing} {} {{vm}} ${HOME} %s", HVTX_TAP_3="stale")  # fmt: skip
    _until(lambda: "<{nothing}" in hvtx("vm", "logs", "web").out)
    log = hvtx("vm", "logs", "web").out
    first, second = hvtx.vm("web")["interfaces"]
    told = dict(line.split("=", 1) for line in log.splitlines() if line.startswith("HVTX_"))
    expected = {
        "HVTX_VM": "web", "HVTX_TAP": first["device"], "HVTX_MAC": first["mac"], "HVTX_IP": "10.77.0.2",
        "HVTX_GATEWAY": "10.77.0.1", "HVTX_NETMASK": "255.255.255.0", "HVTX_TAP_2": second["device"],
        "HVTX_MAC_2": second["mac"], "HVTX_IP_2": "10.78.0.2", "HVTX_GATEWAY_2": "10.78.0.1",
        "HVTX_NETMASK_2": "255.255.255.128", "HVTX_IP6_2": "fd78::2", "HVTX_GATEWAY6_2": "fd78::1",
    }  # fmt: skip
    assert expected.items() <= told.items()
    assert "HVTX_TAP_3" not in told
    assert f"<web {first['device']} {first['mac']} 10.77.0.2 10.77.0.1 255.255.255.0>" in log
    assert f"<{second['device']} {second['mac']} 10.78.0.2 10.78.0.1 255.255.255.128>" in log
    assert "<fd78::2>" in log
    assert "<{nothing} {} {web} ${HOME} %s>" in log


# -- names, leases, ports -------------------------------------------------------------------------


def test_names_of_devices(hvtx: Program) -> None:
    """At most 15 characters, begin with hv, 50 and more random bits, the mark in the alias."""
    network(hvtx)
    seen = set()
    for _ in range(3):
        hvtx("vm", "run", "web", "--network", "net", *SLEEP)
        device = hvtx.device("web")
        assert re.match(r"hv[a-z2-7]{10,13}\Z", device)
        seen.add(device)
        (link,) = json.loads(lab.run("ip", "-j", "-d", "link", "show", device))
        (tap,) = [r for r in hvtx.vm("web")["resources"] if r["kind"] == "tap"]
        assert (link["ifalias"], tap["key"]) == (tap["mark"], device)
        assert link["master"] == hvtx("network", "show", "net", "--json").json()["bridge"]
        hvtx("vm", "rm", "web", "--force")
    assert len(seen) == 3
    bridge = hvtx("network", "show", "net", "--json").json()["bridge"]
    assert re.match(r"hv(br)?[a-z2-7]{10,13}\Z", bridge)
    assert len(bridge) <= 15


def test_leases_are_stable(hvtx: Program) -> None:
    """Through start, stop, crash and gc; freed by rm."""
    network(hvtx, "--subnet", "fd77::/64")
    create(hvtx, "a")
    create(hvtx, "b")
    was = [hvtx.vm(n)["interfaces"] for n in "ab"]
    for how in ("stop", "crash"):
        for name in "ab":
            pid = hvtx("vm", "start", name, "--json").json()["pid"]
            lab.end(pid) if how == "crash" else hvtx("vm", "stop", name, "--force")
        hvtx("gc", "--apply")
        assert [hvtx.vm(n)["interfaces"] for n in "ab"] == was
    assert [was[0][0]["ipv4"], was[1][0]["ipv4"]] == ["10.77.0.2", "10.77.0.3"]
    assert [was[0][0]["ipv6"], was[1][0]["ipv6"]] == ["fd77::2", "fd77::3"]
    hvtx("vm", "rm", "a")
    create(hvtx, "c", "--ip", "10.77.0.2", "--ip", "fd77::2", "--mac", was[0][0]["mac"])


def test_several_networks(hvtx: Program) -> None:
    """The nth --ip of a family and the nth --mac belong to the nth network, --publish to the first."""
    hvtx("network", "create", "one", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
    hvtx("network", "create", "two", "--subnet", "10.78.0.0/24", "--subnet", "fd78::/64")
    hvtx("vm", "create", "web", "--network", "one", "--network", "two", "--ip", "10.77.0.9", "--ip", "fd77::9",
         "--ip", "fd78::8", "--ip", "10.78.0.8", "--mac", "02:00:00:00:00:01", "--mac", "02:00:00:00:00:02",
         "-p", "8080:80", *SLEEP)  # fmt: skip
    first, second = hvtx("vm", "start", "web", "--json").json()["interfaces"]
    assert [first[k] for k in ("network", "ipv4", "ipv6", "mac")] == [
        "one", "10.77.0.9", "fd77::9", "02:00:00:00:00:01",
    ]  # fmt: skip
    assert [second[k] for k in ("network", "ipv4", "ipv6", "mac")] == [
        "two", "10.78.0.8", "fd78::8", "02:00:00:00:00:02",
    ]  # fmt: skip
    assert (len(first["publish"]), second["publish"]) == (1, [])
    masters = {
        link["ifname"]: link.get("master") for link in json.loads(lab.run("ip", "-j", "link"))
    }
    bridges = [hvtx("network", "show", n, "--json").json()["bridge"] for n in ("one", "two")]
    assert [masters[first["device"]], masters[second["device"]]] == bridges
    hvtx("vm", "stop", "web", "--force")


def test_a_small_subnet_is_full_in_the_end(hvtx: Program) -> None:
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/30")
    create(hvtx, "one")
    assert hvtx.vm("one")["interfaces"][0]["ipv4"] == "10.77.0.2"
    conflict(hvtx, "vm", "create", "two", "--network", "net", *SLEEP)


def test_the_largest_mtu_works(hvtx: Program) -> None:
    """Whatever --mtu a network takes, its guests get."""
    for mtu in ("576", "9000", "65521", "65535"):
        ran = hvtx("network", "create", "net", "--subnet", "10.77.0.0/24", "--mtu", mtu, code=None)
        if ran.code == 0:
            hvtx("vm", "run", "web", "--network", "net", *SLEEP)
            (link,) = json.loads(lab.run("ip", "-j", "link", "show", hvtx.device("web")))
            assert link["mtu"] == int(mtu)
            hvtx("vm", "rm", "web", "--force")
            hvtx("network", "rm", "net")
        else:
            assert ran.code == 2, ran


# -- networks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("firewall", BACKENDS)
def test_default_is_made_at_first_use(hvtx: Program, firewall: str) -> None:
    """From a free private /24, as an operation of its own before the VM's."""
    lab.run("ip", "link", "add", "other0", "type", "bridge")
    lab.run("ip", "addr", "add", "10.77.0.5/16", "dev", "other0")
    lab.run("ip", "link", "set", "other0", "up")
    witness.settle()
    if firewall == "iptables":  # the kernel keeps a legacy table that was once looked at
        for table in ("nat", "filter", "mangle"):
            lab.run("iptables-legacy", "-t", table, "-S")
    witness.settle()
    before = lab.dump()
    hvtx("--firewall", firewall, "vm", "create", "web", *SLEEP)
    made = hvtx("network", "show", "default", "--json").json()
    assert (made["vms"], made["nat"], made["isolate"], made["firewall"]) == (
        ["web"],
        True,
        False,
        firewall,
    )
    (subnet,) = made["subnets"]
    assert subnet.endswith("/24")
    assert not subnet.startswith("10.77.")
    verbs = [e["verb"] for e in hvtx("log", "--json").json()["entries"]]
    assert verbs.index("create") > verbs.index("network-create")
    hvtx("vm", "create", "two", "--network", "default", *SLEEP)
    for name in ("web", "two"):
        hvtx("vm", "rm", name)
    hvtx("network", "rm", "default")
    assert lab.difference(before, lab.dump()) == ""


def test_ip_forward_is_recorded_and_left_on(hvtx: Program) -> None:
    setting = Path("/proc/sys/net/ipv4/ip_forward")
    setting.write_text("0")
    network(hvtx)
    assert setting.read_text().strip() == "1"
    assert "sysctl" in {e["kind"] for e in hvtx("log", "--json").json()["entries"]}
    hvtx("network", "rm", "net")
    assert setting.read_text().strip() == "1"
    assert hvtx.is_clean()


def test_a_network_keeps_its_backend(hvtx: Program) -> None:
    hvtx("--firewall", "iptables", "network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx("--firewall", "nftables", "vm", "run", "web", "--network", "net", "-p", "80:80", *SLEEP)
    assert "10.77.0.2" in lab.run("iptables-legacy-save")
    hvtx("vm", "rm", "web", "--force")
    hvtx("--firewall", "nftables", "network", "rm", "net")


def test_a_network_removed_under_strangers(hvtx: Program) -> None:
    """Somebody else's device or address on the bridge: refused, nothing is changed."""
    network(hvtx, "--bridge", "br-mine")
    lab.run("ip", "link", "add", "veth0", "type", "veth", "peer", "veth1")
    lab.run("ip", "link", "set", "veth0", "master", "br-mine")
    assert "veth0" in conflict(hvtx, "network", "rm", "net").err
    lab.run("ip", "link", "del", "veth0")
    lab.run("ip", "addr", "add", "192.0.2.1/24", "dev", "br-mine")
    assert "192.0.2.1" in conflict(hvtx, "network", "rm", "net").err
    lab.run("ip", "addr", "del", "192.0.2.1/24", "dev", "br-mine")
    hvtx("network", "rm", "net")


# -- gc's saved plans --------------------------------------------------------------------------------


def crashed(hvtx: Program, name: str) -> None:
    hvtx("vm", "run", name, "--network", "net", *SLEEP)
    lab.end(hvtx.vm(name)["pid"])


def test_saved_plans(hvtx: Program, tmp_path: Path) -> None:
    """Applied as reviewed; new items do not make it stale, and are not done either."""
    network(hvtx)
    crashed(hvtx, "one")
    saved = str(tmp_path / "plan")
    shown = hvtx("gc", "--plan", "--out", saved, "--json").json()
    assert json.loads(Path(saved).read_text()) == shown
    crashed(hvtx, "two")
    done = hvtx("gc", "--apply", saved, "--json").json()
    assert {i["vm"] for i in done["items"] if i["action"] != "skip"} == {"one"}
    assert {i["outcome"] for i in done["items"]} == {"done", "skipped"}
    assert {i["reason"] for i in done["items"] if i["action"] == "skip"} == {"reserved"}
    assert [state(hvtx, n) for n in ("one", "two")] == ["defined", "crashed"]
    stale = conflict(hvtx, "gc", "--apply", saved, code=8)
    assert any(item["key"] in stale.err for item in shown["items"] if item["action"] == "delete"), (
        stale.err
    )


def test_what_is_newer_than_a_saved_plan_is_told(hvtx: Program, tmp_path: Path) -> None:
    network(hvtx)
    crashed(hvtx, "one")
    hvtx("gc", "--plan", "--out", str(tmp_path / "plan"))
    crashed(hvtx, "two")
    assert (
        "more to do since the plan was saved" in hvtx("gc", "--apply", str(tmp_path / "plan")).err
    )


def test_a_saved_plan_without_its_store_is_stale(hvtx: Program, tmp_path: Path) -> None:
    """A state directory that is not mounted has nothing of what was reviewed."""
    network(hvtx)
    crashed(hvtx, "one")
    saved = str(tmp_path / "plan")
    hvtx("gc", "--plan", "--out", saved)
    conflict(hvtx, "--state-dir", str(tmp_path / "none"), "gc", "--apply", saved, code=8)
    assert not (tmp_path / "none").exists()


def test_one_mode_of_gc_at_a_time(hvtx: Program) -> None:
    network(hvtx)
    crashed(hvtx, "one")
    for modes in (("--plan", "--apply"), ("--apply", "--schema"), ("--schema", "--plan"), ()):
        conflict(hvtx, "gc", *modes, code=2)
    assert state(hvtx, "one") == "crashed"


def test_a_stale_plan_does_nothing(hvtx: Program, tmp_path: Path) -> None:
    """One acting item that would be planned otherwise spoils all of it, and is named."""
    network(hvtx)
    crashed(hvtx, "one")
    crashed(hvtx, "two")
    saved = str(tmp_path / "plan")
    hvtx("gc", "--plan", "--out", saved)
    device = hvtx.device("two")
    lab.run("ip", "link", "set", device, "alias", "mine")
    ran = conflict(hvtx, "gc", "--apply", saved, code=8)
    assert device in ran.err
    told = hvtx("gc", "--apply", saved, "--json", code=8)
    assert device in json.loads(told.err)["error"]["message"]
    assert [state(hvtx, n) for n in ("one", "two")] == ["crashed", "crashed"]


def test_plans_that_are_none(hvtx: Program, tmp_path: Path) -> None:
    network(hvtx)
    path = tmp_path / "plan"
    for text in ("", "{", "[]", "null", '"x"', "{}", '{"schema": "hvtx/vm/1"}', '{"schema": "hvtx/gc/1"}',
                 '{"schema": "hvtx/gc/1", "items": 1}', '{"schema": "hvtx/gc/1", "items": [1]}',
                 '{"schema": "hvtx/gc/1", "items": [{"action": "delete"}]}',
                 ('{"schema": "hvtx/gc/1", "items": [{"action": "delete", "reason": "vm-dead", "kind": "tap", '
                 '"key": [], "record": 1, "mark": {}}]}'), "\0", "\xff"):  # fmt: skip
        path.write_bytes(text.encode("latin-1"))
        conflict(hvtx, "gc", "--apply", str(path), code=2)
    conflict(hvtx, "gc", "--apply", str(tmp_path), code=2)
    conflict(hvtx, "gc", "--apply", str(tmp_path / "none"), code=3)
    ran = hvtx("gc", "--plan", "--out", str(tmp_path / "no/such/place"), code=None)
    assert ran.code in (2, 3)


# -- recover ----------------------------------------------------------------------------------------


def test_recover_at_any_time(hvtx: Program) -> None:
    """With nothing to do, any number of times; a VM stopped by hand stays stopped."""
    assert hvtx("recover", "--json").json()["schema"].startswith("hvtx/")
    network(hvtx)
    hvtx("vm", "run", "web", "--network", "net", "--autostart", *SLEEP)
    hvtx("vm", "run", "two", "--network", "net", *SLEEP)
    hvtx("recover")
    assert [state(hvtx, n) for n in ("web", "two")] == ["running", "running"]
    for name in ("web", "two"):
        hvtx("vm", "stop", name, "--force")
    for _ in range(2):
        hvtx("recover")
    assert [state(hvtx, n) for n in ("web", "two")] == ["defined", "defined"]


def other_boot() -> None:
    """Let the store remember another boot than this one, as after a reboot; the host is bare."""
    path = Path(os.environ["HVTX_STATE_DIR"], "hvtx.db")
    with closing(sqlite3.connect(path)) as connection, connection:
        old = "00000000-0000-4000-8000-000000000000"
        connection.execute("UPDATE life SET boot_id = ?", (old,))
        rows = connection.execute(
            "SELECT id, observed FROM resource WHERE kind = 'process'"
        ).fetchall()
        for number, text in rows:
            seen = json.loads(text)
            if seen:
                seen["boot_id"] = old
                connection.execute(
                    "UPDATE resource SET observed = ? WHERE id = ?", (json.dumps(seen), number)
                )


@pytest.mark.parametrize("firewall", BACKENDS)
def test_a_new_life(firewall: str) -> None:
    """After a reboot: rows are closed, networks rebuilt, --autostart VMs started, once."""
    preload()
    hvtx = Forked(HVTX_FIREWALL=firewall)
    network(hvtx, "--subnet", "fd77::/64")
    hvtx("vm", "run", "auto", "--network", "net", "--autostart", "-p", "8080:80", *SLEEP)
    hvtx("vm", "run", "manual", "--network", "net", *SLEEP)
    before = {n: hvtx.vm(n) for n in ("auto", "manual")}
    for vm in before.values():
        lab.end(vm["pid"])
    other_boot()
    with lab.private_network():  # bare, as a rebooted host is
        assert ("forget", "rebooted") in hvtx.plan()
        hvtx("recover")
        try:
            assert [state(hvtx, n) for n in ("auto", "manual")] == ["running", "defined"]
            for name, vm in before.items():
                now = hvtx.vm(name)["interfaces"][0]
                assert [now[k] for k in ("mac", "ipv4", "ipv6")] == [
                    vm["interfaces"][0][k] for k in ("mac", "ipv4", "ipv6")
                ]
            assert hvtx.is_clean()
            hvtx("vm", "start", "manual")
            hvtx("vm", "stop", "auto", "--force")
            hvtx("recover")
            assert [state(hvtx, n) for n in ("auto", "manual")] == ["defined", "running"]
        finally:
            for name in before:
                hvtx("vm", "rm", name, "--force")
        hvtx("network", "rm", "net")
        assert hvtx.is_clean()


def test_start_in_an_unrecovered_life_rebuilds_what_it_needs(hvtx: Program) -> None:
    network(hvtx)
    hvtx("network", "create", "other", "--subnet", "10.78.0.0/24")
    create(hvtx)
    other_boot()
    with lab.private_network():
        hvtx("vm", "start", "web")
        bridges = {n["ifname"] for n in json.loads(lab.run("ip", "-j", "link"))}
        assert hvtx("network", "show", "net", "--json").json()["bridge"] in bridges
        hvtx("recover")
        bridges = {n["ifname"] for n in json.loads(lab.run("ip", "-j", "link"))}
        assert hvtx("network", "show", "other", "--json").json()["bridge"] in bridges
        assert state(hvtx) == "running"
        hvtx("vm", "rm", "web", "--force")


# -- reading leaves everything alone ---------------------------------------------------------------


def test_reading_changes_nothing(hvtx: Program, tmp_path: Path) -> None:
    """Every reading command: host, rows, and the bytes of the store's file."""
    network(hvtx)
    hvtx("vm", "run", "web", "--network", "net", *SLEEP)
    crashed(hvtx, "dead")
    database = Path(os.environ["HVTX_STATE_DIR"], "hvtx.db")
    content = database.read_bytes()
    with witness.unchanged():
        for argv in (
            ("vm", "ls"), ("vm", "show", "web"), ("vm", "logs", "web"), ("network", "ls"),
            ("network", "show", "net"), ("gc", "--plan"), ("gc", "--plan", "--all"), ("intents",), ("log",),
            ("gc", "--plan", "--out", str(tmp_path / "plan")), ("explain", "web"), ("doctor",),
            ("explain", "10.77.0.2"),
        ):  # fmt: skip
            hvtx(*argv, code=None)
    assert database.read_bytes() == content


def test_permissions_of_the_store(hvtx: Program) -> None:
    was = os.umask(0)
    try:
        network(hvtx)
        create(hvtx)
        hvtx("vm", "start", "web")
        path = Path(os.environ["HVTX_STATE_DIR"], "hvtx.db")
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA application_id").fetchone() == (0x68767478,)
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            for place in (os.environ["HVTX_STATE_DIR"], os.environ["HVTX_RUN_DIR"]):
                for entry in Path(place).iterdir():  # what is below a private directory is private
                    mode = stat.S_IMODE(entry.lstat().st_mode)
                    assert mode & 0o077 == 0, (entry, oct(mode))
        assert stat.S_IMODE(Path(os.environ["HVTX_STATE_DIR"]).stat().st_mode) == 0o700
        assert stat.S_IMODE(Path(os.environ["HVTX_STATE_DIR"], "hvtx.db").stat().st_mode) == 0o600
    finally:
        os.umask(was)
        hvtx("vm", "rm", "web", "--force")


def test_logs(hvtx: Program) -> None:
    """What the VM's process wrote, both streams, across starts; gone with the VM."""
    network(hvtx)
    hvtx(
        "vm",
        "create",
        "web",
        "--network",
        "net",
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; exec sleep 600",
    )
    hvtx("vm", "logs", "web", code=3)
    hvtx("vm", "start", "web")
    _until(lambda: {"out", "err"} <= set(hvtx("vm", "logs", "web").out.split()))
    told = hvtx("vm", "logs", "web", "--json").json()
    assert (told["schema"], told["vm"], set(told["lines"])) == (
        "hvtx/logs/1",
        "web",
        {"out", "err"},
    )
    assert sorted(Path(told["path"]).read_text().splitlines()) == ["err", "out"]
    hvtx("vm", "stop", "web", "--force")
    assert "out" in hvtx("vm", "logs", "web").out
    hvtx("vm", "rm", "web")
    assert json.loads(hvtx("vm", "logs", "web", "--json", code=3).err)["error"]["hint"]


def test_logs_that_are_no_text(hvtx: Program) -> None:
    """Lines stay lines, whatever stands in them; an empty log has none."""
    network(hvtx)
    create(hvtx, "quiet")
    hvtx("vm", "start", "quiet")
    assert hvtx("vm", "logs", "quiet", "--json").json()["lines"] == []
    path = Path(hvtx("vm", "logs", "quiet", "--json").json()["path"])
    path.write_bytes(b"one\r\n\n\xff\x1b[31m\x85two\xe2\x80\xa8x\nlast")
    lines = hvtx("vm", "logs", "quiet", "--json").json()["lines"]
    assert lines == ["one", "", "\ufffd\x1b[31m\ufffdtwo\u2028x", "last"]


def test_the_console_of_a_vm_without_one(hvtx: Program) -> None:
    """With --json as without: 4, in the same words."""
    network(hvtx)
    create(hvtx)
    for state_now in ("defined", "running"):
        error = json.loads(hvtx("vm", "console", "web", "--json", code=4).err)["error"]
        said = hvtx("vm", "console", "web", code=4).err.splitlines()
        assert said == [f"error: {error['message']}", f"hint: {error['hint']}"]
        if state_now == "defined":
            hvtx("vm", "start", "web")


def test_the_console_of_a_qemu_is_told_and_not_joined(hvtx: Program, tmp_path: Path) -> None:
    """Nobody is on the line afterwards: the one place that QEMU has is free."""
    network(hvtx)
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    hvtx("vm", "run", "web", "--network", "net", "--disk", str(disk), HVTX_QEMU_ACCEL="tcg")
    told = hvtx("vm", "console", "web", "--json").json()
    assert (told["schema"], told["vm"]) == ("hvtx/console/1", "web")
    directory, name = os.path.split(told["socket"])
    descriptor = os.open(directory, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(f"/proc/self/fd/{descriptor}/{name}")  # a longer path is none for a socket
    os.close(descriptor)
    Path(told["socket"]).unlink()
    assert "cannot be reached" in hvtx("vm", "console", "web", "--json", code=4).err
    hvtx("vm", "stop", "web", "--force")


def test_an_external_vm_is_not_called_running_before_it_is(hvtx: Program) -> None:
    """`start` prepares its network, names the device, and says what is to be done."""
    network(hvtx)
    hvtx("vm", "create", "ext", "--network", "net", "--hypervisor", "external")
    for ran in (
        hvtx("vm", "start", "ext"),
        hvtx("vm", "run", "two", "--network", "net", "--hypervisor", "external"),
    ):
        name = "ext" if "ext" in ran.out else "two"
        assert "is running" not in ran.out
        assert hvtx.device(name) in ran.out
        assert f"`hvtx vm attach {name} --pid PID`" in ran.out
    hvtx("vm", "attach", "ext", "--pid", str((1 << 31) - 1), code=3)
    assert "VM ext is running" in hvtx("vm", "attach", "ext", "--pid", str(os.getpid())).out


def test_a_socket_that_comes_between_create_and_start(hvtx: Program) -> None:
    network(hvtx)
    create(hvtx, "web", "-p", "127.0.0.1:7001:80")
    with socket.create_server(("127.0.0.1", 7001)):
        conflict(hvtx, "vm", "start", "web")
    hvtx("vm", "start", "web")


def test_strangers_are_shown_with_all(hvtx: Program) -> None:
    """By default their TAPs and the NAT rules that mention a subnet of ours; all with --all."""
    network(hvtx)
    lab.run("ip", "tuntap", "add", "tap-foo", "mode", "tap")
    lab.run("ip", "link", "add", "other0", "type", "bridge")
    lab.run("nft", "add table ip theirs; add chain ip theirs post { type nat hook postrouting priority 0; };"
            " add rule ip theirs post ip saddr 10.77.0.9 masquerade; add rule ip theirs post ip saddr 192.0.2.9"
            " masquerade")  # fmt: skip
    foreign = hvtx.plan()["skip", "foreign"]
    assert {i["kind"] for i in foreign} == {"tap", "rule"}
    assert [i["key"] for i in foreign if i["kind"] == "tap"] == ["tap-foo"]
    assert len([i for i in foreign if i["kind"] == "rule"]) == 1
    every = hvtx.plan("--all")["skip", "foreign"]
    assert len(every) > len(foreign)
    assert "other0" in json.dumps(every)


@pytest.mark.parametrize("tool", ["iptables-nft", "iptables-legacy"])
def test_all_is_all(hvtx: Program, tool: str) -> None:
    """Filter rules, whatever table they are in, and addresses; each once, and ours not as theirs."""
    network(hvtx)
    lab.run("ip", "link", "add", "other0", "type", "bridge")
    lab.run("ip", "addr", "add", "198.51.100.1/24", "dev", "other0")
    lab.run(tool, "-A", "FORWARD", "-s", "192.0.2.9", "-j", "DROP")
    lab.run(tool, "-t", "mangle", "-A", "PREROUTING", "-s", "192.0.2.10", "-j", "ACCEPT")
    lab.run(tool, "-t", "nat", "-A", "POSTROUTING", "-s", "10.77.0.9", "-j", "MASQUERADE")
    lab.run(
        "nft",
        "add table inet theirs; add chain inet theirs c; add rule inet theirs c ip saddr 192.0.2.11 drop",
    )
    with witness.unchanged():
        every = hvtx.plan("--all")["skip", "foreign"]
    keys = [item["key"] for item in every]
    for word in (
        "192.0.2.9",
        "192.0.2.10",
        "10.77.0.9",
        "192.0.2.11",
        "198.51.100.1/24",
        "127.0.0.1/8",
    ):
        assert len([key for key in keys if word in key]) == 1, (word, keys)
    assert not [key for key in keys if "10.77.0.1" in key or "hvtx-" in key.lower()], keys
    assert hvtx.plan()["skip", "foreign"][0]["key"].startswith(("nft", "iptables"))


@pytest.mark.parametrize("point", ["acted:tap", "acted:filter", "spawned", "up"])
def test_interrupted_from_the_keyboard_it_is_undone(hvtx: Program, point: str) -> None:
    """Ctrl-C is no crash: what was made is taken back before the program ends."""
    network(hvtx)
    with witness.undone():
        run = stopped(hvtx, point, "vm", "run", "web", "--network", "net", "-p", "8080:80", *SLEEP)
        os.kill(run.pid, signal.SIGINT)
        os.kill(run.pid, signal.SIGCONT)
        _, err = run.communicate(timeout=60)
        assert (run.returncode, err.splitlines()[0]) == (130, b"error: interrupted")
        assert b"Traceback" not in err
    hvtx("vm", "show", "web", code=3)
    assert hvtx.is_clean()


def test_ports_that_cannot_be_served_are_told(hvtx: Program) -> None:
    """NAT cannot serve [::1]: who asks for it is refused; else `vm show` and `doctor` say so."""
    hvtx("network", "create", "four", "--subnet", "10.78.0.0/24")
    hvtx("vm", "create", "quiet", "--network", "four", "-p", "8080:80", *SLEEP)
    assert not [n for n in hvtx("vm", "show", "quiet").out.splitlines() if n.startswith("note:")]
    assert "[::1]" not in hvtx("doctor", code=None).out
    network(hvtx, "--subnet", "fd77::/64")
    assert (
        "[::1]"
        in hvtx(
            "vm", "create", "web", "--network", "net", "-p", "[::1]:8081:80", *SLEEP, code=2
        ).err
    )
    create(hvtx, "web", "-p", "8081:80")
    assert "[::1]" in hvtx("vm", "show", "web").out
    assert "[::1]" in hvtx("doctor", code=None).out


def test_doctor(hvtx: Program) -> None:
    """Its object, and exit 1 where something keeps VMs from working: somebody else's FORWARD drop."""
    network(hvtx)
    ran = hvtx("doctor", "--json")
    document = ran.json()
    assert set(document) == {"schema", "findings"}
    assert document["schema"] == "hvtx/doctor/1"
    for finding in document["findings"]:
        assert set(finding) == {"check", "level", "message", "evidence", "hint"}
        assert finding["level"] in ("ok", "warning", "error")
        assert finding["level"] == "ok" or finding["hint"]
    assert not [f for f in document["findings"] if f["level"] == "error"]
    lab.run("nft", "add table ip theirs; add chain ip theirs FORWARD { type filter hook forward priority 0;"
            " policy drop; }")  # fmt: skip
    with witness.unchanged():
        ran = hvtx("doctor", "--json", code=1)
    assert "theirs" in json.dumps([f for f in ran.json()["findings"] if f["level"] == "error"])


def test_doctor_gc_is_gc(hvtx: Program) -> None:
    network(hvtx)
    crashed(hvtx, "one")
    with witness.unchanged():
        dry = hvtx("doctor", "--gc", "--dry-run", "--json").json()
    assert (dry["schema"], dry["applied"]) == ("hvtx/gc/1", False)
    assert hvtx("doctor", "--gc", "--json").json()["applied"] is True
    assert state(hvtx, "one") == "defined"
    hvtx("doctor", "--dry-run", code=2)


def test_explain(hvtx: Program) -> None:
    network(hvtx)
    create(hvtx, "web", "-p", "8080:80")
    shown = hvtx("vm", "start", "web", "--json").json()
    lab.run("ip", "tuntap", "add", "tap-foo", "mode", "tap")
    (tap,) = [r for r in shown["resources"] if r["kind"] == "tap"]
    for thing, owner, vm in ((tap["key"], "hvtx", "web"), (tap["mark"], "hvtx", "web"), ("10.77.0.2", "hvtx", "web"),
                             ("8080", "hvtx", "web"), ("tap-foo", "foreign", None)):  # fmt: skip
        told = hvtx("explain", thing, "--json").json()
        assert set(told) == {
            "schema", "object", "kind", "key", "owner", "vm", "network", "since", "record", "evidence",
            "gc", "why", "message", "history", "also",
        }  # fmt: skip
        assert (told["schema"], told["owner"], told["vm"]) == ("hvtx/explain/1", owner, vm)
        assert set(told["gc"]) == {"action", "reason"}
        assert told["gc"]["action"] == "skip"
