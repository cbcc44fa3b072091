"""A host with hvtx on it, fake or real, as the machine sees it; and the script of what was done."""

from __future__ import annotations

import shlex
import sqlite3
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

from hvtx.engine.registry import DRIVERS
from hvtx.host import nfanswers, nfnumbers
from hvtx.model.resource import Address, Link, Resource
from hvtx.store import records, tombstone
from tests.machine.acts import ACTS, Ref, Word

KILLED = -9


class Ran(NamedTuple):
    """What a run of the program left."""

    code: int
    out: str
    err: str


class Look(NamedTuple):
    """Everything in the host, by what identifies it."""

    links: dict[int, Link]
    addresses: frozenset[Address]
    tables: dict[tuple[str, str], str | None]  # comments
    rules: dict[tuple[str, str, str, int], tuple[bytes, str | None]]
    elements: dict[tuple[str, str, str, bytes], tuple[bytes, str | None]]  # data, comment
    processes: dict[int, int]  # VMs and guests that run: pid and start time
    ids: frozenset[int]  # of network namespaces of others

    def place(self) -> tuple[object, ...]:
        """What must be equal if nothing was done."""
        return tuple(self)


def copy(store: Path, to: Path) -> None:
    """A whole copy of a store that may be in use."""
    to.unlink(missing_ok=True)
    with (
        closing(sqlite3.connect(store)) as source,
        closing(sqlite3.connect(to)) as target,
    ):
        source.backup(target)


def put_back(saved: Path, store: Path) -> None:
    """The copy in the store's place; nobody has it open."""
    for suffix in ("-wal", "-shm"):
        Path(f"{store}{suffix}").unlink(missing_ok=True)
    store.write_bytes(saved.read_bytes())


class World:
    """What both worlds share."""

    can_recycle = False
    drivers: Collection[str] = DRIVERS  # those that work here

    def __init__(self, place: Path) -> None:
        """An empty place for state, run directory and saved things."""
        self.place = place
        self.state, self.runs = place / "state", place / "run"
        self.lines: list[str] = []  # the script of what was done
        self.codes: list[int] = []  # with which its runs of hvtx ended, in that order
        self.installation = ""
        self.closing = ExitStack()  # what is to be closed before the world is

    # -- to be done by each ----------------------------------------------------------------------

    def run(self, argv: Sequence[str], failpoint: str, meanwhile: Callable[[], object]) -> Ran:
        """Run hvtx; ``meanwhile`` is called where the failpoint stops it."""
        raise NotImplementedError

    def do(self, what: str, /, words: dict[str, str]) -> Any:
        """Do somebody else's act; its result, where it has one."""
        raise NotImplementedError

    def links(self) -> Any:
        """The reader of links."""
        raise NotImplementedError

    def nftables(self) -> Any:
        """The reader of rules."""
        raise NotImplementedError

    def processes(self) -> dict[int, int]:
        """Pid and start time of VMs and guests that run (gates do not)."""
        raise NotImplementedError

    def namespace_ids(self) -> frozenset[int]:
        """The ids of network namespaces that this one's kernel tells."""
        raise NotImplementedError

    def holder(self, tap: str) -> tuple[str, ...]:
        """The command line of a VM that opens its device."""
        raise NotImplementedError

    def container(self) -> str:
        """The path of another network namespace, where this world has any."""
        raise NotImplementedError

    def close(self) -> None:
        """Remove everything."""
        raise NotImplementedError

    # -- what is done -----------------------------------------------------------------------------

    def plan_row_by_row(self) -> Ran:
        """A plan that judges each row by itself: one of everything does."""
        return self.hvtx("gc", "--plan", "--all", "--json", told=False)

    def hvtx(
        self,
        *argv: str | Ref,
        failpoint: str = "",
        meanwhile: Callable[[], object] | None = None,
        told: bool = True,
    ) -> Ran:
        """Run hvtx, and write it down."""
        words = " ".join(
            word.shell if isinstance(word, Ref) else shlex.quote(word) for word in argv
        )
        variable = f"HVTX_FAILPOINT='{failpoint}' " if failpoint else ""
        if told and meanwhile is None:
            self.lines.append(f"{variable}hvtx {words}")
        elif told:
            self.lines.append(f"{variable}midst {words}")

        def others() -> None:
            if meanwhile is not None:
                meanwhile()

        ran = self.run([str(word) for word in argv], failpoint, others)
        if meanwhile is not None:
            self.lines.append("go_on")
        if told:
            self.codes.append(ran.code)
            self.lines[-1] += f"   # {'killed' if ran.code == KILLED else f'exit {ran.code}'}"
        return ran

    def act(self, name: str, /, **words: Word) -> Any:
        """Somebody else's act, and its line."""
        shown = {k: w.shell if isinstance(w, Ref) else w for k, w in words.items()}
        self.lines.append(ACTS[name].format(**shown))
        return self.do(name, {k: str(w) for k, w in words.items()})

    def _backup(self) -> None:
        copy(self.state / "hvtx.db", self.place / "backup.db")

    def _old_store(self) -> None:
        copy(self.state / "hvtx.db", self.place / "newest.db")
        put_back(self.place / "backup.db", self.state / "hvtx.db")

    def _new_store(self) -> None:
        put_back(self.place / "newest.db", self.state / "hvtx.db")

    # -- what is there -----------------------------------------------------------------------------

    def look(self) -> Look:
        """The whole host."""
        links, nft = self.links(), self.nftables()
        try:
            elements = {}
            for place in nft.sets():
                if not place.flags & nfnumbers.SET_ANONYMOUS:
                    here = (place.family, place.table, place.name)
                    for one in nfanswers.all_elements(nft.dump_elements(*here)):
                        elements[*here, one.key] = (one.data, one.comment or None)
            return Look(
                {link.ifindex: link for link in links.all()},
                frozenset(links.addresses()),
                {(table.family, table.name): table.comment for table in nft.tables()},
                {
                    (r.family, r.table, r.chain, r.handle): (r.expressions, r.comment)
                    for r in nft.rules()
                },
                elements,
                self.processes(),
                self.namespace_ids(),
            )
        finally:
            links.close()
            nft.close()

    def record(self) -> Record:
        """What the store says."""
        path = self.state / "hvtx.db"
        if not path.exists():
            return Record("", 0, 0, [], {}, {}, [], set(), set())
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as sql:
            numbers = [row[0] for row in sql.execute("SELECT id FROM tombstone")]
            buried = {row.mark for row in tombstone.by_id(sql, numbers).values()}
            self.installation, seq, life = sql.execute(
                "SELECT installation, seq, life FROM meta"
            ).fetchone()
            return Record(
                self.installation,
                seq,
                life or 0,
                records.resources(sql),
                dict(sql.execute("SELECT name, id FROM vm ORDER BY name")),
                dict(sql.execute("SELECT name, id FROM network ORDER BY name")),
                [operation.id for operation in records.operations(sql)],
                {row[0] for row in sql.execute("SELECT mark FROM resource")} | buried,
                {
                    row[0]
                    for row in sql.execute("SELECT mark FROM resource WHERE state = 'released'")
                }
                | buried,
            )

    def script(self) -> str:
        """What was done so far; behind ``tests/machine/prologue.sh`` it can be run again."""
        return "\n".join(["# after tests/machine/prologue.sh:", *self.lines])


class Record(NamedTuple):
    """The store's content, as far as it matters here."""

    installation: str
    seq: int
    life: int
    rows: list[Resource]
    vms: dict[str, str]  # name to id
    networks: dict[str, str]
    open: list[int]  # operations that have not ended
    marks: set[str]  # of all rows, tombstones too
    closed: set[str]  # of tombstones

    def of(self, vm: str) -> list[Resource]:
        """The live rows of a VM (by name), without its leases."""
        identity = self.vms.get(vm)
        return [r for r in self.rows if r.vm == identity and identity and r.kind != "lease"]
