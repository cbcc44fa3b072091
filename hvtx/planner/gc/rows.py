"""The items of rows: a case, the rule that decides it, and its words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hvtx.model.plan import Action, Item, LeftAlone, SettledRow, Snapshot
from hvtx.model.reason import Reason
from hvtx.model.resource import EXCHANGE, FIREWALL_KINDS, FLOWS, PORTS, Kind, Link, Resource, State
from hvtx.model.vm import Liveness
from hvtx.planner.gc.cases import Alive
from hvtx.planner.gc.exchanges import CARRIED_ON, interrupted
from hvtx.planner.gc.facts import Facts
from hvtx.planner.gc.rules import decide_row
from hvtx.planner.order import RELEASED
from hvtx.planner.presence import Presence
from hvtx.planner.remedy import REPAIR, gone

# members by another name: an enum's attribute takes five times as long (Python 3.11)
_COMMITTED = State.COMMITTED.value
_SKIP, _VM_ALIVE = Action.SKIP, Reason.VM_ALIVE
_RUNS = "its VM runs"
# The release attaches before anything of the VM goes, which no holder, seen or not, lets happen.
_HIDDEN = "cannot inspect every process: attaching to the device finds one that has it open"


def row_items(facts: Facts) -> list[Item]:
    """One item for each row; those of live VMs, nearly all, need no case."""
    alive = {
        vm: known
        for vm, known in facts.snapshot.vms.items()
        if known.liveness is Liveness.ALIVE and vm not in facts.busy_vms
    }
    items = []
    for row in facts.snapshot.rows:
        seen = facts.presences[row.id]
        vm = alive.get(row.vm or "")
        if vm is not None and _as_it_should_be(facts, row, seen):
            evidence = (*seen.evidence, *vm.evidence)
            items.append(Item.for_row(
                row, _SKIP, _VM_ALIVE, vm=vm.name, evidence=evidence, message=_RUNS,
                link=seen.link,
            ))  # fmt: skip
        else:
            items.append(row_item(facts, row))
    return items


def _as_it_should_be(facts: Facts, row: Resource, seen: Presence) -> bool:
    """Whether the table says ``vm-alive`` for sure, of a row whose VM runs undisturbed."""
    here = seen.here is True and seen.problem is None and FLOWS not in row.observed
    moved = facts.snapshot.moving and row.id in facts.snapshot.moving
    return here and not moved and row.state == _COMMITTED and row.life == facts.snapshot.life.id


def left_alone(snapshot: Snapshot) -> list[LeftAlone]:
    """Settled VMs by name."""
    vms = snapshot.vms
    return sorted(
        LeftAlone(vms[vm].name, vms[vm].evidence, rows) for vm, rows in snapshot.settled.vms.items()
    )


def items_of(vm: LeftAlone, links: Mapping[int, Link]) -> Iterator[Item]:
    """What a plan says of the rows of a settled VM, in their order; ``links``: TAPs by row."""
    name, alive, rows = vm
    for row in sorted(rows, key=_in_order):
        number, kind, key, mark = row
        yield Item(
            _SKIP, _VM_ALIVE, kind, key, name, number, _COMMITTED, (*seen_of(row), *alive), _RUNS,
            mark, None, (), links.get(number),
        )  # fmt: skip


def _in_order(row: SettledRow) -> tuple[int, int]:
    return RELEASED.get(row[1], 9), row[0]


def seen_of(row: SettledRow) -> tuple[str, ...]:
    """What :mod:`hvtx.planner.presence` says of a thing that is just as recorded."""
    _, kind, _, mark = row
    words = _SEEN.get(kind)
    return () if words is None else (words + mark,)


_SEEN = {
    **{kind.value: "alias " for kind in PORTS},
    Kind.FILE.value: "its mark is ",
    **{kind.value: "comment " for kind in FIREWALL_KINDS},
}


def row_item(facts: Facts, row: Resource) -> Item:
    """What the table says of one row; of an interrupted change, which is carried on, without it."""
    seen = facts.seen(row)
    if EXCHANGE in row.observed and (reason := interrupted(facts, row)) is not None:
        action, words = CARRIED_ON[reason]
        return Item.for_row(
            row, action, reason, vm=facts.name(row.vm), evidence=seen.evidence, message=words,
            link=seen.link,
        )  # fmt: skip
    decided = decide_row(facts.case(row, seen))
    text, sources = decided.words
    evidence: tuple[str, ...] = ()
    for source in sources:
        evidence += _evidence(facts, row, seen, source)
    words = _filled(text, facts, row, seen) if "{" in text else text
    name = facts.name(row.vm)
    return Item.for_row(
        row, decided.action, decided.reason, vm=name, evidence=(*seen.evidence, *evidence),
        message=words, link=seen.link,
    )  # fmt: skip


def _evidence(facts: Facts, row: Resource, seen: Presence, source: str) -> tuple[str, ...]:
    if source == "vm":
        vm = facts.facts_of(row.vm)
        if vm is not None:
            return vm.evidence
        return () if row.vm is None else ("its VM is not on record",)
    if source == "holders":
        return facts.holders(row, seen)
    return (_HIDDEN,) if facts.snapshot.hidden and row.kind == Kind.TAP else ()


def _filled(text: str, facts: Facts, row: Resource, seen: Presence) -> str:
    name = facts.name(row.vm) or ""
    return text.format(
        key=row.key,
        vm=name,
        owner=_owner(facts, row),
        holders=", ".join(facts.holders(row, seen)),
        others=", ".join(facts.others_on(row, seen)),
        gone=gone(row, name),
        fixes=_fixes(facts, row, seen),
    )


def _fixes(facts: Facts, row: Resource, seen: Presence) -> str:
    """What lets gc go on where something stands in the place of a row's thing."""
    if seen.problem is None:
        return ""
    if seen.problem is Reason.EDITED_COPY and _is_kept_up(facts, row):
        return f": `{REPAIR}` puts it back"
    from hvtx.planner.leftovers import fixes

    return "".join(f": {m}" for m in fixes(row, seen.problem, facts.snapshot, facts.sights))


def _is_kept_up(facts: Facts, row: Resource) -> bool:
    """Whether `repair` puts a row's thing back as it is on record."""
    if row.imported or row.state != _COMMITTED:
        return False
    return row.vm is None or facts.alive(row.vm) in (Alive.ALIVE, Alive.UNKNOWN)


_SHARED = {
    Kind.SYSCTL: "the kernel forwards their packets by it",
    "nftables": "nftables' tables and base chains that their rules stand in",
    "iptables": "iptables' chains that their rules stand in, and the jumps there",
}


def _owner(facts: Facts, row: Resource) -> str:
    if row.network is None:
        what = _SHARED.get(row.kind if row.kind == Kind.SYSCTL else row.backend)
        return "all networks of this installation" + (f" ({what})" if what else "")
    network = facts.snapshot.networks.get(row.network)
    return f"network {network.name!r}" if network else "a network that is not on record"
