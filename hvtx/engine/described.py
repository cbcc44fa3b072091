"""A described set of VMs and networks: as it was asked for, as values, and what is on record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hvtx.engine import network_service
from hvtx.engine.new_network import NetworkRequest, default_draft
from hvtx.engine.resolve import resolve
from hvtx.engine.runtime import Runtime
from hvtx.engine.vm_options import VmRequest
from hvtx.engine.vm_state import Moment, read_moment, states_of
from hvtx.errors import placed
from hvtx.host import dnsmasq
from hvtx.model.described import (
    Action,
    Described,
    Known,
    KnownVm,
    Step,
    WantedNetwork,
    WantedVm,
)
from hvtx.model.policy import Policy, names_in
from hvtx.model.typed import Any, NamedTuple
from hvtx.model.vm import DEFAULT, Network, Vm
from hvtx.planner import ports
from hvtx.planner.described import NETWORK_CHANGES, VM_AT_START, VM_CHANGES
from hvtx.planner.described_checks import NETWORK_FIXED, differing
from hvtx.planner.egress_rules import PolicyChange
from hvtx.planner.states import VmState
from hvtx.store import records

_UP = frozenset({VmState.RUNNING, VmState.STARTING, VmState.UNKNOWN})


class Asked(NamedTuple):
    """One VM or network of the set, as it is made of a table; and where the table stands."""

    request: Any  # VmRequest or NetworkRequest
    where: str
    start: bool = True


class Request(NamedTuple):
    """The set, by name."""

    networks: Mapping[str, Asked]
    vms: Mapping[str, Asked]

    def described(self, egress: str | None) -> Described:
        """The set as the planner compares it; ``egress`` is the setting of new networks."""
        return Described(
            [wanted_network(each.request, egress, each.where) for each in self.networks.values()],
            [wanted_vm(each.request, each.start, each.where) for each in self.vms.values()],
        )


def wanted_network(request: NetworkRequest, egress: str | None, where: str) -> WantedNetwork:
    """A network as it would be made now."""
    policy = request.policy._replace(egress=request.policy.egress or egress)
    return WantedNetwork(
        request.name,
        request.subnets,
        request.bridge,
        request.mtu,
        request.nat,
        request.isolate,
        request.exits.uplink,
        request.exits.sources,
        request.passage,
        policy,
        request.dhcp,
        where,
        request.block_size,
    )


def wanted_vm(request: VmRequest, start: bool, where: str) -> WantedVm:
    """A VM as it would be made now."""
    vm = Vm(
        "", request.name, request.hypervisor, request.memory, request.cpus, request.kernel,
        request.initrd, request.append, request.disks, request.command, request.directory,
        request.autostart, (), limits=request.limits, policy=request.policy,
        **request.guest._asdict(),
    )  # fmt: skip
    networks = request.networks or (DEFAULT,)
    published = tuple(request.ports(number) for number in range(len(networks)))
    return WantedVm(vm, networks, request.ips, request.macs, published, start, where)


# -- what is on record -----------------------------------------------------------------------------


_FEW = 100  # VMs whose rows are asked for one by one; of more all rows are read at once


class _Record(NamedTuple):
    networks: list[Network]
    half_networks: Mapping[str, int]
    vms: list[Vm]
    half_vms: Mapping[str, int]
    concerned: list[Vm]  # those whose state matters
    moment: Moment


def _read(sql: Any, described: Described) -> _Record:
    networks, vms = records.networks(sql), records.vms(sql)
    concerned = _concerned(described, networks, vms)
    few = [vm.id for vm in concerned] if len(concerned) <= _FEW else []
    return _Record(
        networks,
        records.provisional_networks(sql),
        vms,
        records.provisional_vms(sql),
        concerned,
        read_moment(sql, *few) if few or concerned else Moment({}, {}, {}),
    )


def _concerned(described: Described, networks: Sequence[Network], vms: Sequence[Vm]) -> list[Vm]:
    """The VMs of the set, and those in a network that changes only without them, or all down."""
    wanted = {each.name: each for each in described.networks}
    keys = ("isolate", *NETWORK_FIXED)
    changing = {n.id for n in networks if n.name in wanted and differing(n, wanted[n.name], keys)}
    names = {each.name for each in described.vms}
    return [vm for vm in vms if vm.name in names or {i.network for i in vm.interfaces} & changing]


def known(runtime: Runtime, described: Described) -> Known:
    """What is on record, and which of the VMs are up; of one moment.

    What an interrupted command left half made counts as absent, unless it is up: whoever makes it
    anew takes the remains away first.
    """
    found = runtime.read(_read, described)
    networks = {n.name: n for n in found.networks if n.id not in found.half_networks}
    states = states_of(runtime, found.concerned, found.moment)
    pairs = zip(found.concerned, states, strict=True)
    told = {vm.id: state for vm, (state, _, _) in pairs}
    up = {vm for vm, state in told.items() if state in _UP}
    vms = {
        vm.name: KnownVm(vm, vm.id in up, told.get(vm.id) not in (None, VmState.DEFINED))
        for vm in found.vms
        if vm.id in up or vm.id not in found.half_vms
    }
    described_default = any(each.name == DEFAULT for each in described.networks)
    wanted = any(DEFAULT in each.networks for each in described.vms)
    draft = wanted and DEFAULT not in networks and not described_default
    every: list[WantedNetwork | WantedVm] = [*described.networks, *described.vms]
    named = any(names_in(policy_of(each).rules) for each in every)
    made = [each for each in described.networks if _is_made(each, networks)]
    return Known(
        networks,
        vms,
        default_draft(runtime, serves=named) if draft else None,
        _unserved(runtime.settings.dhcp, made) if named else frozenset(),
    )


def policy_of(wanted: WantedNetwork | WantedVm) -> Policy:
    """The egress policy of what is described."""
    return wanted.vm.policy if isinstance(wanted, WantedVm) else wanted.policy


def _is_made(wanted: WantedNetwork, networks: Mapping[str, Network]) -> bool:
    """Whether the network would be made, or made anew."""
    found = networks.get(wanted.name)
    return found is None or bool(differing(found, wanted, NETWORK_FIXED))


def _unserved(setting: str, wanted: Iterable[WantedNetwork]) -> frozenset[str]:
    """Networks that would be made without a DNS of their own, as `network create` decides it.

    Raises HostRefused, Conflict where the setting wants one that cannot be had.
    """
    return frozenset(
        each.name
        for each in wanted
        if each.dhcp is None and not network_service.wanted(setting, None, each.subnets)
    )


def refuse_names(steps: Iterable[Step]) -> None:
    """Raise Conflict if a step allows names, and the dnsmasq of this host cannot look them up."""
    for step in steps:
        wanted = step.wanted if step.action in (Action.CREATE, Action.CHANGE) else None
        if wanted is not None and names_in(policy_of(wanted).rules):
            with placed(wanted.where):
                if (why := dnsmasq.fills_no_sets()) is not None:
                    raise why
            return


def settle(runtime: Runtime, names: Iterable[str]) -> None:
    """Resolve what interrupted commands left of these VMs, by gc's own rules.

    What was half made goes, what lives all the same is committed, as `recover` does it.
    """
    wanted = set(names)
    with runtime.reading() as sql:
        every = records.vm_names(sql)
        half = {every[vm] for vm in records.provisional_vms(sql) if vm in every}
        under_way = [known for known in records.operations(sql) if known.vm in wanted]
    running = runtime.running(under_way)
    interrupted = {known.vm for known in under_way if known.vm and not running[known.id]}
    for name in sorted(wanted & (half | interrupted)):
        with runtime.held("vm", name):
            resolve(runtime, name)


# -- what a change is made of ----------------------------------------------------------------------

_CLEARED = frozenset({"kernel", "initrd", "append", "user_data", "user"})


def vm_changes(step: Step) -> dict[str, Any]:
    """The fields of ``vm set``'s changes that make the VM on record what is described."""
    vm, wanted = step.known, step.wanted
    assert isinstance(vm, Vm)
    assert isinstance(wanted, WantedVm)
    found = _different(vm, wanted.vm, (*VM_CHANGES, *VM_AT_START))
    if wanted.vm.hypervisor != "command":
        found.pop("directory", None)
    found |= {name: found[name] or "" for name in _CLEARED & found.keys()}
    had = [(i.network_name, port) for i in vm.interfaces for port in i.publish]
    asked = wanted.published()
    gone = [port for network, port in had if (network, port) not in set(asked)]
    come = [each for each in asked if each not in set(had)]
    return {
        **found,
        "publish": tuple(ports.Asked(network, port) for network, port in come),
        "unpublish": tuple(ports.Unpublished(p.protocol, p.host_ip, p.host_port) for p in gone),
        "kept": True,
    }


def network_changes(step: Step) -> dict[str, Any]:
    """The fields of ``network set``'s changes that make the network on record what is described."""
    network, wanted = step.known, step.wanted
    assert isinstance(network, Network)
    assert isinstance(wanted, WantedNetwork)
    found = _different(network, wanted, NETWORK_CHANGES)
    if wanted.dhcp is None:
        found.pop("dhcp", None)
    if "uplink" in found and found["uplink"] is None:
        found["no_uplink"] = True
    if "sources" in found and not found["sources"]:
        found["no_source"] = True
    return found


def _different(
    known_: Vm | Network, wanted: Vm | WantedNetwork, fields: Sequence[str]
) -> dict[str, Any]:
    """The fields that are otherwise, as they are to be."""
    found = {
        name: getattr(wanted, name)
        for name in fields
        if getattr(known_, name) != getattr(wanted, name)
    }
    if "policy" in found:
        policy = found["policy"]
        found["policy"] = PolicyChange(policy.egress or "", policy.rules, clear=True)
    return found
