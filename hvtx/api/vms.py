"""``host.vm``: the verbs of `hvtx vm`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from hvtx import commands
from hvtx.api.calls import Calls, flags, named
from hvtx.model.typed import TYPE_CHECKING, Any, BinaryIO, NamedTuple

if TYPE_CHECKING:
    from typing import Unpack

    from hvtx.api.options import VmChanges, VmOptions
    from hvtx.commands.show import ShownVm
    from hvtx.engine.together import Several
    from hvtx.engine.vm_options import VmRequest
    from hvtx.errors import HvtxError

    Progress = Callable[[int, int, str], None]  # how many are done, of how many, what is next
    Tell = Callable[[str], None]


class VmLog(NamedTuple):
    """Where a VM's log is: a half that is full, if there is one, and the one that is written."""

    name: str
    paths: tuple[str, ...]

    def lines(self) -> list[str]:
        """What stands in it, 8 MiB at most; bytes that are no text as U+FFFD."""
        return commands.show.read_log(self.paths)

    def files(self) -> Iterator[BinaryIO]:
        """Each half, open for reading; the caller closes it."""
        for path in self.paths:
            log = commands.show.open_log(path)
            if log is not None:
                yield log


class Each(NamedTuple):
    """What came of a verb for several VMs: each of their names is in one of the two."""

    done: Mapping[str, ShownVm | None]  # as the verb left it; None where it is gone
    failed: Mapping[str, HvtxError]


class Vms:
    """Verbs of VMs. Each returns the VM as the verb left it."""

    def __init__(self, calls: Calls) -> None:
        """Made by :attr:`hvtx.Host.vm`."""
        self._calls = calls

    def create(self, name: str, **options: Unpack[VmOptions]) -> ShownVm:
        """Record a VM, its addresses and host ports; starts nothing.

        Raises UsageError, NotFound (a network, a file), Conflict (what is taken), HostRefused.
        """
        request = requested(name, options)
        with self._calls.recording(
            lambda runtime: commands.vm_create.check_request(runtime, request)
        ) as runtime:
            commands.vm_create.create_vm(runtime, request)
            return commands.show.show_vm(runtime, name)

    def create_from_log(self, name: str, *, operation: int | None = None) -> ShownVm:
        """Record a VM as it was when it was last removed (by ``operation``), from the history.

        Raises NotFound where the history has none, and what :meth:`create` raises.
        """
        from hvtx.api import given as check

        named(name)
        if operation is not None:
            check.whole("operation", operation, 1, check.ROW_MOST)
        with self._calls.opened(writable=True, create=False) as runtime:
            commands.vm_create.create_vm(
                runtime, commands.vm_create.request_from_log(runtime, name, operation)
            )
            return commands.show.show_vm(runtime, name)

    def run(self, name: str, **options: Unpack[VmOptions]) -> ShownVm:
        """Create and start a VM; if that fails, nothing of it remains.

        Raises what :meth:`create` and :meth:`start` raise.
        """
        request = requested(name, options)
        with self._calls.recording(
            lambda runtime: commands.vm_create.check_request(runtime, request, starts=True)
        ) as runtime:
            return commands.show.shown_vm(runtime, commands.vm_start.run_vm(runtime, request))

    def start(self, name: str) -> ShownVm:
        """Make the VM's network and start its hypervisor, or nothing.

        Raises NotFound, Conflict (its state, a taken port), HostRefused (undone), Busy.
        """
        named(name)
        with self._calls.opened(writable=True, create=False) as runtime:
            return commands.show.shown_vm(runtime, commands.vm_start.start_vm(runtime, name))

    def stop(
        self, name: str, *, timeout: float = 30.0, force: bool = False, tell: Tell | None = None
    ) -> ShownVm:
        """End the hypervisor and release the VM's network; its addresses stay leased.

        The guest has ``timeout`` seconds to power down, with ``force`` none. ``tell`` hears in a
        sentence what is waited for. Raises NotFound, Conflict, PartialFailure (what was kept is
        named), Busy.
        """
        named(name)
        flags(force=force)
        patience = _seconds(timeout)
        with self._calls.opened(writable=True, create=False, spends=True) as runtime:
            done = commands.vm_stop.stop_vm(runtime, name, timeout=patience, force=force, tell=tell)
            return commands.show.shown_vm(runtime, done)

    def restart(
        self, name: str, *, timeout: float = 30.0, force: bool = False, tell: Tell | None = None
    ) -> ShownVm:
        """Stop a VM and start it again; one that is not running is started."""
        named(name)
        flags(force=force)
        patience = _seconds(timeout)
        with self._calls.opened(writable=True, create=False) as runtime:
            done = commands.vm_start.restart_vm(
                runtime, name, timeout=patience, force=force, tell=tell
            )
            return commands.show.shown_vm(runtime, done)

    def set(self, name: str, **changes: Unpack[VmChanges]) -> ShownVm:
        """Change a VM, whole or not at all; what is not named stays as it is.

        Raises NotFound, Conflict (it hears of that only at its start; a taken port), UsageError,
        HostRefused, NotPermitted (undone), PartialFailure (changed; flows may go on).
        """
        from hvtx.api import given as check

        named(name)
        given = check.options(changes, check.VM_CHANGES)
        policy = policy_change(given)
        wanted = commands.vm_set.parse_changes(policy=policy, **given)
        with self._calls.opened(writable=True, create=False, spends=wanted.frees()) as runtime:
            return commands.show.shown_vm(runtime, commands.vm_set.set_vm(runtime, name, wanted))

    def rm(self, name: str, *, force: bool = False) -> None:
        """Forget a VM and free its addresses and ports; ``force`` stops it first.

        Raises NotFound, Conflict (it is not down), PartialFailure, Busy.
        """
        named(name)
        flags(force=force)
        with self._calls.opened(writable=True, create=False, spends=True) as runtime:
            commands.vm_stop.remove_vm(runtime, name, force=force)

    # -- several at once: an operation each, whatever becomes of the others ----------------------

    def start_each(self, names: Iterable[str], *, progress: Progress | None = None) -> Each:
        """Start VMs. Raises only what keeps all of them from it: Refused, StoreError."""
        every = _names(names)
        with self._calls.opened(writable=True, create=False) as runtime:
            came = commands.vm_start_many.start_each(runtime, every, progress=progress or _silently)
            return _shown(runtime, came)

    def stop_each(
        self,
        names: Iterable[str],
        *,
        timeout: float = 30.0,
        force: bool = False,
        tell: Tell | None = None,
        progress: Progress | None = None,
    ) -> Each:
        """Stop VMs; their guests have ``timeout`` seconds at one time. Raises as start_each."""
        every, patience = _names(names), _seconds(timeout)
        flags(force=force)
        with self._calls.opened(writable=True, create=False, spends=True) as runtime:
            came = commands.vm_stop_many.stop_each(
                runtime, every, timeout=patience, force=force, tell=tell,
                progress=progress or _silently,
            )  # fmt: skip
            return _shown(runtime, came)

    def rm_each(
        self, names: Iterable[str], *, force: bool = False, progress: Progress | None = None
    ) -> Each:
        """Forget VMs; ``force`` stops them first. Raises as start_each."""
        every = _names(names)
        flags(force=force)
        with self._calls.opened(writable=True, create=False, spends=True) as runtime:
            came = commands.vm_stop_many.remove_each(
                runtime, every, force=force, progress=progress or _silently
            )
            return Each(dict.fromkeys(came.done), came.failed)

    def attach(self, name: str, pid: int) -> ShownVm:
        """Say which process is an ``external`` VM's. Raises NotFound, Conflict, Busy."""
        from hvtx.api import given as check

        named(name)
        check.whole("pid", pid, 1, check.PID_MOST)
        with self._calls.opened(writable=True, create=False) as runtime:
            return commands.show.shown_vm(runtime, commands.vm_attach.attach(runtime, name, pid))

    # -- reading -------------------------------------------------------------------------------

    def ls(self) -> Sequence[ShownVm]:
        """All VMs, by name."""
        with self._calls.reading() as source:
            return source.list_vms()

    def names(self) -> Sequence[str]:
        """The names of all, without looking at the host."""
        with self._calls.opened(writable=False) as runtime:
            return commands.show.names(runtime, "vm")

    def show(self, name: str) -> ShownVm:
        """One VM. Raises NotFound."""
        named(name)
        with self._calls.reading() as source:
            return source.show_vm(name)

    def logs(self, name: str) -> VmLog:
        """What the VM and its hypervisor wrote. Raises NotFound."""
        named(name)
        with self._calls.opened(writable=False) as runtime:
            return VmLog(name, tuple(commands.show.vm_log(runtime, name)))

    def console(self, name: str) -> str:
        """The path of the Unix socket of the VM's serial console. Raises NotFound, Conflict."""
        return commands.show.console_socket(*self._console(name))

    def join_console(self, name: str) -> None:
        """Join the process's own terminal to the console, until Ctrl-]. Raises as `console`."""
        where = self._console(name)
        with self._calls.speaking():
            commands.show.join_console(*where)

    def _console(self, name: str) -> tuple[str, str | None, str]:
        named(name)
        with self._calls.opened(writable=False) as runtime:
            return commands.show.console(runtime, name)


def _shown(runtime: Any, came: Several) -> Each:
    shown = {n: commands.show.shown_vm(runtime, scope) for n, scope in came.done.items()}
    return Each(shown, came.failed)


def _names(names: object) -> tuple[str, ...]:
    from hvtx.api import given as check

    return check.names(names)


def _seconds(timeout: object) -> float:
    from hvtx.api import given as check

    return check.seconds("timeout", timeout)


def _silently(done: int, total: int, what: str) -> None:
    """No progress is told."""


# -- what was asked for ----------------------------------------------------------------------------

_GUEST = ("queues", "user_data", "ssh_keys", "user")


def requested(name: str, options: VmOptions) -> VmRequest:
    """What was asked for, checked by itself. Raises UsageError, NotFound, NotPermitted."""
    from hvtx.api import given as check
    from hvtx.engine import guest_options as guests
    from hvtx.engine import vm_options

    named(name)
    given = check.options(options, check.VM)
    asked = {field: given.pop(field) for field in _GUEST if field in given}
    guest = guests.parse_guest(**asked)
    policy = vm_options.parse_policy(*taken_rules(given))
    parsed = vm_options.parse_request(name, **given)
    guests.check_guest(parsed.hypervisor, parsed.cpus, guest)
    return parsed._replace(guest=guest, policy=policy)


def taken_rules(given: dict[str, Any]) -> tuple[str | None, Sequence[str], Sequence[str]]:
    """``egress``, ``allow`` and ``deny``, taken out of the options."""
    return given.pop("egress", None), given.pop("allow", ()), given.pop("deny", ())


def policy_change(given: dict[str, Any]) -> Any:
    """What becomes of an egress policy, taken out of the changes; None: nothing. UsageError."""
    egress, allow, deny = taken_rules(given)
    clear = given.pop("no_rules", False)
    if egress is None and not (allow or deny or clear):
        return None
    from hvtx.engine.vm_options import policy_change as parsed

    return parsed(egress, allow, deny, clear=clear)
