"""The composition root: settings, store, epoch, locks and drivers of one command.

Drivers are looked up by dotted name and imported when first used, so that a command loads only what
it touches. Opening for reading leaves store and host alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from importlib import import_module
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from hvtx.drivers.base import CommonDriver, DeviceDriver, Driver, FirewallDriver, Host
from hvtx.engine.processes import process_facts, rows_by_vm
from hvtx.engine.registry import DRIVERS
from hvtx.errors import NotPermitted, Refused, StoreError
from hvtx.host import capabilities, descriptors, openfiles, procfs, traces
from hvtx.host.files import is_there
from hvtx.host.locks import LockFile, name_offset
from hvtx.model.resource import Kind
from hvtx.model.user import AUTO
from hvtx.model.vm import Identity, Life, Liveness, Operation
from hvtx.planner.epoch import Epoch, judge_epoch
from hvtx.planner.states import judge_vm
from hvtx.store import history, records, trust
from hvtx.store.database import Store
from hvtx.store.high_water_mark import make_run_directory
from hvtx.store.opening import open_store

P = ParamSpec("P")
T = TypeVar("T")
Watch = Callable[[int], None]
Listener = Callable[[Sequence[Mapping[str, Any]]], None]  # entries of the history


class Settings(NamedTuple):
    """What the command line, the environment and the configuration decide."""

    state_directory: str = "/var/lib/hvtx"
    run_directory: str = "/run/hvtx"
    firewall: str = "auto"
    lock_timeout: float = 10.0
    group: str | None = None  # whose members may read the view (docs/privileges.md)
    tap_user: str | None = None  # who may open TAP devices; None: whoever runs this
    vm_user: str = AUTO  # who VM processes run as: auto, root, or a user by name or number
    history_lines: int = 100_000  # how many the history keeps, about


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
        """Open the store; raises StoreError, NotPermitted, Refused, HostRefused.

        Without ``create`` a missing store reads as an empty one, for writers too. ``watch`` is
        told the number of each change before it is committed. ``spends``: what is done ends or
        frees something, and may take the reserve of a full disk.
        """
        self.settings = settings
        self.writable = writable
        self._create = create
        self._spends = spends
        if writable:
            _need_privileges()  # before there is a store that only root can open
            descriptors.need(descriptors.TO_END if spends else descriptors.TO_MAKE)
        self._tap_user = os.geteuid()
        if settings.tap_user is not None:
            from hvtx.host.vmuser import user_id

            self._tap_user = user_id("tap_user", settings.tap_user)
        self._watch = watch
        self.boot_id = procfs.boot_id()
        self.netns = procfs.netns_cookie()
        self.store: Store = self._open()
        self.refused: Refused | None = None
        self._drivers: dict[str, Driver] = {}
        self._locks: LockFile | None = None
        self._operations: LockFile | None = None
        self.listener: Listener | None = None  # is told of each operation when it has ended
        self.mine: set[int] = set()  # operations of this run: a lock's owner cannot probe it
        self.life: Life = Life(0, self.boot_id, self.netns, recovered=False)
        self.epoch = Epoch.FIRST
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

            notice.warning(f"others could get at {', '.join(store.was_open)}: private again now")
        return store

    def reopen_store(self) -> None:
        """Forget the connection and read again what is really there."""
        self.store.close()
        self.store = self._open()

    def close(self) -> None:
        """Give back locks and connections."""
        self.store.close()
        for file in (self._locks, self._operations):
            if file is not None:
                file.close()

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
        marker = bool(self.installation) and is_there(self._in_run_directory("marker"))
        if known and known.boot_id == self.boot_id and known.netns != self.netns and not marker:
            moves = self._old_life_moves(known)
        self.epoch = judge_epoch(
            known, boot_id=self.boot_id, netns=self.netns, marker=marker, old_life_moves=moves
        )
        if self.epoch is Epoch.WRONG and self.read(records.is_bare):
            self.epoch = Epoch.NEW  # nothing is bound to that namespace: perhaps a command failed
            self._moves = True
        if self.epoch is Epoch.SAME and known is not None:
            self.life = known
        elif self.epoch is Epoch.WRONG and self.refused is None:
            self.refused = wrong_namespace()

    def _old_life_moves(self, known: Life) -> bool:
        """Whether a VM process or operation of that life may still be alive."""
        with self.reading() as sql:
            operations = records.operations(sql)
            lives = records.lives(sql)
            rows = records.resources_of_life(sql, known.id)
            vms = records.vm_heads(sql)
        if any(self.running(operations).values()):
            return True
        own = rows_by_vm(rows)
        for vm, _, hypervisor, _ in vms:
            if any(row.kind != Kind.LEASE for row in own.get(vm, ())):
                facts = process_facts(own[vm])
                verdict, _ = judge_vm(hypervisor, own[vm], life=self.life, lives=lives, facts=facts)
                if verdict is not Liveness.DEAD:
                    return True
        return False

    def enter(self, *, accept_rollback: bool = False, new_namespace: bool = False) -> None:
        """Make sure that this run may change things, and that its life is on record.

        Raises Refused for what only a person may decide.
        """
        assert self.writable
        acceptable = ("store-rolled-back", "store-cloned")
        if accept_rollback and self.refused and self.refused.code in acceptable:
            trust.accept_rollback(self.store)
            self.refused = None
            self._judge()
        if new_namespace and self.epoch is Epoch.WRONG:
            self.epoch = Epoch.NEW
            self.refused = None
        if self.refused is not None:
            raise self.refused
        if self.epoch is not Epoch.SAME:
            with self.store.transaction() as sql:
                self._enter_life(sql)
            self.epoch = Epoch.SAME
        if trust.has_moved(self.store):
            nftables: CommonDriver = self.driver("nftables")  # type: ignore[assignment]
            nftables.leave_trace()
        trust.note_place(self.store)
        self._write_marker()

    def _enter_life(self, sql: Any) -> None:
        """Put this life on record, inside a transaction; raises Refused."""
        now = history.now()
        if self._moves and not records.is_bare(sql):
            raise wrong_namespace()  # somebody began something there meanwhile
        self.life = records.set_life(sql, self.boot_id, self.netns, now)
        if self._moves:  # there is nothing to rebuild or to start
            records.set_recovered(sql, self.life.id, now)
            self.life = self.life._replace(recovered=True)

    def _write_marker(self) -> None:
        path = self._in_run_directory("marker")
        trace = traces.trace_of(self.settings.state_directory)
        text = f"{self.boot_id} {self.netns}\n{trace}\n".encode()
        with suppress(OSError), open(path, "rb", buffering=0) as marker:
            if marker.read(len(text) + 1) == text:
                return
        self._make_run_directory()
        try:
            with open(path, "wb", opener=_private) as marker:
                marker.write(text)
        except OSError as problem:
            raise StoreError(
                f"{path} cannot be written: {problem.strerror}",
                hint="free some space there, or choose another place with --run-dir",
            ) from problem

    def _make_run_directory(self) -> None:
        try:
            make_run_directory(self.store.run_directory)
        except OSError as problem:
            raise StoreError(
                f"the run directory {self.store.run_directory} cannot be made: {problem.strerror}",
                hint="choose another place with --run-dir",
            ) from problem

    # -- locks ---------------------------------------------------------------------------------

    def lock_file(self, name: str) -> LockFile:
        """``names.lock`` (VMs, networks, gc) or ``operations.lock`` in the run directory.

        Raises StoreError.
        """
        self._make_run_directory()
        path = self._in_run_directory(name)
        try:
            return LockFile(path)
        except OSError as problem:
            raise StoreError(
                f"{path} cannot be opened: {problem.strerror}",
                hint="look at the run directory's permissions and space, or choose another place"
                " with --run-dir",
            ) from problem

    def _in_run_directory(self, name: str) -> str:
        return os.path.join(self.store.run_directory, name)

    @property
    def names(self) -> LockFile:
        """Locks of VMs and networks by name."""
        if self._locks is None:
            self._locks = self.lock_file("names.lock")
        return self._locks

    @property
    def operations(self) -> LockFile:
        """Locks of operations by id."""
        if self._operations is None:
            self._operations = self.lock_file("operations.lock")
        return self._operations

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

    def is_running(self, operation: int) -> bool:
        """Whether some process holds an operation's lock."""
        if operation in self.mine:
            return True
        path = self._in_run_directory("operations.lock")
        if self._operations is None:
            with suppress(FileNotFoundError):  # only this says that it is not there
                self._operations = LockFile(path, make=False)
        if self._operations is not None and self._operations.held_elsewhere(operation):
            return True
        return self._lost_its_lock(operation, path)

    def running(self, operations: Sequence[Operation]) -> dict[int, bool]:
        """Whether each of these, which were open a moment ago, runs; if not, it was interrupted.

        One whose lock is free is looked up once more: if it has ended by now it ran then, and its
        rows moved since.
        """
        free = [known.id for known in operations if not self.is_running(known.id)]
        interrupted = self.read(records.still_open, free) if free else set()
        return {known.id: known.id not in interrupted for known in operations}

    def _lost_its_lock(self, operation: int, path: str) -> bool:
        """Whether the operation's writer lives, with its lock in a file that is not here any more.

        Somebody emptied the run directory under it, or mounted something over it.
        """
        writer = self.read(records.writer_of, operation)
        if writer is None or writer.boot_id != self.boot_id:
            return False
        facts = procfs.look_again(writer)
        alive = procfs.same(writer, facts) and not facts.ended
        was = f"/{self.installation}/operations.lock"
        return alive and openfiles.has_open(writer.pid, was, path)

    # -- drivers ---------------------------------------------------------------------------------

    def driver(self, name: str) -> Driver:
        """The driver of a kind or of a firewall backend."""
        if name not in self._drivers:
            module, _, attribute = DRIVERS[name].partition(":")
            self._drivers[name] = getattr(import_module(module), attribute)(self.host)
        return self._drivers[name]

    def firewall(self, name: str) -> FirewallDriver:
        """A firewall backend."""
        return self.driver(name)  # type: ignore[return-value]

    def others(self) -> frozenset[str]:
        """Other installations of hvtx on this host."""
        common: CommonDriver = self.driver("nftables")  # type: ignore[assignment]
        return common.others()

    def devices(self) -> DeviceDriver:
        """The driver of TAP devices."""
        return self.driver("tap")  # type: ignore[return-value]

    def writer(self) -> Identity:
        """Who runs this, as operations record it."""
        return procfs.identify(os.getpid())


def wrong_namespace() -> Refused:
    """What is said where the store's things live in another network namespace."""
    return Refused(
        "wrong-namespace",
        "this is not the network namespace that the store's VMs and networks live in",
        hint="run hvtx in that namespace; if it is gone: `hvtx recover --new-namespace`",
    )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _need_privileges() -> None:
    if not procfs.may_have_power_here():
        raise NotPermitted(
            "root of this user namespace has no power over the network namespace that it is in",
            hint="run hvtx as root of the host, or enter a network namespace of one's own",
        )
    if not capabilities.has("CAP_NET_ADMIN"):
        raise NotPermitted(
            "this needs the capability CAP_NET_ADMIN",
            hint="run hvtx as root, for instance with sudo, or with that capability"
            " (docs/privileges.md)",
        )
