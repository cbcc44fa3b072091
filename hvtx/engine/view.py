"""The view: what members of a group may see of a store that only its owner may read.

Commands that change the store publish it when they end, if a group is configured; nothing is
published otherwise, and nothing of this module is loaded. Reading commands that may not open the
store read it instead. What is in it is what `vm ls`, `vm show`, `network ls`, `network show` and
`log` print, without marks (who knows them could forge them), command lines, disks, and the details
of the history. Whether a VM lives is judged when the view is read, from the identity of its
process. docs/adr/0011-view.md has the reasons.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import wraps
from typing import Any, ParamSpec

from hvtx.engine import guests, show
from hvtx.engine.processes import process_facts
from hvtx.engine.runtime import Runtime, Settings
from hvtx.errors import HvtxError, NotPermitted, UsageError
from hvtx.host import procfs
from hvtx.model.mark import without_marks
from hvtx.model.resource import Kind, Resource
from hvtx.model.vm import Identity, Interface, Life, Publish, Vm
from hvtx.planner.states import judge_vm, vm_state
from hvtx.store import history, records
from hvtx.store import view as file
from hvtx.store.view import Place, Publisher

SCHEMA = "hvtx/view/1"
LINES = 500  # of the history


# -- publishing ------------------------------------------------------------------------------------


def publisher(settings: Settings) -> Publisher:
    """The publisher for the configured group. Raises UsageError if this host has no such group."""
    return Publisher(place_of(settings), _group_id(settings.group or ""))


@contextmanager
def publishing(
    settings: Settings, *, create: bool = True, spends: bool = False
) -> Iterator[Runtime]:
    """A runtime that changes the store, whose view is published when it ends, whatever happened."""
    by = publisher(settings)
    with closing(by), closing(_watched(settings, by, create, spends)) as runtime:
        try:
            yield runtime
        finally:
            publish(runtime, by)


def _watched(settings: Settings, by: Publisher, create: bool, spends: bool) -> Runtime:
    return Runtime(settings, writable=True, create=create, watch=by.note, spends=spends)


def place_of(settings: Settings) -> Place:
    """Where the view of the store of ``settings`` is."""
    return file.place(settings.state_directory, settings.run_directory)


def _group_id(group: str) -> int:
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


def publish(runtime: Runtime, by: Publisher) -> None:
    """Publish the store as it is now; a failure is a warning, since nothing depends on a view."""
    from hvtx.engine.trouble import explain

    try:
        if runtime.refused is not None or runtime.store.missing or by.is_fresh():
            return
        runtime.lock("all", "view")
        try:
            runtime.store.tell_watch()  # a change that was noted may not have been committed
            if not by.is_fresh():  # whoever had the lock before may have published ours as well
                made = document(runtime)
                by.publish(json.dumps(made, separators=(",", ":")).encode(), made["seq"])
        finally:
            runtime.unlock("all", "view")
    except Exception as problem:
        told = explain(problem) or problem
        if not isinstance(told, (HvtxError, OSError)):
            raise
        words = f"the view for group {runtime.settings.group} was not published: {told}"
        sys.stderr.write(f"warning: {''.join(c if c.isprintable() else '?' for c in words)}\n")


def document(runtime: Runtime) -> dict[str, Any]:
    """What is published: one moment of the store, and nothing that only root should know."""
    with runtime.reading() as sql:
        rows: dict[str, list[Resource]] = {}
        for row in records.resources(sql):
            rows.setdefault(row.vm or "", []).append(row)
        underway = {o.vm: o for o in records.operations(sql) if o.vm}
        return {
            "schema": SCHEMA,
            "state_directory": runtime.settings.state_directory,
            "as_of": history.now(),
            "seq": records.seq(sql),
            "life": runtime.life,
            "lives": list(records.lives(sql).values()),
            "vms": [
                {
                    "vm": _published_vm(vm),
                    "rows": [_published_row(row) for row in rows.get(vm.id, ())],
                    "verb": underway[vm.name].verb if vm.name in underway else None,
                    "writer": underway[vm.name].writer if vm.name in underway else None,
                }
                for vm in records.vms(sql)
            ],
            "networks": [
                _without_marks(show.network_document(runtime, network))
                for network in records.networks(sql)
            ],
            "history": [
                {
                    name: without_marks(value) if isinstance(value, str) else value
                    for name, value in entry.items()
                    if name != "detail"
                }
                for entry in history.entries(sql, history.Wanted(), limit=LINES)
            ],
        }


def _published_vm(vm: Vm) -> Vm:
    """A VM without what may hold secrets: its kernel's command line, its program's arguments."""
    return vm._replace(append=None, kernel=None, initrd=None, disks=(), command=(), directory="")


def _published_row(row: Resource) -> tuple[Any, ...]:
    observed = row.observed if row.kind == Kind.PROCESS else {}
    return (row.kind, row.key, row.state, row.life, observed)


def _without_marks(shown: dict[str, Any]) -> dict[str, Any]:
    resources = [{**resource, "mark": None} for resource in shown["resources"]]
    return {**shown, "resources": resources}


# -- reading ---------------------------------------------------------------------------------------


class StoreSource:
    """What reading commands tell, from the store itself."""

    note: str | None = None

    def __init__(self, runtime: Runtime) -> None:
        """Take an open runtime."""
        self._runtime = runtime

    def list_vms(self) -> dict[str, Any]:
        """`vm ls`."""
        return show.list_vms(self._runtime)

    def show_vm(self, name: str) -> dict[str, Any]:
        """`vm show`; raises NotFound."""
        return show.show_vm(self._runtime, name)

    def list_networks(self) -> dict[str, Any]:
        """`network ls`."""
        return show.list_networks(self._runtime)

    def show_network(self, name: str) -> dict[str, Any]:
        """`network show`; raises NotFound."""
        return show.show_network(self._runtime, name)

    def list_history(self, *, limit: int, detail: bool, **wanted: Any) -> dict[str, Any]:
        """`log`."""
        return show.list_history(self._runtime, limit=limit, detail=detail, **wanted)


# what becomes of a view that has not the shape which is published
_WRONG = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)
P = ParamSpec("P")


def _legible(tell: Callable[P, dict[str, Any]]) -> Callable[P, dict[str, Any]]:
    """What is told from a view, or NotPermitted: it was changed by somebody, or is damaged."""

    @wraps(tell)
    def telling(*args: P.args, **more: P.kwargs) -> dict[str, Any]:
        try:
            return tell(*args, **more)
        except _WRONG as problem:
            raise _unreadable("the published view", problem) from problem

    return telling


class ViewSource:
    """The same from a published view; each object carries ``view``: as of when, and if stale."""

    def __init__(self, seen: Mapping[str, Any], changes: int) -> None:
        """``changes`` is the number of the store's newest change."""
        self._seen = seen
        self._boot_id = procfs.boot_id()
        self._life = Life(*seen["life"])._replace(boot_id=self._boot_id)
        self._lives = {life[0]: Life(*life) for life in seen["lives"]}
        another_boot = seen["life"][1] != self._boot_id
        self._stale = another_boot or changes != seen["seq"]
        self._view = {"as_of": seen["as_of"], "stale": self._stale}
        self.note = f"this is what the owner of the store published at {seen['as_of']}"
        if self._stale:
            self.note += (
                "; this host has booted since: `hvtx recover` publishes anew"
                if another_boot
                else "; the store has changed since: a command is at work, or ended before it could"
                " publish (the next one does)"
            )

    @_legible
    def list_vms(self) -> dict[str, Any]:
        """`vm ls`."""
        vms = [self._vm(entry) for entry in self._seen["vms"]]
        return {"schema": "hvtx/vms/1", "vms": vms, "view": self._view}

    @_legible
    def show_vm(self, name: str) -> dict[str, Any]:
        """`vm show`; raises NotFound."""
        for entry in self._seen["vms"]:
            if entry["vm"][1] == name:
                return {**self._vm(entry), "view": self._view}
        raise records.no_vm(name, [entry["vm"][1] for entry in self._seen["vms"]])

    @_legible
    def list_networks(self) -> dict[str, Any]:
        """`network ls`."""
        networks = self._seen["networks"]
        return {"schema": "hvtx/networks/1", "networks": networks, "view": self._view}

    @_legible
    def show_network(self, name: str) -> dict[str, Any]:
        """`network show`; raises NotFound."""
        for network in self._seen["networks"]:
            if network["name"] == name:
                return {**network, "view": self._view}
        raise records.no_network(name, [network["name"] for network in self._seen["networks"]])

    @_legible
    def list_history(self, *, limit: int, detail: bool, **wanted: Any) -> dict[str, Any]:
        """`log`, of the lines that were published; the details were not."""
        since = wanted.pop("since", None)
        after = show.moment(since) if since is not None else ""
        asked = {name: value for name, value in wanted.items() if value is not None}
        self._check_words(asked)
        entries = [
            {**entry, "detail": None} if detail else entry
            for entry in self._seen["history"]
            if entry["time"] >= after and all(entry[name] == asked[name] for name in asked)
        ]
        if limit > LINES <= len(self._seen["history"]):
            self.note += f"; it has the last {LINES} lines of the history"
        return {"schema": "hvtx/log/1", "entries": entries[-limit:], "view": self._view}

    def _check_words(self, asked: Mapping[str, Any]) -> None:
        """Refuse what no line can have, as the store's own reader does."""
        for name in ("verb", "kind", "event", "reason"):
            if name in asked and all(e[name] != asked[name] for e in self._seen["history"]):
                show.check_word(name, asked[name])
        known = [entry["vm"][1] for entry in self._seen["vms"]]
        vm = asked.get("vm")
        if vm is not None and vm not in {*known, *(e["vm"] for e in self._seen["history"])}:
            raise show.unheard_of(vm, known)

    def _vm(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        vm = _vm_of(entry["vm"])
        rows = [_row_of(vm, n, *row) for n, row in enumerate(entry["rows"])]
        liveness, _ = judge_vm(
            vm.hypervisor, rows, life=self._life, lives=self._lives, facts=process_facts(rows)
        )
        verb = entry["verb"] if entry["writer"] and self._works(entry["writer"]) else None
        state = vm_state(rows, verb, liveness)
        subnets = {
            network["id"]: list(zip(network["subnets"], network["gateway"], strict=True))
            for network in self._seen["networks"]
        }
        return show.describe_vm(vm, state, liveness, rows, guests.unasked(state), subnets)

    def _works(self, writer: Sequence[Any]) -> bool:
        """Whether the process that was working on a VM is still there.

        Members may not look at locks, which prove it; this is for showing, and decides nothing.
        """
        identity = Identity(*writer)
        facts = procfs.look(identity.pid)
        here = identity.boot_id == self._boot_id
        return here and not facts.ended and procfs.same(identity, facts)


def _vm_of(fields: Sequence[Any]) -> Vm:
    told: dict[str, Any] = dict(zip(Vm._fields, fields, strict=False))  # an older view tells less
    told["interfaces"] = tuple(
        Interface._make((*i[:6], tuple(Publish(*port) for port in i[6])))
        for i in told["interfaces"]
    )
    return Vm(**told)


def _row_of(
    vm: Vm, number: int, kind: str, key: str, state: str, life: int, observed: dict[str, Any]
) -> Resource:
    return Resource(number, kind, key, state, "", {}, observed, 0, life, vm.id, None)


@contextmanager
def source(settings: Settings) -> Iterator[StoreSource | ViewSource]:
    """The store, or the view where the store may not be read.

    Raises NotPermitted where neither is for this user, and whatever opening the store raises.
    """
    try:
        runtime = Runtime(settings, writable=False)
    except NotPermitted as refusal:
        yield _read(settings, refusal)
        return
    try:
        yield StoreSource(runtime)
    finally:
        runtime.close()


def _read(settings: Settings, refusal: NotPermitted) -> ViewSource:
    where = place_of(settings)
    try:
        text, changes = file.read(where, settings.state_directory)
        return ViewSource(_parsed(text, settings), changes)
    except FileNotFoundError:
        raise refusal from None  # nobody publishes one
    except PermissionError:
        group = _group_of(where.directory)
        refusal.hint = f"root, or a member of the group {group}, may read it"
        raise refusal from None
    except (*_WRONG, OSError) as problem:
        raise _unreadable(f"{refusal.message}, and the view {where.document}", problem) from problem


def _unreadable(what: str, problem: Exception) -> NotPermitted:
    return NotPermitted(
        f"{what} cannot be read: {problem}",
        hint="`hvtx recover`, run by the store's owner, publishes it anew",
    )


def _parsed(text: bytes, settings: Settings) -> dict[str, Any]:
    seen: dict[str, Any] = json.loads(text)
    if seen["schema"] != SCHEMA or seen["state_directory"] != settings.state_directory:
        raise ValueError("it is not of this store, or of another version of hvtx")
    return seen


def members_hint(settings: Settings) -> str | None:
    """What a user who may read the view, but not the store, is told; None for others."""
    where = place_of(settings)
    if not os.access(where.document, os.R_OK, effective_ids=True):
        return None
    return (
        f"members of the group {_group_of(where.directory)} may use vm ls, vm show, network ls,"
        " network show and log; all else is root's: sudo hvtx …"
    )


def _group_of(path: str) -> str:
    import grp

    try:
        number = os.stat(path).st_gid
    except OSError:
        return "that it is published for"
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
