"""Services of networks: started with their network, kept alive, started again where they must be.

dnsmasq learns of a new reservation by itself, and forgets one only when it starts again. It need
not as long as the address and the MAC are nobody else's: so it is started again when a VM gets what
another had, once, whatever else was removed since. It answers from the record alone and keeps no
leases; a guest that runs asks again and is told the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from hvtx.drivers.vm_process.scope import enter_scope
from hvtx.engine import effects, notice
from hvtx.engine.registry import driver_name
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import networks_now
from hvtx.engine.shut_in import starts_vms
from hvtx.engine.transaction import Operation, begin
from hvtx.errors import Conflict, HostRefused, HvtxError
from hvtx.host import forgotten, procfs
from hvtx.host.files import is_there
from hvtx.model.resource import Kind, Resource, State, file_spec, process_observed
from hvtx.model.service import is_of_names, reservation_spec, service_spec
from hvtx.model.typed import TYPE_CHECKING, Any
from hvtx.model.vm import Liveness, Network
from hvtx.planner import service
from hvtx.planner.liveness import classify
from hvtx.planner.states import identity_of
from hvtx.rulesets import dnsmasq as rules
from hvtx.store import history, intents, records
from hvtx.store.history import Event

if TYPE_CHECKING:
    from hvtx.drivers.base import ServiceDriver
    from hvtx.store.database import Store

Read = Callable[..., Any]  # Runtime.read


def wanted(setting: str, asked: bool | None, subnets: Sequence[str]) -> bool:
    """Whether a new network gets a service: as asked, else as the setting says.

    Raises HostRefused or Conflict where it was asked for, by either, and cannot be had; `auto` does
    without, and says so where only somebody else is in the way.
    """
    from hvtx.host import dnsmasq

    if asked is False or (asked is None and setting == service.OFF):
        return False
    must = bool(asked) or setting == service.ON
    lack = dnsmasq.lack()
    if lack is not None:
        if must:
            raise lack
        return False
    taken = dnsmasq.taken(subnets)
    if not taken:
        return True
    problem = in_the_way(taken)
    if must:
        raise problem
    notice.warning(f"the network gets no DHCP and DNS: {problem.message}")
    return False


def in_the_way(taken: Sequence[Any]) -> Conflict:
    """What is said where other programs have ports so that none is left for a dnsmasq."""
    from hvtx.host import portowner

    ports = " and ".join(f"{port.host_port}/{port.protocol}" for port in taken)
    owners = [one for port in taken for one in portowner.owners(port)]
    who = portowner.listed(owners) if owners else "another program"
    return Conflict(
        f"{who} has port {ports}, and leaves none for the addresses of a network",
        hint="let it listen on its own addresses and devices only, or make the network with"
        " --no-dhcp",
    )


def go_on(
    operation: Operation, rows: list[Resource], observed: Mapping[int, Mapping[str, Any]]
) -> list[Resource]:
    """Put on record who the services among ``rows`` are, which wait for it, and let them serve.

    The rows as they are then. Raises HostRefused.
    """
    own = [row for row in rows if row.is_service]
    if not own:
        return rows
    _leave_unit(own, observed)
    rows = operation.observe(rows, {row.id: observed[row.id] for row in own})
    runtime = operation.runtime
    _serve(runtime.drivers.of("dnsmasq"), own, runtime.store, operation.id, operation.verb)
    return rows


def _serve(
    driver: ServiceDriver, rows: Sequence[Resource], store: Store, operation: int | None, verb: str
) -> None:
    """Let services serve, and tell the history of whom this ended. Raises HostRefused."""
    try:
        driver.open(rows)
    finally:
        gone = [(row, driver.ended.pop(row.id)) for row in rows if row.id in driver.ended]
        words = "ended pid {}, the dnsmasq of {} that was not on record"
        told = [Event("completed", words.format(who.pid, row.key)) for row, who in gone]
        if told:
            with store.transaction() as sql:
                history.add(sql, told, operation=operation, verb=verb)


def _leave_unit(rows: Iterable[Resource], observed: Mapping[int, Mapping[str, Any]]) -> None:
    for row in rows:
        pid, writer = observed[row.id]["pid"], observed[row.id]["logger"]
        warning = enter_scope(f"network.{row.key.rpartition(' ')[2]}.{pid}", pid, writer)
        if warning:
            notice.warning(warning)


def is_dead(row: Resource) -> bool:
    """Whether a service of this life of the host is proven dead."""
    identity = identity_of(row)
    if identity is None:
        return True
    verdict, _ = classify(identity, procfs.boot_id(), procfs.look_again(identity))
    return verdict is Liveness.DEAD


def is_on_record(read: Read, row: Resource) -> bool:
    """Whether a service that stood on record does still, and nobody is removing it."""
    found = read(records.resources_by_id, [row.id]).get(row.id)
    return found is not None and found.state == State.COMMITTED


def _refuse_shut_in() -> None:
    if starts_vms():
        raise HostRefused(
            "a dnsmasq that is started in the sandbox of a unit would stay in it",
            hint="hvtx repair, which is not in one, starts it",
        )


def put_back(runtime: Runtime, row: Resource) -> bool:
    """Make the directory of a service again, and all that stood in it; whether it was started.

    Not that of a service that was removed meanwhile. Raises HvtxError.
    """
    with runtime.held("all", "networks"):
        if is_there(service_spec(row)["directory"]):  # somebody was quicker
            return renew(runtime, row)
        if not is_on_record(runtime.read, row):
            return False
        rows = runtime.read(records.committed_resources, Kind.FILE)
        own = [r for r in rows if r.network == row.network and r.life == runtime.life.id]
        lost = [r for r in own if not is_there(file_spec(r)["path"])]
        for reservations in (False, True):
            part = [r for r in lost if r.is_reservation is reservations]
            if part:
                effects.made_by(runtime.drivers.of(driver_name(part[0])), part)
        return renew(runtime, row, always=True)


def supply(runtime: Runtime, networks: Iterable[Network]) -> dict[str, str]:
    """Start services that are not on record; by the network's name, why it could not be, if so.

    The caller holds the lock of all networks.
    """
    told: dict[str, str] = {}
    scope = networks_now(runtime, [network.id for network in networks])
    for network in service.unserved(scope):
        if scope.bridge(network.id) is None:
            continue
        told[network.name] = ""
        try:
            begin_service(runtime, network)
        except HvtxError as problem:
            told[network.name] = problem.message
    return told


def begin_service(runtime: Runtime, network: Network, verb: str = "rebuild") -> list[Resource]:
    """Start the service of a network that is up, as an operation of its own; its rows.

    The caller holds the lock of all networks. Raises HostRefused (undone), Conflict.
    """
    from hvtx.engine.undo import undo
    from hvtx.host import dnsmasq

    _refuse_shut_in()
    lack = dnsmasq.lack()
    if lack is not None:
        raise lack
    if taken := dnsmasq.taken(network.subnets):
        raise in_the_way(taken)
    run_directory = runtime.store.run_directory
    own = runtime.read(records.resources_of_network, network.id)
    wants = service.want_service(network._replace(dhcp=True), run_directory)
    there = {(row.kind, row.key) for row in own if row.life == runtime.life.id}
    wants = [want for want in wants if (want.kind, want.key) not in there]
    with begin(runtime, verb, network=network.name) as (sql, operation):
        rows = operation.intend(sql, wants, network=network.id)
    try:
        observed = effects.create(operation, rows)
        rows = go_on(operation, rows, observed)
        operation.commit(rows, observed)
    except (Exception, KeyboardInterrupt) as problem:
        if not operation.committed:
            undo(operation, rows).tell(problem)
        raise
    return rows


def settle(
    runtime: Runtime, rows: Sequence[Resource], observed: Mapping[int, Mapping[str, Any]]
) -> None:
    """Start services again that serve somebody else by what a VM's new reservations give it."""
    stale: dict[str, list[Resource]] = {}
    for row in rows:
        if row.is_reservation and row.network and observed.get(row.id, {}).get("displaces"):
            stale.setdefault(row.network, []).append(row)
    for network, own in stale.items():
        there = runtime.read(records.resources_of_network, network)
        served = service.service_of(there, network)
        if served is not None and served.life == runtime.life.id:
            renew(runtime, served, own)


def renew(
    runtime: Runtime,
    row: Resource,
    reservations: Sequence[Resource] = (),
    *,
    always: bool = False,
) -> bool:
    """Start a network's service again: it is dead, or knows what these reservations displace.

    Whether it was started. Nothing is done where somebody was quicker, unless it is to be done
    ``always``, and where the service is being removed. One at a time: of two that start it at once,
    one would end with the other on record. Raises HostRefused, Busy; the row stays, and whoever
    comes next tries again.
    """
    path = os.path.join(service_spec(row)["directory"], rules.FORGOTTEN)
    try:
        with forgotten.locked(path, runtime.settings.lock_timeout):
            found = runtime.read(records.resources_by_id, [row.id]).get(row.id)
            if found is None or found.state != State.COMMITTED:
                return False
            stale = always or is_dead(found) or _displaces(path, reservations)
            if not stale and any(map(is_of_names, reservations)):
                stale = not runtime.drivers.of("dnsmasq").learns(found)
            return stale and _start_again(runtime, found)
    except OSError as problem:
        raise HostRefused(
            f"{path} cannot be opened: {problem.strerror}", hint="hvtx repair makes it again"
        ) from problem


def _displaces(path: str, reservations: Sequence[Resource]) -> bool:
    text = forgotten.read(path)
    lines = text.splitlines()
    return len(text) > forgotten.MOST or any(
        rules.displaces(reservation_spec(row), lines)
        for row in reservations
        if not is_of_names(row)
    )


def _end(runtime: Runtime, row: Resource) -> None:
    left = effects.released_by(runtime.drivers.of("dnsmasq"), [row])[row.id]
    if not left.gone:
        raise HostRefused(left.message, hint="hvtx repair tries again")


def _start_again(runtime: Runtime, row: Resource) -> bool:
    """End a service and start it; its row has the new identity before it serves.

    Whether it was started: not where another command removes the row meanwhile, which neither
    ``network rm`` nor ``network set`` keeps from us by a lock. Raises HostRefused.
    """
    _refuse_shut_in()
    driver = runtime.drivers.of("dnsmasq")
    times = process_observed(row).get("restarts", 0) + 1
    fresh, served = row._replace(observed={}), False
    try:  # what can fail fails while the old one serves
        observed = {**effects.made_by(driver, [fresh])[row.id], "restarts": times}
        _end(runtime, row)
        _leave_unit([fresh], {row.id: observed})
        with runtime.store.transaction() as sql:
            kept = intents.record_successor(sql, row, observed)
        if kept:
            _serve(driver, [fresh], runtime.store, None, "repair")
            served = True
    finally:
        if not served:
            _take_back(runtime.read, driver, fresh)
    return served


def _take_back(read: Read, driver: ServiceDriver, row: Resource) -> None:
    """End who waits to serve; with a row that goes its table goes, which may be made anew by now.

    A table that was made before its row was taken is met by whoever took it.
    """
    effects.released_by(driver, [row])
    if not is_on_record(read, row):
        effects.released_by(driver, [row._replace(state=State.RELEASING)])
