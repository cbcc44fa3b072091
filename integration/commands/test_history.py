"""The history: what was removed, what it was, and what of it can be had again."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hvtx.migrations import m0001_initial

from hvtx import migrations
from integration import lab
from integration.lab.program import Forked, Program, preload

SLEEP = ("--", "sleep", "600")
NETWORKS = (
    ("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64"),
    ("network", "create", "six", "--subnet", "fd78::/64"),
    ("network", "create", "far", "--subnet", "10.78.0.0/24"),
)
CREATE = (
    "vm", "create", "web", "--network", "six", "--network", "far", "--network", "net",
    "--ip", "fd78::77", "-p", "8080:80", "-p", "[2001:db8::5]:5353:53/udp",
)  # fmt: skip
PARTS = ("hypervisor", "autostart", "memory", "cpus", "interfaces", "state")


@pytest.fixture
def hvtx() -> Program:
    preload()
    made = Forked()
    for network in NETWORKS:
        made(*network)
    return made


def removed(hvtx: Program, **environment: str) -> dict[str, object]:
    """A VM with three interfaces, as it was shown before it was removed."""
    hvtx(*CREATE, "--memory", "64", *SLEEP)
    shown = hvtx.vm("web")
    hvtx("vm", "rm", "web", **environment)
    return {part: shown[part] for part in PARTS}


def test_a_removed_vm_comes_back_as_it_was(hvtx: Program) -> None:
    """Addresses of each interface, MACs, host ports, command: from the history alone."""
    before = removed(hvtx)
    hvtx("vm", "create", "other", "--network", "net", *SLEEP)  # takes what is free by now
    hvtx("vm", "rm", "other")
    shown = hvtx("vm", "create", "web", "--from-log", "--json").json()
    assert {part: shown[part] for part in PARTS} == before
    hvtx("vm", "start", "web")
    assert hvtx.vm("web")["state"] == "running"
    hvtx("vm", "rm", "web", "--force")


def test_what_a_collected_vm_had_comes_back(hvtx: Program) -> None:
    """Crashed, collected, removed, wanted again."""
    hvtx(*CREATE, *SLEEP)
    hvtx("vm", "start", "web")
    shown = hvtx.vm("web")
    lab.end(shown["pid"])
    hvtx("gc", "--apply")
    hvtx("vm", "rm", "web")
    again = hvtx("vm", "create", "web", "--from-log", "--json").json()
    for field in ("mac", "ipv4", "ipv6", "publish"):
        assert [i[field] for i in again["interfaces"]] == [i[field] for i in shown["interfaces"]]


def test_an_undone_run_is_told_with_its_vm(hvtx: Program) -> None:
    """`vm run` that was killed leaves no VM, but its record can be read and had again."""
    hvtx("vm", "run", "job", "--network", "net", *SLEEP,
         code=-signal.SIGKILL, HVTX_FAILPOINT="acted:filter:kill")  # fmt: skip
    hvtx("recover")
    assert hvtx("vm", "ls", "--json").json()["vms"] == []
    hvtx("vm", "create", "job", "--from-log")
    assert hvtx.vm("job")["interfaces"][0]["network"] == "net"


def test_the_last_removal_counts_unless_an_operation_is_named(hvtx: Program) -> None:
    """A name used twice: each of the two can be had."""
    hvtx("vm", "create", "web", "--network", "net", "--ip", "10.77.0.50", *SLEEP)
    hvtx("vm", "rm", "web")
    first = hvtx("log", "--vm", "web", "--event", "removed", "--json").json()["entries"]
    hvtx("vm", "create", "web", "--network", "net", "--ip", "10.77.0.60", *SLEEP)
    hvtx("vm", "rm", "web")
    hvtx("vm", "create", "web", "--from-log")
    assert hvtx.vm("web")["interfaces"][0]["ipv4"] == "10.77.0.60"
    hvtx("vm", "rm", "web")
    operation = next(entry["operation"] for entry in first if entry["kind"] is None)
    hvtx("vm", "create", "web", "--from-log", "--operation", str(operation))
    assert hvtx.vm("web")["interfaces"][0]["ipv4"] == "10.77.0.50"


def test_what_is_taken_by_now_is_refused_and_nothing_changes(hvtx: Program) -> None:
    """An address, a port, a name: 4; a network that is gone, a VM that never was: 3."""
    removed(hvtx)
    hvtx("vm", "create", "thief", "--network", "six", "--ip", "fd78::77", *SLEEP)
    before = lab.dump()
    ran = hvtx("vm", "create", "web", "--from-log", code=4)
    assert "fd78::77" in ran.err
    hvtx("vm", "rm", "thief")
    hvtx("vm", "create", "thief", "--network", "net", "-p", "8080:80", *SLEEP)
    assert "8080" in hvtx("vm", "create", "web", "--from-log", code=4).err
    hvtx("vm", "rm", "thief")
    hvtx("network", "rm", "far")
    assert "far" in hvtx("vm", "create", "web", "--from-log", code=3).err
    assert "'none'" in hvtx("vm", "create", "none", "--from-log", code=3).err
    assert [vm["name"] for vm in hvtx("vm", "ls", "--json").json()["vms"]] == []
    assert lab.difference(before["nft"], lab.dump()["nft"]) != "", "the network's own went"


@pytest.mark.parametrize(
    "words",
    [
        ("--from-log", "--ip", "10.77.0.9"),
        ("--from-log", "--memory", "512"),
        ("--from-log", "--", "sleep", "1"),
        ("--operation", "3", "--", "sleep", "1"),
        ("--from-log", "--operation", "0"),
    ],
)
def test_the_history_says_how_it_was_and_nothing_else(
    hvtx: Program, words: tuple[str, ...]
) -> None:
    """What says how the VM should be does not go together with it."""
    removed(hvtx)
    hvtx("vm", "create", "web", *words, code=2)
    assert hvtx("vm", "ls", "--json").json()["vms"] == []


def test_every_deletion_says_what_it_was_and_why(hvtx: Program) -> None:
    """By gc: the reason, the mark, the specification; also on the screen."""
    hvtx("vm", "run", "web", "--network", "net", "-p", "8080:80", *SLEEP)
    shown = hvtx.vm("web")
    lab.end(shown["pid"])
    hvtx("gc", "--apply")
    gone = hvtx("log", "--detail", "--verb", "gc", "--event", "removed", "--json").json()["entries"]
    marks = {row["kind"]: row["mark"] for row in shown["resources"] if row["kind"] != "lease"}
    assert {entry["kind"] for entry in gone} == set(marks)
    for entry in gone:
        assert entry["reason"] == ("already-gone" if entry["kind"] == "process" else "vm-dead")
        assert entry["detail"]["mark"] in {row["mark"] for row in shown["resources"]}
        assert entry["detail"]["spec"]
    screen = hvtx("log", "--detail", "--kind", "tap", "--event", "removed").out
    assert marks["tap"] in screen and "vm-dead" in screen


def test_lines_are_filtered(hvtx: Program) -> None:
    """By each of the fields, and by time."""
    hvtx("vm", "create", "web", "--network", "net", *SLEEP)
    every = hvtx("log", "-n", "1000", "--json").json()["entries"]
    for field in ("vm", "verb", "kind", "event", "operation"):
        value = next(entry[field] for entry in reversed(every) if entry[field])
        ran = hvtx("log", f"--{field}", str(value), "-n", "1000", "--json")
        assert ran.json()["entries"] == [e for e in every if e[field] == value], field
    assert hvtx("log", "--since", "1h", "-n", "1000", "--json").json()["entries"] == every
    assert hvtx("log", "--since", "2199-01-01", "--json").json()["entries"] == []
    last = every[-1]["time"]
    found = hvtx("log", "--since", last[:19], "-n", "1000", "--json").json()["entries"]
    assert found == [entry for entry in every if entry["time"] >= last[:19]]
    for words in ("yesterday", "3y", "12:30", "2026-13-01", ""):
        hvtx("log", "--since", words, code=2)


def test_the_history_is_kept_small(hvtx: Program) -> None:
    """By number of lines, from the setting; the newest stay."""
    lines = {"HVTX_HISTORY_LINES": "100"}
    for _ in range(70):
        hvtx("vm", "create", "web", "--network", "net", *SLEEP, **lines)
        hvtx("vm", "rm", "web", **lines)
    entries = hvtx("log", "-n", "10000", "--json").json()["entries"]
    assert 100 <= len(entries) < 100 + 64 * 3
    assert entries[-1]["message"] == "VM web"
    hvtx("vm", "create", "web", "--from-log", **lines)
    for wrong in ("0", "99", "-5", "many", "1e9"):
        assert "HVTX_HISTORY_LINES" in hvtx("vm", "ls", HVTX_HISTORY_LINES=wrong, code=2).err


def test_a_store_of_the_first_schema_is_read_and_then_brought_up_to_date(
    hvtx: Program, tmp_path: Path
) -> None:
    """A reader shows its history without details, and changes nothing; a writer migrates it."""
    hvtx("vm", "create", "web", "--network", "net", *SLEEP)
    path = Path(os.environ["HVTX_STATE_DIR"], "hvtx.db")
    with closing(sqlite3.connect(path)) as old, old:
        old.execute("ALTER TABLE history DROP COLUMN detail")
        old.execute("ALTER TABLE history DROP COLUMN packed")
        for index in (
            "resource_live",
            "port_interface",
            "resource_released",
            "resource_operation",
            "vm_operation",
            "network_operation",
        ):
            old.execute(f"DROP INDEX {index}")
        for text in m0001_initial.STATEMENTS:
            if "CREATE INDEX resource_operation" in text:
                old.execute(text)
        for later in ("tombstone", "shape", "attachment", "block", "cluster"):
            old.execute(f"DROP TABLE {later}")
        old.execute("ALTER TABLE network DROP COLUMN settings")
        old.execute("ALTER TABLE lease RENAME TO newer")
        (table,) = [text for text in m0001_initial.STATEMENTS if "CREATE TABLE lease" in text]
        old.execute(table)
        old.execute(
            "INSERT INTO lease SELECT address, interface, network, family, offset FROM newer"
        )
        old.execute("DROP TABLE newer")
        old.execute("CREATE INDEX lease_offset ON lease (network, family, offset)")
        old.execute("DELETE FROM _sqlite_migrations WHERE name > '0002'")
        old.execute("PRAGMA user_version=1")
    entries = hvtx("log", "--detail", "--json").json()["entries"]
    assert entries and all(entry["detail"] is None for entry in entries)
    assert hvtx.vm("web")["interfaces"][0]["ipv4"]
    assert hvtx("network", "show", "net", "--json").json()["dhcp"] is False
    assert hvtx("gc", "--plan", "--json").json()["refused"] is None
    hvtx("vm", "rm", "web")
    with closing(sqlite3.connect(path)) as now:
        assert now.execute("PRAGMA user_version").fetchone() == (migrations.SCHEMA,)
    hvtx("vm", "create", "web", "--from-log")


def test_what_gc_left_alone_is_told_once(hvtx: Program) -> None:
    """Somebody took the mark away: skipped, and why, as long as it stays so; then no word more."""
    hvtx("vm", "run", "web", "--network", "net", *SLEEP)
    device, pid = hvtx.device("web"), hvtx.vm("web")["pid"]
    hvtx("gc", "--apply")
    assert hvtx("log", "--event", "skipped", "--json").json()["entries"] == []
    lab.run("ip", "link", "set", device, "alias", "mine")
    lab.end(pid)
    for _ in range(2):
        hvtx("gc", "--apply", code=None)
    (told,) = hvtx("log", "--event", "skipped", "--json").json()["entries"]
    assert (told["kind"], told["key"], told["verb"]) == ("tap", device, "gc")
    assert (told["reason"], told["vm"]) == ("mark-mismatch", "web")
    lab.run("ip", "link", "del", device)
    hvtx("gc", "--apply")
