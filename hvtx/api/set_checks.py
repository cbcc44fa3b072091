"""What keeps a step of a described set from being done: looked for before anything is done.

That is what files and users tell. The host is asked as well where a step would fail that something
is stopped or removed for: nothing that runs is given up for what cannot be had.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hvtx import commands
from hvtx.engine import privileges
from hvtx.engine.described import Asked, Request
from hvtx.engine.guest_options import check_user_data
from hvtx.engine.new_network import check_anew
from hvtx.engine.peer_ports import Peers, refuse_ports
from hvtx.engine.port_holders import held_ports
from hvtx.engine.scope import all_networks, bridges_now, shown_scope
from hvtx.engine.vm_user import check_user
from hvtx.errors import placed
from hvtx.model.address import family_of
from hvtx.model.described import NETWORK, VM, Action, Reason, Step, WantedVm
from hvtx.model.typed import TYPE_CHECKING, NamedTuple
from hvtx.model.vm import Network, Publish, Vm
from hvtx.planner.routing import within
from hvtx.planner.scope import VmScope
from hvtx.store import records

if TYPE_CHECKING:
    from hvtx.engine.runtime import Runtime

_ENDS = (Action.STOP, Action.REMOVE)
_Ports = Mapping[tuple[str, int], Sequence[tuple[str, Publish]]]  # each with its VM


class Checks(NamedTuple):
    """What a set is checked beside: the host as it is now, and what was asked for."""

    runtime: Runtime
    request: Request

    def check(self, steps: Sequence[Step]) -> None:
        """Raise what a step would, as far as it is seen: UsageError, NotFound, Conflict and so on.

        Each error names the table of the set.
        """
        ends = {(step.kind, step.name): step for step in steps if step.action in _ENDS}
        for step in steps:
            anew = (step.kind, step.name) in ends
            if step.kind == VM and step.action in (Action.CREATE, Action.CHANGE):
                self._files(self.request.vms[step.name])
            if step.kind == VM and step.action is Action.START and anew:
                self._program(self.request.vms[step.name], step)
            if step.kind == NETWORK and step.action is Action.CREATE and anew:
                with placed(self.request.networks[step.name].where):
                    known = all_networks(self.runtime).networks.values()
                    check_anew(known, self.request.networks[step.name].request)
        if ended := [step for step in ends.values() if step.kind == VM]:
            self._what_is_up(ended, {name for kind, name in ends if kind == NETWORK})

    def _files(self, asked: Asked) -> None:
        """Refuse a VM whose files or whose user are not there."""
        request = asked.request
        state = self.runtime.settings.state_directory
        with placed(asked.where):
            commands.vm_create.check_files(request.kernel, request.initrd, request.disks)
            commands.vm_create.check_formats(request.hypervisor, request.kernel, request.disks)
            check_user_data(request.guest.user_data)
            check_user(request.guest.user, request.hypervisor, self.runtime.installation, state)

    def _program(self, asked: Asked, step: Step) -> None:
        """Refuse a VM that nothing here could run, before the one that runs is stopped for it."""
        if isinstance(step.wanted, WantedVm):
            with placed(asked.where):
                commands.vm_start.need_program(step.wanted.vm)

    def _what_is_up(self, ended: Sequence[Step], gone: set[str]) -> None:
        """Refuse what the host would, once these VMs are stopped or removed; ``gone``: networks."""
        with self.runtime.reading() as sql:
            every, networks = records.vms(sql), records.networks(sql)
        there = [network for network in networks if network.name not in gone]
        subnets = {network.name: network.subnets for network in there}
        subnets |= {name: each.request.subnets for name, each in self.request.networks.items()}
        others = _by_number(every)
        for step in ended:
            wanted, vm = step.wanted, step.known
            assert isinstance(wanted, WantedVm)
            assert isinstance(vm, Vm)
            with placed(wanted.where):
                scope = shown_scope(self.runtime, step.name)
                if step.reason is Reason.RESTART:
                    privileges.need_to_start(scope.networks.values())
                    commands.vm_start.need_own_blocks(self.runtime, scope)
                else:
                    self._addresses(wanted, [n for n in there if n.name in wanted.networks])
                self._ports(wanted, scope, others, subnets)

    def _addresses(self, wanted: WantedVm, networks: Sequence[Network]) -> None:
        """Refuse addresses that somebody has who is not on record, or that no packet reaches."""
        asked = [
            [ip for ip in wanted.ips if any(within(ip, subnet) for subnet in network.subnets)]
            for network in networks
        ]
        commands.vm_create.refuse_elsewhere(self.runtime, asked, networks)
        bridges = bridges_now(self.runtime, networks)
        commands.vm_create.refuse_lost(bridges, networks, wanted.ips)

    def _ports(
        self, wanted: WantedVm, scope: VmScope, others: _Ports, subnets: Mapping[str, Sequence[str]]
    ) -> None:
        """Refuse host ports that are taken; those of ``others`` on record are given up before."""
        ports = [
            port
            for _, port in wanted.published()
            if not any(
                name != wanted.name and port.collides(other)
                for name, other in others.get((port.protocol, port.host_port), ())
            )
        ]
        families = {
            family_of(subnet)
            for name, own in zip(wanted.networks, wanted.ports, strict=True)
            if own
            for subnet in subnets.get(name, ())
        }
        refuse_ports(Peers(self.runtime), ports, families, own=held_ports(scope.rows))


def _by_number(vms: Iterable[Vm]) -> _Ports:
    found: dict[tuple[str, int], list[tuple[str, Publish]]] = {}
    for vm in vms:
        for port in vm.ports:
            found.setdefault((port.protocol, port.host_port), []).append((vm.name, port))
    return found
