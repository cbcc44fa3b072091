"""``hvtx/vm/1``: `vm show --json`, and of the commands that act on a VM."""

from __future__ import annotations

from hvtx.documents import parts
from hvtx.model.limiting import told
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.commands.published_view import AsOf
    from hvtx.commands.show import ShownInterface, ShownVm


def document(shown: ShownVm, view: AsOf | None = None) -> dict[str, Any]:
    """A VM's object."""
    vm = shown.vm
    return {
        "schema": "hvtx/vm/1",
        "name": vm.name,
        "id": vm.id,
        "state": shown.state.value,
        "guest": None if shown.guest is None else shown.guest.value,
        "accelerator": shown.accelerator,
        "accelerator_reason": shown.accelerator_reason,
        "hypervisor": vm.hypervisor,
        "attachment": _attachment(shown),
        "pid": shown.pid,
        "user": shown.user,
        "vhost": shown.vhost,
        "autostart": vm.autostart,
        "memory": vm.memory,
        "cpus": vm.cpus,
        "queues": vm.queues,
        "kernel": vm.kernel,
        "initrd": vm.initrd,
        "append": vm.append,
        "disks": list(vm.disks),
        "user_data": vm.user_data,
        "ssh_keys": list(vm.ssh_keys),
        "command": list(vm.command),
        "directory": vm.directory or None,
        "limit": told(vm.limits) or None,
        "interfaces": [_interface(interface) for interface in shown.interfaces],
        "resources": parts.resources(shown.resources),
        "notes": list(shown.notes),
        **parts.seen_in(view),
    }


def _attachment(shown: ShownVm) -> dict[str, Any] | None:
    own = shown.vm.attachment
    if own is None:
        return None
    from hvtx.model.container import inner_tap  # VMs have none

    return {**own._asdict(), "tap": inner_tap(shown.resources)}


def _interface(shown: ShownInterface) -> dict[str, Any]:
    return {
        "network": shown.network,
        "device": shown.device,
        "mac": shown.mac,
        "ipv4": shown.ipv4,
        "ipv6": shown.ipv6,
        "prefix": shown.prefix,
        "gateway": shown.gateway,
        "prefix6": shown.prefix6,
        "gateway6": shown.gateway6,
        "addresses": list(shown.addresses),
        "mtu": shown.mtu,
        "publish": [
            {
                "protocol": port.protocol,
                "host_ip": port.host_ip,
                "host_port": port.host_port,
                "guest_port": port.guest_port,
            }
            for port in shown.publish
        ],
        "egress": {
            **parts.egress(shown.egress),
            "dropped": None if shown.refused is None else shown.refused._asdict(),
        },
    }
