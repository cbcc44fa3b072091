"""A store that is not to be believed, under a running VM: the whole program refuses, the host stays.

What the store itself makes of damaged files is in tests/store; here every command meets them.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from integration import lab
from integration.crash.test_failpoints import SLEEP
from integration.crash.test_model_replay import stopped
from integration.lab.program import Forked, Program, preload

FILES = ("hvtx.db", "hvtx.db-wal", "hvtx.db-shm")
CHANGING = (
    ("gc", "--apply"),
    ("gc", "--heuristic", "--apply", "--yes"),
    ("recover",),
    ("vm", "stop", "web"),
    ("vm", "rm", "web", "--force"),
    ("vm", "start", "off"),
    ("vm", "create", "more", "--network", "net", *SLEEP),
    ("network", "create", "next", "--subnet", "10.79.0.0/24"),
    ("network", "rm", "net"),
    ("repair",),
)


@pytest.fixture
def hvtx() -> Iterator[Program]:
    """A network, a VM that runs, one that does not, and a store that was written more than once."""
    preload()
    program = Forked(HVTX_FIREWALL="nftables")
    program("network", "create", "net", "--subnet", "10.77.0.0/24")
    program("vm", "create", "off", "--network", "net", *SLEEP)
    shutil.copytree(state(), aside())
    program("vm", "run", "web", "--network", "net", "-p", "8080:80", *SLEEP)
    pid = program.vm("web")["pid"]
    yield program
    lab.end(pid)


def state() -> Path:
    return Path(os.environ["HVTX_STATE_DIR"])


def aside() -> Path:
    """Where an older copy of the store lies."""
    return state().parent / "older"


def database() -> Path:
    return state() / "hvtx.db"


def put(source: Path) -> None:
    """Put a copy of a store into the place of the store."""
    for name in FILES:
        (state() / name).unlink(missing_ok=True)
        if (source / name).exists():
            shutil.copy(source / name, state() / name)


def edit(*statements: str) -> None:
    with closing(sqlite3.connect(database(), isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def refused(hvtx: Program, code: str) -> None:
    """Every changing command ends with 7 and that code; neither host nor store changes."""
    before, content = lab.dump(), database().read_bytes() if database().is_file() else None
    plan = hvtx("gc", "--plan", "--json", code=7)
    assert (plan.json()["refused"], plan.json()["items"]) == (code, [])
    assert json.loads(plan.err)["error"]["code"] == code
    found = hvtx("doctor", "--json", code=1).json()["findings"]
    assert [f for f in found if (f["check"], f["level"]) == ("store", "error")], found
    assert {"permissions", "tun", "netfilter", "forwarding"} <= {f["check"] for f in found}
    for argv in CHANGING:
        ran = hvtx(*argv[:2], "--json", *argv[2:], code=7)
        assert json.loads(ran.err)["error"]["code"] == code, ran
        assert argv[0] in ("vm", "network") or ran.json()["refused"] == code
    assert lab.difference(before, lab.dump()) == ""
    assert content is None or database().read_bytes() == content


def test_an_older_copy(hvtx: Program) -> None:
    """store-rolled-back; reading shows what that copy knows."""
    put(aside())
    refused(hvtx, "store-rolled-back")
    assert [vm["name"] for vm in hvtx("vm", "ls", "--json").json()["vms"]] == ["off"]
    assert hvtx("network", "show", "net", "--json").json()["name"] == "net"
    (tap,) = [
        link["ifname"] for link in json.loads(lab.run("ip", "-j", "link", "show", "type", "tun"))
    ]
    told = hvtx("explain", tap, "--json").json()  # of a VM that this copy has never seen
    assert (told["owner"], told["record"]) == ("unknown", None)
    assert told["gc"] == {"action": "skip", "reason": "store-rolled-back"}


def test_a_copy_without_its_log(hvtx: Program) -> None:
    """`cp hvtx.db` while the last commits stand in the log: older than what this host has seen."""
    with closing(sqlite3.connect(database())) as reader:  # keeps the log from being folded in
        reader.execute("SELECT count(*) FROM vm").fetchone()
        hvtx("vm", "create", "late", "--network", "net", *SLEEP)
        copy = state().parent / "nolog"
        copy.mkdir()
        shutil.copy(database(), copy)
    put(copy)
    refused(hvtx, "store-rolled-back")


@pytest.mark.parametrize("how", [shutil.copytree, "linked"], ids=["copied", "a second name"])
def test_a_copy_elsewhere(hvtx: Program, how: Callable[..., object] | str) -> None:
    """store-cloned: through two names of one file SQLite would keep two logs."""
    other = state().parent / "other"
    if how == "linked":
        other.mkdir(mode=0o700)
        os.link(database(), other / "hvtx.db")
    else:
        shutil.copytree(state(), other)
    before = lab.dump()
    for argv in (("gc", "--apply"), ("recover",), ("vm", "rm", "web", "--force")):
        ran = hvtx("--state-dir", str(other), *argv, code=7)
        assert "still there" in ran.err
    assert lab.difference(before, lab.dump()) == ""
    assert hvtx("--state-dir", str(other), "vm", "ls", "--json").json()["vms"]
    assert hvtx.vm("web")["state"] == "running"  # the original is as good as before
    assert hvtx.is_clean()


def test_of_a_newer_program(hvtx: Program) -> None:
    edit("PRAGMA user_version = 9999")
    refused(hvtx, "store-newer")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 // 4096 * 4096])


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def symlink(path: Path) -> None:
    path.rename(path.parent.parent / "real.db")
    path.symlink_to(path.parent.parent / "real.db")


def given_away(path: Path) -> None:
    os.chown(path, 12345, 12345)


@pytest.mark.parametrize("bend", [empty, half, torn, symlink, given_away])
def test_what_is_not_to_be_trusted(hvtx: Program, bend: Callable[[Path], None]) -> None:
    edit("PRAGMA wal_checkpoint(TRUNCATE)")
    bend(database())
    refused(hvtx, "store-untrusted")


def test_open_to_its_group_it_is_made_private_first(hvtx: Program) -> None:
    """As one is that `tar` put back (tests/store): readers leave it, the next writer fixes it."""
    database().chmod(0o660)
    assert hvtx.is_clean()
    assert database().stat().st_mode & 0o777 == 0o660
    hvtx("gc", "--apply")
    assert database().stat().st_mode & 0o777 == 0o600


def test_a_missing_store_while_our_marks_stand(hvtx: Program) -> None:
    """It reads as an empty one; a new one is another installation, which takes nothing."""
    before, device = lab.dump(), hvtx.device("web")
    lost = state().parent / "lost"
    state().rename(lost)
    assert hvtx("vm", "ls", "--json").json()["vms"] == []
    assert ("skip", "other-installation") in hvtx.plan()
    assert not state().exists()
    hvtx("gc", "--apply")
    hvtx("recover")
    hvtx("vm", "stop", "web", code=3)
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24", code=4)
    assert hvtx.reasons("tap", device) == {("skip", "other-installation")}
    assert lab.difference(before, lab.dump()) == ""
    assert not state().exists()  # what is refused makes no store
    lost.rename(state())
    assert hvtx.vm("web")["state"] == "running"
    assert hvtx.is_clean()


# -- damaged pages -----------------------------------------------------------------------------------

PAGE = 4096
KINDS = {2: "index, inner", 5: "table, inner", 10: "index", 13: "table"}  # sqlite.org/fileformat2


def classes() -> dict[str, int]:
    """A page of each class that the store has: its number."""
    data = database().read_bytes()
    found = {"first": 1}
    for number in range(2, len(data) // PAGE + 1):
        first = data[(number - 1) * PAGE]
        found.setdefault(KINDS.get(first, "overflow or free"), number)
    return found


def grow(hvtx: Program) -> None:
    """Enough content that there are inner pages, long values and free pages."""
    edit(
        "INSERT INTO history (time, operation, verb, event, message) WITH RECURSIVE n(i) AS (SELECT 1"
        " UNION ALL SELECT i + 1 FROM n WHERE i < 900) SELECT 't', i, 'x', 'made', printf('%300d', i)"
        " FROM n",
        "UPDATE history SET message = printf('%9000d', id) WHERE id % 300 = 0",
        "DELETE FROM history WHERE id % 3 = 0 AND id % 300 <> 0",
        "PRAGMA wal_checkpoint(TRUNCATE)",
    )


COLLECTING = (("gc", "--apply"), ("recover",), ("repair",))
READING = (("vm", "ls"), ("vm", "show", "web"), ("gc", "--plan"), ("intents",), ("log",))


@pytest.mark.parametrize("how", ["header", "whole", "middle"])
def test_damaged_pages_of_every_class(hvtx: Program, how: str) -> None:
    """Who collects looks at every page first, and nothing of the live VM goes, whatever it reads."""
    grow(hvtx)
    good, before = database().read_bytes(), lab.dump()
    (mark,) = Path(os.environ["HVTX_RUN_DIR"]).glob("*/hwm")
    places = {"header": range(8), "whole": range(PAGE), "middle": range(PAGE // 2, PAGE // 2 + 64)}
    pages, seen = classes(), mark.read_bytes()
    assert {"first", "table", "index", "table, inner"} <= set(pages)
    for kind, number in pages.items():
        bad = bytearray(good)
        for place in places[how]:
            bad[(number - 1) * PAGE + place] ^= 0x5A
        for argv in (*READING, *COLLECTING):
            database().write_bytes(bad)
            mark.write_bytes(seen)
            for name in FILES[1:]:
                (state() / name).unlink(missing_ok=True)
            ran = hvtx(*argv, code=None)
            where = f"{how} of a page of class {kind}: {' '.join(argv)}: {ran}"
            assert "Traceback" not in ran.err, where
            assert lab.difference(before, lab.dump()) == "", where
            assert ran.code in (0, 3, 7), where
            sound = how == "middle" or kind == "overflow or free" or argv not in COLLECTING[:2]
            assert sound or ran.code == 7, where
    database().write_bytes(good)
    mark.write_bytes(seen)
    assert hvtx.is_clean()


# -- files taken away under a running command ----------------------------------------------------------


@pytest.mark.parametrize("names", [FILES[1:2], FILES[2:], FILES[1:], FILES], ids="+".join)
@pytest.mark.parametrize("point", ["intended", "acted:tap", "registered"])
def test_files_removed_under_a_running_start(
    hvtx: Program, names: tuple[str, ...], point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it would commit into files that nobody else sees is lost: it says so and commits nothing."""
    monkeypatch.setenv("HVTX_FIREWALL", "nftables")
    whole = state().parent / "whole"
    with stopped("vm", "start", "off", at=f"{point}:stop") as start:
        shutil.copytree(state(), whole)
        for name in names:
            (state() / name).unlink()
        assert start.go_on() == 7, start.output
        assert "while it was open" in start.output
    web = hvtx("vm", "show", "web", "--json", code=None)
    put(whole)
    if web.code == 0:
        assert web.json()["state"] == "running"
    hvtx("recover")
    assert hvtx.is_clean()
    assert hvtx.vm("off")["state"] == "defined"
    assert hvtx.vm("web")["state"] == "running"
    hvtx("vm", "start", "off")
    hvtx("vm", "rm", "off", "--force")
