"""Puts a host and a store back as they were, so that the next kill starts from the same state.

Files are written back in place (a store keeps its inode, by which it is known). Devices that came
are removed, devices that went are made again by hvtx's own drivers from the rows that describe
them; rules are loaded as nft and iptables print them; a VM process that ended is replaced by
another of the same command line, and the row is told. Whether it worked is not believed but looked
at: the state must have the same text as before, and the host the same objects. What cannot be put
back is made again from the beginning by whoever asked (`Rewinder.put` says False).
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import json
import os
import shutil
import signal
import sqlite3
import stat
import struct
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from hvtx.drivers import portholder
from hvtx.drivers.address import AddressDriver
from hvtx.drivers.base import Host
from hvtx.drivers.bridge import BridgeDriver
from hvtx.drivers.tap.driver import TapDriver
from hvtx.drivers.tap.veth import VethDriver
from hvtx.errors import HvtxError
from hvtx.host import libnftables, procfs, tun, xtnames
from hvtx.host.links import Links
from hvtx.host.netlink import Channel
from hvtx.host.tun import IFF_NO_PI, IFF_TAP, IFF_VNET_HDR
from hvtx.model.resource import Resource
from hvtx.model.vm import Publish
from integration import lab
from integration.lab.accepts import own_accepts, put_accepts
from integration.lab.crash_state import (
    Eye,
    Raw,
    Seen,
    holder,
    identity,
    lives,
    offspring,
    recorded,
    settle,
)
from integration.lab.services_again import is_service, lost, served_again

_DELLINK = 17
_TUNSETIFINDEX = 0x400454DA


class Saved(NamedTuple):
    """A state that can be put back."""

    seen: Seen
    files: dict[str, bytes | None]  # None for a directory
    modes: dict[str, int]
    nft: str
    accepts: dict[str, list[str]]  # hvtx's rules in others' chains of iptables-nft, by tool
    legacy: dict[int, str]
    commands: dict[int, tuple[str, ...]]  # of living VM processes, by pid


class Rewinder:
    """Saves states and puts them back."""

    def __init__(self, eye: Eye) -> None:
        """Work on the host and store that ``eye`` looks at."""
        self.eye = eye
        self.spared: set[int] = set()  # processes that are not the commands' to begin and end
        self.why = ""

    def save(self, seen: Seen) -> Saved:
        """Keep the state that was just seen."""
        files: dict[str, bytes | None] = {}
        modes: dict[str, int] = {}
        for path in _walk(self.eye.state_directory, self.eye.run_directory):
            mode = os.lstat(path).st_mode
            modes[path] = stat.S_IMODE(mode)
            if path.endswith(("-shm", "/reserve")):
                continue
            files[path] = Path(path).read_bytes() if stat.S_ISREG(mode) else None
        commands = {}
        for row in seen.raw.rows["resource"]:
            found = identity(row)
            if found and row["state"] != "released" and lives(*found) and not is_service(row):
                commands[found[0]] = procfs.command_line(found[0])
        nft = "".join(
            libnftables.run(f"list table {family} {name}") for family, name in own_tables()
        )
        return Saved(seen, files, modes, nft, own_accepts(), _legacy_text(), commands)

    def put(self, saved: Saved, now: Seen) -> Saved | None:
        """Put a state back, being in ``now``; as it is then (with another VM process), or None."""
        if now.raw == saved.seen.raw:
            return saved
        return self._put(saved, now)

    def _put(self, saved: Saved, now: Seen) -> Saved | None:
        try:
            saved = self._processes(saved, now)
            self._links(saved, now)
            if now.raw.host["nft"] != saved.seen.raw.host["nft"]:
                away = [f"delete table {family} {name}" for family, name in own_tables()]
                libnftables.run("\n".join((*away, saved.nft)))
                put_accepts(saved.accepts)
            if now.raw.host["legacy"] != saved.seen.raw.host["legacy"]:
                self._legacy(saved)
            for name, value in saved.seen.raw.host["settings"].items():
                if now.raw.host["settings"][name] != value:
                    Path("/proc/sys", name).write_text(value)
            for name, value in saved.seen.raw.values.items():
                path = Path("/proc/sys", name)
                if path.exists() and value not in ("absent", path.read_text()):
                    path.write_text(value)
            saved = self._placed(saved)
            self._files(saved)
            for row in lost(saved.seen.raw):  # which reads its files
                saved = _told(saved, *served_again(saved.seen.raw, row))
                self._files(saved)
        except (HvtxError, OSError, LookupError) as problem:
            self.why = f"{type(problem).__name__}: {problem}"
            return None
        settle()
        again = self.eye.raw()
        if again != saved.seen.raw:
            self.why = lab.difference(saved.seen.raw._asdict(), again._asdict())
            return None
        return saved

    # -- processes ---------------------------------------------------------------------------

    def _processes(self, saved: Saved, now: Seen) -> Saved:
        """End what came, begin again what ended."""
        wanted = {
            found for row in saved.seen.raw.rows["resource"]
            if (found := identity(row)) and found[0] in saved.commands
        }  # fmt: skip
        holding = {
            found for row in saved.seen.raw.rows["resource"]
            if (found := holder(row)) and found in saved.seen.raw.alive
        }  # fmt: skip
        serving = {
            found for row in saved.seen.raw.rows["resource"]
            if is_service(row) and (found := identity(row)) in saved.seen.raw.alive
        }  # fmt: skip
        kept = {pid for pid, _ in wanted | holding | serving} | self.spared
        known = {pid for pid, _ in recorded(now.raw.rows)}
        for pid in offspring():
            # a holder that was begun for a state which could not be put back is in no record
            if (pid in known or _holds_ports(pid)) and pid not in kept:
                _end(pid)
        for pid, start in wanted:
            if not lives(pid, start):
                saved = _replaced(saved, pid, start)
        settle()  # who held ports for one that has ended goes with it
        for pid, start in holding:
            if not lives(pid, start):
                saved = _held_again(saved, pid, start)
        reap()
        return saved

    # -- devices -----------------------------------------------------------------------------

    def _links(self, saved: Saved, now: Seen) -> None:
        before = {link["index"]: link for link in saved.seen.raw.host["links"]}
        here = {link["index"]: link for link in now.raw.host["links"]}
        for index in here.keys() & before.keys():
            alias = before[index].get("alias", "")
            if here[index].get("alias", "") != alias:
                _change(index, alias=alias)  # what somebody holds open can only be marked again
        extra = [i for i in here if i not in before or not _same_link(here[i], before[i])]
        channel = Channel(0)
        try:
            for index in extra:
                with contextlib.suppress(OSError):  # it may be gone with another
                    channel.request(_DELLINK, 0, struct.pack("=BxHiII", 0, 0, index, 0, 0))
        finally:
            channel.close()
        missing = [link for i, link in before.items() if i not in here or i in extra]
        for link in sorted(missing, key=_turn):
            self._make(saved, link)

    def _make(self, saved: Saved, link: dict[str, Any]) -> None:
        """Make a device again; LookupError for a bridge or a pair that no row describes."""
        rows = {row["mark"]: _row(row) for row in saved.seen.raw.rows["resource"]}
        row = rows.get(link.get("alias", ""))
        host = Host("", self.eye.run_directory, self.eye.state_directory, 10.0)
        if link["kind"] == "tun" and row is None:
            _make_tap(link)
        elif link["kind"] == "tun":
            driver = TapDriver(host)
            driver.create([row])
            driver.links.close()
        elif link["kind"] == "veth":
            VethDriver(host).create([rows[link["alias"]]])
        else:
            BridgeDriver(host).create([rows[link["alias"]]])
            there = {a["address"] for a in saved.seen.raw.host["addresses"]
                     if a["index"] == link["index"]}  # fmt: skip
            own = [r for r in rows.values() if r.kind == "address" and r.state != "released"
                   and r.spec["ifindex"] == link["index"] and r.spec["address"] in there]  # fmt: skip
            AddressDriver(host).create(own)

    # -- rules and files ---------------------------------------------------------------------

    def _legacy(self, saved: Saved) -> None:
        for family in (4, 6):
            text = saved.legacy.get(family, "")
            for table in xtnames.listed(family):
                if f"*{table}\n" not in text:
                    text += f"*{table}\nCOMMIT\n"
            if text:
                lab.run(f"{xtnames.TOOLS[family]}-legacy-restore", stdin=text)

    def _placed(self, saved: Saved) -> Saved:
        """Where the store's file is another one by now, the store is told."""
        path = Path(self.eye.state_directory, "hvtx.db")
        metas = saved.seen.raw.rows["meta"]
        if not metas or not metas[0]["place"]:
            return saved
        path.parent.mkdir(exist_ok=True)
        path.touch()
        here = path.stat()
        if (here.st_dev, here.st_ino) == (metas[0]["device"], metas[0]["inode"]):
            return saved
        told = ("UPDATE meta SET device = ?, inode = ?", (here.st_dev, here.st_ino))
        rows = copy.deepcopy(saved.seen.raw.rows)
        rows["meta"][0].update(device=here.st_dev, inode=here.st_ino)
        return _told(saved, told, saved.seen.raw._replace(rows=rows))

    def _files(self, saved: Saved) -> None:
        for path in reversed(list(_walk(self.eye.state_directory, self.eye.run_directory))):
            if path not in saved.files and not path.endswith("/reserve"):
                if os.path.isdir(path):
                    shutil.rmtree(path)
                else:
                    os.unlink(path)
        for path, content in saved.files.items():
            if content is None:
                os.makedirs(path, exist_ok=True)
            else:
                _write(path, content)
            os.chmod(path, saved.modes[path])


def own_tables() -> list[tuple[str, str]]:
    """hvtx's tables; others' are not even touched to put a state back."""
    lines = libnftables.run("list tables").splitlines()
    words = [tuple(line.split()[1:3]) for line in lines]
    return [(family, name) for family, name in words if name.startswith("hvtx-")]


def _turn(link: dict[str, Any]) -> tuple[bool, str]:
    """Bridges first; then ports by the numbers that their bridge gave them."""
    return link["kind"] != "bridge", link["slave"].get("18", "")


def _change(index: int, **what: Any) -> None:
    links = Links()
    try:
        links.change(index, **{k: v for k, v in what.items() if v is not None and v is not False})
    finally:
        links.close()


def _make_tap(link: dict[str, Any]) -> None:
    """A TAP that is nobody's on record."""
    flags = IFF_TAP
    flags |= 0 if link["data"]["4"] == "01" else IFF_NO_PI
    flags |= IFF_VNET_HDR if link["data"]["5"] == "01" else 0
    descriptor = tun.open_device()
    try:
        fcntl.ioctl(descriptor, _TUNSETIFINDEX, struct.pack("=I", link["index"]))
        tun.attach(descriptor, link["name"], flags)
        _change(link["index"], alias=link.get("alias"), master=link.get("master"),
                mac=link["address"], mtu=link["mtu"], up=bool(link["up"]))  # fmt: skip
        tun.set_persistent(descriptor, True)
    finally:
        os.close(descriptor)


def _same_link(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one.get(k) == other.get(k) for k in ("name", "kind", "address"))


def _row(row: dict[str, Any]) -> Resource:
    return Resource(**{name: row[name] for name in Resource._fields})


def _walk(*tops: str) -> list[str]:
    found = []
    for top in tops:
        if os.path.isdir(top):
            found.append(top)
        for directory, folders, files in os.walk(top):
            found += [os.path.join(directory, name) for name in (*folders, *files)]
    return found


def _write(path: str, content: bytes) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.pread(descriptor, len(content) + 1, 0) != content:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, content, 0)
    finally:
        os.close(descriptor)


def _legacy_text() -> dict[int, str]:
    return {
        family: "\n".join(
            lab.run(f"{xtnames.TOOLS[family]}-legacy-save", "-t", table)
            for table in sorted(xtnames.listed(family))
        )
        for family in (4, 6)
        if xtnames.listed(family)
    }


def _holds_ports(pid: int) -> bool:
    try:
        return portholder.SIGNATURE in procfs.command_line(pid)
    except OSError:
        return False


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def reap() -> None:
    """Take the exit codes of processes that have ended; those of `subprocess` are its own."""
    known = {child.pid for child in subprocess._active}  # type: ignore[attr-defined]
    for pid in offspring():
        if pid not in known and procfs.look(pid).ended:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _replaced(saved: Saved, pid: int, start: int) -> Saved:
    """The same state with another process of the same command line in a dead one's place."""
    argv = saved.commands[pid]
    new = os.posix_spawnp(argv[0], argv, os.environ, setsid=True)
    identity_ = procfs.identify(new)._asdict()
    statement = """
        UPDATE resource SET observed = ?
        WHERE kind = 'process' AND json_extract(observed, '$.pid') = ?
        AND json_extract(observed, '$.start') = ?
    """
    told = (statement, (json.dumps(identity_), pid, start))
    raw = saved.seen.raw
    rows = copy.deepcopy(raw.rows)
    for row in rows["resource"]:
        if identity(row) == (pid, start):
            row["observed"] = identity_
    alive = sorted((new, identity_["start"]) if i == (pid, start) else i for i in raw.alive)
    commands = {n: c for n, c in saved.commands.items() if n != pid} | {new: argv}
    return _told(saved, told, raw._replace(rows=rows, alive=alive))._replace(commands=commands)


def _held_again(saved: Saved, pid: int, start: int) -> Saved:
    """The same state with another process that holds the ports of one that has ended."""
    raw = saved.seen.raw
    rows = copy.deepcopy(raw.rows)
    own = [row for row in rows["resource"] if holder(row) == (pid, start)]
    vms = [identity(row) for row in rows["resource"] if row["vm"] == own[0]["vm"]]
    followed = next((found for found in vms if found in raw.alive and found), None)
    spec = ("protocol", "host_ip", "host_port", "guest_port")
    held = portholder.hold(Publish(*(row["spec"][name] for name in spec)) for row in own)
    vm = procfs.identify(followed[0]) if followed else None
    new = portholder.spawn(held, vm, [own[0]["mark"], *(row["key"] for row in own)])
    new.open()
    told = new.identity._asdict()
    for row in own:
        row["observed"]["holder"] = told
    here = (new.identity.pid, new.identity.start)
    alive = sorted(here if i == (pid, start) else i for i in raw.alive)
    statement = """
        UPDATE resource SET observed = json_set(observed, '$.holder', json(?))
        WHERE json_extract(observed, '$.holder.pid') = ?
        AND json_extract(observed, '$.holder.start') = ?
    """
    again = raw._replace(rows=rows, alive=alive)
    return _told(saved, (statement, (json.dumps(told), pid, start)), again)


def _told(saved: Saved, told: tuple[str, tuple[Any, ...]], raw: Raw) -> Saved:
    """The same state with one statement worked into the store, which then looks like ``raw``."""
    store = next(path for path in saved.files if path.endswith("/hvtx.db"))
    files = dict(saved.files)
    with contextlib.ExitStack() as later:
        folder = Path(os.environ["HVTX_STATE_DIR"] + ".edit")
        folder.mkdir()
        later.callback(shutil.rmtree, folder)
        (folder / "x.db").write_bytes(files[store] or b"")
        log = files.pop(store + "-wal", None)
        if log is not None:
            (folder / "x.db-wal").write_bytes(log)
        connection = sqlite3.connect(folder / "x.db", isolation_level=None)
        connection.execute(*told)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        files[store] = (folder / "x.db").read_bytes()
    return saved._replace(files=files, seen=saved.seen.but(raw))
