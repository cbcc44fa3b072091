"""hvtx as a library: :class:`Host`, whose verbs are those of the command line (docs/library.md).

The command line calls nothing else. A verb's modules are imported when it is called.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType

from hvtx import commands
from hvtx.api.calls import Calls, Events, Notices, flags, named, path, texts
from hvtx.errors import HvtxError, NotPermitted, StoreError, UsageError
from hvtx.model.typed import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from hvtx.api.attachments import Attachments
    from hvtx.api.clusters import Clusters
    from hvtx.api.cni_plugin import CniPlugin
    from hvtx.api.networks import Networks
    from hvtx.api.plans import Plans
    from hvtx.api.sets import Sets
    from hvtx.api.stores import Stores
    from hvtx.api.units import Units
    from hvtx.api.vms import Vms
    from hvtx.commands.metrics import Gauge
    from hvtx.commands.published_view import StoreSource, ViewSource
    from hvtx.commands.recover import Recovery
    from hvtx.commands.show_history import ShownOperation
    from hvtx.engine.explained import Explanation
    from hvtx.engine.finding import Finding
    from hvtx.engine.imported import Adopted, Import
    from hvtx.engine.repaired import Repair
    from hvtx.model.history import Line

    Path = str | os.PathLike[str]
    Progress = Callable[[int, int, str], None]  # how many are done, of how many, what is next


class Diagnosis(NamedTuple):
    """What :meth:`Host.doctor` found."""

    findings: list[Finding]
    denied: NotPermitted | None = None  # why the store could not be read; the rest is in `findings`


class Host:
    """The verbs of hvtx on one state store, in the caller's network namespace.

    Each argument is the setting of that name, before the environment and the configuration. They
    are read at the first call. Every call opens what it needs and closes it again, so a Host may be
    used by several threads at once, and holds nothing between calls. What a verb raises is
    :class:`hvtx.HvtxError` or one of its kinds: ``exit_code``, ``code``, ``message``, ``hint``.
    """

    def __init__(  # noqa: PLR0913 - they are the settings
        self,
        *,
        state_dir: Path | None = None,
        run_dir: Path | None = None,
        config: Path | None = None,
        firewall: str | None = None,
        lock_timeout: float | str | None = None,
        dhcp: str | None = None,
        egress: str | None = None,
        group: str | None = None,
        tap_user: str | None = None,
        vm_user: str | None = None,
        history_lines: int | None = None,
        notices: Notices | None = None,
        events: Events | None = None,
    ) -> None:
        """Nothing is opened or read yet.

        ``notices`` is told ``("warning" or "note", sentence)`` of what a person should hear beside
        the result; without it the logger ``hvtx`` is. ``events`` is told the history's entries of
        each operation when it has ended. Both are called in the thread of the verb.
        """
        given = {
            "state_dir": state_dir, "run_dir": run_dir, "config": config, "firewall": firewall,
            "lock_timeout": lock_timeout, "dhcp": dhcp, "egress": egress, "group": group,
            "tap_user": tap_user, "vm_user": vm_user, "history_lines": history_lines,
        }  # fmt: skip
        text = {name: str(value) for name, value in given.items() if value is not None}
        self._calls = Calls(text, notices, events)

    def __enter__(self) -> Self:
        """Itself, with its settings read. Raises UsageError, NotFound, NotPermitted."""
        _ = self._calls.settings
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Refuse further calls; VMs and networks stay as they are, and calls under way go on."""
        self._calls.close()

    # -- groups of verbs -----------------------------------------------------------------------

    @property
    def vm(self) -> Vms:
        """``hvtx vm``."""
        from hvtx.api.vms import Vms

        return Vms(self._calls)

    @property
    def network(self) -> Networks:
        """``hvtx network``."""
        from hvtx.api.networks import Networks

        return Networks(self._calls)

    @property
    def attachments(self) -> Attachments:
        """Interfaces of containers, by the verbs of CNI."""
        from hvtx.api.attachments import Attachments

        return Attachments(self._calls)

    @property
    def gc(self) -> Plans:
        """``hvtx gc``."""
        from hvtx.api.plans import Plans

        return Plans(self._calls)

    @property
    def sets(self) -> Sets:
        """``hvtx vm apply``."""
        from hvtx.api.sets import Sets

        return Sets(self._calls)

    @property
    def cluster(self) -> Clusters:
        """``hvtx cluster``."""
        from hvtx.api.clusters import Clusters

        return Clusters(self._calls)

    @property
    def store(self) -> Stores:
        """``hvtx store``."""
        from hvtx.api.stores import Stores

        return Stores(self._calls)

    @property
    def systemd(self) -> Units:
        """``hvtx systemd``."""
        from hvtx.api.units import Units

        return Units(self._calls)

    @property
    def cni_plugin(self) -> CniPlugin:
        """``hvtx cni``."""
        from hvtx.api.cni_plugin import CniPlugin

        return CniPlugin(self._calls)

    # -- reading -------------------------------------------------------------------------------

    def reading(self) -> AbstractContextManager[StoreSource | ViewSource]:
        """What ``vm ls``, ``vm show``, ``network ls``, ``network show`` and ``log`` are told by.

        Its ``view`` is None, or says of which moment the published view is that a member of the
        group reads in the place of the store.
        """
        return self._calls.reading()

    def intents(self) -> list[ShownOperation]:
        """``hvtx intents``: operations that run or were interrupted, with their rows."""
        with self._calls.opened(writable=False) as runtime:
            return commands.show_history.list_intents(runtime)

    def log(
        self,
        *,
        vm: str | None = None,
        operation: int | None = None,
        verb: str | None = None,
        kind: str | None = None,
        event: str | None = None,
        reason: str | None = None,
        since: str | None = None,
        limit: int = 50,
    ) -> list[Line]:
        """``hvtx log``: the last ``limit`` lines of the history that match, the oldest first.

        ``since`` is a time (``2026-05-01T12:30``, UTC unless it ends with an offset) or an age
        (``2h``). Raises UsageError for a word that the history cannot have, NotFound for a VM
        that it has not.
        """
        from hvtx.api import given as check

        check.whole("limit", limit, 1, check.LINES_MOST)
        if operation is not None:
            check.whole("operation", operation, 1, check.ROW_MOST)
        texts(vm=vm, verb=verb, kind=kind, event=event, reason=reason, since=since)
        with self._calls.reading() as source:
            return source.list_history(
                limit=limit, vm=vm, operation=operation, verb=verb, kind=kind, event=event,
                reason=reason, since=since,
            )  # fmt: skip

    def things(self) -> list[str]:
        """What :meth:`explain` can be asked about, as far as it is on record."""
        with self._calls.opened(writable=False) as runtime:
            return commands.show.objects(runtime)

    def explain(self, thing: str) -> Explanation:
        """``hvtx explain``: whose a thing is. Raises NotFound, Conflict if it may be several."""
        named(thing, "thing")
        with self._calls.opened(writable=False) as runtime:
            return commands.explain.explain(runtime, thing)

    def metrics(self) -> list[Gauge]:
        """``hvtx metrics``: VMs, resources, operations, and what gc would do, in numbers."""
        with self._calls.opened(writable=False) as runtime:
            return commands.metrics.gauges(runtime)

    def doctor(self) -> Diagnosis:
        """``hvtx doctor``: checks of this host, with a fix for each finding."""
        return _diagnosis(self._calls)

    # -- acting --------------------------------------------------------------------------------

    def recover(
        self,
        *,
        accept_rollback: bool = False,
        new_namespace: bool = False,
        progress: Progress | None = None,
        tell: Callable[[Recovery], None] | None = None,
    ) -> Recovery:
        """``hvtx recover``: resolve what was interrupted; after a reboot rebuild and start.

        ``tell`` hears each part of the value as soon as it is done, ``progress`` of the VMs that
        are started. What failed is in the value's ``failed``. Raises Refused, Busy, StoreError.
        """
        flags(accept_rollback=accept_rollback, new_namespace=new_namespace)
        with self._calls.opened(writable=True, create=False, spends=True) as runtime:
            return commands.recover.recover(
                runtime,
                accept_rollback=accept_rollback,
                new_namespace=new_namespace,
                progress=progress or (lambda done, total, what: None),
                tell=tell or (lambda part: None),
            )

    def repair(self, name: str | None = None) -> Repair:
        """``hvtx repair``: put back what is missing, of everything or of a VM or network.

        What failed is in the value's ``failed``. Raises NotFound, Busy, Refused.
        """
        texts(name=name)
        with self._calls.opened(writable=True, create=False, spends=True) as runtime:
            return commands.repair.repair(runtime, name)

    def adopt(
        self, thing: str, *, vm: str, pid: int | None = None, dry_run: bool = False
    ) -> Adopted:
        """``hvtx adopt``: take over a TAP device (by name) or a rule (by its words) for a VM.

        Raises NotFound, Conflict, UsageError, Busy, Refused.
        """
        from hvtx.api import given as check

        named(thing, "thing")
        named(vm, "vm")
        flags(dry_run=dry_run)
        if pid is not None:
            check.whole("pid", pid, 1, check.PID_MOST)
        adopt = partial(commands.adopt.adopt_object, thing=thing, vm=vm, pid=pid)
        return _adopted(self._calls, adopt, dry_run=dry_run)

    def import_my_hypervisor(self, paths: Sequence[Path], *, dry_run: bool = False) -> Import:
        """``hvtx import my-hypervisor``: take over what is proven of its ``state.json`` files.

        What was left is in the value's ``left()``. Raises NotFound, Busy, Refused.
        """
        flags(dry_run=dry_run)
        take = partial(commands.adopt.import_states, given=_files(paths))
        return _imported(self._calls, take, dry_run=dry_run)


def _files(paths: object) -> list[str]:
    """One path, or several. Raises UsageError."""
    one = isinstance(paths, str | bytes | os.PathLike)
    if not one and not isinstance(paths, Iterable):
        raise UsageError(f"paths is {paths!r}, and takes several", hint="give a list")
    return [path(file, "paths") for file in ([paths] if one else paths)]  # type: ignore[attr-defined]


def _diagnosis(calls: Calls) -> Diagnosis:
    """What doctor finds, where the store cannot be read too."""
    try:
        with calls.opened(writable=False) as runtime:
            return Diagnosis(commands.doctor.diagnose(runtime))
    except HvtxError as problem:
        if problem.exit_code not in (StoreError.exit_code, NotPermitted.exit_code):
            raise
        with calls.speaking():
            found = commands.doctor.without_store(calls.settings, problem)
        return Diagnosis(found, problem if isinstance(problem, NotPermitted) else None)


def _adopted(calls: Calls, adopt: Callable[..., Adopted], *, dry_run: bool) -> Adopted:
    """A thing that is taken over; one that is refused makes no store."""
    if dry_run:
        with calls.opened(writable=False) as runtime:
            return adopt(runtime, dry_run=True)
    with calls.recording(partial(adopt, dry_run=True)) as runtime:
        return adopt(runtime)


def _imported(calls: Calls, take: Callable[..., Import], *, dry_run: bool) -> Import:
    """What is taken over; where that is nothing, no store is made for it."""
    first = None if dry_run else calls.without_store(partial(take, dry_run=True))
    if first is not None and not first.counts()["imported"]:
        return first._replace(applied=True)
    with calls.opened(writable=not dry_run) as runtime:
        return take(runtime, dry_run=dry_run)
