"""What monitoring sees: numbers for Prometheus, and lines with fields in the journal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from integration import lab
from integration.lab import witness
from integration.lab.program import Forked, Program, preload

SLEEP = ("--", "sleep", "600")


@pytest.fixture
def hvtx() -> Program:
    preload()
    made = Forked()
    made("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
    made("vm", "run", "web", "--network", "net", "-p", "8080:80", *SLEEP)
    made("vm", "run", "db", "--network", "net", *SLEEP)
    made("vm", "create", "idle", "--network", "net", *SLEEP)
    return made


def samples(text: str) -> dict[tuple[str, ...], float]:
    """``{(name, label values…): value}``, as Prometheus' own parser reads it."""
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_numbers_are_those_of_the_host(hvtx: Program) -> None:
    """States, resources, leases, what gc would do; and reading them changes nothing."""
    lab.end(hvtx.vm("db")["pid"])
    with witness.unchanged():
        seen = samples(hvtx("metrics").out)
    assert seen["hvtx_vms", "running"] == 1
    assert seen["hvtx_vms", "crashed"] == 1
    assert seen["hvtx_vms", "defined"] == 1
    assert seen["hvtx_networks",] == 1
    assert seen["hvtx_resources", "tap", "committed"] == 2
    assert seen["hvtx_leases", "ipv4", "net"] == 3
    assert seen["hvtx_addresses", "ipv4", "net"] == 253
    assert seen["hvtx_operations", "interrupted"] == 0
    assert seen["hvtx_recovered",] == 1
    assert seen["hvtx_gc_refused", ""] == 0
    plan = hvtx.plan()
    for (action, reason), items in plan.items():
        assert seen["hvtx_gc_items", action, reason] == len(items)
    assert seen["hvtx_store_bytes",] > 0
    entries = hvtx("log", "-n", "10000", "--json").json()["entries"]
    assert seen["hvtx_history_lines",] == len(entries)
    document = hvtx("metrics", "--json").json()
    assert document["schema"] == "hvtx/metrics/1"
    assert {"hvtx_vms", "hvtx_info"} <= {metric["name"] for metric in document["metrics"]}


def test_what_was_interrupted_is_counted(hvtx: Program) -> None:
    """An alert on it is what wakes somebody up."""
    hvtx("vm", "start", "idle", code=-signal.SIGKILL, HVTX_FAILPOINT="acted:tap:kill")
    seen = samples(hvtx("metrics").out)
    assert seen["hvtx_operations", "interrupted"] == 1
    assert seen["hvtx_gc_items", "delete", "intent-abandoned"] >= 1


def test_a_host_that_may_not_be_judged_says_so(hvtx: Program) -> None:
    """Another namespace: no plan, and the reason as a label."""
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-m", "hvtx", "metrics"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert samples(done.stdout)["hvtx_gc_refused", "wrong-namespace"] == 1


def test_a_textfile_is_whole_and_others_may_read_it(hvtx: Program, tmp_path: Path) -> None:
    """As node_exporter's collector wants it, whatever the umask is."""
    path = tmp_path / "hvtx.prom"
    path.write_text("old")
    before = os.umask(0o077)
    try:
        hvtx("metrics", "--textfile", str(path))
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644
    assert samples(path.read_text())["hvtx_vms", "running"] == 2
    assert [entry.name for entry in tmp_path.iterdir() if "prom" in entry.name] == ["hvtx.prom"]
    ran = hvtx("metrics", "--textfile", str(tmp_path / "none" / "x.prom"), code=3)
    assert "hint: make its directory first" in ran.err
    path.unlink()
    both = hvtx("metrics", "--json", "--textfile", str(path))
    assert both.json()["schema"] == "hvtx/metrics/1"
    assert samples(path.read_text())["hvtx_vms", "running"] == 2
    assert hvtx("metrics", "--textfile", str(path)).out == ""


_JOURNAL = """
import json, os, socket, subprocess, sys
os.makedirs("/run/systemd/journal")
journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
journal.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
journal.bind("/run/systemd/journal/socket")
there = os.fstat(2)
environment = {**os.environ, "JOURNAL_STREAM": f"{there.st_dev}:{there.st_ino}"}
code = subprocess.call([sys.executable, "-m", "hvtx", *sys.argv[1:]], env=environment)
journal.setblocking(False)
lines = []
while True:
    try:
        lines.append(journal.recv(65536).decode())
    except BlockingIOError:
        break
print(json.dumps({"code": code, "lines": lines}))
"""


def in_journal(tmp_path: Path, *words: str) -> tuple[int, list[dict[str, str]], str]:
    """Run hvtx under a journal: exit code, the lines' fields, standard error."""
    script = 'mount --make-rprivate / && mount -t tmpfs tmpfs /run && exec "$@"'
    with (tmp_path / "stderr").open("w+") as err:
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", _JOURNAL, *words],
            stdout=subprocess.PIPE, stderr=err, text=True, check=True, timeout=60,
        )  # fmt: skip
        err.seek(0)
        told = err.read()
    found = json.loads(done.stdout.splitlines()[-1])
    lines = [dict(f.split("=", 1) for f in line.splitlines()) for line in found["lines"]]
    return found["code"], lines, told


def test_under_systemd_every_deed_is_a_line_with_fields(hvtx: Program, tmp_path: Path) -> None:
    """Each line of the history goes to the journal, when it is on record."""
    lab.end(hvtx.vm("web")["pid"])
    tap = hvtx.device("web")
    code, lines, _ = in_journal(tmp_path, "gc", "--apply")
    assert code == 0
    entries = hvtx("log", "--verb", "gc", "--json").json()["entries"]
    assert [line["MESSAGE"].split(": ", 1)[0] for line in lines] == ["gc"] * len(entries)
    gone = next(line for line in lines if line.get("HVTX_KIND") == "tap")
    assert gone["HVTX_EVENT"] == "removed"
    assert gone["HVTX_REASON"] == "vm-dead"
    assert gone["HVTX_VM"] == "web"
    assert gone["HVTX_KEY"] == tap
    assert gone["PRIORITY"] == "5"
    assert gone["SYSLOG_IDENTIFIER"] == "hvtx"
    assert tap in gone["MESSAGE"]


def test_under_systemd_errors_have_their_priority(hvtx: Program, tmp_path: Path) -> None:
    """The journal reads it from the beginning of the line (sd-daemon(3))."""
    code, lines, told = in_journal(tmp_path, "vm", "start", "none")
    assert (code, lines) == (3, [])
    assert told.startswith("<3>error: there is no VM 'none'")
    assert "\n<5>hint: " in told


def test_a_journal_that_is_away_is_no_trouble(hvtx: Program, tmp_path: Path) -> None:
    """JOURNAL_STREAM fits, and nobody listens: the command works."""
    with (tmp_path / "stderr").open("w") as err:
        there = os.fstat(err.fileno())
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", 'mount -t tmpfs tmpfs /run && exec "$@"', "sh",
             sys.executable, "-m", "hvtx", "vm", "stop", "web", "--force"],
            stderr=err, stdout=subprocess.PIPE, check=False, timeout=60,
            env={**os.environ, "JOURNAL_STREAM": f"{there.st_dev}:{there.st_ino}"},
        )  # fmt: skip
    assert done.returncode == 0


def test_verbose_says_what_is_done(hvtx: Program) -> None:
    """-v: the same lines on standard error, and the result alone on standard output."""
    ran = hvtx("-v", "vm", "stop", "web", "--force", "--json")
    assert ran.json()["state"] == "defined"
    assert "hvtx: stop: removed tap " in ran.err
    assert hvtx("vm", "start", "web").err == ""
