"""Power lost at any moment: every state that the disk may be left in, made from recorded writes.

A child makes a store and commits to it; strace records what reaches the files. A disk keeps what was
synced; of the rest it keeps nothing, all, only the latest, or half of the latest write, and of names
made, changed and removed since the directory was synced none or all. Each such state is opened.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from hvtx.store import records, trust
from hvtx.store.database import FILE

from .shelf import Shelf, enter

pytestmark = pytest.mark.slow  # every state of the disk

ROOT = Path(__file__).parents[2]
COMMITS = 5
CALLS = "openat,pwrite64,write,ftruncate,rename,unlink,fsync,fdatasync"
WORDS = textwrap.dedent("""
    import sys
    from tests.store.shelf import *
    from pathlib import Path
    shelf = Shelf(Path(sys.argv[1]))
    def opened():
        store = shelf.open()
        for care in sys.argv[3:]:
            store.connection.execute(care)
        return store
    store = opened()
    for number in range(int(sys.argv[2])):
        enter(store)
        print("ack", number, flush=True)
        if number == 2:
            store.close()  # a checkpoint, and a new log
            store = opened()
    store.close()
""")
_CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\)\s+= (-?\d+)")
_PATH = re.compile(r"<((?:\\x[0-9a-f]{2})*)>")


class Event(NamedTuple):
    """What happened to a file: by name for names, by file number for content."""

    kind: str  # make, write, size, move, remove, sync, sync-names, ack
    name: str = ""
    file: int = -1
    offset: int = 0
    data: bytes = b""
    to: str = ""


def _text(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))


def _strings(arguments: str) -> list[bytes]:
    return [_text(found) for found in re.findall(r'"((?:\\x[0-9a-f]{2})*)"', arguments)]


def _parse(log: str, state: Path) -> list[Event]:
    """The events below the state directory, with the acknowledgements in between."""
    files: dict[str, int] = {}
    events: list[Event] = []
    count = 0
    for line in log.splitlines():
        found = _CALL.match(line)
        if not found or found[3].startswith("-"):
            continue
        call, arguments, result = found[1], found[2], int(found[3])
        if call == "write" and arguments.startswith("1<"):
            if _strings(arguments)[0].startswith(b"ack"):
                events.append(Event("ack"))
            continue
        if call in ("rename", "unlink"):
            names = [Path(name.decode()).name for name in _strings(arguments)]
            if call == "rename":
                files[names[1]] = files.pop(names[0])
                events.append(Event("move", names[0], to=names[1]))
            else:
                files.pop(names[0], None)
                events.append(Event("remove", names[0]))
            continue
        where = _PATH.search(line if call == "openat" else arguments)
        path = Path(_text(where[1]).decode()) if where else None
        if call == "openat":
            path = Path(_text(_PATH.findall(line)[-1]).decode())
        if path == state and call in ("fsync", "fdatasync"):
            events.append(Event("sync-names"))
        if path is None or path.parent != state or path.suffix.endswith("-shm"):
            continue
        name = path.name
        if call == "openat":
            if "O_CREAT" in arguments and name not in files:
                files[name] = count
                events.append(Event("make", name, count))
                count += 1
        elif call == "pwrite64":
            offset = int(arguments.rpartition(", ")[2])
            data = _strings(arguments)[0]
            assert len(data) == result, "the whole of it was recorded"
            events.append(Event("write", file=files[name], offset=offset, data=data))
        elif call == "ftruncate":
            events.append(
                Event("size", file=files[name], offset=int(arguments.rpartition(", ")[2]))
            )
        elif call in ("fsync", "fdatasync"):
            events.append(Event("sync", file=files[name]))
    return events


def _apply(content: bytearray, event: Event) -> None:
    if event.kind == "size":
        del content[event.offset :]
        content.extend(bytes(event.offset - len(content)))
    else:
        content.extend(bytes(max(0, event.offset + len(event.data) - len(content))))
        content[event.offset : event.offset + len(event.data)] = event.data


KEPT = ("nothing", "all", "the latest", "half of the latest")


def _disk(events: list[Event], names_kept: bool, kept: str) -> dict[str, bytes]:
    """What is on the disk after a cut behind ``events``."""
    last_names = max((n for n, e in enumerate(events) if e.kind == "sync-names"), default=-1)
    synced = {e.file: n for n, e in enumerate(events) if e.kind == "sync"}
    names: dict[str, int] = {}
    content: dict[int, bytearray] = {}
    open_writes: dict[int, list[Event]] = {}
    for number, event in enumerate(events):
        if event.kind in ("make", "move", "remove") and (names_kept or number < last_names):
            if event.kind == "make":
                names[event.name] = event.file
            elif event.kind == "move":
                names[event.to] = names.pop(event.name)
            else:
                names.pop(event.name, None)
        if event.kind in ("write", "size"):
            if number < synced.get(event.file, -1):
                _apply(content.setdefault(event.file, bytearray()), event)
            else:
                open_writes.setdefault(event.file, []).append(event)
    for file, pending in open_writes.items():
        chosen = {"nothing": [], "all": pending, "the latest": pending[-1:]}.get(kept)
        if chosen is None:
            latest = pending[-1]
            chosen = [*pending[:-1], latest._replace(data=latest.data[: len(latest.data) // 2])]
        for event in chosen:
            _apply(content.setdefault(file, bytearray()), event)
    return {name: bytes(content.get(file, b"")) for name, file in names.items()}


def recorded(shelf: Shelf, log: Path, *care: str) -> list[Event]:
    """What a child does to the disk that makes a store and commits to it."""
    subprocess.run(
        ["strace", "-f", "-y", "-xx", "-s", "200000", "-o", str(log), "-e", f"trace={CALLS}",
         sys.executable, "-c", WORDS, str(shelf.base), str(COMMITS), *care],
        cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=120,
    )  # fmt: skip
    events = _parse(log.read_text(), shelf.state)
    assert [e.kind for e in events].count("ack") == COMMITS
    return events


def states(events: list[Event]) -> Iterator[tuple[int, dict[str, bytes]]]:
    """Every different disk, with the most commits that were acknowledged before it."""
    found: dict[frozenset[tuple[str, bytes]], int] = {}
    for cut in range(len(events) + 1):
        acknowledged = sum(e.kind == "ack" for e in events[:cut])
        for names_kept in (False, True):
            for kept in KEPT:
                disk = _disk(events[:cut], names_kept, kept)
                if FILE not in disk:
                    assert acknowledged == 0, "a store that nobody finds"
                    disk = dict.fromkeys(disk, b"")  # drafts are removed unread
                key = frozenset(disk.items())
                found[key] = max(found.get(key, 0), acknowledged)
    for key, acknowledged in found.items():
        yield acknowledged, dict(key)


def commits_in(disk: dict[str, bytes], shelf: Shelf) -> int:
    """Open what a cut left, check every page, commit once more; the commits that were there."""
    shutil.rmtree(shelf.base, ignore_errors=True)
    shelf.state.mkdir(parents=True, mode=0o700)
    for name, content in disk.items():
        (shelf.state / name).write_bytes(content)
    with shelf.opened() as store:
        trust.check_pages(store)
        found = len(records.operations(store.connection))
        enter(store)
    return found


@pytest.fixture
def after() -> Iterator[Shelf]:
    """A place in memory, where a sync costs nothing."""
    place = tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    yield Shelf(Path(place, "disk"))
    shutil.rmtree(place)


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


@needs_strace
def test_no_acknowledged_commit_is_lost_in_any_state_of_the_disk(
    shelf: Shelf, after: Shelf, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The store opens in each of them, whole, with every commit that was acknowledged before."""
    count = 0
    for acknowledged, disk in states(recorded(shelf, tmp_path / "strace")):
        count += 1
        found = commits_in(disk, after)
        assert acknowledged <= found <= COMMITS, (acknowledged, found, sorted(disk))
    record_property("states", count)
    assert count > 50, count


@needs_strace
def test_with_less_care_commits_would_be_lost(shelf: Shelf, after: Shelf, tmp_path: Path) -> None:
    """With synchronous=NORMAL the same states show it: so they are worth something."""
    every = recorded(shelf, tmp_path / "strace", "PRAGMA synchronous=NORMAL")
    assert any(found > commits_in(disk, after) for found, disk in states(every))
