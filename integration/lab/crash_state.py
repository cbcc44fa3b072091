"""What a crash left, as one text: two crashes with the same text are one state to `recover`.

Two states are equal if all of this is equal, with every random name, address, number and mark
replaced by its place in the text, so that a row and the object that carries its mark stay tied:

- every row of the store but: the history, which nothing that decides reads; operations that have
  ended; tombstones whose mark nothing in the host carries; and of interrupted operations that have
  no rows all but one of each verb and VM (they are only closed; each killed `recover` leaves one);
- links (all attributes but counters, timers, and what carrier decides: it follows late),
  their addresses, the nft ruleset, the legacy tables entry by entry (an empty one is as good as
  none), the settings hvtx may turn;
- every file in the state and run directories: name, kind and mode; for the high-water mark whether
  it is ahead of the store, which is all that is ever asked; of other small files the content;
- of every recorded process, and of every other process that a command left, whether it lives and
  what it runs.

Left out on purpose: times, pids and start times as such, the writers of operations (no decision
reads them: `engine.snapshot` asks the lock), the sequence as such, and how SQLite lays rows out.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import json
import os
import re
import sqlite3
import stat
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from hvtx.drivers import portholder
from hvtx.drivers.vm_process import gate as gates
from hvtx.host import libnftables, procfs, xtblob, xtnames
from hvtx.host.netlink import Channel, attribute_map
from hvtx.host.nfnetlink import Nftables
from integration.lab import loggers
from integration.lab.accepts import own_accepts
from integration.lab.witness import SETTINGS

_ROWS = ("meta", "life", "operation", "network", "subnet", "vm", "interface", "lease", "port",
         "resource", "attempt")  # fmt: skip
_INDEX_KEYS = frozenset(("ifindex", "master", "link", "index"))
_HANDLE = re.compile(r', "handle": \d+|"handle": \d+, ')
_SECONDS = 60.0
_SIGNALLED = re.compile(rb"^(?:SigPnd|ShdPnd):\t0*[1-9a-f]", re.MULTILINE)
_TOKENS = re.compile(
    r"(?P<mark>hvtx:1:[a-z2-7]{10}:[0-9]+\.[a-z2-7]{16})|(?P<bridge>hvbr[a-z2-7]{11})"
    r"|(?P<tap>\bhv[a-z2-7]{12}\b)|(?P<installation>(?<=hvtx[-:1/])[a-z2-7]{10}\b)"
    r"|(?P<id>\b[0-9a-f]{32}\b)|(?P<mac>\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b)"
    r"|(?P<number>\b(?:2[1-9]|3[0-2])\d{11}\b)"  # a MAC address, 02:…, in a set of bytes
    r"|(?P<local>fe80::[0-9a-f:]+|0xfe80[0-9a-f]{28})"
)


class SetElement(NamedTuple):
    """An object of nft: where it is, itself, and its elements, each as text; handles left out."""

    where: str
    ordered: bool  # a rule, whose place among its neighbours matters
    text: str
    elements: tuple[str, ...]


class Raw(NamedTuple):
    """All that is looked at, as it is."""

    rows: dict[str, list[dict[str, Any]]]
    host: dict[str, Any]
    files: list[list[str]]
    strays: list[str]
    values: dict[str, str]
    alive: list[tuple[int, int]]

    @property
    def marks(self) -> set[str]:
        """The marks of all rows."""
        return {row["mark"] for row in self.rows["resource"]}


@lru_cache(100_000)
def _may_hold(text: str) -> bool:
    """Whether there is a token in a text at all."""
    return _TOKENS.search(text) is not None


class Seen:
    """A state: what was looked at, and its canonical ``text``, worked out when it is asked for."""

    def __init__(self, raw: Raw, tell: Callable[[Raw], str]) -> None:
        self.raw, self._tell = raw, tell

    def but(self, raw: Raw) -> Seen:
        """The same state, where something that is not in its text is another."""
        return Seen(raw, self._tell)

    @cached_property
    def text(self) -> str:
        """Equal for states that are one to `recover`."""
        return self._tell(self.raw)

    @property
    def name(self) -> str:
        """A short name for the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


class Eye:
    """Looks at one host and one store again and again, without starting a program."""

    def __init__(self, state_directory: str, run_directory: str) -> None:
        """Open sockets in the calling thread's network namespace."""
        self.state_directory, self.run_directory = state_directory, run_directory
        self._route = Channel(0)
        self._nft = Nftables()
        self._ruleset: tuple[int, list[SetElement]] = (-1, [])

    def close(self) -> None:
        """Give the sockets back."""
        self._route.close()
        self._nft.close()

    def look(self, known: Sequence[Seen] = ()) -> Seen:
        """The state, once everything that was on its way has arrived.

        What is exactly one of ``known`` need not be worked out again.
        """
        settle()
        raw = self.raw()
        for seen in known:
            if seen.raw == raw:
                return seen
        return self.told(raw)

    def raw(self) -> Raw:
        """Look, without a word about what it means."""
        rows = read_rows(self.state_directory)
        alive = sorted(i for i in recorded(rows) if lives(*i))
        host = {
            "links": sorted(self._links(), key=lambda link: int(link["index"])),
            "addresses": sorted(self._addresses(), key=lambda a: (a["index"], a["address"])),
            "nft": self._rules(),
            "legacy": legacy(),
            "settings": {name: Path("/proc/sys", name).read_text() for name in SETTINGS},
        }
        return Raw(rows, host, sorted(self._files(rows)), _strays(rows), _values(rows), alive)

    def raw_of_files(self, before: Raw) -> Raw:
        """The same after a call that wrote to a file, and did nothing else."""
        rows = read_rows(self.state_directory)
        if rows == before.rows:
            # what stands in files beside the store, the high-water mark for one
            return before._replace(files=sorted(self._files(rows)))
        alive = sorted(i for i in recorded(rows) if lives(*i))
        return Raw(
            rows, before.host, sorted(self._files(rows)), _strays(rows), _values(rows), alive
        )

    def told(self, raw: Raw) -> Seen:
        """What was seen, as a state."""
        return Seen(raw, self._text)

    def _text(self, raw: Raw) -> str:
        labels = Labels()
        # the rows give their tokens their places, then all others
        parts = [labels.label(_inside(raw))]
        parts += _host_text(raw.host, labels)
        parts.append(labels.label(sorted(raw.files, key=labels.plain)))
        parts.append(labels.label(raw.strays))
        parts.append(labels.label(sorted(raw.values.items(), key=labels.plain)))
        text = "\n".join(parts)
        for path, name in self._places(raw.rows).items():
            text = text.replace(path, name)
        return text

    def _links(self) -> list[dict[str, Any]]:
        body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + struct.pack("=HHI", 8, 29, 9)
        return [_link(message) for message in self._route.dump(18, body)]

    def _addresses(self) -> list[dict[str, Any]]:
        found = []
        for message in self._route.dump(22, struct.pack("=BBBBI", 0, 0, 0, 0, 0)):
            _, prefix, _, scope, index = struct.unpack_from("=BBBBI", message)
            parts = attribute_map(message, 8)
            address = ipaddress.ip_address(parts.get(2, parts.get(1, b"")))
            found.append({"index": index, "address": f"{address}/{prefix}", "scope": scope})
        return found

    def _rules(self) -> list[SetElement]:
        """The ruleset by nft's JSON; asked again only if the kernel says that it changed."""
        generation = self._nft.generation()
        if self._ruleset[0] != generation:
            text = libnftables.run("list ruleset", json=True, stateless=True)
            items = json.loads(_HANDLE.sub("", text))["nftables"]
            pieces = [_piece(i) for i in items if "metainfo" not in i]
            if '"xt"' in text:  # nft's JSON hides the marks there
                for tool, rules in own_accepts().items():
                    pieces.append(SetElement(f"accepts {tool}", True, "\n".join(rules), ()))
            self._ruleset = (generation, sorted_pieces(pieces))
        return self._ruleset[1]

    def _places(self, rows: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
        places = {self.state_directory: "STATE", self.run_directory: "RUN"}
        for meta in rows["meta"]:
            places[meta["installation"]] = "INSTALLATION"
        return places

    def _files(self, rows: dict[str, list[dict[str, Any]]]) -> list[Any]:
        found = []
        seq = rows["meta"][0]["seq"] if rows["meta"] else 0
        here = f"{procfs.boot_id()} {procfs.netns_cookie()}"
        for top in (self.state_directory, self.run_directory):
            for directory, folders, files in os.walk(top):
                for name in (*folders, *files):
                    if name.endswith(("-wal", "-shm")):
                        continue  # SQLite's own; what it holds is in the rows
                    if name == "reserve" or name.endswith(".old"):
                        continue  # room for a full disk; what a restore took the place of
                    path = os.path.join(directory, name)
                    mode = os.lstat(path).st_mode
                    content = ""
                    if name == "hwm":
                        mark = int.from_bytes(Path(path).read_bytes()[:8], "little")
                        content = "ahead" if mark > seq else "not ahead"
                    elif name in ("mark", "marker"):
                        content = Path(path).read_text().replace(here, "this life")
                    found.append([path, stat.filemode(mode), content])
        return found


# -- the store ----------------------------------------------------------------------------------


def read_rows(directory: str) -> dict[str, list[dict[str, Any]]]:
    """Every row, read from a copy, so that what the crash left stays as it is."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in _ROWS}
    path = Path(directory, "hvtx.db")
    if not path.exists():
        return rows
    copy = Path(directory + ".look")
    copy.mkdir(exist_ok=True)
    for suffix in ("", "-wal", "-shm"):
        Path(copy, "hvtx.db" + suffix).unlink(missing_ok=True)
    for suffix in ("", "-wal"):
        try:
            Path(copy, "hvtx.db" + suffix).write_bytes(Path(f"{path}{suffix}").read_bytes())
        except FileNotFoundError:
            continue
    connection = sqlite3.connect(Path(copy, "hvtx.db"))
    connection.row_factory = sqlite3.Row
    try:
        rows["version"] = [{"n": connection.execute("PRAGMA user_version").fetchone()[0]}]
        for name in _ROWS:
            rows[name] = [dict(row) for row in connection.execute(f"SELECT * FROM {name}")]
    finally:
        connection.close()
    here = os.stat(path)
    for meta in rows["meta"]:
        meta["place"] = (meta["path"], meta["device"], meta["inode"]) == (
            str(path.resolve()), here.st_dev, here.st_ino
        )  # fmt: skip
    for row in rows["resource"]:
        row["spec"], row["observed"] = json.loads(row["spec"]), json.loads(row["observed"])
    return rows


def identity(row: dict[str, Any]) -> tuple[int, int] | None:
    """Pid and start time of a process row."""
    seen = row["observed"]
    return (seen["pid"], seen["start"]) if row["kind"] == "process" and "pid" in seen else None


def holder(row: dict[str, Any]) -> tuple[int, int] | None:
    """Pid and start time of the process that holds the port of a row."""
    seen = row["observed"].get("holder")
    return (seen["pid"], seen["start"]) if seen else None


def recorded(rows: dict[str, list[dict[str, Any]]]) -> set[tuple[int, int]]:
    """Every process that a row names."""
    return {found for row in rows["resource"] for found in (identity(row), holder(row)) if found}


def lives(pid: int, start: int) -> bool:
    """Whether that very process lives."""
    facts = procfs.look(pid)
    return facts.exists and not facts.ended and facts.start == start


def _inside(raw: Raw) -> dict[str, Any]:
    """The rows that a decision could read, without what only counts or dates."""
    rows = raw.rows
    text = str([raw.host["links"], raw.host["nft"], raw.host["legacy"]])
    vms = {vm["id"]: vm["name"] for vm in rows["vm"]}
    networks = {network["id"]: network["name"] for network in rows["network"]}
    open_ = _open_operations(rows)
    lives_ = {life["id"]: f"life {n}" for n, life in enumerate(rows["life"])}
    interfaces = {i["id"]: [vms[i["vm"]], i["position"]] for i in rows["interface"]}

    def told(row: dict[str, Any]) -> dict[str, Any]:
        seen = row["observed"]
        if row["kind"] == "process" and "pid" in seen:
            seen = {"alive": (seen["pid"], seen["start"]) in raw.alive}
        if "holder" in seen:
            seen = {**seen, "holder": {"alive": holder(row) in raw.alive}}
        return {
            **{key: row[key] for key in ("kind", "key", "state", "mark")},
            "spec": {k: "<user>" if k == "owner" and isinstance(v, int) else v for k, v in row["spec"].items()},
            "observed": seen, "operation": open_.get(row["operation"], "ended"),
            "life": lives_[row["life"]], "vm": row["vm"], "network": row["network"],
        }  # fmt: skip

    standing = [r for r in rows["resource"] if r["state"] != "released" or r["mark"] in text]
    standing.sort(key=lambda r: (vms.get(r["vm"], ""), networks.get(r["network"], ""), r["kind"],
                                 r["state"] == "released", _TOKENS.sub("", r["key"]), r["id"]))  # fmt: skip
    return {
        "version": rows.get("version"),
        "meta": [[lives_.get(m["life"]), m["place"]] for m in rows["meta"]],
        "life": [[lives_[i["id"]], i["boot_id"] == procfs.boot_id(),
                  i["netns"] == procfs.netns_cookie(), i["recovered_at"] is not None]
                 for i in rows["life"]],
        "operation": sorted({(open_[o["id"]], o["verb"], o["vm"] or "", o["network"] or "",
                              lives_[o["life"]]) for o in rows["operation"] if o["id"] in open_}),
        "vm": [{**v, "operation": open_.get(v["operation"], v["operation"] and "ended"),
                "spec": {k: x for k, x in json.loads(v["spec"]).items() if k != "number"}}
               for v in sorted(rows["vm"], key=lambda v: v["name"])],
        "network": [{**n, "operation": open_.get(n["operation"], n["operation"] and "ended")}
                    for n in sorted(rows["network"], key=lambda n: n["name"])],
        "subnet": sorted(rows["subnet"], key=lambda s: s["cidr"]),
        "interface": [{**i, "id": interfaces[i["id"]]} for i in rows["interface"]],
        "lease": [{**e, "interface": interfaces[e["interface"]]} for e in rows["lease"]],
        "port": [{**p, "id": 0, "interface": interfaces[p["interface"]]} for p in rows["port"]],
        "attempt": [[lives_[a["life"]], a["vm"]] for a in rows["attempt"]],
        "resource": [told(row) for row in standing],
    }  # fmt: skip


def _open_operations(rows: dict[str, list[dict[str, Any]]]) -> dict[int, str]:
    """Names of operations that have not ended; those to which no row belongs count as one."""
    owners = {r["operation"] for r in rows["resource"] if r["state"] != "released"}
    owners |= {row["operation"] for row in (*rows["vm"], *rows["network"])}
    open_ = sorted(row["id"] for row in rows["operation"] if row["ended"] is None)
    own = [number for number in open_ if number in owners]
    return {n: f"operation {own.index(n)}" if n in owners else "without rows" for n in open_}


# -- processes ----------------------------------------------------------------------------------


def offspring() -> list[int]:
    """Pids of the living processes whose parent is this one (it adopts what commands leave)."""
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(pid) for pid in text.split()]


def settle() -> None:
    """Wait until gates have ended or opened; who was signalled, or reads the rules, is gone."""
    deadline = time.monotonic() + _SECONDS
    while any(_is_on_its_way(pid) for pid in offspring()):
        assert time.monotonic() < deadline, "a process neither ends nor begins"
        time.sleep(0.0005)


def _is_on_its_way(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
        if b"\nState:\tZ" in status:
            return False
        if loggers.is_logger(pid):
            return loggers.is_ending(pid)
        if portholder.is_passing(pid) or loggers.follows_the_dead(pid):
            return True
        if gates.is_gate(pid) or _SIGNALLED.search(status) is not None:
            return True
        # before its exec a child has our own command line, and in the middle of it none
        words = procfs.command_line(pid)
        if words and words[0].endswith("-save"):  # it reads the rules, and ends by itself
            return not procfs.look(pid).ended
        return words in ((), procfs.command_line(os.getpid())) and not procfs.look(pid).ended
    except OSError as problem:
        if problem.errno not in (errno.ENOENT, errno.ESRCH):  # it has ended
            raise
        return False


def _strays(rows: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What runs beside the records: whatever a command left that no row names."""
    known = {pid for pid, _ in recorded(rows)}
    strays = [pid for pid in offspring() if pid not in known and _runs_alone(pid)]
    # the logger of a VM goes with it: `settle` waits for that
    strays = [pid for pid in strays if not loggers.is_logger(pid)]
    return sorted(" ".join(procfs.command_line(pid)) for pid in strays)


def _runs_alone(pid: int) -> bool:
    """Whether it lives, and is not the command that is being stepped."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return "\nState:\tZ" not in status and f"\nTracerPid:\t{os.getpid()}\n" not in status


def _values(rows: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """The settings of bridges, and those that rows speak of."""
    names = {row["spec"]["path"] for row in rows["resource"] if row["kind"] == "sysctl"}
    for row in rows["network"]:
        names.add(f"net/ipv4/conf/{row['bridge']}/route_localnet")
    found = {}
    for name in names:
        path = Path("/proc/sys", name)
        found[name] = path.read_text() if path.exists() else "absent"
    return found


# -- the host -----------------------------------------------------------------------------------

# of a bridge: ids of the root, timers, who queries, how many addresses are learnt; of its ports: the
# state, which follows the carrier, ids, numbers by which of them came first, timers, and how many
# groups and hosts are learnt
_PASSING = {
    "data": (10, 11, 16, 17, 18, 19, 47, 48),
    "slave": (1, 13, 14, 15, 17, 18, 21, 22, 23, 38, 41),
}
_PERSIST = "6"  # IFLA_TUN_PERSIST
_IFLA = {1: "address", 3: "name", 4: "mtu", 5: "link", 6: "qdisc", 10: "master", 20: "alias",
         27: "group", 13: "queue"}  # fmt: skip


def _link(message: bytes) -> dict[str, Any]:
    """A link's lasting attributes."""
    _, kind, index, flags, _ = struct.unpack_from("=BxHiII", message)
    parts = attribute_map(message, 16)
    found: dict[str, Any] = {"index": index, "type": kind, "up": flags & 1}
    for number, name in _IFLA.items():
        if number not in parts:
            continue
        value = parts[number]
        if name == "address":
            found[name] = value.hex(":")
        elif name in ("name", "alias", "qdisc"):
            found[name] = value.rstrip(b"\0").decode(errors="replace")
        else:
            found[name] = struct.unpack("=I", value)[0]
    info = attribute_map(parts.get(18, b""))
    for number, name in ((1, "kind"), (4, "slave_kind")):
        found[name] = info.get(number, b"").rstrip(b"\0").decode()
    if found["kind"] == "veth":
        found.pop("link", None)  # the peer's number in its own namespace, whenever it was made
    for number, name in ((2, "data"), (5, "slave")):
        details = attribute_map(info.get(number, b""))
        found[name] = {
            str(n): value.hex() for n, value in details.items() if n not in _PASSING[name]
        }
    return found


def is_passing(link: dict[str, Any]) -> bool:
    """Whether a device lives only as long as a descriptor of it."""
    return link["kind"] == "tun" and link["data"].get(_PERSIST) == "00"


_ENTRIES = {4: (88, 112), 6: (140, 168)}  # struct ipt_entry, ip6t_entry: offsets, whole size
_ACCEPT = struct.pack("=i", -2)  # NF_ACCEPT as a standard target has it


def legacy() -> dict[str, list[str]]:
    """Every legacy table that the kernel lists, entry by entry, counters zeroed.

    One without rules, chains and policies counts as absent: a table that was once read stays.
    """
    found: dict[str, list[str]] = {}
    for family in (4, 6):
        for table in xtnames.listed(family):
            blob = xtblob.read(family, table)
            assert blob is not None
            entries = list(_entries_of(family, blob.data))
            bare = len(entries) == len(blob.starts) + 1
            if not bare or any(_ACCEPT not in entry[-8:] for entry in entries[:-1]):
                texts = [entry.rstrip(b"\0").decode("latin-1") for entry in entries]
                found[f"{family} {table}"] = [str(blob.starts), *texts]
    return found


def _entries_of(family: int, data: bytes) -> Iterator[bytes]:
    offsets, size = _ENTRIES[family]
    at = 0
    while at < len(data):
        following = struct.unpack_from("=H", data, at + offsets + 2)[0]
        yield data[at : at + size - 16] + bytes(16) + data[at + size : at + following]
        at += following


def _piece(item: dict[str, Any]) -> SetElement:
    ((kind, body),) = item.items()
    elements = tuple(json.dumps(element) for element in body.pop("elem", ()))
    where = " ".join((kind, *(str(body.get(k, "")) for k in ("family", "table", "chain"))))
    return SetElement(where, kind == "rule", json.dumps(body), elements)


def sorted_pieces(pieces: Iterable[SetElement]) -> list[SetElement]:
    """Pieces in an order of their own; rules stay in theirs, which is the kernel's."""
    return sorted(
        (p._replace(elements=tuple(sorted(p.elements))) for p in pieces),
        key=lambda p: (p.where, "" if p.ordered else p.text),
    )


def _host_text(host: dict[str, Any], labels: Labels) -> Iterator[str]:
    """The host in an order that hangs on no random name."""
    for part in ("links", "addresses"):
        yield labels.label(sorted(host[part], key=labels.plain))
    pieces = []
    for piece in host["nft"]:
        elements = sorted(piece.elements, key=labels.plain_text)
        head = labels.plain_text(piece.where)
        words = "\n".join((piece.text, *elements))
        pieces.append((head, "" if piece.ordered else labels.plain_text(words), words))
    for head, _, words in sorted(pieces, key=lambda p: p[:2]):
        yield head
        yield labels.label_text(words)
    yield labels.label(sorted(host["legacy"].items(), key=labels.plain))
    yield json.dumps(host["settings"])


class Labels:
    """Names for random tokens and device numbers: their kind and the order of their appearance."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._indexes: dict[int, str] = {0: "0", 1: "1"}

    def label(self, item: Any) -> str:
        """An item as text with every token replaced, named at its first appearance."""
        return self.label_text(json.dumps(self._numbered(item, new=True)))

    def label_text(self, text: str) -> str:
        """The same of text, which holds no device numbers."""
        return _TOKENS.sub(self._name, text) if _may_hold(text) else text

    def plain(self, item: Any) -> str:
        """The same without naming anything: what has no name yet is only of its kind."""
        return self.plain_text(json.dumps(self._numbered(item, new=False)))

    def plain_text(self, text: str) -> str:
        """The same of text, which holds no device numbers."""
        if not _may_hold(text):
            return text
        return _TOKENS.sub(lambda f: self._known.get(f[0], f"<{f.lastgroup}>"), text)

    def _name(self, found: re.Match[str]) -> str:
        if found[0] not in self._known:
            kind = str(found.lastgroup)
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._known[found[0]] = f"<{kind} {self._counts[kind]}>"
        return self._known[found[0]]

    def _numbered(self, item: Any, *, new: bool) -> Any:
        if isinstance(item, dict):
            return {key: self._index(value, new=new) if key in _INDEX_KEYS and
                    isinstance(value, int) else self._numbered(value, new=new)
                    for key, value in item.items()}  # fmt: skip
        if isinstance(item, list | tuple):
            return [self._numbered(part, new=new) for part in item]
        return item

    def _index(self, number: int, *, new: bool) -> str:
        if number not in self._indexes and new:
            self._indexes[number] = f"device {len(self._indexes)}"
        return self._indexes.get(number, "device")
