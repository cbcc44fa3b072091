"""The protocol: intend, act, commit; and its mirror, release. Every change of the host is in here.

Invariants
1. Before the host is touched, a row says what is about to be made or removed, with its mark; the
   rows of an operation are written in one transaction, under the lock of that operation.
2. The lock of an operation is held from before its first row to after its last. It falls with the
   process: an operation that has not ended and whose lock nobody holds was interrupted.
3. A row becomes committed only by its own operation, only from intended, only when its object is
   made, marked and read back.
4. Removing: the row becomes ``releasing`` first, the object goes second, the row becomes a
   tombstone last. What could not be removed stays ``releasing`` and on record. So does a rule that
   is gone while what flowed by it is not proven to have ended: its VM keeps address and port.
5. No kernel call inside a store transaction; no store lock while the kernel waits.
6. A commit that failed is unknown, not undone: the store is opened again and asked. Undo is
   computed from rows, never from what this process remembers.
7. The VM process starts behind a gate, and the gate opens only after its identity is on record.

::

    begin --> [intended] --act--> made --commit--> [committed] --> ended (done)
                  |                 |                  |
                  |     error/crash |                  | stop, rm, gc
                  v                 v                  v
              [releasing] <---------+------------------+
                  |  drivers remove what carries the mark
                  v
              [released]: tombstone          --> ended (undone | done | partial)

=====================  ===============================================================
transition             function
=====================  ===============================================================
(none) -> intended     :meth:`Operation.intend` inside :func:`begin`
intended -> committed  :meth:`Operation.commit`; by the plan: :meth:`Operation.complete`
-> releasing -> gone   :meth:`Operation.release`
-> released            :meth:`Operation.forget` (proven absent, or of an earlier life)
=====================  ===============================================================
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import groupby
from typing import Any, NamedTuple

from hvtx.engine import holding, loopback, notice
from hvtx.engine.runtime import Runtime, driver_name, wrong_namespace
from hvtx.errors import CommitUnknown, HvtxError
from hvtx.host import descriptors, failpoint
from hvtx.host.locks import LockFile
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.mark import make_mark
from hvtx.model.plan import Reason
from hvtx.model.resource import FIREWALL_KINDS, FLOWS, GONE, Kind, Outcome, Resource, State
from hvtx.model.vm import Publish
from hvtx.planner.provision import Want
from hvtx.store import history, intents, records
from hvtx.store.history import Event

_PRUNE_EVERY = 64  # operations, of some ten lines each, between two looks at the history's length

# What is made before what; equal numbers go to their driver in one batch.
_MAKING = {
    Kind.FILE: 1,
    Kind.BRIDGE: 2,
    Kind.ADDRESS: 3,
    Kind.TAP: 4,
    Kind.FILTER: 5,
    Kind.MASQUERADE: 5,
    Kind.PUBLISH: 5,
    Kind.SYSCTL: 6,  # late: settings stay on, so whatever the host refuses comes before them
    Kind.PROCESS: 7,
    Kind.LEASE: 8,
}


class Operation:
    """A group of intents that stand or fall together."""

    def __init__(self, runtime: Runtime, verb: str, vm: str | None, network: str | None) -> None:
        """Use :func:`begin`; ``vm`` and ``network`` are names, for the history."""
        self.runtime = runtime
        self.verb = verb
        self.vm = vm
        self.network = network
        self.id = 0
        self._heard = 0  # the last line of the history before the operation's own
        self.interrupted = False  # by Ctrl-C, while its rows were being written
        self.committed = False  # from here on nothing of it may be taken back
        self._lock: LockFile = runtime.operations

    # -- intend ----------------------------------------------------------------------------------

    def _open(self, sql: Any) -> None:
        if not records.is_current(sql, self.runtime.life.id):
            raise wrong_namespace()  # an empty store has gone to another namespace meanwhile
        self.id = intents.begin(
            sql,
            verb=self.verb,
            vm=self.vm,
            network=self.network,
            life=self.runtime.life.id,
            writer=self.runtime.writer(),
            now=history.now(),
        )
        held = self._lock.try_lock(self.id)
        assert held, "the id of a new operation is nobody else's"
        self.runtime.mine.add(self.id)
        if self.runtime.listener is not None:
            self._heard = history.newest(sql)

    def intend(
        self,
        sql: Any,
        wants: Sequence[Want],
        *,
        vm: str | None = None,
        network: str | None = None,
        networks: Sequence[str | None] | None = None,
        committed: bool = False,
    ) -> list[Resource]:
        """Write the rows (inside :func:`begin`): of a VM, of a network, or of the installation.

        HostRefused if they could not be taken back: every device is held open then.
        """
        descriptors.need(descriptors.TO_UNDO + sum(want.kind == Kind.TAP for want in wants))
        owners = networks if networks is not None else [network] * len(wants)
        drafts = [
            intents.Draft(want.kind, want.key, want.spec, vm, owner)
            for want, owner in zip(wants, owners, strict=True)
        ]
        return intents.intend(
            sql,
            drafts,
            operation=self.id,
            life=self.runtime.life.id,
            mark=self.new_mark,
            state=State.COMMITTED if committed else State.INTENDED,
        )

    def heed(self) -> None:
        """Raise the KeyboardInterrupt that came while the disk wrote the operation's rows.

        Its caller can undo now, which it could not inside :func:`begin`.
        """
        if self.interrupted:
            self.interrupted = False
            raise KeyboardInterrupt

    def new_mark(self, row: int) -> str:
        """A fresh mark for a row."""
        return make_mark(self.runtime.installation, row, os.urandom(10))

    # -- act and commit ----------------------------------------------------------------------------

    def act(self, rows: Sequence[Resource]) -> dict[int, Mapping[str, Any]]:
        """Make everything but the process; what was read back, by row. Stops at the first error."""
        self.heed()
        observed: dict[int, Mapping[str, Any]] = {}
        ordered = sorted(
            rows, key=lambda row: (_MAKING[Kind(row.kind)], driver_name(row) != "nftables")
        )
        for name, batch in groupby(ordered, key=driver_name):
            if not name:
                continue
            part = list(batch)
            observed.update(self.runtime.driver(name).create(part))
            if part[0].kind in FIREWALL_KINDS:
                self._end_flows_past(part, observed)
                if any(row.kind == Kind.PUBLISH for row in part):
                    loopback.settle(self.runtime, part)
            failpoint.reach(f"acted:{'filter' if name == 'nftables' else name}")
        return observed

    def note(
        self, rows: Sequence[Resource], observed: Mapping[int, Mapping[str, Any]]
    ) -> list[Resource]:
        """Keep what was learnt of intended rows (the gate's identity, who holds a port).

        The rows as they are now, in their order.
        """
        with self.runtime.store.transaction() as sql:
            for row in rows:
                if row.id in observed:
                    intents.note(sql, row.id, observed[row.id])
        return [row._replace(observed=dict(observed.get(row.id, row.observed))) for row in rows]

    def commit(
        self,
        rows: Sequence[Resource],
        observed: Mapping[int, Mapping[str, Any]],
        *,
        events: Sequence[Event] = (),
        then: Callable[[Any], None] = lambda sql: None,
    ) -> None:
        """Close the operation as done; raises HvtxError if a row was no longer ours to commit.

        Ctrl-C that comes while the disk writes is too late: what was committed stands, as
        ``committed`` tells who would undo.
        """
        try:
            with self.runtime.store.transaction() as sql:
                moved = intents.commit(sql, rows, observed, self.id)
                if moved != len(rows):
                    raise HvtxError(
                        f"operation {self.id} lost {len(rows) - moved} of its rows to another",
                        hint="what was made is taken back; `hvtx intents` shows what is under way",
                    )
                then(sql)
                made = [Event("made", f"{row.kind} {row.key}", row.kind, row.key) for row in rows]
                self.history(sql, [*made, *events])
                self._close(sql, "done")
        except (CommitUnknown, KeyboardInterrupt):
            if not self._was_committed(rows):
                raise
        self.committed = True
        self._verify()
        failpoint.reach("committed")
        self.unlock()

    def _was_committed(self, rows: Sequence[Resource]) -> bool:
        """Ask the store again, after a commit that did not say.

        Raises CommitUnknown if it cannot be asked: any other error would be taken for a failure,
        and undone, though the rows may be committed.
        """
        try:
            self.runtime.reopen_store()
            found = self.runtime.read(records.resources_by_id, [row.id for row in rows])
        except Exception as problem:
            raise CommitUnknown(
                "the state store did not say whether a change was kept, and cannot be asked again:"
                f" {problem}",
                hint="`hvtx recover` resolves it when the disk answers again",
            ) from problem
        return all(row.id in found and found[row.id].state == State.COMMITTED for row in rows)

    # -- release -----------------------------------------------------------------------------------

    def release(
        self,
        rows: Sequence[Resource],
        *,
        reasons: Mapping[int, str] | None = None,
        claim: Callable[[Any], bool] = lambda sql: True,
    ) -> dict[int, Outcome]:
        """Remove what the rows stand for, in order, and close those that are gone.

        ``claim`` is asked inside the transaction that moves the rows; False leaves everything.
        Rows that somebody else moved meanwhile are left to them (``contended``).
        """
        self.heed()
        with self.runtime.store.transaction() as sql:
            moved = intents.release(sql, rows, self.id) if claim(sql) else []
        failpoint.reach("releasing")
        from hvtx.planner.gc import release_order

        with ExitStack() as later:  # closed after the devices: what the kernel waits for overlaps
            outcomes = self._remove(release_order(moved), later)
        taken = {row.id for row in moved}
        for row in rows:
            if row.id not in taken:
                outcomes[row.id] = Outcome(False, "contended", f"{row.key} changed in the meantime")
        gone = [row for row in moved if outcomes[row.id].gone]
        failpoint.reach("removed")
        why = reasons or {}
        with self.runtime.store.transaction() as sql:
            intents.forget(sql, gone)
            for row in moved:
                if outcomes[row.id].reason == Reason.FLOWS_REMAIN:
                    intents.note(sql, row.id, {**row.observed, FLOWS: True})
            self.history(
                sql,
                [
                    _removal(row, outcomes[row.id], why.get(row.id), self._vm_name(sql, row))
                    for row in moved
                ],
            )
        failpoint.reach("forgotten")
        return outcomes

    def _remove(self, rows: Sequence[Resource], later: ExitStack) -> dict[int, Outcome]:
        """The kernel's part: go on past errors, keep what a refusal of its bridge would tear.

        Devices are held first, so that a VM whose device somebody else has open keeps all of its
        things, and none of them loses only its firewall.
        """
        seizing = any(row.vm and row.kind in (Kind.TAP, *FIREWALL_KINDS) for row in rows)
        try:
            outcomes: dict[int, Outcome] = self._seize(rows)
            rows = [row for row in rows if row.id not in outcomes]
            return self._remove_seized(rows, outcomes, later)
        finally:
            if seizing:  # a VM of which one device is busy has others that are held by now
                self.runtime.devices().let_go()

    def _seize(self, rows: Sequence[Resource]) -> dict[int, Outcome]:
        """Hold every TAP of the VMs of ``rows``; what is kept because somebody else holds one."""
        taps = [row for row in rows if row.kind == Kind.TAP]
        # a plan made of an old dump may take a VM's rules without its device
        bare = {row.vm for row in rows if row.vm and row.kind in FIREWALL_KINDS}
        for vm in sorted(bare - {tap.vm for tap in taps}):
            own = self.runtime.read(records.resources_of_vm, vm)
            taps += [row for row in own if (row.kind, row.life) == (Kind.TAP, self.runtime.life.id)]
        if not taps:
            return {}
        try:
            busy = self.runtime.devices().seize(taps)
        except OSError as problem:  # not even a socket to ask with
            why = Outcome(False, "observe-failed", f"devices could not be held: {problem}")
            busy = {tap.id: why for tap in taps}
        failpoint.reach("seized")
        held = {row.vm: busy[row.id] for row in taps if row.id in busy}
        kept = {
            row.id: held[row.vm]._replace(message=f"{row.key} is kept: {held[row.vm].message}")
            for row in rows
            if row.vm is not None and row.vm in held
        }
        return kept | {row: outcome for row, outcome in busy.items() if row in kept}

    def _remove_seized(
        self, rows: Sequence[Resource], outcomes: dict[int, Outcome], later: ExitStack
    ) -> dict[int, Outcome]:
        addresses = sorted({address for row in rows for address in _guest_addresses(row)})
        unended: Unended | None = None
        flushed = not addresses
        for name, batch in groupby(rows, key=driver_name):
            part = list(batch)
            if not flushed and part[0].kind not in FIREWALL_KINDS:
                unended = _end_flows(addresses, later)
                flushed = True
            kept = [row for row in part if _bridge_stayed(row, rows, outcomes)]
            part = [row for row in part if row not in kept]
            outcomes.update(
                (row.id, Outcome(False, "foreign-dependents", f"{row.key} stays with its bridge"))
                for row in kept
            )
            if not name:
                outcomes.update((row.id, GONE) for row in part)
            elif part:
                outcomes.update(self._release_batch(name, part))
                failpoint.reach(f"released:{name}")
        if not flushed:
            unended = _end_flows(addresses, later)
        if any(row.kind == Kind.PUBLISH for row in rows):
            loopback.settle_gone(self.runtime, outcomes, rows)
        if unended is not None:
            outcomes.update(_kept_for_flows(rows, outcomes, unended))
        holding.end_gone(outcomes, rows)
        return outcomes

    def _end_flows_past(
        self, rows: Sequence[Resource], observed: dict[int, Mapping[str, Any]]
    ) -> None:
        """End what datagrams to a freshly published port still follow: rules see new flows only.

        What cannot be ended now keeps no VM from starting: it is noted, and gc goes on with it.
        """
        doors = _doors(rows)
        words = _close_doors(doors.values())
        if words is not None:
            observed.update((row, {**observed.get(row, {}), FLOWS: True}) for row in doors)
            self._tell_of_flows(words)

    def _tell_of_flows(self, words: str) -> None:
        notice.warning(f"{words}; `hvtx gc --apply` goes on with it")
        with self.runtime.store.transaction() as sql:
            self.history(sql, [Event("failed", words)])

    def end_flows_past(self, rows: Sequence[Resource]) -> Outcome:
        """The same for ports that are published already; whether it is still due is noted."""
        doors = _doors(rows)
        words = _close_doors(doors.values())
        due = words is not None
        changed = [row for row in rows if row.id in doors and (FLOWS in row.observed) != due]
        if changed:
            with self.runtime.store.transaction() as sql:
                for row in changed:
                    kept = {name: value for name, value in row.observed.items() if name != FLOWS}
                    intents.note(sql, row.id, {**kept, FLOWS: True} if due else kept)
                if not due:
                    self.history(sql, [self._ended(sql, row) for row in changed])
        return GONE if words is None else Outcome(False, Reason.FLOWS_REMAIN, words)

    def _ended(self, sql: Any, row: Resource) -> Event:
        words = f"{row.kind} {row.key}: nothing flows past it any more"
        vm = self._vm_name(sql, row)
        return Event("completed", words, row.kind, row.key, Reason.FLOWS_REMAIN.value, vm)

    def _release_batch(self, name: str, part: Sequence[Resource]) -> Mapping[int, Outcome]:
        try:
            return self.runtime.driver(name).release(part)
        except HvtxError as problem:
            kept = Outcome(False, problem.code, problem.message)
        except (OSError, DumpInterrupted) as problem:  # out of descriptors, of memory …
            kept = Outcome(False, "observe-failed", f"{name} could not be worked on: {problem}")
        return {row.id: kept for row in part}

    def forget(self, rows: Sequence[Resource], reasons: Mapping[int, str]) -> None:
        """Close records whose object is proven absent."""
        loopback.settle(self.runtime, rows, {row.id for row in rows})
        with suppress(OSError):  # of another boot or pid namespace, for one
            holding.end_all(rows)
        with self.runtime.store.transaction() as sql:
            intents.forget(sql, rows)
            self.history(
                sql,
                [
                    Event(
                        "forgotten",
                        f"{row.kind} {row.key}: only the record was left",
                        row.kind,
                        row.key,
                        reasons.get(row.id),
                        self._vm_name(sql, row),
                    )
                    for row in rows
                ],
            )

    def complete(self, rows: Sequence[Resource]) -> int:
        """Commit what another, interrupted operation intended and made; how many rows moved."""
        with self.runtime.store.transaction() as sql:
            moved = sum(intents.commit(sql, [row], {}, row.operation) for row in rows)
            # A VM that `run` had only begun to record is on record for good with its rows.
            for vm, operation in {(row.vm, row.operation) for row in rows if row.vm}:
                records.set_vm_confirmed(sql, vm, operation)
            self.history(
                sql,
                [
                    Event(
                        "completed",
                        f"{row.kind} {row.key}: made by an interrupted start, in use",
                        row.kind,
                        row.key,
                        "in-use-before-commit",
                        self._vm_name(sql, row),
                    )
                    for row in rows
                ],
            )
        return moved

    def end(
        self,
        result: str,
        *,
        events: Sequence[Event] = (),
        then: Callable[[Any], None] = lambda sql: None,
    ) -> None:
        """Close the operation: ``done``, ``undone`` or ``partial``."""
        with self.runtime.store.transaction() as sql:
            then(sql)
            self.history(sql, events)
            self._close(sql, result)
        self._verify()
        failpoint.reach("ended")
        self.unlock()

    def _close(self, sql: Any, result: str) -> None:
        intents.end(sql, self.id, result, history.now())
        if self.id % _PRUNE_EVERY == 0:
            history.prune(sql, self.runtime.settings.history_lines)

    def unlock(self) -> None:
        """Let go of the operation's lock; from here on it counts as ended or interrupted."""
        self.runtime.mine.discard(self.id)
        self._lock.unlock(self.id)
        self._tell()

    def _tell(self) -> None:
        """Tell who listens what is on record now; a listener's failure is nobody's."""
        if self.runtime.listener is None:
            return
        with suppress(Exception):
            own = self.runtime.read(history.of_operation, self.id, after=self._heard)
            self.runtime.listener(own)

    def _verify(self) -> None:
        """Restate the invariants that the store can show (``HVTX_VERIFY=1``, as all tests do)."""
        if os.environ.get("HVTX_VERIFY"):
            broken = self.runtime.read(intents.violations)
            assert not broken, broken

    def history(self, sql: Any, events: Sequence[Event]) -> None:
        """Append lines of this operation to the history."""
        history.add(sql, events, operation=self.id, verb=self.verb, vm=self.vm)

    def _vm_name(self, sql: Any, row: Resource) -> str | None:
        if self.vm is not None or row.vm is None:
            return self.vm
        return records.vm_name(sql, row.vm)


@contextmanager
def begin(
    runtime: Runtime, verb: str, *, vm: str | None = None, network: str | None = None
) -> Iterator[tuple[Any, Operation]]:
    """Open an operation in one transaction with the rows that the body intends."""
    operation = Operation(runtime, verb, vm, network)
    try:
        with runtime.store.transaction() as sql:
            operation._open(sql)  # noqa: SLF001 - the two are one thing
            yield sql, operation
    except KeyboardInterrupt:
        if operation.id not in {known.id for known in runtime.read(records.operations)}:
            if operation.id:
                operation.unlock()
            raise
        operation.interrupted = True  # its rows are on record: whoever acts on them can undo
    except BaseException:
        if operation.id:
            operation.unlock()
        raise
    failpoint.reach("intended")


class Unended(NamedTuple):
    """Addresses of guests to which something may still flow, and why."""

    addresses: frozenset[str]
    words: str


def _end_flows(addresses: Sequence[str], later: ExitStack) -> Unended | None:
    """End what still flows to guests that are gone; what could not be ended ends no release."""
    try:
        failpoint.reach("flushing")
        from hvtx.host import conntrack  # the last thing to load: out of descriptors, it fails

        conntrack.flush(addresses, later)
    except (HvtxError, OSError) as problem:
        left: frozenset[str] = getattr(problem, "addresses", frozenset(addresses))
        return Unended(left, _said(problem))
    return None


def _kept_for_flows(
    rows: Sequence[Resource], outcomes: Mapping[int, Outcome], unended: Unended
) -> dict[int, Outcome]:
    """The firewall rows that stay on record, though their rules are gone, until all has ended."""
    left: dict[str | None, set[str]] = {}  # by VM
    for row in rows:
        own = unended.addresses.intersection(_guest_addresses(row))
        left.setdefault(row.vm, set()).update(own)
    kept = {}
    for row in rows:
        if outcomes[row.id].gone and not unended.addresses.isdisjoint(_guest_addresses(row)):
            to = ", ".join(sorted(left[row.vm]))
            words = f"what flows to {to} may go on: {unended.words}"
            kept[row.id] = Outcome(False, Reason.FLOWS_REMAIN, words)
    return kept


def _doors(rows: Sequence[Resource]) -> dict[int, tuple[Publish, tuple[str, ...]]]:
    """The UDP ports that rows publish, each with its guest's addresses, by row."""
    return {
        row.id: (
            Publish(s["protocol"], s["host_ip"], s["host_port"], s["guest_port"]),
            tuple(address for address in (s["ipv4"], s["ipv6"]) if address),
        )
        for row, s in ((row, row.spec) for row in rows if row.kind == Kind.PUBLISH)
        if s["protocol"] == "udp"
    }


def _close_doors(doors: Iterable[tuple[Publish, tuple[str, ...]]]) -> str | None:
    """End flows to ports that do not lead to the guests they are published for; why not, if so."""
    wanted = list(doors)
    if not wanted:
        return None
    try:
        failpoint.reach("flushing:ports")
        from hvtx.host import conntrack

        conntrack.flush_ports(conntrack.Door(*door) for door in wanted)
    except (HvtxError, OSError) as problem:
        ports = ", ".join(f"{port.host_port}/{port.protocol}" for port, _ in wanted)
        return f"what was sent to port {ports} before may go past the VM: {_said(problem)}"
    return None


def _said(problem: Exception) -> str:
    hint = getattr(problem, "hint", None)
    return f"{problem} ({hint})" if hint else str(problem)


def forget_vm(sql: Any, vm: str) -> Event:
    """Take a VM's record out of the store (its resources are gone); the line that tells of it.

    The line keeps the record, so that `vm create --from-log` can make it again.
    """
    record = records.vm_record(sql, vm)
    records.remove_vm(sql, vm)
    return Event("removed", f"VM {record['name']}", vm=record["name"], detail=record)


def _removal(row: Resource, outcome: Outcome, reason: str | None, vm: str | None) -> Event:
    if outcome.gone:
        what = {"mark": row.mark, "spec": row.spec, "observed": row.observed}
        return Event("removed", f"{row.kind} {row.key}", row.kind, row.key, reason, vm, what)
    return Event("kept", outcome.message, row.kind, row.key, outcome.reason, vm)


def _guest_addresses(row: Resource) -> list[str]:
    if row.kind not in FIREWALL_KINDS or row.vm is None:
        return []
    return [row.spec[field] for field in ("ipv4", "ipv6", "address") if row.spec.get(field)]


def _bridge_stayed(
    row: Resource, rows: Sequence[Resource], outcomes: Mapping[int, Outcome]
) -> bool:
    """Whether an address's bridge refused to go: deleting the address could take others with it."""
    if row.kind != Kind.ADDRESS:
        return False
    return any(
        other.kind == Kind.BRIDGE
        and other.key == row.spec["device"]
        and other.id in outcomes
        and not outcomes[other.id].gone
        for other in rows
    )
