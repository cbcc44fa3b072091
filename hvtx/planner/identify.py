"""The resolver of `explain`: from a name to objects and owners. Pure: facts in, subjects out.

A name may fit several things (a chain and a VM); all are found, the likeliest first. What gc would
do with each is read off the plan, so that the two can never disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hvtx.model.mark import Mark, UnreadableMark, parse_mark
from hvtx.model.plan import Item
from hvtx.model.reason import Reason
from hvtx.model.resource import DEVICES, Kind, identity_in, process_observed
from hvtx.model.seed import SEED
from hvtx.model.vm import Liveness, Vm
from hvtx.planner.identify_addresses import by_address, by_mac, by_subnet
from hvtx.planner.identify_devices import by_device
from hvtx.planner.identify_ports import by_port
from hvtx.planner.identify_rules import by_place, by_rule
from hvtx.planner.subjects import ExplainFacts, Subject, of_item, of_row, reason_of

SHORTENED = 12  # digits of a container's id that runtimes print; fewer are no name of it
_ASKED_OTHERWISE = (*DEVICES, Kind.LEASE, Kind.PUBLISH, Kind.PROCESS)


def identify(sight: ExplainFacts, text: str) -> list[Subject]:
    """What ``text`` may mean, the likeliest first; empty if nothing here is called so."""
    found = [*_called(sight, text), *by_place(sight, text)]
    if not found:
        found += by_rule(sight, text)
    seen: set[tuple[str, str, int, Item | None]] = set()  # a copy is judged by itself
    unique = []
    for subject in found:
        row = subject.row.id if subject.row else 0
        thing = (subject.kind, subject.key, row, subject.item)
        if thing not in seen:
            seen.add(thing)
            unique.append(subject)
    return unique


def asks_for_rules(sight: ExplainFacts, text: str) -> bool:
    """Whether a table, a chain or a rule is asked for: by its name, or nothing else fits."""
    return next(by_place(sight, text), None) is not None or not _called(sight, text)


def ambiguous(sight: ExplainFacts, text: str) -> list[str]:
    """The containers whose ids begin with ``text``, if there are several and it names nothing."""
    meant = _containers(sight.vms, text)
    return sorted(meant) if len(meant) > 1 and not _called(sight, text) else []


def _called(sight: ExplainFacts, text: str) -> list[Subject]:
    """What is called ``text``, but for tables and chains."""
    finders = (_marks, by_device, by_mac, by_subnet, by_address, by_port, _owners, _keys)
    return [subject for finder in finders for subject in finder(sight, text)]


# -- marks and devices -----------------------------------------------------------------------------


def _marks(sight: ExplainFacts, text: str) -> Iterator[Subject]:
    parsed = parse_mark(text)
    if parsed is None:
        return
    items = [item for item in sight.plan.items if item.mark == text]
    if not items:  # that of an address's own row, which a log or an earlier hvtx told
        rows = {row.id for row in sight.snapshot.rows if row.mark == text}
        items = [item for item in sight.plan.items if item.row in rows]
    items.sort(key=lambda item: item.kind == Kind.ADDRESS)  # the bridge carries it, they have it
    yield from (of_item(sight, item) for item in items)
    if items:
        return
    if isinstance(parsed, UnreadableMark) and (
        parsed.installation in (None, sight.snapshot.installation)
    ):
        words, owner = "a mark in a form that this program does not know", "unknown"
        yield Subject("mark", text, words, None, owner, Reason.MARK_UNREADABLE)
    else:
        yield _unseen(sight, parsed, text)


def _unseen(sight: ExplainFacts, mark: Mark | UnreadableMark, text: str) -> Subject:
    nobody = "; nothing here carries it"
    if mark.installation != sight.snapshot.installation:
        words = f"a mark of another installation ({mark.installation}){nobody}"
        return Subject("mark", text, words, None, "other-installation", Reason.OTHER_INSTALLATION)
    row = sight.tombstone
    if row is None:
        words = f"a mark of this installation that is not on record{nobody}"
        return Subject("mark", text, words, None, "unknown", Reason.UNRECORDED)
    words = f"the mark of {row.kind} {row.key}, which was removed{nobody}"
    return Subject("mark", text, words, None, "hvtx", Reason.ALREADY_GONE, row=row)


# -- rows by name, tables and chains, VMs and networks ---------------------------------------------


def _keys(sight: ExplainFacts, text: str) -> Iterator[Subject]:
    """Settings, files, and whatever else a plan calls by this very name."""
    dotted = text.replace("/", ".")
    for row in sight.snapshot.rows:
        identity = identity_in(process_observed(row)) if row.is_service else None
        if identity and text in (row.key, f"pid {identity.pid}"):
            yield of_row(sight, row)
        other = row.kind not in _ASKED_OTHERWISE
        if other and (row.key == text or (row.kind == Kind.SYSCTL and row.key == dotted)):
            yield of_row(sight, row)
    for item in sight.plan.judged():  # of which no row tells: a directory by its last name, too
        if item.kind == Kind.FILE and not item.row:
            last = item.key.rpartition("/")[2]
            if item.key == text or (last == text != SEED):
                yield of_item(sight, item)


def _stands_for(vm: Vm | None) -> str:
    """In words, which interface of which container or pod a VM stands for; empty of others."""
    return "" if vm is None or vm.attachment is None else f", {vm.attachment.words}"


def _dead(vm: Vm | None) -> str:
    """In words, what of a VM has ended: an attachment lives by a namespace, not by a process."""
    attached = vm is not None and vm.attachment is not None
    return "whose network namespace is gone" if attached else "whose process is dead"


def _is_container(vm: Vm | None, text: str) -> bool:
    """Whether a VM stands for an interface of this container or pod, by one of its names."""
    if vm is None or vm.attachment is None:
        return False
    own = vm.attachment
    return bool(text) and text in (own.container, own.pod, own.pod_name, own.pod_uid)


def _containers(vms: Iterable[Vm], text: str) -> set[str]:
    """The ids of the containers that are meant by one, whole or shortened as runtimes print it."""
    ids = {vm.attachment.container for vm in vms if vm.attachment is not None}
    if text in ids:
        return {text}
    return {one for one in ids if len(text) >= SHORTENED and one.startswith(text)}


def _owners(sight: ExplainFacts, text: str) -> Iterator[Subject]:
    """VMs and networks by name."""
    containers = _containers(sight.vms, text)
    whole = next(iter(containers)) if len(containers) == 1 else text
    for identity, facts in sight.snapshot.vms.items():
        vm = next((vm for vm in sight.vms if vm.id == identity), None)
        named = text in (facts.name, identity) or _is_container(vm, text)
        if not named and not _is_container(vm, whole):
            continue
        items = [item for item in sight.plan.items if item.vm == facts.name]
        first = next((i for i in items if i.action.value != "skip"), items[0] if items else None)
        crashed = first is not None and reason_of(first) is not Reason.RESERVED  # not leases alone
        runs = {
            Liveness.ALIVE: "which runs",
            Liveness.DEAD: _dead(vm) if crashed else "which is not running",
        }.get(facts.liveness, "of which hvtx cannot tell whether it is running")
        networks = [interface.network_name for interface in vm.interfaces] if vm else []
        yield Subject(
            "vm", facts.name, f"VM {facts.name!r}{_stands_for(vm)}, {runs}; {len(items)} items",
            first, "hvtx",
            reason_of(first) if first else Reason.RESERVED, facts.name,
            networks[0] if networks else None, None, facts.evidence,
        )  # fmt: skip
    for network in sight.networks:
        if text in (network.name, network.id):
            words = f"network {network.name!r} on bridge {network.bridge}, {network.firewall}"
            service = [item for item in sight.plan.items if item.key == f"dnsmasq {network.name}"]
            yield Subject(
                "network", network.name, words, None, "hvtx", Reason.RESERVED, None, network.name,
                evidence=(
                    *(f"subnet {cidr}" for cidr in network.subnets),
                    *(f"{item.key}: {line}" for item in service for line in item.evidence),
                ),
            )  # fmt: skip
