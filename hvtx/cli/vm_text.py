"""A VM as a terminal shows it: a line about what was done, and its parts."""

from __future__ import annotations

from hvtx import documents
from hvtx.cli import render
from hvtx.model.address import is_ipv6, with_port
from hvtx.model.port_range import PortRange, ranges
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hvtx import ShownInterface, ShownVm
    from hvtx.model.vm import Publish


def show_done(shown: ShownVm, verb: str, *, json_: bool) -> None:
    """What a command that acts prints: the VM's object, or a line about it."""
    if json_:
        render.emit_json(documents.vm.document(shown))
        return
    for line in sentences(shown, verb):
        render.say(line)


def sentences(shown: ShownVm, verb: str) -> list[str]:
    """What was done, in a line; of a VM whose process nobody knows yet, what is to be done."""
    name, interfaces = shown.vm.name, shown.interfaces
    where = ", ".join(" ".join(addresses_of(i)) or "?" for i in interfaces)
    ports = [_published(some) for i in interfaces for some in ranges(i.publish)]
    if ports:
        where += "; " + ", ".join(ports)
    if verb == "running" and shown.vm.hypervisor == "external" and shown.pid is None:
        devices = ", ".join(i.device for i in interfaces if i.device)
        return [
            f"the network of VM {name} is prepared: {devices} ({where})",
            f"`hvtx vm attach {name} --pid PID` names its process, once it runs",
        ]
    told = [f"VM {name} is {verb}" + (f" ({where})" if verb in ("running", "defined") else "")]
    accelerator = accelerator_of(shown) if verb == "running" else None
    return told + ([f"accelerator {accelerator}"] if accelerator else [])


_SHORT = 12  # digits of a container's id, as runtimes show it
HEADERS = ("name", "state", "guest", "pid", "address", "network", "ports")


def line_of(shown: ShownVm) -> tuple[object, ...]:
    """A line of `vm ls`, under ``HEADERS``."""
    return (
        shown.vm.name,
        shown.state,
        _inside(shown),
        shown.pid,
        " ".join(address for i in shown.interfaces for address in addresses_of(i)),
        " ".join(i.network for i in shown.interfaces),
        " ".join(short_ports(i.publish) for i in shown.interfaces if i.publish),
    )


def _inside(shown: ShownVm) -> object:
    """What runs in it: a guest as its hypervisor says, or a pod, or a container."""
    own = shown.vm.attachment
    return shown.guest if own is None else own.pod_name or own.container[:_SHORT]


def accelerator_of(shown: ShownVm) -> str | None:
    """With what QEMU runs the guest, and why; None where it does not."""
    return f"{shown.accelerator}: {shown.accelerator_reason}" if shown.accelerator else None


def addresses_of(interface: ShownInterface) -> list[str]:
    """The addresses of an interface, as far as it has them."""
    return list(interface.addresses)


def _host(ports: PortRange) -> str:
    """Published ports as the host has them, with the one address they are bound to, if it is."""
    return with_port(ports.first.host_ip, ports.span(ports.first.host_port))


def short_ports(published: Iterable[Publish]) -> str:
    """Published ports in few characters, for a table."""
    return " ".join(
        f"{_host(some)}→{some.span(some.first.guest_port)}/{some.first.protocol}"
        for some in ranges(published)
    )


def _published(ports: PortRange) -> str:
    first = ports.first
    return f"{_host(ports)}/{first.protocol} → {ports.span(first.guest_port)}"


def fields_of(shown: ShownVm) -> list[tuple[str, object]]:
    """What `vm show` says of a VM before its interfaces."""
    if shown.vm.attachment is not None:
        return [
            ("name", shown.vm.name),
            ("state", shown.state),
            ("hypervisor", shown.vm.hypervisor),
            *attached_to(shown),
            *boots_with(shown),
        ]
    accelerator = accelerator_of(shown)
    return [
        ("name", shown.vm.name),
        ("state", shown.state),
        ("guest", shown.guest),
        ("hypervisor", shown.vm.hypervisor),
        *((("accelerator", accelerator),) if accelerator else ()),
        *((("vhost", "yes"),) if shown.vhost else ()),
        ("pid", shown.pid),
        ("user", shown.user),
        ("memory", f"{shown.vm.memory} MiB"),
        ("cpus", shown.vm.cpus),
        *((("queues", shown.vm.queues),) if shown.vm.queues > 1 else ()),
        ("autostart", "yes" if shown.vm.autostart else "no"),
        *boots_with(shown),
    ]


def attached_to(shown: ShownVm) -> list[tuple[str, object]]:
    """Which interface of which container a VM stands for; nothing of others."""
    own = shown.vm.attachment
    if own is None:
        return []
    from hvtx.model.container import inner_tap  # VMs have none

    pod = [("pod", own.pod_name)]
    tap = inner_tap(shown.resources)
    return [
        ("container", f"{own.container} {own.ifname}, network {own.network}"),
        *(pod if own.pod else []),
        ("namespace", own.netns),
        *([("tap inside", tap)] if tap else []),
    ]


def boots_with(shown: ShownVm) -> list[tuple[str, object]]:
    """What a VM is started with, as far as it has any of it."""
    vm = shown.vm
    files = (("kernel", vm.kernel), ("initrd", vm.initrd), ("append", vm.append))
    pairs: list[tuple[str, object]] = [(name, value) for name, value in files if value]
    pairs += [("disk", disk) for disk in vm.disks]
    if any(vm.limits):
        from hvtx.model import limiting

        pairs.append(("limit", limiting.words(vm.limits)))
    if vm.user_data:
        pairs.append(("user-data", vm.user_data))
    pairs += [("ssh key", key) for key in vm.ssh_keys]
    if vm.command:
        import shlex

        pairs.append(("command", shlex.join(vm.command)))
        pairs.append(("directory", vm.directory or None))
    return pairs


def ways_of(interface: ShownInterface) -> list[str]:
    """``10.77.0.2/24 via 10.77.0.1``: what a guest without DHCP is set up with."""
    return [
        f"{address}/{prefix} via {gateway}"
        for address, prefix, gateway in (
            (interface.ipv4, interface.prefix, interface.gateway),
            (interface.ipv6, interface.prefix6, interface.gateway6),
        )
        if address
    ] + [
        f"{address}/{interface.prefix6 if is_ipv6(address) else interface.prefix}"
        for address in interface.more
    ]


def ports_anywhere(published: Iterable[Publish]) -> list[str]:
    """Published ports with ``*`` for every address of the host."""
    return [
        _published(some) if some.first.host_ip else f"*:{_published(some)}"
        for some in ranges(published)
    ]


def interface_fields(interface: ShownInterface) -> list[tuple[str, Any]]:
    """An interface as a table of fields."""
    from hvtx.cli.egress_text import egress_lines

    return [
        ("network", interface.network),
        *[("address", words) for words in ways_of(interface)],
        ("mac", interface.mac),
        ("device", interface.device),
        *[("published", words) for words in ports_anywhere(interface.publish)],
        *egress_lines(interface.egress, interface.refused),
    ]
