"""`vm stop NAME...` and `vm rm NAME...`: several VMs in slices, an operation each.

The guests of a slice power down at the same time, and what they had in the host is released in one
batch. What does not go so is tried for its VM alone. See :mod:`hvtx.engine.together`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial

from hvtx.commands.vm_stop import (
    end_process,
    forget,
    may_run,
    refuse_external,
    refuse_running,
    remove_held,
    stop_scope,
    unreleased,
)
from hvtx.engine import privileges
from hvtx.engine.executor import Progress
from hvtx.engine.interrupted import close_interrupted
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import after, vm_scope
from hvtx.engine.survivors import end_survivors
from hvtx.engine.together import (
    SLICE,
    Several,
    Taking,
    Tally,
    begin_each,
    end_each,
    held,
    slices,
    take_down_each,
    unlock,
)
from hvtx.engine.transaction import Operation
from hvtx.engine.vm_paths import remove_log, run_directory
from hvtx.errors import HvtxError
from hvtx.host import failpoint, parallel
from hvtx.model.resource import Kind, is_changing
from hvtx.model.typed import TYPE_CHECKING, NamedTuple
from hvtx.planner.scope import VmScope, refuse_attachment
from hvtx.planner.states import VmState, identity_of
from hvtx.store import records

if TYPE_CHECKING:
    from hvtx.drivers.vm_process import stop

RM_SECONDS = 5.0  # that a guest may take to power down whose VM is removed with --force


class _How(NamedTuple):
    """How VM processes are ended."""

    timeout: float
    force: bool
    tell: stop.Tell | None


class _Stopping(NamedTuple):
    scope: VmScope
    operation: Operation


def stop_each(
    runtime: Runtime,
    names: Iterable[str],
    *,
    timeout: float = 30.0,
    force: bool = False,
    tell: stop.Tell | None = None,
    progress: Progress = lambda done, total, what: None,
) -> Several:
    """Stop VMs, each whatever becomes of the others; as each is left. Raises Refused, StoreError.

    ``timeout`` is what each guest has; they have it at the same time.
    """
    runtime.enter()
    tally = Tally(names, progress)
    how = _How(timeout, force, tell)
    for part in slices(tally.names):
        _slice(
            runtime,
            part,
            tally,
            lambda mine: _stop(runtime, _without_attachments(mine, tally), how, tally),
            lambda name: _stop_alone(runtime, name, how),
        )
    return tally.several()


def remove_each(
    runtime: Runtime,
    names: Iterable[str],
    *,
    force: bool = False,
    progress: Progress = lambda done, total, what: None,
) -> Several:
    """Forget VMs and free their leases, as :func:`stop_each` stops them; ``force`` stops first."""
    runtime.enter()
    tally = Tally(names, progress)
    for part in slices(tally.names):
        _slice(
            runtime,
            part,
            tally,
            lambda mine: _remove(runtime, mine, tally, force=force),
            lambda name: _remove_alone(runtime, name, force=force),
        )
    return tally.several()


def _slice(
    runtime: Runtime,
    names: Sequence[str],
    tally: Tally,
    together: Callable[[Sequence[VmScope]], None],
    alone: Callable[[str], VmScope],
) -> None:
    """Do it together for those whose locks are free, and alone for whom that came to nothing."""
    assert len(names) <= SLICE
    failed = False
    if len(names) > 1:
        try:
            with held(runtime, names) as mine:
                together(_scopes(runtime, [name for name in names if name in mine], tally))
        except (HvtxError, OSError):
            failed = True  # whose fault it was shows alone
    tally.tell()
    for name in tally.left(names):
        tally.attempt(name, partial(alone, name))
    if failed:
        with suppress(HvtxError, OSError):  # what became of each is known
            close_interrupted(runtime)


def _scopes(runtime: Runtime, names: Sequence[str], tally: Tally) -> list[VmScope]:
    found = []
    for name in names:
        try:
            found.append(vm_scope(runtime, name))
        except (HvtxError, OSError) as problem:
            tally.fail(name, problem)
    return found


def _without_attachments(scopes: Sequence[VmScope], tally: Tally) -> list[VmScope]:
    """Those that are VMs; the others are refused."""
    found = []
    for scope in scopes:
        try:
            refuse_attachment(scope.vm)
            found.append(scope)
        except HvtxError as problem:
            tally.fail(scope.vm.name, problem)
    return found


def _stop_alone(runtime: Runtime, name: str, how: _How) -> VmScope:
    with runtime.held("vm", name):
        scope = vm_scope(runtime, name)
        refuse_attachment(scope.vm)
        return stop_scope(runtime, scope, timeout=how.timeout, force=how.force, tell=how.tell)


def _remove_alone(runtime: Runtime, name: str, *, force: bool) -> VmScope:
    with runtime.held("vm", name):
        return remove_held(runtime, name, force=force)


def _stop(runtime: Runtime, scopes: Sequence[VmScope], how: _How, tally: Tally) -> None:
    """Stop VMs whose locks are held. Raises what the store raises."""
    up = []
    for scope in scopes:
        if scope.state is VmState.DEFINED:
            tally.done[scope.vm.name] = scope
            continue
        try:
            refuse_external(scope.vm, scope.liveness, scope.rows, force=how.force)
            privileges.need_for(scope.rows)
            privileges.need_to_end(scope.rows, runtime.boot_id)
            up.append(scope)
        except (HvtxError, OSError) as problem:
            tally.fail(scope.vm.name, problem)
    if not up:
        return
    with begin_each(runtime, "stop", [scope.vm.name for scope in up]) as (_, operations):
        pass
    try:
        for operation in operations:
            operation.raise_pending_interrupt()
        stopping = [_Stopping(*pair) for pair in zip(up, operations, strict=True)]
        ended = _end_processes(runtime, stopping, how, tally)
        failpoint.reach("ended:process")
        _release(runtime, ended, tally)
    finally:
        # what did not end stays open, as after Ctrl-C: `recover` sees by its process what to do
        unlock(operations)
    if any(is_changing(scope.rows) for scope in up):
        close_interrupted(runtime)  # the operation of the change has no rows any more


def _end_processes(
    runtime: Runtime, stopping: Sequence[_Stopping], how: _How, tally: Tally
) -> list[_Stopping]:
    """End the processes of all of them at the same time; those whose have ended."""
    found = [
        (one, row, identity)
        for one in stopping
        for row in one.scope.rows
        if row.kind == Kind.PROCESS
        and (identity := identity_of(row)) is not None
        and may_run(one.scope.life, row, identity)
    ]

    def ending(one: _Stopping, identity: object) -> Callable[[], None]:
        directory = run_directory(runtime.store.run_directory, one.scope.vm)
        return lambda: end_process(
            one.scope.vm,
            identity,  # type: ignore[arg-type]
            directory,
            timeout=how.timeout,
            force=how.force,
            tell=how.tell,
        )

    problems = parallel.each([ending(one, identity) for one, _, identity in found])
    for (one, row, identity), problem in zip(found, problems, strict=True):
        name = one.scope.vm.name
        try:
            if problem is not None:
                raise problem
            devices = [tap.key for tap in one.scope.rows if tap.kind == Kind.TAP]
            end_survivors(one.operation, row, identity, devices, how.tell, force=how.force)
        except (HvtxError, OSError) as why:
            tally.fail(name, why)
    return [one for one in stopping if one.scope.vm.name not in tally.failed]


def _release(runtime: Runtime, ended: Sequence[_Stopping], tally: Tally) -> None:
    if not ended:
        return
    # read again: see hvtx.commands.vm_stop
    with runtime.reading() as sql:
        takings = [
            Taking(
                one.operation,
                [
                    row
                    for row in records.resources_of_vm(sql, one.scope.vm.id)
                    if row.kind != Kind.LEASE
                ],
            )
            for one in ended
        ]
    kept = take_down_each(takings, reason="stop")
    for one in ended:
        scope, left = one.scope, kept[one.operation.id]
        if isinstance(left, HvtxError):
            tally.fail(scope.vm.name, left)
        elif left:
            tally.fail(scope.vm.name, unreleased(runtime, scope.vm, left))
        else:
            tally.done[scope.vm.name] = after(scope, scope.vm, scope.leases)


def _remove(runtime: Runtime, scopes: Sequence[VmScope], tally: Tally, *, force: bool) -> None:
    down = Tally([scope.vm.name for scope in scopes], lambda done, total, what: None)
    up = []
    for scope in scopes:
        if scope.state is VmState.DEFINED:
            down.done[scope.vm.name] = scope
            continue
        try:
            refuse_running(scope, force=force)
            up.append(scope)
        except HvtxError as problem:
            tally.fail(scope.vm.name, problem)
    if up:
        _stop(runtime, up, _How(RM_SECONDS, force=True, tell=None), down)
    tally.failed |= down.failed
    if not down.done:
        return
    names = list(down.done)
    with begin_each(runtime, "rm", names) as (_, operations):
        pass
    try:
        if operations[0].interrupted:
            end_each(operations, "undone")
            operations[0].raise_pending_interrupt()
        for name in names:
            remove_log(runtime.settings.state_directory, down.done[name].vm)
        vms = [down.done[name].vm for name in names]
        end_each(operations, then=lambda sql: forget(sql, operations, vms))
    finally:
        unlock(operations)  # of what did not end
    tally.done |= down.done
