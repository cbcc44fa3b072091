"""`gc --heuristic`: the emergency mode, apart from everything that proves what it does.

Nothing imports this but the command that asks for it. It removes what no record speaks of, on a
guess, so it writes down first, in the history, the command that would make each thing again; and
what can be made certain is: a TAP goes only while nobody holds it, a rule only if it is still what
was seen, and no VM can take an address while its plan is carried out.
"""

from __future__ import annotations

from collections.abc import Sequence

from hvtx.drivers.foreign_rules import ForeignRules
from hvtx.engine.executor import execute
from hvtx.engine.gc_plan import Report, refused_report
from hvtx.engine.runtime import Runtime
from hvtx.engine.saved_plan import Identity, refuse_stale
from hvtx.engine.snapshot import look
from hvtx.engine.transaction import Operation, begin
from hvtx.errors import Contended, HvtxError, NotPermitted, Refused
from hvtx.host.links import Links
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.mark import FAMILY
from hvtx.model.plan import Action, Item, ItemResult, Plan
from hvtx.model.resource import Link, Outcome
from hvtx.model.typed import Any
from hvtx.planner.execution import result_of
from hvtx.planner.heuristic import HeuristicFacts, guess
from hvtx.store import records, trust
from hvtx.store.history import Event, now

VERB = "heuristic"


def make_plan(runtime: Runtime) -> Report:
    """What the emergency mode would remove now; changes nothing."""
    refusal, made = runtime.refused, now()
    if refusal is None:
        try:
            plan = Plan(guess(_sight(runtime)))
            return Report(plan, False, None, runtime.boot_id, runtime.netns, made, heuristic=True)
        except Refused as problem:
            refusal = problem
    return refused_report(refusal, runtime.boot_id, runtime.netns)._replace(heuristic=True)


def _sight(runtime: Runtime) -> HeuristicFacts:
    snapshot, (networks, leases) = look(runtime, lambda sql: (records.networks(sql), _leases(sql)))
    failed = next(iter(snapshot.failures.values()), None)
    if failed:  # a guess needs at least to have seen everything
        raise Refused("cannot-observe", failed, hint="`hvtx doctor` checks this host")
    try:
        rules = ForeignRules(runtime.host).rules()
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
    return HeuristicFacts(
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
        address: row.vm
        for row in records.resources_of_vms(sql)
        for address in row.guest
        if row.vm and address
    }
    return found | {
        address: vm.id
        for vm in records.vms(sql)
        for interface in vm.interfaces
        for address in interface.addresses
    }


# -- carrying out ----------------------------------------------------------------------------------


def apply(runtime: Runtime, *, saved: Sequence[Identity] | None = None) -> Report:
    """Plan, check against ``saved`` (a reviewed plan's acting identities), and do it.

    Goes on past errors. Raises Busy, StalePlan, Refused.
    """
    runtime.enter()
    trust.check_pages(runtime.store)
    for network in runtime.read(records.networks):  # sorted by name; nobody leases meanwhile
        runtime.lock("network", network.name)
    runtime.lock("all", "gc")
    report = reviewed(make_plan(runtime), saved)
    plan, acting = report.plan, report.plan.acting()
    if not acting:
        return report
    with begin(runtime, VERB) as (sql, operation):
        # written before anything is gone: a crash must not take the way back with it
        operation.history(sql, [_event("intended", item) for item in acting])
    return report._replace(plan=execute(operation, plan, remove_guessed))


def reviewed(report: Report, saved: Sequence[Identity] | None) -> Report:
    """What :func:`apply` carries out of a plan (pure). Raises StalePlan."""
    if report.refused is not None:
        return report
    plan = report.plan if saved is None else _as_saved(report.plan, saved)
    return report._replace(plan=plan, applied=True)


def _as_saved(plan: Plan, saved: Sequence[Identity]) -> Plan:
    """Only what was reviewed is done, and the rest is left; raises StalePlan."""
    refuse_stale(plan, saved, heuristic=True)
    wanted = set(saved)
    return Plan(
        tuple(
            item
            if item.action is Action.SKIP or item.identity() in wanted
            else item._replace(
                action=Action.SKIP, message=f"not in the saved plan ({item.message})"
            )
            for item in plan.items
        )
    )


def remove_guessed(operation: Operation, item: Item) -> ItemResult:
    """Remove what a guess is about, if it still is what was seen, and tell the history."""
    if item.rule is not None:
        outcome = ForeignRules(operation.runtime.host).remove(item.rule)
    else:
        assert item.link is not None
        outcome = _remove_tap(item.link)
    event = (
        _event("removed", item)
        if outcome.gone
        else Event("kept", outcome.message, item.kind, item.key, outcome.reason)
    )
    with operation.runtime.store.transaction() as sql:
        operation.history(sql, [event])
    return result_of(outcome)


def _event(event: str, item: Item) -> Event:
    words = f"{item.message}; to put it back: {item.restore}"
    if item.rule is not None:
        words += f" (it was rule {item.rule.position} of its chain)"
    return Event(event, words, item.kind, item.key, item.reason.value)


def _remove_tap(planned: Link) -> Outcome:
    """Remove an idle TAP if it is still just what was planned; never raises."""
    from hvtx.drivers.tap.removal import delete_by_attaching
    from hvtx.drivers.tap.standing import dependents, devices_above, standing_on

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
        with devices_above(links) as above:
            problem = objection(seen) or dependents(seen, standing_on(seen, links, above))
        return problem or delete_by_attaching(seen, links, objection)
    except HvtxError as problem:
        return Outcome(False, problem.code, problem.message)
    except (OSError, DumpInterrupted) as problem:
        return Outcome(False, "observe-failed", f"{planned.name}: {problem}")
    finally:
        links.close()
