"""Check of networks' DHCP and DNS: whether each network that should have it does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hvtx.engine import network_service
from hvtx.engine.finding import Finding
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import networks_now
from hvtx.host import dnsmasq, procfs
from hvtx.model.policy import names_in
from hvtx.model.resource import Kind, identity_in, process_observed
from hvtx.model.vm import Network, Vm
from hvtx.planner import service, service_changes
from hvtx.planner.assigning import given_of, never_given
from hvtx.planner.remedy import REPAIR
from hvtx.planner.scope import NetworkScope
from hvtx.store import records

_ANY = ("0.0.0.0/0",)  # what a network that is asked for later has, most likely


def check_dhcp(runtime: Runtime) -> Iterator[Finding]:
    """Services that are missing (one that died is a damage), and what would keep them from it."""
    with runtime.reading() as sql:
        networks, vms = records.networks(sql), records.vms(sql)
        asking = service_changes.asking(vms, records.resources_of_kind(sql, Kind.VETH))
    scope = networks_now(runtime, [network.id for network in networks])
    served = [network for network in scope.networks.values() if network.dhcp]
    lack = dnsmasq.lack() or dnsmasq.broken()
    if lack is not None:
        names = ", ".join(network.name for network in served)
        if names:
            words = f"guests of {names} get no addresses and names by DHCP: {lack.message}"
        else:
            words = f"new networks get no DHCP and DNS: {lack.message}"
        quiet = not names and runtime.settings.dhcp == service.OFF
        hint = f"{lack.hint}; then {REPAIR}" if names else lack.hint
        level = "error" if names else "ok" if quiet else "warning"
        yield Finding("dhcp", level, words, (), hint)
        return
    missing = [network.name for network in service.unserved(scope)]
    taken = dnsmasq.taken([subnet for network in served for subnet in network.subnets] or _ANY)
    held = [*_held(scope), *_without_names(networks, vms), *_never_given(served, asking)]
    yield from held
    if taken:
        problem = network_service.in_the_way(taken)
        level = "error" if missing else "warning"
        words = f"networks get no DHCP and DNS: {problem.message}"
        yield Finding("dhcp", level, words, (), problem.hint)
    elif missing:
        words = f"guests of {', '.join(missing)} get no addresses and names by DHCP"
        yield Finding("dhcp", "error", words, ("no process of theirs is on record",), REPAIR)
    elif served and not held:
        words = "every network with DHCP and DNS has its dnsmasq on record"
        yield Finding("dhcp", "ok", words, _evidence())
    elif not served:
        yield Finding("dhcp", "ok", "dnsmasq is installed, and no network has it", _evidence())


def _evidence() -> tuple[str, ...]:
    """What the dnsmasq of this host cannot do, which nobody needs yet."""
    why = dnsmasq.fills_no_sets()
    return (why.message,) if why is not None else ()


def _without_names(networks: Sequence[Network], vms: Sequence[Vm]) -> Iterator[Finding]:
    """Whose policies allow names where the dnsmasq of this host can look none up for them."""
    asking = [f"network {one.name}" for one in networks if names_in(one.policy.rules)]
    asking += [f"VM {one.name}" for one in vms if names_in(one.policy.rules)]
    why = dnsmasq.fills_no_sets() if asking else None
    if why is not None:
        words = f"guests cannot be started with names in their policies: {why.message}"
        yield Finding("dhcp", "error", words, tuple(asking), why.hint)


def _never_given(served: Sequence[Network], vms: Sequence[Vm]) -> Iterator[Finding]:
    """Guests with an address that an earlier version leased and DHCPv6 does not give."""
    wide = [(network, part) for network in served if (part := given_of(network))]
    for network, part in wide:
        found = [f"{vm.name} {a}" for vm in vms for a in never_given(vm, network)]
        if found:
            words = f"network {network.name} gives what is in {part} by DHCPv6, and no more"
            hint = "make these VMs anew with an --ip in it, or with none: any is chosen then"
            yield Finding("dhcp", "warning", words, tuple(found), hint)


def _held(scope: NetworkScope) -> Iterator[Finding]:
    """Services that live and do not answer, since somebody has stopped them."""
    for row in scope.services():
        identity = identity_in(process_observed(row))
        if identity is not None and procfs.is_stopped(identity):
            words = f"{row.key} is stopped: guests get no addresses and names by DHCP"
            proof = (f"pid {identity.pid} was stopped by a signal or a debugger (state T)",)
            yield Finding("dhcp", "error", words, proof, f"kill -CONT {identity.pid}")
