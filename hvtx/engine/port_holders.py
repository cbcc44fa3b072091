"""Processes that hold a VM's published ports: recorded, checked, ended with their rows.

A holder belongs to ``publish`` rows: its identity stands in ``observed`` of each row whose port it
holds, from before it is told to stay. It is ended when the rules of all of these are gone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from hvtx.errors import Conflict, HvtxError
from hvtx.host import failpoint
from hvtx.model.resource import HOLDER, Kind, Outcome, Resource, State
from hvtx.model.typed import TYPE_CHECKING, Any
from hvtx.model.vm import Identity, Publish, Vm
from hvtx.planner.states import holder_of, identity_of

if TYPE_CHECKING:
    from hvtx.drivers.portholder import Held, Holder
    from hvtx.host.portowner import Owner
    from hvtx.planner.provision import ResourceSpec
    from hvtx.store.database import Store

UNHELD = "its port was not held: another program could bind it"


def port_of(row: Resource | ResourceSpec) -> Publish:
    """The port that a ``publish`` row stands for, or will."""
    spec = row.spec
    return Publish(spec["protocol"], spec["host_ip"], spec["host_port"], spec["guest_port"])


def spawn_for_rows(
    held: Held | None, vm: Identity | None, rows: Sequence[Resource]
) -> Holder | None:
    """Give what is held for the ``publish`` rows among these to a process; None if nothing is.

    It goes away unless it is opened. Raises HostRefused.
    """
    if not held:
        return None
    own = [row for row in rows if row.kind == Kind.PUBLISH]
    return _spawn(held, vm, [own[0].mark, *(row.key for row in own)])


def _spawn(held: Held, vm: Identity | None, words: Sequence[str]) -> Holder:
    from hvtx.drivers import portholder

    return portholder.spawn(held, vm, words)


@contextmanager
def spawned_before_rows(held: Held | None, vm: Vm) -> Iterator[Holder | None]:
    """Give what is held for a VM without a process of hvtx's to a process, before its rows are.

    So they are written with it on record, once and for all. Where the VM has a process, that is to
    be followed, and the holder comes after it (:func:`spawn_for_rows`). It goes away unless it is
    opened: also if who spawned it dies before the rows are on record. Raises HostRefused.
    """
    if not held or vm.hypervisor != "external":
        yield None
        return
    words = [f"{port.host_port}/{port.protocol}" for port in vm.ports]
    holder = _spawn(held, None, [vm.name, *words])
    try:
        failpoint.reach("holding")
        yield holder
    except BaseException:
        if holder.passing:
            holder.cancel()
        raise


def observed_before_rows(
    wants: Iterable[ResourceSpec], held: Held | None, holder: Holder | None
) -> list[dict[str, Any]]:
    """What is to be kept of each of ``wants`` from the start: the holder of its port (pure)."""
    if held is None or holder is None:
        return []
    known = {HOLDER: holder.identity._asdict()}
    held_ports = [want.kind == Kind.PUBLISH and port_of(want) not in held.unheld for want in wants]
    return [dict(known) if is_held else {} for is_held in held_ports]


def noted(
    rows: Iterable[Resource], holder: Identity, unheld: Collection[Publish] = ()
) -> dict[int, dict[str, Any]]:
    """``observed`` of each ``publish`` row whose port is held, with its holder (pure)."""
    return {
        row.id: {**row.observed, HOLDER: holder._asdict()}
        for row in rows
        if row.kind == Kind.PUBLISH and port_of(row) not in unheld
    }


def end_all(rows: Iterable[Resource]) -> None:
    """End the holders of these rows, of which nothing is left on the host. Raises OSError."""
    for identity in {found for row in rows if (found := holder_of(row)) is not None}:
        from hvtx.drivers import portholder

        portholder.end(identity)


def end_gone(outcomes: Mapping[int, Outcome], rows: Sequence[Resource]) -> dict[int, Outcome]:
    """The same after a release: these rows stay on record, whose port is still held.

    Who holds a port of which the rule could not be removed holds on.
    """
    from hvtx.model.reason import Reason

    held: dict[Identity, list[Resource]] = {}
    for row in rows:
        identity = holder_of(row)
        if identity is not None:
            held.setdefault(identity, []).append(row)
    kept = {}
    for identity, own in held.items():
        if not all(outcomes[row.id].gone for row in own):
            continue
        why = _not_ended(identity)
        if why is not None:
            words = f"its port is still held by pid {identity.pid}: {why}"
            for row in own:
                kept[row.id] = Outcome(False, Reason.OBSERVE_FAILED, f"{row.key}: {words}")
    return kept


def _not_ended(identity: Identity) -> str | None:
    from hvtx.drivers import portholder

    try:
        return None if portholder.end(identity) else "it does not end, not even by SIGKILL"
    except OSError as problem:
        return problem.strerror or str(problem)


def unheld(rows: Iterable[Resource]) -> list[Resource]:
    """Those of these rows whose published port nobody holds, though it could be held."""
    from hvtx.drivers import portholder

    gone: dict[Identity | None, bool] = {None: True}
    found = []
    for row in rows:
        if row.kind != Kind.PUBLISH or row.state != State.COMMITTED:
            continue
        identity = holder_of(row)
        if identity not in gone:
            assert identity is not None
            gone[identity] = portholder.ended(identity)
        if gone[identity] and _may_be_held(port_of(row)):
            found.append(row)
    return found


def _may_be_held(port: Publish) -> bool:
    """Whether this process may bind to a port of that number."""
    from hvtx.host import capabilities, sysctl

    first = sysctl.read("net/ipv4/ip_unprivileged_port_start")
    return port.host_port >= int(first or 1024) or capabilities.has("CAP_NET_BIND_SERVICE")


def renew(
    rows: Sequence[Resource],
    processes: Sequence[Resource],
    vm: str,
    needed: Collection[int] = (),
) -> tuple[Holder | None, dict[int, dict[str, Any]], dict[int, str]]:
    """Hold the ports of ``rows``, of the VM called ``vm``, again, as far as they can be had.

    Returns the holder, which is to be opened once what it holds is on record, ``observed`` of the
    rows whose ports it has, and why the others are not held. Raises HostRefused, and Conflict where
    somebody has the port of one of the rows that are ``needed`` (ids): then nothing is held.
    """
    from hvtx.drivers import portholder

    ports = [port_of(row) for row in rows]
    with portholder.room_for(ports):
        held, why = _held_again(portholder.Held(), rows, needed)
    why.update((row.id, held.unheld[port_of(row)]) for row in rows if port_of(row) in held.unheld)
    followed = next((found for row in processes if (found := identity_of(row))), None)
    holder = spawn_for_rows(held, followed, rows)
    if holder is None:
        return None, {}, why
    enter_own_scope(vm, holder.identity.pid)
    return holder, noted([row for row in rows if row.id not in why], holder.identity), why


def _held_again(
    held: Held, rows: Sequence[Resource], needed: Collection[int]
) -> tuple[Held, dict[int, str]]:
    """``held`` with the ports of these rows that can be had; why not the others, by row."""
    why = {}
    for row in rows:
        try:
            held.add(port_of(row))
        except Conflict as problem:
            if row.id in needed:
                held.close()
                raise
            why[row.id] = f"{problem.message}; to hold it again: {fix(had_by([row])[row.id])}"
        except HvtxError as problem:
            why[row.id] = f"{problem.message} ({problem.hint})" if problem.hint else problem.message
    return held, why


def enter_own_scope(vm: str, holder: int) -> None:
    """Let a holder (its pid) that came later than its VM outlive who started it."""
    from hvtx.drivers.vm_process.scope import enter_scope
    from hvtx.engine import notice

    warning = enter_scope(f"{vm}.ports-{holder}", holder)
    if warning:
        notice.warning(warning)


def is_held(row: Resource) -> bool:
    """Whether the holder on record of a port is there."""
    from hvtx.drivers import portholder

    identity = holder_of(row)
    return identity is not None and not portholder.ended(identity)


def held_ports(rows: Iterable[Resource]) -> list[Publish]:
    """The ports of these rows whose holders are there."""
    return [port_of(row) for row in rows if row.kind == Kind.PUBLISH and is_held(row)]


def end_passing(rows: Iterable[Resource]) -> None:
    """End holders that were never told to stay, or have not heard of it: who spawned them died.

    Raises OSError.
    """
    for identity in {found for row in rows if (found := holder_of(row)) is not None}:
        from hvtx.drivers import portholder

        if portholder.is_passing(identity.pid):
            portholder.end(identity)


def hold_recorded(
    store: Store,
    rows: Sequence[Resource],
    processes: Sequence[Resource],
    name: str,
    needed: Collection[int] = (),
) -> tuple[dict[int, dict[str, Any]], dict[int, str]]:
    """Hold ports that nobody holds, as far as they can be had.

    Returns ``observed`` of the rows whose ports are held, on record, and why the others are not.
    Raises HostRefused, StoreError, and Conflict as :func:`renew`; then nothing more is held.
    """
    holder, observed, why = renew(rows, processes, name, needed)
    if holder is None:
        return {}, why
    _let_stay(store, holder, observed)
    return observed, why


def _let_stay(store: Store, holder: Holder, observed: Mapping[int, Mapping[str, Any]]) -> None:
    """Tell a holder to stay once it is on record. Raises HostRefused, StoreError: it is gone."""
    from hvtx.store import intents

    try:
        with store.transaction() as sql:
            for row, seen in observed.items():
                intents.amend_observed(sql, row, {HOLDER: seen[HOLDER]})
        failpoint.reach("registered")
        holder.open()
    except BaseException:
        holder.cancel()
        raise


def hold_anew(
    store: Store,
    rows: Sequence[Resource],
    processes: Sequence[Resource],
    name: str,
    needed: Collection[int] = (),
) -> dict[int, dict[str, Any]]:
    """Hold ports as :func:`hold_recorded` does, and warn of those that cannot be had."""
    from hvtx.engine import notice

    observed, why = hold_recorded(store, rows, processes, name, needed)
    for words in dict.fromkeys(why.values()):
        notice.warning(f"a published port of VM {name} is not held: {words}")
    return observed


def let_go(store: Store, gone: Sequence[Resource], staying: Sequence[Resource], name: str) -> None:
    """Let go of the ports of rows that are gone, and hold those of ``staying`` without a gap.

    A holder of both is replaced by one that has the sockets of ``staying`` alone. Who was killed
    between noting that one and its word left one on record that is dead: what it was to hold is
    taken once more from who holds it still. Raises HostRefused, OSError.
    """
    from hvtx.drivers import portholder

    dead = {found for row in staying if (found := holder_of(row)) and portholder.ended(found)}
    for identity in dict.fromkeys(found for row in gone if (found := holder_of(row))):
        others = [row for row in staying if holder_of(row) == identity]
        kept = {bound(row) for row in others}
        if kept.issuperset(bound(row) for row in gone if holder_of(row) == identity):
            continue  # what takes their place is on the same ports
        lost = [row for row in staying if holder_of(row) in dead]
        if (others or lost) and not portholder.ended(identity):
            taken = portholder.taken_over(identity, map(port_of, [*others, *lost]))
            others += [row for row in lost if taken.has(port_of(row))]
            _hand_over(store, taken, others, staying, name)
        portholder.end(identity)


def _hand_over(
    store: Store, taken: Held, ports: Sequence[Resource], rows: Sequence[Resource], name: str
) -> None:
    """Give the sockets of ``ports`` to a holder of their own, among ``rows`` of the VM ``name``."""
    processes = [row for row in rows if row.kind == Kind.PROCESS]
    followed = next((found for row in processes if (found := identity_of(row))), None)
    holder = spawn_for_rows(taken, followed, ports)
    if holder is None:
        return
    try:
        enter_own_scope(name, holder.identity.pid)
    except BaseException:
        holder.cancel()
        raise
    _let_stay(store, holder, noted(ports, holder.identity))


def bound(row: Resource) -> tuple[str, str | None, int]:
    """What a port's sockets are bound to."""
    port = port_of(row)
    return port.protocol, port.host_ip, port.host_port


def on_new_ports(gone: Iterable[Resource], made: Iterable[Resource]) -> set[int]:
    """Those of ``made`` (ids) that publish what none of ``gone`` was bound to (pure)."""
    had = {bound(row) for row in gone if row.kind == Kind.PUBLISH}
    return {row.id for row in made if row.kind == Kind.PUBLISH and bound(row) not in had}


def shown(row: Resource) -> list[str]:
    """In words, who holds a row's published port, or that nobody does, and who has it instead."""
    from hvtx.drivers import portholder

    identity = holder_of(row)
    if identity is not None and not portholder.ended(identity):
        return [f"held by pid {identity.pid}, with a bound socket"]
    who = "nobody holds it" if identity is None else f"its holder, pid {identity.pid}, has ended"
    found = had_by([row])[row.id]
    if not found:
        return [f"{who}: another program can bind it; `hvtx repair` holds it again"]
    return [
        f"{who}, and {words_of(found)} has it now",
        f"to hold it again: {fix(found)}",
    ]


def shown_of_container(row: Resource) -> list[str]:
    """The same of a container's port, which is nobody's to hold: its runtime may listen there."""
    found = had_by([row])[row.id]
    return [f"{words_of(found)} listens on it, too" if found else "its runtime may listen on it"]


def had_by(rows: Sequence[Resource]) -> dict[int, list[Owner]]:
    """Programs that have the ports of rows which nobody holds, by row."""
    from hvtx.host import portowner

    ports = {row.id: port_of(row) for row in rows}
    found = portowner.owners_of(ports.values())
    return {row: found[port] for row, port in ports.items()}


def words_of(found: Sequence[Owner]) -> str:
    """Who has a port, in words."""
    from hvtx.host import portowner

    return portowner.listed(found)


def fix(found: Sequence[Owner]) -> str:
    """The commands after which a port that these programs have is held again."""
    from hvtx.host import portowner
    from hvtx.planner.remedy import REPAIR

    return "; ".join([*portowner.ended_by(found), REPAIR])
