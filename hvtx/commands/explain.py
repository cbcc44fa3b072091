"""`explain`: the owner of an object, the evidence, its history, and what gc would do.

The answer is read off the same snapshot and the same plan that gc works from, so that what is said
here is what gc would do; others' rules, tables and sockets are read besides.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from hvtx.drivers.foreign_rules import ForeignRules
from hvtx.engine import port_holders
from hvtx.engine.explained import Explanation, OnRecord, Other
from hvtx.engine.runtime import Runtime
from hvtx.engine.snapshot import look as look_at
from hvtx.errors import Conflict, HvtxError, NotFound
from hvtx.host.listeners import listening
from hvtx.model.foreign_rule import ForeignRule
from hvtx.model.history import Line
from hvtx.model.mark import owner_mark
from hvtx.model.place import Place
from hvtx.model.plan import Action, Item
from hvtx.model.reasons import action_of, explanation_of
from hvtx.model.resource import Kind, Resource, State
from hvtx.model.ruleset import Difference
from hvtx.model.shell import word
from hvtx.model.typed import Any
from hvtx.model.vm import Liveness, Publish
from hvtx.planner.gc import plan_gc
from hvtx.planner.identify import ambiguous, asks_for_rules, identify
from hvtx.planner.settled import without_settled
from hvtx.planner.subjects import ExplainFacts, Subject
from hvtx.store import history, records

_STILL_TOLD = ("store-rolled-back", "store-cloned")
_INSTALLATION = re.compile(
    r"hvtx:1:([a-z2-7]{10}):|\(([a-z2-7]{10})\)|(?:hvtx|HVTX)-([a-z2-7]{10})\b"
)
_ALSO = 20  # further things of the same name
_LINES = 5  # of the history


def explain(runtime: Runtime, text: str) -> Explanation:
    """Whose a thing is; raises NotFound for what neither host nor record has, Conflict.

    VMs that run as recorded and are not asked for are not judged; nor is every element compared
    with the record, unless a rule is asked for (docs/adr/0061).
    """
    if runtime.refused is None:
        sight = look(runtime, of=text)
        if not asks_for_rules(sight, text):
            return answer(runtime, sight, text)
    return answer(runtime, look(runtime), text)


def look(runtime: Runtime, of: str | None = None) -> ExplainFacts:
    """All that answers are made from, gathered once; raises Refused in another namespace.

    With ``of`` it is enough for answers about what has this name, but for tables and rules. An
    older or a copied store still tells what it knows; what it does not know is unrecorded.
    """
    if runtime.refused is not None and runtime.refused.code not in _STILL_TOLD:
        raise runtime.refused
    snapshot, (vms, networks) = look_at(
        runtime,
        lambda sql: (records.vms(sql), records.networks(sql)),
        settle=of is not None,
        of=of,
    )
    rules, places, unread = _firewall(runtime)
    differences: tuple[Difference, ...] = ()
    if not unread and runtime.refused is None and of is None:
        from hvtx.engine import ownrules  # only where rules are asked for

        differences = tuple(ownrules.look(runtime))
    sockets, deaf = listening()
    return ExplainFacts(
        snapshot=snapshot,
        plan=plan_gc(without_settled(snapshot), everything=True),
        vms=tuple(vms),
        networks=tuple(networks),
        rules=rules,
        places=places,
        sockets=sockets,
        deaf=deaf,
        unread=unread,
        differences=differences,
    )


def _hint(sight: ExplainFacts, text: str) -> str:
    """What can be asked for; before it the VM, network or device that was probably meant."""
    known = [vm.name for vm in sight.vms]
    known += [network.name for network in sight.networks]
    known += [link.name for link in sight.snapshot.links]
    kinds = (
        "give an interface, an address or subnet, a MAC address, a host port (8080, 53/udp),"
        " a mark, a table, a chain, a part of a rule, a VM, a network, a container or a pod"
    )
    return _otherwise(text) or records.likely(text, known, kinds)


def _otherwise(text: str) -> str | None:
    """The address or port in what browsers and other programs are given."""
    bare = re.sub(r"^[a-z]+://|/$", "", text)
    bare = re.sub(r"^localhost\b", "127.0.0.1", bare).removeprefix(":")
    bare = re.sub(r"^(\d+) +(tcp|udp)$", r"\1/\2", bare.lower())
    bare = re.sub(r"^(tcp|udp)[ /:](\d+)$", r"\2/\1", bare)
    plain = bare != text.lower() and re.fullmatch(r"[\w.:-]+(/tcp|/udp)?", bare)
    return f"did you mean {bare}? hvtx explain {bare}" if plain else None


def answer(runtime: Runtime, sight: ExplainFacts, text: str) -> Explanation:
    """What is to be said of ``text``; raises NotFound, Conflict for a beginning of several ids."""
    if several := ambiguous(sight, text):
        raise Conflict(
            f"the ids of {len(several)} containers begin with {text!r}: {_some(several)}",
            hint=f"name one by more of its id: hvtx explain {word(several[0])}",
        )
    tombstone = runtime.read(records.tombstones, [text]).get(text)
    found = identify(sight._replace(tombstone=tombstone), text)
    if not found:
        raise NotFound(
            f"neither on this host nor on record: {text!r}"
            + (f" ({sight.unread})" if sight.unread else ""),
            hint=_hint(sight, text),
        )
    attached = {vm.name for vm in sight.vms if vm.attachment is not None}
    told = tell(runtime, text, found, _of_port(sight, found[0]), attached)
    if any(network.block_size is not None for network in sight.networks):
        from hvtx.engine.other_hosts import whose

        more = whose(runtime, text, sight.networks)
        told = told._replace(evidence=(*told.evidence, *more))
    if sight.unread:
        told = told._replace(evidence=(*told.evidence, sight.unread))
    if told.owner == "other-installation":
        told = _with_its_store(runtime, told, found[0])
    if runtime.refused is not None:
        why = f"gc does nothing at all: {runtime.refused.message}"
        told = told._replace(action=Action.SKIP.value, reason=runtime.refused.code, why=why)
    return told


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:_ALSO]) + (" …" if len(ids) > _ALSO else "")


def _with_its_store(runtime: Runtime, told: Explanation, subject: Subject) -> Explanation:
    """Whether the store of another installation is known to be there, and what would remove it."""
    from hvtx.commands.gc_installation import about

    named = _INSTALLATION.search(" ".join((subject.key, subject.words, *told.evidence)))
    if named is None and subject.item is not None:
        named = _INSTALLATION.search(f"{subject.item.mark} {subject.item.message}")
    if named is None:
        return told
    more = about(runtime, named[1] or named[2] or named[3])
    evidence = (*told.evidence, *more["evidence"])
    return told._replace(evidence=evidence, why=more.get("why", told.why))


def _firewall(runtime: Runtime) -> tuple[tuple[ForeignRule, ...], tuple[Place, ...], str]:
    """All rules and places; in words if they could not be read, which must not hide a device."""
    source = ForeignRules(runtime.host)
    try:
        return source.rules(), source.places(), ""
    except (HvtxError, OSError, ValueError) as problem:
        return (), (), f"foreign rules could not be read: {problem}"


def _of_port(sight: ExplainFacts, subject: Subject) -> list[str]:
    """Who holds or has a port, a published one's translations, too."""
    row = subject.row
    if subject.kind == "port":
        number, _, protocol = subject.key.partition("/")
        return _had_by(int(number), protocol)
    if row is None or row.kind != Kind.PUBLISH:
        return []
    facts = sight.snapshot.vms.get(row.vm or "")
    own = not row.imported  # the ports of others' rules are held by nobody
    held: list[str] = []
    runs = own and row.life == sight.snapshot.life.id
    if runs and facts is not None and facts.liveness is not Liveness.DEAD:
        held = port_holders.shown_of_container(row) if facts.passing else port_holders.shown(row)
    return [*held, *(_translated_too(row) if own else ())]


def _had_by(number: int, protocol: str) -> list[str]:
    """Programs at a port that no running VM publishes."""
    from hvtx.host import portowner

    return [
        f"{one} has {one.address}, port {number}/{proto}"
        for proto in ([protocol] if protocol else ["tcp", "udp"])
        for one in portowner.owners(Publish(proto, None, number, number))
    ]


def tell(
    runtime: Runtime,
    text: str,
    found: Sequence[Subject],
    more: Sequence[str] = (),
    attached: Collection[str] = (),
) -> Explanation:
    """What is to be said of the first of ``found``, and in brief of the others.

    ``attached`` are the names of the VMs that stand for attachments.
    """
    first = found[0]
    item, reason = first.item, first.reason
    action = item.action if item is not None else action_of(reason)
    row = first.row or _row(runtime, item)
    evidence = [*(item.evidence if item is not None and first.kind != "vm" else ())]
    evidence += [line for line in (*first.evidence, *more) if line not in evidence]
    with runtime.reading() as sql:
        lines = _history(sql, row)
        record = _record(sql, row)
    return Explanation(
        object=text,
        kind=str(first.kind),
        key=first.key,
        owner=first.owner,
        vm=first.vm,
        network=first.network,
        since=_since(record, lines),
        record=record,
        evidence=tuple(evidence),
        action=action.value,
        reason=reason.value,
        why=explanation_of(reason, first.vm if first.vm in attached else None),
        message=f"{text}: {_sentence(first)}",
        history=tuple(lines),
        also=tuple(_brief(subject) for subject in found[1 : _ALSO + 1]),
    )


def _translated_too(row: Resource) -> list[str]:
    """Rules of others that translate a published port."""
    from hvtx.engine import translated_ports

    found, unknown = translated_ports.beside([row])
    return [
        *(f"also translated by a rule of another program: {one.rule}" for one in found),
        *(f"cannot tell whether another program translates it: {words}" for words in unknown),
    ]


def _row(runtime: Runtime, item: Item | None) -> Resource | None:
    """A row that is a tombstone by now, which the snapshot has not among its rows."""
    if item is None or not item.row:
        return None
    return runtime.read(records.resources_by_id, [item.row]).get(item.row)


def _record(sql: Any, row: Resource | None) -> OnRecord | None:
    if row is None:
        return None
    operation = records.operation_brief(sql, row.operation) or {}
    verb, began, result = (operation.get(name) for name in ("verb", "began", "result"))
    return OnRecord(row.id, str(row.state), owner_mark(row), row.operation, verb, began, result)


def _history(sql: Any, row: Resource | None) -> list[Line]:
    """What was done to the thing of this kind and name, oldest first."""
    if row is None:
        return []
    wanted = history.Filter(kind=row.kind, key=row.key)
    return history.entries(sql, wanted, limit=_LINES)


def _since(record: OnRecord | None, lines: Sequence[Line]) -> str | None:
    """When it was made: its operation's beginning, or the history where others came after."""
    if record is None:
        return None
    if record.state in (State.INTENDED, State.COMMITTED):
        return record.since or None
    made = [line.time for line in lines if line.event == "made"]
    return made[-1] if made else None


def _sentence(subject: Subject) -> str:
    item, owner = subject.item, subject.owner
    if item is None or subject.kind == "vm":
        return subject.words
    if owner == "foreign":
        return subject.words if item.reason.value == "foreign" else item.message
    whose = {
        "hvtx": f"of VM {item.vm!r}" if item.vm else "of this installation",
        "other-installation": "of another installation of hvtx",
        "unknown": "whose owner cannot be proven",
    }[owner]
    return f"{subject.kind} {whose}; {item.message}"


def _brief(subject: Subject) -> Other:
    return Other(str(subject.kind), subject.key, subject.owner, subject.vm, _sentence(subject))
