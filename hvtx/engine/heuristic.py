"""`gc --heuristic`: the emergency mode, apart from everything that proves what it does.

Nothing imports this but the command that asks for it. It removes what no record speaks of, on a
guess, so it writes down first, in the history, the command that would make each thing again; and
what can be made certain is: a TAP goes only while nobody holds it, a rule only if it is still what
was seen, and no VM can take an address while its plan is carried out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hvtx.drivers.strangers import Strangers
from hvtx.engine.files import PRIVATE, read_plan
from hvtx.engine.runtime import Runtime
from hvtx.engine.saved_plan import SCHEMA, save_document
from hvtx.engine.snapshot import look
from hvtx.engine.transaction import Operation, begin
from hvtx.errors import Contended, HvtxError, NotFound, NotPermitted, Refused, StalePlan, UsageError
from hvtx.host import procfs
from hvtx.host.links import Links
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.mark import FAMILY
from hvtx.model.plan import Action
from hvtx.model.resource import Link, Outcome
from hvtx.planner.heuristic import Guess, Sight, guess
from hvtx.store import records, trust
from hvtx.store.history import Event, now

VERB = "heuristic"
_SKIPPED = frozenset({"in-use", "foreign-dependents", "foreign", "contended", "mark-mismatch"})


class Report(NamedTuple):
    """A plan of guesses, made or carried out; ``refused`` if nothing may be concluded."""

    items: tuple[Guess, ...]
    applied: bool
    refused: Refused | None
    boot_id: str
    netns: int
    made: str  # RFC 3339 in UTC: when the host was looked at

    def acting(self) -> list[Guess]:
        """What it proposes to delete."""
        return [item for item in self.items if item.action is Action.DELETE]


def make_plan(runtime: Runtime) -> Report:
    """What the emergency mode would remove now; changes nothing."""
    refusal, made = runtime.refused, now()
    if refusal is None:
        try:
            found = guess(_sight(runtime))
            return Report(found, False, None, runtime.boot_id, runtime.netns, made)
        except Refused as problem:
            refusal = problem
    return Report((), False, refusal, runtime.boot_id, runtime.netns, made)


def _sight(runtime: Runtime) -> Sight:
    snapshot, (networks, leases) = look(runtime, lambda sql: (records.networks(sql), _leases(sql)))
    failed = next(iter(snapshot.failures.values()), None)
    if failed:  # a guess needs at least to have seen everything
        raise Refused("cannot-observe", failed, hint="`hvtx doctor` checks this host")
    try:
        rules = Strangers(runtime.host).rules()
    except Contended as problem:
        raise Refused("unstable-view", problem.message, hint=problem.hint) from problem
    except NotPermitted as problem:
        raise Refused("cannot-observe", problem.message, hint=problem.hint) from problem
    source = Links()
    try:
        neighbours = source.neighbours()
        owners = _owners(source, snapshot.links)
    except (OSError, DumpInterrupted) as problem:
        raise Refused(
            "cannot-observe",
            f"the host's neighbours could not be listed: {problem}",
            hint="run hvtx as root, and try again",
        ) from problem
    finally:
        source.close()
    return Sight(
        snapshot=snapshot,
        rules=rules,
        leases=leases,
        gateways=frozenset(address for network in networks for address in network.gateways),
        neighbours=neighbours,
        owners=owners,
    )


def _owners(source: Links, links: Sequence[Link]) -> dict[int, tuple[int | None, int | None]]:
    found = {}
    for link in links:
        if link.kind == "tun" and not (link.alias or "").startswith(FAMILY):
            found[link.ifindex] = source.tun_owner(link.ifindex)
    return found


def _leases(sql: Any) -> dict[str, str]:
    """Every address that some VM has, also of VMs that were taken over (those have no lease)."""
    found = {
        row.spec[field]: row.vm
        for row in records.resources_of_vms(sql)
        for field in ("ipv4", "ipv6")
        if row.vm and row.spec.get(field)
    }
    return found | {
        address: vm.id
        for vm in records.vms(sql)
        for interface in vm.interfaces
        for address in (interface.ipv4, interface.ipv6)
        if address
    }


# -- carrying out ----------------------------------------------------------------------------------


def apply(runtime: Runtime, *, saved: Sequence[tuple[str, ...]] | None = None) -> Report:
    """Plan, check against ``saved`` (a reviewed plan's acting identities), and do it.

    Goes on past errors. Raises Busy, StalePlan, Refused.
    """
    runtime.enter()
    trust.check_pages(runtime.store)
    for network in runtime.read(records.networks):  # sorted by name; nobody leases meanwhile
        runtime.lock("network", network.name)
    runtime.lock("all", "gc")
    report = make_plan(runtime)
    if report.refused is not None:
        return report
    if saved is not None:
        report = report._replace(items=_as_saved(report.items, saved))
    acting = report.acting()
    if not acting:
        return report._replace(applied=True)
    with begin(runtime, VERB) as (sql, operation):
        # written before anything is gone: a crash must not take the way back with it
        operation.history(sql, [_event("intended", item) for item in acting])
    outcomes = {id(item): _carry_out(runtime, operation, item) for item in acting}
    failed = any(not outcome.gone for outcome in outcomes.values())
    operation.end("partial" if failed else "done")
    items = tuple(
        _told(item, outcomes[id(item)]) if id(item) in outcomes else item for item in report.items
    )
    return report._replace(items=items, applied=True)


def _as_saved(items: Sequence[Guess], saved: Sequence[tuple[str, ...]]) -> tuple[Guess, ...]:
    """Only what was reviewed; raises StalePlan naming the first item that changed."""
    planned = {item.identity() for item in items}
    things = {(item.kind, item.key): item for item in items}
    for identity in saved:
        if identity in planned:
            continue
        action, reason, kind, key = identity
        other = things.get((kind, key))
        today = f"it is now {other.action} ({other.reason})" if other else "it is no longer planned"
        raise StalePlan(
            f"the plan is stale: {kind} {key} was {action} ({reason}), {today}",
            hint="make a new plan: hvtx gc --heuristic --plan --out FILE; nothing was changed",
        )
    wanted = set(saved)
    return tuple(
        item
        if item.action is Action.SKIP or item.identity() in wanted
        else item._replace(action=Action.SKIP, message=f"not in the saved plan ({item.message})")
        for item in items
    )


def _carry_out(runtime: Runtime, operation: Operation, item: Guess) -> Outcome:
    if item.rule is not None:
        outcome = Strangers(runtime.host).remove(item.rule)
    else:
        assert item.link is not None
        outcome = _remove_tap(item.link)
    event = (
        _event("removed", item)
        if outcome.gone
        else Event("kept", outcome.message, item.kind, item.key, outcome.reason)
    )
    with runtime.store.transaction() as sql:
        operation.history(sql, [event])
    return outcome


def _event(event: str, item: Guess) -> Event:
    words = f"{item.message}; to put it back: {item.restore}"
    if item.rule is not None:
        words += f" (it was rule {item.rule.position} of its chain)"
    return Event(event, words, item.kind, item.key, item.reason.value)


def _remove_tap(planned: Link) -> Outcome:
    """Remove an idle TAP if it is still just what was planned; never raises."""
    from hvtx.drivers.tap import Around, delete_by_attaching, dependents

    links = Links()

    def objection(held: Link) -> Outcome | None:
        same = (held.name, held.alias, held.master) == (
            planned.name, planned.alias, planned.master
        )  # fmt: skip
        if not same or (held.alias or "").startswith(FAMILY):
            return Outcome(False, "contended", f"{planned.name} is no longer what was planned")
        return None

    try:
        seen = links.get(ifindex=planned.ifindex)
        if seen is None:
            return Outcome(False, "contended", f"{planned.name} is gone already")
        around = Around(links.all(), links.addresses(), links.filtered())
        problem = objection(seen) or dependents(seen, around)
        return problem or delete_by_attaching(seen, links, objection)
    except HvtxError as problem:
        return Outcome(False, problem.code, problem.message)
    except (OSError, DumpInterrupted) as problem:
        return Outcome(False, "observe-failed", f"{planned.name}: {problem}")
    finally:
        links.close()


def _told(item: Guess, outcome: Outcome) -> Guess:
    if outcome.gone:
        return item._replace(outcome="done")
    word = "skipped" if outcome.reason in _SKIPPED else "failed"
    return item._replace(outcome=word, message=f"{item.message}; {outcome.message}")


# -- documents ------------------------------------------------------------------------------------


def document(report: Report) -> dict[str, Any]:
    """The gc object with ``"heuristic": true``; items have ``restore`` besides."""
    counts = {action.value: 0 for action in Action}
    for item in report.items:
        counts[item.action.value] += 1
    return {
        "schema": SCHEMA,
        "heuristic": True,
        "plan_id": _plan_id(report.acting()),
        "made": report.made,
        "applied": report.applied,
        "refused": report.refused.code if report.refused else None,
        "epoch": {"boot_id": report.boot_id, "netns": report.netns},
        "items": [_item_document(item, applied=report.applied) for item in report.items],
        "summary": counts,
    }


def refused_document(refusal: Refused) -> dict[str, Any]:
    """The JSON of a store that refuses to be opened: of it nothing is known."""
    boot_id, netns = procfs.boot_id(), procfs.netns_cookie()
    return document(Report((), False, refusal, boot_id, netns, now()))


def _item_document(item: Guess, *, applied: bool) -> dict[str, Any]:
    left_alone = "skipped" if applied else None
    return {
        "action": item.action.value,
        "reason": item.reason.value,
        "kind": str(item.kind),
        "key": item.key,
        "vm": None,
        "record": None,
        "evidence": list(item.evidence),
        "message": item.message,
        "outcome": item.outcome or left_alone,
        "mark": None,
        "restore": item.restore or None,
    }


def _plan_id(items: Sequence[Guess]) -> str:
    from hashlib import blake2b

    text = json.dumps([item.identity() for item in items])
    return blake2b(text.encode(), digest_size=8).hexdigest()


def save_plan(report: Report, path: str, mode: int = PRIVATE) -> None:
    """Write the plan for `--apply --yes FILE`; raises UsageError if that cannot be."""
    save_document(document(report), path, mode)


def load_plan(path: str) -> list[tuple[str, ...]]:
    """The acting identities of a saved plan of guesses; raises NotFound, UsageError."""
    try:
        plan: Mapping[str, Any] = json.loads(read_plan(path))
        if plan["schema"] != SCHEMA or plan.get("heuristic") is not True:
            raise UsageError(
                f"{path} is not a plan of the emergency mode",
                hint="hvtx gc --heuristic --plan --out FILE makes one",
            )
        found = [(i["action"], i["reason"], i["kind"], i["key"]) for i in plan["items"]]
        if not all(isinstance(word, str) for words in found for word in words):
            raise TypeError("an item's words are not text")
        return [words for words in found if words[0] != Action.SKIP.value]
    except FileNotFoundError as problem:
        raise NotFound(
            f"there is no plan file {path}",
            hint="hvtx gc --heuristic --plan --out FILE makes one",
        ) from problem
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError),
        RecursionError,
    ) as problem:
        why = problem.strerror if isinstance(problem, OSError) else problem
        raise UsageError(
            f"{path} is not a plan: {why}",
            hint="hvtx gc --heuristic --plan --out FILE makes one",
        ) from problem
