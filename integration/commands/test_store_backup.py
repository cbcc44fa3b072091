"""`store backup` and `store restore`: whole, beside writers, never in the way of what is there."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hvtx.engine.runtime import Runtime, Settings
from hvtx.errors import Refused
from integration import lab
from integration.crash.test_failpoints import SLEEP
from integration.lab import witness
from integration.lab.program import Forked, Program, preload


@pytest.fixture
def hvtx() -> Iterator[Program]:
    """A network, and a VM that does not run."""
    preload()
    program = Forked(HVTX_FIREWALL="nftables")
    program("network", "create", "net", "--subnet", "10.77.0.0/24")
    program("vm", "create", "web", "--network", "net", *SLEEP)
    yield program
    shown = program("vm", "ls", "--json", code=None)
    for vm in shown.json()["vms"] if shown.code == 0 else ():
        program("vm", "rm", vm["name"], "--force", code=None)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "backup.db"


def state() -> Path:
    return Path(os.environ["HVTX_STATE_DIR"])


def names(hvtx: Program) -> list[str]:
    return [vm["name"] for vm in hvtx("vm", "ls", "--json").json()["vms"]]


def restored(hvtx: Program, file: Path, *more: str) -> dict[str, object]:
    document: dict[str, object] = hvtx("store", "restore", str(file), "--json", *more).json()
    return document


# -- backup ------------------------------------------------------------------------------------------


def test_a_backup_is_whole_and_private(hvtx: Program, file: Path) -> None:
    with witness.unchanged():
        done = hvtx("store", "backup", str(file), "--json").json()
    assert (done["schema"], done["vms"], done["networks"]) == ("hvtx/store-backup/1", 1, 1)
    assert done["file"] == str(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not list(file.parent.glob("backup.db?*"))  # neither a log nor a draft
    with closing(sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True)) as sql:
        assert sql.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert sql.execute("SELECT name FROM vm").fetchall() == [("web",)]
        assert sql.execute("SELECT seq FROM meta").fetchone() == (done["change"],)


def test_without_a_store_there_is_no_backup(tmp_path: Path, file: Path) -> None:
    """The fault of the old recipe: nothing is set, and an empty file is made, exit 0."""
    program = Forked(HVTX_STATE_DIR=str(tmp_path / "nowhere"))
    ran = program("store", "backup", str(file), code=3)
    assert "there is no state store at" in ran.err
    assert not file.exists()
    assert not (tmp_path / "nowhere").exists()


def test_nothing_is_overwritten_unasked(hvtx: Program, file: Path) -> None:
    file.write_text("mine")
    assert "--force" in hvtx("store", "backup", str(file), code=4).err
    assert file.read_text() == "mine"
    hvtx("store", "backup", str(file), "--force")
    assert restored(hvtx, file)["vms"] == 1
    for target, code in ((state() / "hvtx.db", 2), (file.parent, 2), (file.parent / "no/x", 3)):
        hvtx("store", "backup", str(target), "--force", code=code)
    assert not list(file.parent.glob("*.new"))


def test_a_backup_to_standard_output_is_the_backup_and_nothing_else(
    hvtx: Program, file: Path
) -> None:
    """In a pipe, and in a file that the shell made."""
    call = [sys.executable, "-m", "hvtx", "store", "backup", "/dev/stdout"]
    piped = subprocess.run(call, capture_output=True, check=True)
    assert b"the store is backed up to /dev/stdout: 1 VM, 1 network" in piped.stderr
    with file.open("wb") as made:
        subprocess.run(call, stdout=made, stderr=subprocess.DEVNULL, check=True)
    for content in (piped.stdout, file.read_bytes()):
        file.write_bytes(content)
        with closing(sqlite3.connect(file)) as copy:
            assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            size = copy.execute("PRAGMA page_count").fetchone()[0] * 4096
        assert len(content) == size
    assert restored(hvtx, file)["vms"] == 1


def test_a_target_that_can_be_none(hvtx: Program, file: Path) -> None:
    """Each with its own words, for both directions, and never with advice for another fault."""
    loop = file.parent / "loop"
    loop.symlink_to(loop)
    file.write_text("mine")
    for target, code, hint in (
        (file / "x", 3, "in a directory that is there"),
        (file.parent / ("n" * 300), 2, "name another file"),
        (loop, 2, "name another file"),
    ):
        with witness.unchanged():
            ran = hvtx("store", "backup", str(target), code=code)
            assert hint in ran.err.splitlines()[1], ran.err
            ran = hvtx("store", "restore", str(target), code=code)
            assert "store backup" in ran.err.splitlines()[1], ran.err
    assert file.read_text() == "mine"


def test_no_file_of_a_store_is_written_over(hvtx: Program, tmp_path: Path) -> None:
    """Its log has what is committed and not yet in the database, and its locks keep writers apart."""
    (state() / "logs").mkdir(exist_ok=True)
    (state() / "logs" / "web.log").write_text("said\n")
    with closing(sqlite3.connect(state() / "hvtx.db")) as reader:
        reader.execute("SELECT count(*) FROM vm").fetchone()  # keeps the log there
        own = (
            "hvtx.db-wal",
            "hvtx.db-shm",
            "hvtx.db-journal",
            "queue.lock",
            "reserve",
            "logs/web.log",
        )
        before = {name: os.path.exists(state() / name) for name in own}
        for name in own:
            for command in (
                ("store", "backup", str(state() / name), "--force"),
                ("store", "backup", str(state() / name)),
                ("gc", "--plan", "--out", str(state() / name)),
                ("gc", "--plan", "--html", str(state() / name)),
                ("metrics", "--textfile", str(state() / name)),
            ):
                ran = hvtx(*command, code=2)
                assert "it is a file of a state store" in ran.err
                assert "--force" not in ran.err
        hvtx("gc", "--plan", "--out", str(state() / "hvtx.db"), code=2)
        assert {name: os.path.exists(state() / name) for name in own} == before
    assert names(hvtx) == ["web"]
    assert (state() / "logs" / "web.log").read_text() == "said\n"
    kept = tmp_path / "copies"
    kept.mkdir()
    for _ in range(2):  # a name like the store's is nothing special elsewhere
        hvtx("store", "backup", str(kept / "hvtx.db"), "--force")
    hvtx("store", "backup", str(state() / "hvtx.db.bak"))


def test_a_damaged_store_is_no_backup(hvtx: Program, file: Path) -> None:
    damage(state() / "hvtx.db")
    hvtx("store", "backup", str(file), code=7)
    assert not list(file.parent.glob("backup.db*"))


def damage(path: Path) -> None:
    """Noise in the middle of a database, which has no log."""
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 40000)


def test_beside_writers(hvtx: Program, file: Path) -> None:
    """Each of many backups is whole, and of one moment: a VM is in it with its lease, or not.

    Programs of their own: a child that is forked beside a thread may wait for its locks for good.
    """
    stop = threading.Event()
    beside = Program(**hvtx.environment)

    def write() -> None:
        number = 0
        while not stop.is_set() and number < 200:
            number += 1
            beside("vm", "create", f"vm{number}", "--network", "net", *SLEEP)

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    try:
        for _ in range(12):
            beside("store", "backup", str(file), "--force")
            with closing(sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True)) as sql:
                assert sql.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                vms, leases = (
                    sql.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                    for table in ("vm", "lease")
                )
            assert vms == leases
            seen.add(vms)
    finally:
        stop.set()
        writer.join()
    assert len(seen) > 1


# -- restore -----------------------------------------------------------------------------------------


def test_an_older_backup_is_put_back_and_says_what_is_next(hvtx: Program, file: Path) -> None:
    hvtx("store", "backup", str(file))
    hvtx("vm", "create", "later", "--network", "net", *SLEEP)
    before = lab.dump()
    done = restored(hvtx, file)
    assert lab.difference(before, lab.dump()) == ""
    assert done["next"] == "hvtx recover --accept-rollback"
    assert names(hvtx) == ["web"]
    assert "older than what this host has seen" in hvtx("vm", "start", "web", code=7).err
    kept = Path(str(done["kept"]))
    assert kept.parent == state()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    with closing(sqlite3.connect(f"file:{kept}?mode=ro&immutable=1", uri=True)) as sql:
        assert sql.execute("SELECT name FROM vm ORDER BY 1").fetchall() == [("later",), ("web",)]
    hvtx(*str(done["next"]).split()[1:])
    hvtx("vm", "start", "web")
    assert hvtx.is_clean()
    lines = hvtx("log", "--event", "restored", "--json").json()["entries"]
    assert [line["verb"] for line in lines] == ["restore"]
    hvtx("vm", "stop", "web")
    done = restored(hvtx, kept)  # and back again, from what was kept
    hvtx("recover", "--accept-rollback")
    assert names(hvtx) == ["later", "web"]
    assert done["kept"] != str(kept)


def test_it_is_refused_while_vms_run(hvtx: Program, file: Path) -> None:
    hvtx("store", "backup", str(file))
    hvtx("vm", "start", "web")
    content = (state() / "hvtx.db").read_bytes()
    ran = hvtx("store", "restore", str(file), code=4)
    assert "web" in ran.err
    assert "--force" in ran.err
    assert (state() / "hvtx.db").read_bytes() == content
    assert not list(state().glob("*.old"))
    assert not list(state().glob("*.new*"))
    pid = hvtx.vm("web")["pid"]
    restored(hvtx, file, "--force")
    hvtx("recover", "--accept-rollback")
    lab.end(pid)
    assert ("skip", "unrecorded") in hvtx.plan()
    hvtx("gc", "--apply", "--unrecorded")
    assert hvtx.is_clean()


def test_it_is_refused_while_an_operation_runs(hvtx: Program, file: Path) -> None:
    """Also with --force: it needs the store that it began in."""
    hvtx("store", "backup", str(file))
    held = os.fork()
    if held == 0:
        os.environ.update(hvtx.environment)
        from hvtx.cli.main import run
        from hvtx.host import failpoint

        failpoint.arm("registered:stop")
        run(["vm", "start", "web"])
        os._exit(0)
    os.waitid(os.P_PID, held, os.WSTOPPED | os.WNOWAIT)
    for more in ((), ("--force",)):
        ran = hvtx("store", "restore", str(file), *more, code=4)
        assert "`start web` is running" in ran.err
    os.kill(held, 18)
    os.waitpid(held, 0)
    assert hvtx.vm("web")["state"] == "running"


@pytest.mark.parametrize("newer", [False, True])
def test_who_began_before_it_writes_nothing(hvtx: Program, file: Path, newer: bool) -> None:
    """What it has read may not be in the backup, whichever has the higher number."""
    hvtx("store", "backup", str(file))
    hvtx("vm", "create", "later", "--network", "net", *SLEEP)
    if newer:
        file = Path(str(restored(hvtx, file)["kept"]))
        hvtx("recover", "--accept-rollback")
    places = {"state_directory": str(state()), "run_directory": os.environ["HVTX_RUN_DIR"]}
    with closing(Runtime(Settings(**places), writable=True)) as runtime:
        runtime.enter()
        restored(hvtx, file)
        before = hvtx("log", "--json").json()
        with pytest.raises(Refused, match="while this command worked"), runtime.store.transaction():
            pytest.fail("it may write")
        assert hvtx("log", "--json").json() == before
    hvtx("recover", *(() if newer else ("--accept-rollback",)))
    assert hvtx.is_clean()


def test_a_lost_store_comes_back(hvtx: Program, file: Path) -> None:
    """The directory is gone, and the host still has what it made."""
    hvtx("vm", "start", "web")
    hvtx("store", "backup", str(file))
    before = lab.dump()
    pid = hvtx.vm("web")["pid"]
    shutil.rmtree(state())
    done = restored(hvtx, file)
    assert (done["kept"], done["next"]) == (None, "hvtx recover")
    hvtx("recover")
    assert lab.difference(before, lab.dump()) == ""
    assert hvtx.vm("web")["pid"] == pid
    assert hvtx.is_clean()
    assert stat.S_IMODE(state().stat().st_mode) == 0o700


@pytest.mark.parametrize("how", ["pages", "noise", "empty"])
def test_a_damaged_store_is_replaced_and_kept(hvtx: Program, file: Path, how: str) -> None:
    hvtx("store", "backup", str(file))
    database = state() / "hvtx.db"
    if how == "pages":
        damage(database)
    else:
        for suffix in ("-wal", "-shm"):
            Path(f"{database}{suffix}").unlink(missing_ok=True)
        database.write_bytes(b"noise" * 1000 if how == "noise" else b"")
    content = database.read_bytes()
    hvtx("recover", code=7)
    done = restored(hvtx, file)
    assert Path(str(done["kept"])).read_bytes() == content
    hvtx(*str(done["next"]).split()[1:])
    hvtx("vm", "start", "web")
    assert hvtx.is_clean()


def test_a_log_without_its_database_is_not_taken_for_the_backups(hvtx: Program, file: Path) -> None:
    hvtx("store", "backup", str(file))
    with closing(sqlite3.connect(state() / "hvtx.db")) as reader:  # keeps the log
        reader.execute("SELECT count(*) FROM vm").fetchone()
        hvtx("vm", "create", "late", "--network", "net", *SLEEP)
        log = (state() / "hvtx.db-wal").read_bytes()
    assert log
    for suffix in ("", "-wal", "-shm"):
        Path(f"{state()}/hvtx.db{suffix}").unlink(missing_ok=True)
    (state() / "hvtx.db-wal").write_bytes(log)
    restored(hvtx, file)
    assert names(hvtx) == ["web"]
    assert (state() / "hvtx.db.1.old-wal").read_bytes() == log


def test_what_is_no_backup_changes_nothing(hvtx: Program, file: Path, tmp_path: Path) -> None:
    """3 for what is not there, 2 for what is no file, 7 for what is no whole store of hvtx."""
    hvtx("store", "backup", str(file))
    cut, strange, newer = tmp_path / "cut", tmp_path / "strange", tmp_path / "newer"
    cut.write_bytes(file.read_bytes()[:8192])
    with closing(sqlite3.connect(strange)) as sql:
        sql.execute("CREATE TABLE theirs (x)")
    shutil.copy(file, newer)
    with closing(sqlite3.connect(newer)) as sql:
        sql.execute("PRAGMA user_version = 9999")
    noise = tmp_path / "noise"
    noise.write_bytes(b"noise" * 1000)
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    content = (state() / "hvtx.db").read_bytes()
    for path, code in ((cut, 7), (strange, 7), (newer, 7), (noise, 7), (empty, 7),
                       (tmp_path / "absent", 3), (tmp_path, 2), (state() / "hvtx.db", 2)):  # fmt: skip
        ran = hvtx("store", "restore", str(path), "--json", code=code)
        assert json.loads(ran.err)["error"]["hint"], path
        assert (state() / "hvtx.db").read_bytes() == content, path
        assert {p.name for p in state().iterdir()} <= {
            "hvtx.db", "hvtx.db-wal", "hvtx.db-shm", "queue.lock", "reserve", "logs",
            *(f"reserve.{n}" for n in range(8)),
        }  # fmt: skip
    assert hvtx.is_clean()


def test_another_installations_backup(hvtx: Program, file: Path, tmp_path: Path) -> None:
    other = Forked(HVTX_STATE_DIR=str(tmp_path / "other"), HVTX_RUN_DIR=str(tmp_path / "run-other"))
    other("network", "create", "theirs", "--subnet", "10.78.0.0/24")
    other("store", "backup", str(file))
    assert "another installation" in hvtx("store", "restore", str(file), code=4).err
    assert names(hvtx) == ["web"]
    other("network", "rm", "theirs")


@pytest.mark.parametrize("dhcp", [False, True])
def test_a_start_that_the_backup_does_not_know_stands_in_no_ones_way(
    hvtx: Program, file: Path, dhcp: bool
) -> None:
    """The store is lost while a later start of the VM runs: what is said leads to a start."""
    if dhcp:  # then the VM has a file that its network's dnsmasq reads, too
        hvtx("network", "set", "net", "--dhcp")
    hvtx("vm", "start", "web")
    hvtx("store", "backup", str(file))
    hvtx("vm", "restart", "web")
    pid = hvtx.vm("web")["pid"]
    shutil.rmtree(state())
    done = restored(hvtx, file)
    hvtx(*str(done["next"]).split()[1:])
    lab.end(pid)
    hvtx("gc", "--apply", "--unrecorded")
    told = hvtx("vm", "start", "web", code=4).err.splitlines()[1].removeprefix("hint: ")
    *steps, again = told.split("; ")
    assert all(step.startswith("rm -rf /") for step in steps)
    assert steps
    for step in steps:
        subprocess.run(step, shell=True, check=True)
    assert again == "hvtx vm start web"
    hvtx("vm", "start", "web")
    hvtx("vm", "rm", "web", "--force")
    assert hvtx.is_clean()
