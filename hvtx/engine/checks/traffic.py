"""Checks of traffic: other programs' rules, routes and addresses on this host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from hvtx.engine import firewalld_zone
from hvtx.engine.finding import AS_ROOT, Finding
from hvtx.engine.runtime import Runtime
from hvtx.errors import HvtxError
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.resource import PORTS, Kind
from hvtx.model.shell import word
from hvtx.model.typed import TYPE_CHECKING
from hvtx.planner.firewalld_zone import is_for_want_of_a_zone
from hvtx.store import records

if TYPE_CHECKING:
    from hvtx.engine import forward
    from hvtx.model.vm import Network


def check_forward(runtime: Runtime) -> Iterator[Finding]:
    """Whether what guests are promised passes, tried in a copy of the host's forwarding."""
    from hvtx.engine import forward
    from hvtx.engine.fix_finder import FixFinder
    from hvtx.host.replica.scratch import Unavailable

    networks = runtime.read(records.networks)
    request = None if networks else forward.would_be(runtime)
    try:
        found = forward.judge(runtime, request)
    except (Unavailable, HvtxError, OSError, ValueError, DumpInterrupted) as problem:
        hint = problem.hint if isinstance(problem, Unavailable | HvtxError) else None
        words = f"unknown: could not test whether guest traffic passes: {problem}"
        yield Finding("forward", "warning", words, (), hint or AS_ROOT)
        return
    if request is not None:
        found = _as_it_will_be(found, request)
    mender = FixFinder(runtime, () if request is None else (request,))
    yield from forward.findings(found, bool(networks), mender.of)


def _as_it_will_be(found: forward.Judged, request: Network) -> forward.Judged:
    """Without what firewalld stops only as long as the bridge is in no zone of its."""
    stops = [stop for stop in found.stops if not is_for_want_of_a_zone(stop)]
    if len(stops) == len(found.stops):
        return found
    with suppress(HvtxError):
        if firewalld_zone.will_bind(request):
            return found._replace(stops=tuple(stops))
    return found


def check_routes(runtime: Runtime) -> Iterator[Finding]:
    """Whether packets of guests find their way: asked of the kernel, one finding a cause."""
    from hvtx.engine import guest_routes
    from hvtx.engine.scope import all_networks

    with runtime.reading() as sql:
        scope, vms = all_networks(runtime), records.vms(sql)
    bad = False
    for network in scope.networks.values():
        row = scope.bridge(network.id)
        if row is None:
            continue
        own = [i for vm in vms for i in vm.interfaces if i.network == network.id]
        guests = [address for i in own for address in i.addresses]
        guests += guest_routes.samples(network)
        told = guest_routes.strays(network, row, guests) + guest_routes.without_world(
            network, row, guests
        )
        causes: dict[str, list[guest_routes.Stray]] = {}
        for stray in told:
            causes.setdefault(stray.cause, []).append(stray)
        for cause, packets in causes.items():
            bad = True
            seen = dict.fromkeys(f"{p.ask.way}: {p.ask.packet.destination}" for p in packets)
            yield Finding(
                "routes", "error",
                f"{cause} diverts packets of the guests of network {network.name!r}",
                tuple(seen)[:_MANY], packets[0].fix,
            )  # fmt: skip
        for part, hint in guest_routes.taken_parts(network, row, told):
            yield Finding("routes", "warning", part, (), hint)
            bad = True
    if not bad:
        yield Finding("routes", "ok", "the kernel routes packets for guests to them")


def check_addresses(runtime: Runtime) -> Iterator[Finding]:
    """Addresses of guests that the host has itself, or looks for at another MAC address."""
    from hvtx.engine import own_addresses
    from hvtx.engine.scope import all_networks

    with runtime.reading() as sql:
        scope, vms = all_networks(runtime), records.vms(sql)
        rows = records.resources_of_kind(sql, *PORTS)
    started = {row.vm for row in rows}
    networks = list(scope.networks.values())
    bridges = {i: (row.ifindex, row.key) for i, row in scope.bridges().items()}
    wrong = own_addresses.wrong_neighbours(vms, bridges)
    for entry in wrong:
        yield Finding(
            "addresses", "error" if entry.vm.id in started else "warning",
            f"a static neighbour entry bypasses VM {entry.vm.name!r} ({entry.address})",
            (f"the host's neighbour table has {entry.address} at {entry.mac} on {entry.device}",),
            f"ip neigh del {entry.address} dev {word(entry.device)}",
        )  # fmt: skip
    ports = {(row.vm, row.network): row.ifindex for row in rows}
    astray = own_addresses.led_astray(vms, bridges, ports)
    for lost in astray:
        to = "the host" if lost.local else lost.port
        yield Finding(
            "addresses", "error" if lost.vm.id in started else "warning",
            f"an entry of a bridge's table leads past VM {lost.vm.name!r} ({lost.mac})",
            (f"the bridge sends frames for {lost.mac} to {to}",),
            lost.fix,
        )  # fmt: skip
    found = own_addresses.taken_from(vms, own_addresses.in_subnets(networks))
    for vm, own in found:
        yield Finding(
            "addresses", "error" if vm.id in started else "warning",
            f"{own.address} is the address of VM {vm.name!r}, but this host has it too",
            (f"{own.prefix} on {own.device}: the host answers in the guest's place",),
            own_addresses.fix(own),
        )  # fmt: skip
    if not (found or wrong or astray):
        yield Finding("addresses", "ok", "this host has no address of a guest")


def check_ports(runtime: Runtime) -> Iterator[Finding]:
    """Published ports that others translate, too: one of the two is cut off."""
    from hvtx.engine import translated_ports
    from hvtx.engine.port_holders import port_of

    with runtime.reading() as sql:
        every = records.committed_resources(sql, Kind.PUBLISH)
        names = {vm: name for vm, name, _, _ in records.vm_heads(sql)}
    rows = [r for r in every if r.life == runtime.life.id and not r.imported]
    found, unknown = translated_ports.beside(rows)
    owners = {port_of(row): names.get(row.vm or "", "?") for row in rows}
    for one in found:
        port, vm = f"{one.port.host_port}/{one.port.protocol}", owners[one.port]
        effect = "that rule comes first: packets do not reach the VM"
        if not one.first:
            effect = "hvtx's rule comes first: packets do not reach the target of that rule"
        yield Finding(
            "ports", "error" if one.first else "warning",
            f"port {port} of VM {vm!r} is also translated by a rule of another program; {effect}",
            (one.rule,),
            "remove that rule in the program that added it, or give up the port: hvtx vm stop "
            f"{vm}",
        )  # fmt: skip
    for words in unknown:
        told = f"unknown: cannot tell whether other programs translate published ports: {words}"
        yield Finding("ports", "warning", told, (), "try again, as root")
    if not found and not unknown:
        yield Finding("ports", "ok", "no other program translates a published port")


_MANY = 8  # packets that are named of those that one route takes away
