"""The composition root: settings, store, epoch, locks and drivers of one command.

Drivers are looked up by dotted name and imported when first used, so that a command loads only what
it touches. Opening for reading leaves store and host alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager

from hvtx.drivers.base import (
    CommonDriver,
    DeviceDriver,
    FirewallDriver,
    Host,
)
from hvtx.engine.processes import process_facts, rows_by_vm
from hvtx.engine.registry import Drivers
from hvtx.engine.run_directory import RunDirectory
from hvtx.errors import NotPermitted, Refused
from hvtx.host import capabilities, descriptors, procfs, store_location
from hvtx.host.locks import LockFile, name_offset
from hvtx.model.resource import Kind, Resource
from hvtx.model.typed import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, TypeVar
from hvtx.model.user import AUTO
from hvtx.model.vm import Epoch, Identity, Liveness, Operation
from hvtx.planner.epoch import EpochRelation, judge_epoch
from hvtx.planner.states import judge_vm
from hvtx.store import history, records, trust
from hvtx.store.database import Store
from hvtx.store.opening import open_store

if TYPE_CHECKING:
    from hvtx.engine.off_record import OffRecord
    from hvtx.model.block import Cluster

P = ParamSpec("P")
T = TypeVar("T")
Watch = Callable[[int], None]
Listener = Callable[[Sequence[Mapping[str, Any]]], None]  # entries of the history
_ACCEPTABLE = ("store-rolled-back", "store-cloned")  # refusals that a person may overrule


class Settings(NamedTuple):
    """What the command line, the environment and the configuration decide."""

    state_directory: str = "/var/lib/hvtx"
    run_directory: str = "/run/hvtx"
    firewall: str = "auto"
    lock_timeout: float = 10.0
    group: str | None = None  # whose members may read the view (docs/privileges.md)
    tap_user: str | None = None  # who may open TAP devices; None: whoever runs this
    vm_user: str = AUTO  # who VM processes run as: auto, root, or a user by name or number
    dhcp: str = "off"  # whether new networks have a service: auto, on or off (the program's: auto)
    history_lines: int = 100_000  # how many the history keeps, about
    egress: str | None = None  # what guests of a new network may reach; None: as without it
    cluster: Cluster | None = None  # where blocks of addresses come from; None: nowhere


class Runtime:
    """Everything that a verb works with; close it when done."""

    def __init__(
        self,
        settings: Settings,
        *,
        writable: bool,
        create: bool = True,
        watch: Watch | None = None,
        spends: bool = False,
    ) -> None:
        """Open the store; raises StoreError, NotPermitted, Refused, HostRefused, Conflict.

        Without ``create`` a missing store reads as an empty one, for writers too. ``watch`` is
        told the number of each change before it is committed. ``spends``: what is done ends or
        frees something, and may take the reserve of a full disk.
        """
        self.settings = settings
        self.writable = writable
        self._create = create
        self._spends = spends
        if writable:
            need_privileges()  # before there is a store that only root can open
            descriptors.need(descriptors.TO_END if spends else descriptors.TO_MAKE)
        self._tap_user = _tap_user(settings)
        self._watch = watch
        self.boot_id = procfs.boot_id()
        self.netns = procfs.netns_cookie()
        self.store: Store = self._open()
        self.refused: Refused | None = None
        self.drivers = Drivers(lambda: self.host)
        self._directory = RunDirectory(lambda: self.store.mark)
        self.listener: Listener | None = None  # is told of each operation when it has ended
        self.mine: set[int] = set()  # operations of this run: a lock's owner cannot probe it
        self.life: Epoch = Epoch(0, self.boot_id, self.netns, recovered=False)
        self.epoch = EpochRelation.FIRST
        self.off_record: OffRecord | None = None  # where an older copy of the store was accepted
        self._moves = False  # to this namespace from another, with nothing on record
        try:
            self._judge()
        except BaseException:
            self.close()
            raise

    def _open(self) -> Store:
        store = open_store(
            self.settings.state_directory,
            self.settings.run_directory,
            writable=self.writable,
            create=self._create,
            lock_timeout=self.settings.lock_timeout,
            spends=self._spends,
        )
        store.watch = self._watch
        if store.was_open:
            from hvtx.engine import notice

            notice.warning(f"others had access to {', '.join(store.was_open)}: private again now")
        return store

    def reopen_store(self) -> None:
        """Forget the connection and read again what is really there."""
        self.store.close()
        self.store = self._open()

    def close(self) -> None:
        """Give back connections, locks, and last the sockets, whose closing takes longest."""
        with closing(self.drivers), closing(self._directory):
            self.store.close()

    def reading(self) -> AbstractContextManager[Any]:
        """One moment of the store, for what is decided from several things (``Store.reading``)."""
        return self.store.reading()

    def read(self, ask: Callable[Concatenate[Any, P], T], *values: P.args, **more: P.kwargs) -> T:
        """What one reading function of ``hvtx.store`` says, in a moment of its own."""
        with self.store.reading() as sql:
            return ask(sql, *values, **more)

    @property
    def installation(self) -> str:
        """The installation's id; empty where there is no store."""
        return self.store.installation

    @property
    def host(self) -> Host:
        """What drivers are told."""
        return Host(
            installation=self.installation,
            run_directory=self.store.run_directory,
            state_directory=self.settings.state_directory,
            lock_timeout=self.settings.lock_timeout,
            tap_user=self._tap_user,
        )

    # -- trust and epoch -------------------------------------------------------------------------

    def _judge(self) -> None:
        with self.reading() as sql:
            try:
                trust.check_trust(self.store)
            except Refused as refusal:
                self.refused = refusal
            known = records.current_life(sql)
        moves = False
        marker = bool(self.installation) and self._directory.is_marked()
        if known and known.boot_id == self.boot_id and known.netns != self.netns and not marker:
            moves = self._old_life_moves(known)
        self.epoch = judge_epoch(
            known, boot_id=self.boot_id, netns=self.netns, marker=marker, old_life_moves=moves
        )
        if self.epoch is EpochRelation.WRONG and self.read(records.is_bare):
            self.epoch = EpochRelation.NEW  # nothing is bound to it: perhaps a command failed
            self._moves = True
        if self.epoch is EpochRelation.SAME and known is not None:
            self.life = known
            if self.writable and not marker:  # where there is one, it is the right directory
                self._directory.refuse_another(self.read(records.resources_of_life, known.id))
        elif self.epoch is EpochRelation.WRONG and self.refused is None:
            self.refused = wrong_namespace()

    def _old_life_moves(self, known: Epoch) -> bool:
        """Whether a VM process or operation of that life may still be alive."""
        with self.reading() as sql:
            operations = records.operations(sql)
            lives = records.lives(sql)
            rows = records.resources_of_life(sql, known.id)
            vms = records.vm_heads(sql)
        own = rows_by_vm(rows)
        return any(self.running(operations).values()) or any(
            _may_live(hypervisor, own.get(vm, []), life=self.life, lives=lives)
            for vm, _, hypervisor, _ in vms
        )

    def enter(self, *, accept_rollback: bool = False, new_namespace: bool = False) -> None:
        """Make sure that this run may change things, and that its life is on record.

        Raises Refused for what only a person may decide.
        """
        assert self.writable
        older = accept_rollback and self.refused is not None and self.refused.code in _ACCEPTABLE
        if older:
            self._directory.doubt()  # first: then nothing else tells of it any more
            trust.accept_rollback(self.store)
            self.refused = None
            self._judge()
        if new_namespace and self.epoch is EpochRelation.WRONG:
            self.epoch = EpochRelation.NEW
            self.refused = None
        if self.refused is not None:
            raise self.refused
        if self.store.missing:
            return  # a verb finds no VM or network, and puts nothing on record
        if self.epoch is not EpochRelation.SAME:
            with self.store.transaction() as sql:
                self._enter_life(sql)
            self.epoch = EpochRelation.SAME
        place = trust.note_place(self.store, lambda: self.nftables().leave_trace())
        trace = store_location.trace_at(place)
        text = f"{self.boot_id} {self.netns}\n{trace}\n".encode()
        if self._directory.mark(text, older=older):
            self.off_record = _off_record(self.store, self.firewall, self._directory)

    def _enter_life(self, sql: Any) -> None:
        """Put this life on record, inside a transaction; raises Refused."""
        now = history.now()
        if self._moves and not records.is_bare(sql):
            raise wrong_namespace()  # somebody began something there meanwhile
        self.life = records.set_life(sql, self.boot_id, self.netns, now)
        if self._moves:  # there is nothing to rebuild or to start
            records.set_recovered(sql, self.life.id, now)
            self.life = self.life._replace(recovered=True)

    # -- locks ---------------------------------------------------------------------------------

    @property
    def names(self) -> LockFile:
        """Locks of VMs and networks by name."""
        return self._directory.names

    @property
    def operations(self) -> LockFile:
        """Locks of operations by id."""
        return self._directory.operations

    def lock(self, kind: str, name: str, *, shared: bool = False) -> None:
        """Hold a named thing until this run ends; raises Busy.

        Whoever takes several takes them in one order, so that no two wait for each other: ``vm``,
        then ``network``, then ``all``.
        """
        what = {"all": f"the lock for {name}"}.get(kind, f"{kind} {name!r}")
        self.names.lock(name_offset(kind, name), self.settings.lock_timeout, what, shared=shared)

    def try_lock(self, kind: str, name: str) -> bool:
        """Hold a named thing if nobody else does."""
        return self.names.try_lock(name_offset(kind, name))

    def unlock(self, kind: str, name: str) -> None:
        """Let go of a named thing."""
        self.names.unlock(name_offset(kind, name))

    @contextmanager
    def held(self, kind: str, name: str) -> Iterator[None]:
        """Hold a named thing for as long as the body takes; raises Busy."""
        self.lock(kind, name)
        try:
            yield
        finally:
            self.unlock(kind, name)

    def is_running(self, operation: int) -> bool:
        """Whether some process holds an operation's lock."""
        if operation in self.mine:
            return True
        if self._directory.holds(operation):
            return True
        writer = self.read(records.writer_of, operation)
        if writer is None or writer.boot_id != self.boot_id:
            return False
        return _has_lock(writer, self.installation, self._directory.path("operations.lock"))

    def running(self, operations: Sequence[Operation]) -> dict[int, bool]:
        """Whether each of these, which were open a moment ago, runs; if not, it was interrupted.

        One whose lock is free is looked up once more: if it has ended by now it ran then, and its
        rows moved since.
        """
        free = [known.id for known in operations if not self.is_running(known.id)]
        interrupted = self.read(records.still_open, free) if free else set()
        return {known.id: known.id not in interrupted for known in operations}

    # -- drivers ---------------------------------------------------------------------------------

    def firewall(self, name: str) -> FirewallDriver:
        """A firewall backend."""
        return self.drivers.firewall(name)

    def nftables(self) -> CommonDriver:
        """The backend that every installation has tables of."""
        return self.drivers.of("nftables")

    def devices(self) -> DeviceDriver:
        """The driver of TAP devices."""
        return self.drivers.of("tap")

    def writer(self) -> Identity:
        """Who runs this, as operations record it."""
        return procfs.identify(os.getpid())


def _off_record(
    store: Store, firewall: Callable[[str], FirewallDriver], directory: RunDirectory
) -> OffRecord:
    from hvtx.engine.off_record import OffRecord  # hardly ever needed

    def known(marks: Collection[str]) -> set[str]:
        with store.reading() as sql:
            return records.marks_on_record(sql, marks) | records.tombstones(sql, marks).keys()

    return OffRecord(store.installation, firewall, known, directory.believe)


def _tap_user(settings: Settings) -> int:
    """The number of the user who may open TAP devices. Raises UsageError."""
    if settings.tap_user is None:
        return os.geteuid()
    from hvtx.host.vmuser import user_id

    return user_id("tap_user", settings.tap_user)


def wrong_namespace() -> Refused:
    """What is said where the store's things live in another network namespace."""
    return Refused(
        "wrong-namespace",
        "this is not the network namespace that the store's VMs and networks live in",
        hint="run hvtx in that namespace; if it is gone: `hvtx recover --new-namespace`",
    )


def _may_live(
    hypervisor: str, rows: list[Resource], *, life: Epoch, lives: Mapping[int, Epoch]
) -> bool:
    """Whether the process of a VM that has anything on the host may still be alive."""
    if all(row.kind == Kind.LEASE for row in rows):
        return False
    facts = process_facts(rows)
    verdict, _ = judge_vm(hypervisor, rows, life=life, lives=lives, facts=facts)
    return verdict is not Liveness.DEAD


def _has_lock(writer: Identity, installation: str, path: str) -> bool:
    """Whether an operation's writer lives, with its lock in another file than ``path``.

    Somebody emptied the run directory under it, or mounted something over it.
    """
    from hvtx.host import openfiles

    facts = procfs.look_again(writer)
    alive = procfs.same(writer, facts) and not facts.ended
    return alive and openfiles.has_open(writer.pid, f"/{installation}/operations.lock", path)


def need_privileges() -> None:
    """Refuse if this process may change nothing of the network here. Raises NotPermitted."""
    if not procfs.may_have_power_here():
        raise NotPermitted(
            "this user namespace does not own the current network namespace",
            hint="run hvtx as root of the host, or create a network namespace first (unshare "
            "--net)",
        )
    if not capabilities.has("CAP_NET_ADMIN"):
        raise NotPermitted(
            "this needs the capability CAP_NET_ADMIN",
            hint="run hvtx as root, for instance with sudo, or with that capability"
            " (docs/privileges.md)",
        )
