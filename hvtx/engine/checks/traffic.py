"""Whether packets pass and find their way: what others on this host do to them."""

from __future__ import annotations

from collections.abc import Iterator

from hvtx.engine.finding import AS_ROOT, Finding
from hvtx.engine.runtime import Runtime
from hvtx.errors import HvtxError
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.resource import Kind
from hvtx.store import records


def check_forward(runtime: Runtime) -> Iterator[Finding]:
    """Whether what guests are promised passes, tried in a copy of the host's forwarding."""
    from hvtx.engine import forward
    from hvtx.engine.mending import Mender
    from hvtx.host.replica.scratch import Unavailable

    networks = runtime.read(records.networks)
    wish = None if networks else forward.would_be(runtime)
    try:
        found = forward.judge(runtime, wish)
    except (Unavailable, HvtxError, OSError, ValueError, DumpInterrupted) as problem:
        hint = problem.hint if isinstance(problem, Unavailable | HvtxError) else None
        words = f"unknown: whether traffic of guests passes could not be tried: {problem}"
        yield Finding("forward", "warning", words, (), hint or AS_ROOT)
        return
    mender = Mender(runtime, () if wish is None else (wish,))
    yield from forward.findings(found, bool(networks), mender.of)


def check_routes(runtime: Runtime) -> Iterator[Finding]:
    """Whether packets of guests find their way: asked of the kernel, one finding a cause."""
    from hvtx.engine import ways
    from hvtx.engine.scope import all_networks

    with runtime.reading() as sql:
        scope, vms = all_networks(runtime), records.vms(sql)
    bad = False
    for network in scope.networks.values():
        row = scope.bridge(network.id)
        if row is None:
            continue
        own = [i for vm in vms for i in vm.interfaces if i.network == network.id]
        guests = [address for i in own for address in (i.ipv4, i.ipv6) if address]
        guests += ways.samples(network)
        told = ways.strays(network, row, guests) + ways.without_world(network, row, guests)
        causes: dict[str, list[ways.Stray]] = {}
        for stray in told:
            causes.setdefault(stray.cause, []).append(stray)
        for cause, packets in causes.items():
            bad = True
            seen = dict.fromkeys(f"{p.ask.way}: {p.ask.packet.destination}" for p in packets)
            yield Finding(
                "routes", "error",
                f"{cause} takes packets away from the guests of network {network.name!r}",
                tuple(seen)[:_MANY], packets[0].mend,
            )  # fmt: skip
        for part, hint in ways.taken_parts(network, row, told):
            yield Finding("routes", "warning", part, (), hint)
            bad = True
    if not bad:
        yield Finding("routes", "ok", "packets for guests go to them, by the kernel's own answer")


def check_addresses(runtime: Runtime) -> Iterator[Finding]:
    """Addresses of guests that the host has itself, or looks for at another MAC address."""
    from hvtx.engine import own_addresses
    from hvtx.engine.scope import all_networks

    with runtime.reading() as sql:
        scope, vms = all_networks(runtime), records.vms(sql)
        started = {row.vm for row in records.resources_of_kind(sql, Kind.TAP)}
    networks = list(scope.networks.values())
    bridges = {i: (row.ifindex, row.key) for i, row in scope.bridges().items()}
    wrong = own_addresses.wrong_neighbours(vms, bridges)
    for entry in wrong:
        yield Finding(
            "addresses", "error" if entry.vm.id in started else "warning",
            f"an entry that was made by hand leads past VM {entry.vm.name!r} ({entry.address})",
            (f"the host's neighbour table has {entry.address} at {entry.mac} on {entry.device}",),
            f"ip neigh del {entry.address} dev {entry.device}",
        )  # fmt: skip
    found = own_addresses.taken_from(vms, own_addresses.in_subnets(networks))
    for vm, own in found:
        yield Finding(
            "addresses", "error" if vm.id in started else "warning",
            f"{own.address} is the address of VM {vm.name!r}, and this host has it itself",
            (f"{own.prefix} on {own.device}: the host answers in the guest's place",),
            own_addresses.mend(own),
        )  # fmt: skip
    if not found and not wrong:
        yield Finding("addresses", "ok", "this host has no address of a guest")


def check_ports(runtime: Runtime) -> Iterator[Finding]:
    """Published ports that others translate, too: one of the two is cut off."""
    from hvtx.engine import translations
    from hvtx.engine.holding import port_of

    with runtime.reading() as sql:
        every = records.committed_resources(sql, Kind.PUBLISH)
        names = {vm: name for vm, name, _, _ in records.vm_heads(sql)}
    rows = [r for r in every if r.life == runtime.life.id and not r.imported]
    found, unknown = translations.beside(rows)
    owners = {port_of(row): names.get(row.vm or "", "?") for row in rows}
    for one in found:
        port, vm = f"{one.port.host_port}/{one.port.protocol}", owners[one.port]
        effect = "that comes first: the VM is not reached by it"
        if not one.first:
            effect = "hvtx's own comes first: what that rule is for is cut off"
        yield Finding(
            "ports", "error" if one.first else "warning",
            f"port {port} of VM {vm!r} is translated by a rule of another program, too; {effect}",
            (one.rule,),
            f"take that rule away where it comes from, or give the port up: hvtx vm stop {vm}",
        )  # fmt: skip
    for words in unknown:
        told = f"unknown: whether others translate published ports: {words}"
        yield Finding("ports", "warning", told, (), "try again, as root")
    if not found and not unknown:
        yield Finding("ports", "ok", "nobody else translates a published port")


_MANY = 8  # packets that are named of those that one route takes away
