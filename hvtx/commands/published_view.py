"""The view: what members of a group may see of a store that only its owner may read.

Commands that change the store publish it when they end, if a group is configured; nothing is
published otherwise, and nothing of this module is loaded. Reading commands that may not open the
store read it instead. What is in it is what `vm ls`, `vm show`, `network ls`, `network show` and
`log` print, without marks (who knows them could forge them), command lines, disks, and the details
of the history. Whether a VM lives is judged when the view is read, from the identity of its
process. docs/adr/0011-view.md has the reasons.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from types import MappingProxyType

from hvtx.commands import show, show_history, show_networks
from hvtx.commands.show import ShownVm
from hvtx.commands.show_networks import ShownNetwork
from hvtx.engine import guests
from hvtx.engine.processes import process_facts
from hvtx.engine.runtime import Runtime, Settings
from hvtx.errors import NotPermitted
from hvtx.host import procfs
from hvtx.model import json_text
from hvtx.model.history import Line
from hvtx.model.policy import NO_POLICY, EgressRule, Limits, Policy
from hvtx.model.resource import Kind, Resource
from hvtx.model.typed import Any, NamedTuple, ParamSpec, TypeVar
from hvtx.model.vm import Attachment, Epoch, Identity, Interface, Publish, Vm
from hvtx.planner.egress import effective
from hvtx.planner.states import judge_vm, vm_state
from hvtx.store import records
from hvtx.store import view as file
from hvtx.store.view import Place

SCHEMA = "hvtx/view/1"  # of the file, which is read back here
LINES = 500  # of the history


class AsOf(NamedTuple):
    """Of which moment a published view is."""

    as_of: str  # RFC 3339 in UTC
    stale: bool  # the store has changed since, or the host has booted


def place_of(settings: Settings) -> Place:
    """Where the view of the store of ``settings`` is."""
    return file.place(settings.state_directory, settings.run_directory)


class StoreSource:
    """What reading commands tell, from the store itself."""

    note: str | None = None
    view: AsOf | None = None

    def __init__(self, runtime: Runtime) -> None:
        """Take an open runtime."""
        self._runtime = runtime

    def list_vms(self) -> list[ShownVm]:
        """`vm ls`."""
        return show.list_vms(self._runtime)

    def show_vm(self, name: str) -> ShownVm:
        """`vm show`; raises NotFound."""
        return show.show_vm(self._runtime, name)

    def list_networks(self) -> list[ShownNetwork]:
        """`network ls`."""
        return show_networks.list_networks(self._runtime)

    def show_network(self, name: str) -> ShownNetwork:
        """`network show`; raises NotFound."""
        return show_networks.show_network(self._runtime, name)

    def list_history(self, *, limit: int, **wanted: Any) -> list[Line]:
        """`log`."""
        return show_history.list_history(self._runtime, limit=limit, **wanted)


# what becomes of a view that has not the shape which is published
_WRONG = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)
P = ParamSpec("P")
T = TypeVar("T")


def _legible(tell: Callable[P, T]) -> Callable[P, T]:
    """What is told from a view, or NotPermitted: it was changed by somebody, or is damaged."""

    @wraps(tell)
    def telling(*args: P.args, **more: P.kwargs) -> T:
        try:
            return tell(*args, **more)
        except _WRONG as problem:
            raise _unreadable("the published view", problem) from problem

    return telling


class ViewSource:
    """The same from a published view; ``view`` says of which moment it is."""

    def __init__(self, seen: Mapping[str, Any], changes: int) -> None:
        """``changes`` is the number of the store's newest change."""
        self._seen = seen
        self._boot_id = procfs.boot_id()
        self._life = Epoch(*seen["life"])._replace(boot_id=self._boot_id)
        self._lives = {life[0]: Epoch(*life) for life in seen["lives"]}
        another_boot = seen["life"][1] != self._boot_id
        self.view = AsOf(seen["as_of"], another_boot or changes != seen["seq"])
        self.note = f"this is what the owner of the store published at {seen['as_of']}"
        if self.view.stale:
            self.note += (
                "; this host has booted since: `hvtx recover` publishes anew"
                if another_boot
                else "; the store has changed since: a command is at work, or ended before it could"
                " publish (the next one does)"
            )

    @_legible
    def list_vms(self) -> list[ShownVm]:
        """`vm ls`."""
        return [self._vm(entry) for entry in self._seen["vms"]]

    @_legible
    def show_vm(self, name: str) -> ShownVm:
        """`vm show`; raises NotFound."""
        for entry in self._seen["vms"]:
            if entry["vm"][1] == name:
                return self._vm(entry)
        raise records.no_vm(name, [entry["vm"][1] for entry in self._seen["vms"]])

    @_legible
    def list_networks(self) -> list[ShownNetwork]:
        """`network ls`."""
        return [_network_of(network) for network in self._seen["networks"]]

    @_legible
    def show_network(self, name: str) -> ShownNetwork:
        """`network show`; raises NotFound."""
        for network in self._seen["networks"]:
            if network["name"] == name:
                return _network_of(network)
        raise records.no_network(name, [network["name"] for network in self._seen["networks"]])

    @_legible
    def list_history(self, *, limit: int, **wanted: Any) -> list[Line]:
        """`log`, of the lines that were published; the details were not."""
        since = wanted.pop("since", None)
        after = show_history.moment(since) if since is not None else ""
        asked = {name: value for name, value in wanted.items() if value is not None}
        self._check_words(asked)
        lines = [
            _line_of(entry)
            for entry in self._seen["history"]
            if entry["time"] >= after and all(entry[name] == asked[name] for name in asked)
        ]
        if len(lines) < limit and self._is_cut(after):
            self.note += f"; it has the last {LINES} lines of the history"
        return lines[-limit:]

    def _is_cut(self, after: str = "") -> bool:
        """Whether the history may have lines of that time that were not published."""
        known = self._seen["history"]
        return len(known) >= LINES and bool(known[0]["time"] >= after)

    def _check_words(self, asked: Mapping[str, Any]) -> None:
        """Refuse what no line can have, as the store's own reader does."""
        for name in ("verb", "kind", "event", "reason"):
            if name in asked and all(e[name] != asked[name] for e in self._seen["history"]):
                show_history.check_word(name, asked[name])
        known = [entry["vm"][1] for entry in self._seen["vms"]]
        vm = asked.get("vm")
        if vm is not None and vm not in {*known, *(e["vm"] for e in self._seen["history"])}:
            last = f"among the last {LINES} lines of the history, which are published"
            raise show_history.unheard_of(vm, known, last if self._is_cut() else "in the history")

    def _vm(self, entry: Mapping[str, Any]) -> ShownVm:
        vm = _vm_of(entry["vm"])
        rows = [_row_of(vm, n, *row) for n, row in enumerate(entry["rows"])]
        # the number and the mark by which a pair is looked for are not published
        facts = process_facts([row for row in rows if row.kind != Kind.VETH])
        liveness, _ = judge_vm(vm.hypervisor, rows, life=self._life, lives=self._lives, facts=facts)
        verb = entry["verb"] if entry["writer"] and self._works(entry["writer"]) else None
        state = vm_state(rows, verb, liveness)
        networks = {
            network["id"]: show.Surroundings(
                list(zip(network["subnets"], network["gateway"], strict=True)),
                _published_policy(network),
                network["mtu"],
            )
            for network in self._seen["networks"]
        }
        return show.describe_vm(vm, state, liveness, rows, guests.unasked(state), networks)

    def _works(self, writer: Sequence[Any]) -> bool:
        """Whether the process that was working on a VM is still there.

        Members may not look at locks, which prove it; this is for showing, and decides nothing.
        """
        identity = Identity(*writer)
        facts = procfs.look(identity.pid)
        here = identity.boot_id == self._boot_id
        return here and not facts.ended and procfs.same(identity, facts)


def _vm_of(fields: Sequence[Any]) -> Vm:
    # an older view tells less
    values: dict[str, Any] = dict(zip(Vm._fields, fields, strict=False))
    values["interfaces"] = tuple(
        Interface._make((*i[:6], tuple(Publish(*port) for port in i[6]), tuple((*i, ())[7])))
        for i in values["interfaces"]
    )
    if "limits" in values:
        values["limits"] = Limits(*values["limits"])
    if "policy" in values:
        egress, rules = values["policy"]
        values["policy"] = Policy(egress, tuple(EgressRule(*rule) for rule in rules))
    if values.get("attachment"):
        values["attachment"] = Attachment(*values["attachment"])
    return Vm(**values)


def _published_policy(published: Mapping[str, Any]) -> Policy:
    """A network's policy, of its object; an older view tells of none."""
    egress = published.get("egress")
    if egress is None:
        return NO_POLICY
    from hvtx.planner.egress_rules import parse_rule

    rules = tuple(parse_rule(*rule.split(" ", 1)) for rule in egress["rules"])
    return Policy(None if egress["from"] == "default" else egress["mode"], rules)


def _network_of(published: Mapping[str, Any]) -> ShownNetwork:
    return ShownNetwork(
        name=published["name"],
        id=published["id"],
        bridge=published["bridge"],
        subnets=tuple(published["subnets"]),
        gateways=tuple(published["gateway"]),
        nat=published["nat"],
        isolate=published["isolate"],
        dhcp=published.get("dhcp", False),
        mtu=published["mtu"],
        firewall=published["firewall"],
        passage=published.get("passage", True),
        egress=effective(vm=NO_POLICY, network=_published_policy(published)),
        vms=tuple(published["vms"]),
        resources=tuple(_rows_of_network(published)),
        uplink=published.get("uplink"),
        sources=tuple(published.get("source", ())),
        block_size=published.get("block_size"),
    )


def _rows_of_network(published: Mapping[str, Any]) -> Iterator[Resource]:
    """Its resources, each with its role; an older view tells of none."""
    rows = published["resources"]
    roles = published.get("roles", [""] * len(rows))
    for n, (row, role) in enumerate(zip(rows, roles, strict=True)):
        spec = {"what": role} if role else {}
        yield Resource(
            n, row["kind"], row["key"], row["state"], "", spec, {}, 0, 0, None, published["id"]
        )


def _line_of(published: Mapping[str, Any]) -> Line:
    return Line(*(published[name] for name in Line._fields[:-1]))


def _row_of(
    vm: Vm,
    number: int,
    kind: str,
    key: str,
    state: str,
    life: int,
    observed: dict[str, Any],
    spec: Mapping[str, Any] = MappingProxyType({}),
) -> Resource:
    own = dict(spec)
    network = own.pop("network", None)  # an older view tells of none
    return Resource(number, kind, key, state, "", own, observed, 0, life, vm.id, network)


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
    seen: dict[str, Any] = json_text.loads(text)
    if seen["schema"] != SCHEMA or seen["state_directory"] != settings.state_directory:
        raise ValueError("it is not of this store, or of another version of hvtx")
    return seen


def members_hint(settings: Settings) -> str | None:
    """What a user who may read the view, but not the store, is told; None for others."""
    where = place_of(settings)
    if not os.access(where.document, os.R_OK, effective_ids=True):
        return None
    return (
        f"members of the group {_group_of(where.directory)} may use vm ls, vm show, network "
        "ls, network show and log; everything else needs root: sudo hvtx …"
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
