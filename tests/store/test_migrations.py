"""The schema goes forward only: each step whole with its record, or not at all; all of it shipped."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import pytest

from hvtx import migrations
from hvtx.errors import HvtxError
from hvtx.store import blocks, creating, history, leases, records
from hvtx.store import connection as files
from hvtx.store.database import Store

from .shelf import NOW, Shelf, add_network, enter, network

ROOT = Path(__file__).parents[2]
LAST = len(migrations.MIGRATIONS) + 1
NEXT = (
    f"{LAST:04d}_test",
    ("CREATE TABLE tomorrow (x INT) STRICT", "INSERT INTO tomorrow SELECT 1"),
)


def facts(shelf: Shelf) -> tuple[int, set[str], list[str]]:
    """The version, the tables, and the migrations on record."""
    connection = sqlite3.connect(shelf.file)
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    applied = [row[0] for row in connection.execute("SELECT name FROM _sqlite_migrations")]
    connection.close()
    return version, tables, applied


def test_a_fresh_store_has_every_step_on_record(shelf: Shelf) -> None:
    """By number in the file's header, by name in sqlite-utils' table."""
    with shelf.opened():
        pass
    version, tables, applied = facts(shelf)
    assert version == migrations.SCHEMA == len(migrations.MIGRATIONS)
    assert applied == [name for name, _ in migrations.MIGRATIONS]
    assert {"vm", "network", "resource", "operation", "lease", "port", "history"} <= tables


def test_names_are_numbered_in_order() -> None:
    """The position in the list is the schema's number."""
    for number, (name, statements) in enumerate(migrations.MIGRATIONS, start=1):
        assert name.startswith(f"{number:04d}_")
        assert statements


def test_every_table_is_strict(shelf: Shelf) -> None:
    """A text in a number's place is refused by SQLite, not found later."""
    with shelf.opened() as store:
        rows = store.connection.execute("PRAGMA table_list").fetchall()
    loose = [row[1] for row in rows if row[2] == "table" and not row[5]]
    assert [name for name in loose if not name.startswith(("sqlite_", "_sqlite"))] == []


def later(monkeypatch: pytest.MonkeyPatch, *more: tuple[str, tuple[str, ...]]) -> None:
    """This program knows further migrations."""
    every = (*migrations.MIGRATIONS, *more)
    monkeypatch.setattr(creating, "MIGRATIONS", every)
    monkeypatch.setattr(files, "SCHEMA", len(every))


def test_an_older_store_is_migrated_by_the_next_writer(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With everything that is in it; a reader leaves it alone."""
    with shelf.opened() as store:
        add_network(store, network())
    later(monkeypatch, NEXT)
    with shelf.opened(writable=False):
        pass
    assert facts(shelf)[0] == len(migrations.MIGRATIONS)
    with shelf.opened() as store:
        assert store.connection.execute("SELECT name FROM network").fetchone() == ("lan",)
    version, tables, applied = facts(shelf)
    assert (version, applied) == (LAST, [name for name, _ in (*migrations.MIGRATIONS, NEXT)])
    assert "tomorrow" in tables
    with shelf.opened():
        pass
    assert facts(shelf)[2] == applied, "once is enough"


def test_a_step_that_fails_leaves_nothing(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first statement is taken back with it, and neither version nor record moves."""
    with shelf.opened():
        pass
    before = facts(shelf)
    later(monkeypatch, ("9999_bad", (NEXT[1][0], "INSERT INTO nowhere VALUES (1)")))
    with pytest.raises(HvtxError) as caught:
        shelf.open()
    assert caught.value.exit_code == 7
    assert facts(shelf) == before


def test_of_two_steps_the_first_is_kept(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a transaction of its own."""
    with shelf.opened():
        pass
    later(monkeypatch, NEXT, ("0003_bad", ("CREATE TABLE x (y)", "nonsense")))
    with pytest.raises(HvtxError):
        shelf.open()
    version, tables, applied = facts(shelf)
    assert (version, applied[-1]) == (LAST, NEXT[0])
    assert "x" not in tables


@pytest.mark.parametrize("fresh", [True, False])
def test_a_killed_step_leaves_nothing(shelf: Shelf, fresh: bool) -> None:
    """SIGKILL between two statements: a fresh store is not there, an old one is as it was."""
    if not fresh:
        with shelf.opened() as store:
            enter(store)
        before = facts(shelf)
    words = textwrap.dedent("""
        import os, signal, sys
        from hvtx.store import connection, creating
        from hvtx.store.opening import open_store

        class Deadly(tuple):
            def __iter__(self):
                yield self[0]
                os.kill(os.getpid(), signal.SIGKILL)

        bad = ("9999_bad", Deadly(("CREATE TABLE tomorrow (x)",)))
        creating.MIGRATIONS = (*creating.MIGRATIONS, bad)
        connection.SCHEMA = len(creating.MIGRATIONS)
        open_store(sys.argv[1], sys.argv[2], writable=True)
    """)
    command = [sys.executable, "-c", words, str(shelf.state), str(shelf.run)]
    ran = subprocess.run(command, cwd=ROOT, check=False)
    assert ran.returncode == -signal.SIGKILL
    if fresh:
        assert not shelf.file.exists()
        with shelf.opened(writable=False) as store:
            assert store.missing
        with shelf.opened() as store:
            enter(store)
    else:
        with shelf.opened() as store:
            enter(store)
        assert facts(shelf) == before


def test_the_package_ships_the_migrations(tmp_path: Path) -> None:
    """They stand at the top of the tree and are `hvtx.migrations` in what is built."""
    pytest.importorskip("setuptools")
    copy = tmp_path / "tree"
    copy.mkdir()
    for name in ("hvtx", "migrations"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy / name)
    words = "import setuptools; setuptools.setup()"
    command = [sys.executable, "-W", "ignore", "-c", words, "-q", "build", "--build-lib", "built"]
    subprocess.run(command, check=True, cwd=copy, capture_output=True)
    built = {str(path.relative_to(copy / "built")) for path in (copy / "built").rglob("*.py")}
    wanted = {f"hvtx/migrations/{path.name}" for path in (copy / "migrations").glob("*.py")}
    wanted |= {str(path.relative_to(copy)) for path in (copy / "hvtx").rglob("*.py")}
    assert built == wanted, "everything, and nothing else"
    assert "hvtx/migrations/m0001_initial.py" in built


def test_rows_and_their_numbers_outlive_a_new_table() -> None:
    """Step 7 makes `resource` anew: what was there is there, and no number is given twice."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as store:
        for _, statements in migrations.MIGRATIONS[:6]:
            for statement in statements:
                store.execute(statement)
        store.execute("INSERT INTO life VALUES (1, 'b', 1, 't', NULL)")
        store.execute(
            "INSERT INTO operation VALUES (1, 'run', NULL, NULL, 1, 'b', 1, 1, 't', NULL, NULL)"
        )
        add = (
            "INSERT INTO resource (kind, key, state, mark, spec, operation, life)"
            " VALUES (?, ?, 'committed', ?, '{}', 1, 1)"
        )
        for number in range(3):
            store.execute(add, ("tap", f"hv{number}", f"m{number}"))
        store.execute("DELETE FROM resource WHERE id = 3")
        before = store.execute("SELECT * FROM resource").fetchall()
        for statement in migrations.MIGRATIONS[6][1]:
            store.execute(statement)
        assert store.execute("SELECT * FROM resource").fetchall() == before
        store.execute(add, ("veth", "hv3", "m3"))
        assert store.execute("SELECT max(id) FROM resource").fetchone() == (4,)
        with pytest.raises(sqlite3.IntegrityError):  # a name of a device is one device's
            store.execute(add, ("tap", "hv3", "m4"))
        with pytest.raises(sqlite3.IntegrityError, match="no such transition"):
            store.execute("UPDATE resource SET state = 'intended' WHERE id = 4")


def make_older(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The store, as the program of this schema made it."""
    with monkeypatch.context() as then:
        for module in (migrations, creating):
            then.setattr(module, "MIGRATIONS", migrations.MIGRATIONS[:number])
        then.setattr(files, "SCHEMA", number)
        shelf.open().close()


@pytest.mark.parametrize("number", range(1, len(migrations.MIGRATIONS)))
def test_a_reader_of_each_older_store_finds_what_it_asks_for(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """What came later is empty to it, and nothing of the file is changed."""
    make_older(shelf, monkeypatch, number)
    before = shelf.file.read_bytes()
    with shelf.opened(writable=False) as store, store.reading() as sql:
        assert records.vms(sql) == records.networks(sql) == records.resources(sql) == []
        assert records.attachments(sql) == {}
        assert records.tombstones(sql, ["hvtx:1:none:1.x"]) == {}
        assert history.entries(sql, history.Filter(), limit=10) == []
        assert records.evidence_of_vms(sql, ["none"]) == []
        assert blocks.blocks(sql) == []
        assert (blocks.seen(sql), blocks.machine(sql), blocks.newest(sql)) == ((None, 0), None, 0)
        assert leases.ports_of_container(sql, "c", "none") == {}
        assert leases.counts(sql) == {}
    assert shelf.file.read_bytes() == before


SPEC = {"memory": 256, "cpus": 1, "kernel": None, "initrd": None, "append": None, "disks": [],
        "command": ["sleep", "9"], "directory": "/"}  # fmt: skip
ROWS: tuple[tuple[str, dict[str, object]], ...] = (  # as the first program wrote them
    ("life", {"id": 1, "boot_id": "b", "netns": 1, "began": NOW}),
    ("operation", {"id": 1, "verb": "run", "vm": "web", "life": 1, "writer_boot": "b",
                   "writer_pid": 9, "writer_start": 9, "began": NOW}),
    ("network", {"id": "n", "name": "lan", "bridge": "br", "mac": "02:00:00:00:00:01", "mtu": 1500,
                 "nat": 1, "isolate": 0, "firewall": "nftables", "gateway6": "fe80::1"}),
    ("subnet", {"network": "n", "family": 4, "cidr": "10.77.0.0/24", "gateway": "10.77.0.1"}),
    ("subnet", {"network": "n", "family": 6, "cidr": "fd77::/64", "gateway": "fd77::1"}),
    ("vm", {"id": "v", "name": "web", "hypervisor": "command", "spec": json.dumps(SPEC),
            "autostart": 1}),
    ("interface", {"id": 1, "vm": "v", "position": 0, "network": "n", "mac": "02:00:00:00:00:02"}),
    ("lease", {"address": "10.77.0.2", "interface": 1, "network": "n", "family": 4, "offset": 2}),
    ("lease", {"address": "fd77::2", "interface": 1, "network": "n", "family": 6, "offset": 2}),
    ("port", {"id": 1, "interface": 1, "protocol": "tcp", "host_port": 8080, "guest_port": 80}),
    *(("resource", {"id": number, "kind": "tap", "key": f"hv{number}", "state": state,
                    "mark": f"hvtx:1:aaaaaaaaaa:{number}.bbbbbbbbbbbbbbbb", "operation": 1,
                    "spec": json.dumps({"device": f"hv{number}"}), "life": 1, "vm": "v",
                    "network": "n"})
      for number, state in enumerate(("intended", "committed", "releasing", "released"), start=1)),
    ("history", {"id": 1, "time": NOW, "operation": 1, "verb": "run", "vm": "web", "kind": "tap",
                 "key": "hv1", "event": "made", "message": "tap hv1"}),
)  # fmt: skip


def read(store: Store) -> dict[str, object]:
    """All that reading verbs ask for."""
    with store.reading() as sql:
        vms = records.vms(sql)
        return {
            "vms": vms,
            "networks": records.networks(sql),
            "rows": records.resources(sql),
            "operations": records.operations(sql),
            "tombstones": records.tombstones(sql, [str(row["mark"]) for _, row in ROWS[10:14]]),
            "history": history.entries(sql, history.Filter(vm="web"), limit=10),
            "evidence": records.evidence_of_vms(sql, [vm.id for vm in vms]),
            "leases": leases.counts(sql),
        }


@pytest.mark.parametrize("number", range(1, len(migrations.MIGRATIONS)))
def test_a_reader_of_an_older_store_sees_what_its_migration_keeps(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """With rows of each kind: what is read of it before a writer comes is what is read after."""
    make_older(shelf, monkeypatch, number)
    with closing(sqlite3.connect(shelf.file)) as old, old:
        for table, row in ROWS:
            places = ", ".join("?" * len(row))
            old.execute(
                f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", [*row.values()]
            )
    with shelf.opened(writable=False) as store:
        before = read(store)
    assert [vm.name for vm in before["vms"]] == ["web"]  # type: ignore[attr-defined]
    assert len(before["rows"]) == 3  # type: ignore[arg-type]
    assert len(before["history"]) == 1  # type: ignore[arg-type]
    assert facts(shelf)[0] == number
    shelf.open().close()
    assert facts(shelf)[0] == migrations.SCHEMA
    with shelf.opened(writable=False) as store:
        assert read(store) == before
