"""The view is published: what members of a group may see of the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial

from hvtx.commands import show_networks
from hvtx.commands.published_view import LINES, place_of
from hvtx.commands.show_networks import ShownNetwork
from hvtx.engine import notice
from hvtx.engine.runtime import Runtime, Settings
from hvtx.errors import HvtxError, UsageError
from hvtx.model.container import inner_tap
from hvtx.model.history import Line
from hvtx.model.mark import without_marks
from hvtx.model.resource import PORTS, Kind, Resource
from hvtx.model.typed import Any, NamedTuple
from hvtx.model.vm import Epoch, Identity, Vm
from hvtx.store import history, records
from hvtx.store.view import Publisher, note_change


class PublishedVm(NamedTuple):
    """A VM without its secrets, and what its state is judged by when the view is read."""

    vm: Vm
    rows: tuple[tuple[Any, ...], ...]  # kind, key, state, life, observed; and spec, if any
    verb: str | None  # of the operation that works on it
    writer: Identity | None


class Published(NamedTuple):
    """All that is published: one moment of the store, and nothing that only root should know."""

    state_directory: str
    as_of: str
    seq: int
    life: Epoch
    lives: tuple[Epoch, ...]
    vms: tuple[PublishedVm, ...]
    networks: tuple[ShownNetwork, ...]
    history: tuple[Line, ...]


Render = Callable[[Published], dict[str, Any]]  # `hvtx.documents.view.document`


def publisher(settings: Settings) -> Publisher:
    """The publisher for the configured group. Raises UsageError if this host has no such group."""
    return Publisher(place_of(settings), group_id(settings.group or ""))


@contextmanager
def publishing(
    settings: Settings, render: Render, *, create: bool = True, spends: bool = False
) -> Iterator[Runtime]:
    """A runtime that changes the store, whose view is published when it ends, whatever happened.

    ``render`` makes the file's JSON.
    """
    by = publisher(settings)
    with closing(by), closing(_watched(settings, by, create, spends)) as runtime:
        try:
            yield runtime
        finally:
            publish(runtime, by, render)


def noting(settings: Settings, *, create: bool, spends: bool) -> Runtime:
    """A runtime that changes the store, and only says so to who reads a view of it."""
    watch = partial(note_change, place_of(settings))
    return Runtime(settings, writable=True, create=create, watch=watch, spends=spends)


def _watched(settings: Settings, by: Publisher, create: bool, spends: bool) -> Runtime:
    return Runtime(settings, writable=True, create=create, watch=by.note, spends=spends)


def group_id(group: str) -> int:
    """The number of a group, by its name or number. Raises UsageError if there is none."""
    if group.isascii() and group.isdigit():
        from hvtx.host.vmuser import numeric_id

        return numeric_id("group", group)
    import grp

    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as problem:
        raise UsageError(
            f"group is {group!r}, and this host has no such group",
            hint=f"groupadd {group}, or take the key out of the configuration",
        ) from problem


def publish(runtime: Runtime, by: Publisher, render: Render) -> None:
    """Publish the store as it is now; a failure is a warning, since nothing depends on a view."""
    from hvtx.engine.late_errors import explain

    try:
        if runtime.refused is not None or runtime.store.missing:
            return
        if by.is_fresh(runtime.read(records.seq)):  # of a change there may be no note
            return
        with runtime.held("all", "view"):
            runtime.store.tell_watch()  # a change that was noted may not have been committed
            # whoever had the lock before may have published ours as well
            if not by.is_fresh(runtime.read(records.seq)):
                made = gather(runtime)
                text = json.dumps(render(made), separators=(",", ":"))
                by.publish(text.encode(), made.seq)
    except Exception as problem:
        told = explain(problem) or problem
        if not isinstance(told, (HvtxError, OSError)):
            raise
        words = f"the view for group {runtime.settings.group} was not published: {told}"
        notice.warning(words)


def gather(runtime: Runtime) -> Published:
    """What is published, read in one moment."""
    with runtime.reading() as sql:
        rows: dict[str, list[Resource]] = {}
        for row in records.resources(sql):
            rows.setdefault(row.vm or "", []).append(row)
        underway = {o.vm: o for o in records.operations(sql) if o.vm}
        return Published(
            state_directory=runtime.settings.state_directory,
            as_of=history.now(),
            seq=records.seq(sql),
            life=runtime.life,
            lives=tuple(records.lives(sql).values()),
            vms=tuple(
                PublishedVm(
                    _published_vm(vm),
                    tuple(_published_row(row) for row in rows.get(vm.id, ())),
                    underway[vm.name].verb if vm.name in underway else None,
                    underway[vm.name].writer if vm.name in underway else None,
                )
                for vm in records.vms(sql)
            ),
            networks=tuple(
                _without_marks(show_networks.shown_network(runtime, network))
                for network in records.networks(sql)
            ),
            history=tuple(
                _published_line(line)
                for line in history.entries(sql, history.Filter(), limit=LINES)
            ),
        )


def _published_vm(vm: Vm) -> Vm:
    """A VM without what may hold secrets: what it, and cloud-init in its guest, is started with."""
    return vm._replace(
        append=None, kernel=None, initrd=None, disks=(), command=(), directory="",
        user_data=None, ssh_keys=(),
    )  # fmt: skip


def _published_row(row: Resource) -> tuple[Any, ...]:
    observed = row.observed if row.kind in (Kind.PROCESS, Kind.NETNS) else {}
    tap = inner_tap((row,))
    spec: dict[str, Any] = {} if tap is None else {"tap": {"name": tap}}
    if row.kind in PORTS and row.network:  # whose interface's device it is
        spec["network"] = row.network
    return (row.kind, row.key, row.state, row.life, observed, *((spec,) if spec else ()))


def _without_marks(shown: ShownNetwork) -> ShownNetwork:
    return shown._replace(resources=tuple(row._replace(mark="") for row in shown.resources))


def _published_line(line: Line) -> Line:
    """A line without marks, and without what it speaks of."""
    words = (without_marks(word) if isinstance(word, str) else word for word in line[:-1])
    return Line._make((*words, None))
