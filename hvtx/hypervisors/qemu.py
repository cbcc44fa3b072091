"""QEMU's command line.

Sockets have relative names in the working directory, the VM's run-time directory: a unix socket's
path holds at most 107 bytes, and run-time directories may be longer. The guest's serial output
goes where QEMU's own standard output goes, so one log tells the whole story.

TAP devices and disks are handed over as open descriptors, so that QEMU's user need not be able to
open them, and QEMU needs no network namespace of the host. A disk is a descriptor set (``-add-fd``)
that QEMU opens as ``/dev/fdset/N``, its locks included. What a disk image names itself, a backing
file, QEMU opens by its path and as its own user: an image that a tenant wrote opens nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

from hvtx.hypervisors.base import (
    CONSOLE_SOCKET,
    MONITOR_SOCKET,
    QMP_SOCKET,
    Handing,
    Launch,
    Nic,
    Probes,
    disk_format,
    kernel_arguments,
    serial_console,
)
from hvtx.model.passed_fds import TAP, TAP_QUEUE, VHOST
from hvtx.model.seed import SEED, has_seed
from hvtx.model.vm import Vm

PANIC_SECONDS = 10
USUAL_MTU = 1500  # what a guest takes without a word


def doubled(value: str) -> str:
    """A value inside an option: QEMU reads ``,,`` as a comma."""
    return value.replace(",", ",,")


def render(vm: Vm, ports: Sequence[Nic], probes: Probes, directory: str) -> Launch:
    """The launch of ``vm`` with its network ``ports``, in its run-time ``directory``.

    Raises ValueError where QEMU has nothing to boot the guest from (UEFI firmware on aarch64).
    """
    handing = Handing()
    argv = [
        probes.binary or f"qemu-system-{probes.machine}",
        *_machine(vm, probes),
        *(("-sandbox", probes.sandbox) if probes.sandbox else ()),
        *_boot(vm, ports, probes, handing),
        *_disks(vm, probes, handing),  # the order of devices is that of their PCI addresses
        *_networks(vm, ports, probes, handing),
        *_seed(vm, directory, handing),  # behind all others, so that it moves none of them
        *_channels(probes),
    ]
    return Launch(
        argv=tuple(argv),
        environment={},
        directory=directory,
        files={},
        ready="qmp",
        power_down="qmp",
        console=CONSOLE_SOCKET,
        sockets=(QMP_SOCKET, MONITOR_SOCKET, CONSOLE_SOCKET),
        handed=handing.all(),
        own_network=True,
    )


def _machine(vm: Vm, probes: Probes) -> list[str]:
    arm = probes.machine == "aarch64"
    return [
        *("-nodefaults", "-no-user-config"),
        *("-display", "none"),
        *("-name", vm.name),
        *("-machine", "virt" if arm else "q35"),
        *("-accel", "kvm" if probes.kvm else "tcg"),
        *("-cpu", "host" if probes.kvm else "max"),
        *("-smp", str(vm.cpus)),
        *("-m", str(vm.memory)),
        *("-device", "virtio-rng-pci"),
    ]


def _boot(vm: Vm, ports: Sequence[Nic], probes: Probes, handing: Handing) -> list[str]:
    if vm.kernel is None:
        if probes.machine != "aarch64":
            return []
        if probes.firmware is None:
            raise ValueError("a guest without --kernel needs UEFI firmware on aarch64")
        return ["-bios", probes.firmware]
    # A guest that reboots does reboot; one that panics does so after a pause instead of hanging.
    defaults = (f"console={serial_console(probes.machine)}", f"panic={PANIC_SECONDS}")
    return [
        *("-kernel", handing.file("kernel", vm.kernel, probes)),
        *(("-initrd", handing.file("initrd", vm.initrd, probes)) if vm.initrd else ()),
        *("-append", kernel_arguments(vm, ports, defaults)),
    ]


def _disks(vm: Vm, probes: Probes, handing: Handing) -> list[str]:
    argv: list[str] = []
    for number, path in enumerate(vm.disks):
        shut = path in probes.read_only
        descriptor = handing.number("read-only disk" if shut else "disk", path)
        options = [
            *("if=none", f"id=disk{number}", f"format={disk_format(path, probes.formats)}"),
            f"file.driver={'host_device' if path in probes.blocks else 'file'}",
            f"file.filename=/dev/fdset/{number}",
            # opened once, as it was handed over, and not to read first and to write later
            *(("read-only=on",) if shut else ("file.auto-read-only=off",)),
        ]
        # what it names relative to itself has no directory in a set
        options += [f"{key}={doubled(value)}" for key, value in probes.named.get(path, ())]
        argv += ["-add-fd", f"fd={descriptor},set={number}"]
        argv += ["-drive", ",".join(options)]
        argv += ["-device", f"virtio-blk-pci,drive=disk{number},bootindex={number + 1}"]
    return argv


def _networks(vm: Vm, ports: Sequence[Nic], probes: Probes, handing: Handing) -> list[str]:
    argv: list[str] = []
    for number, port in enumerate(ports):
        argv += ["-netdev", f"tap,id=net{number},{_descriptors(vm, port, probes, handing)}"]
        # romfile empty: no network boot ROM to load, search and wait for
        device = f"virtio-net-pci,netdev=net{number},mac={port.mac},romfile="
        if vm.queues > 1:  # an interrupt for each queue and direction, one for control, one more
            device += f",mq=on,vectors={2 * vm.queues + 2}"
        if port.mtu != USUAL_MTU:
            device += f",host_mtu={port.mtu}"
        argv += ["-device", device]
    return argv


def _descriptors(vm: Vm, port: Nic, probes: Probes, handing: Handing) -> str:
    """The queues of a TAP device, and as many descriptors of vhost where that is to be had."""
    single = vm.queues == 1
    queues = [handing.number(TAP if single else TAP_QUEUE, port.device) for _ in range(vm.queues)]
    words = f"fd={queues[0]}" if single else f"fds={':'.join(map(str, queues))}"
    if probes.vhost is None:
        return words
    helpers = [handing.number(VHOST, probes.vhost) for _ in queues]
    listed = f"vhostfd={helpers[0]}" if single else f"vhostfds={':'.join(map(str, helpers))}"
    return f"{words},vhost=on,{listed}"


def _seed(vm: Vm, directory: str, handing: Handing) -> list[str]:
    """What cloud-init reads, as a disk that cannot be written."""
    if not has_seed(vm):
        return []
    number, name = len(vm.disks), "seed"
    descriptor = handing.number("read-only disk", f"{directory}/{SEED}")
    options = f"if=none,id={name},format=raw,file.driver=file,file.filename=/dev/fdset/{number}"
    return [
        *("-add-fd", f"fd={descriptor},set={number}"),
        *("-drive", f"{options},read-only=on"),
        *("-device", f"virtio-blk-pci,drive={name}"),
    ]


def _channels(probes: Probes) -> list[str]:
    console = f"socket,id=console0,path={CONSOLE_SOCKET},server=on,wait=off"
    # With the guest's driver a panic ends QEMU (its default action), so the VM shows as crashed.
    panic = "pvpanic-pci" if probes.machine == "aarch64" else "pvpanic"
    return [
        *("-chardev", f"{console},logfile=/proc/self/fd/1,logappend=on"),
        *("-serial", "chardev:console0"),
        *("-qmp", f"unix:{QMP_SOCKET},server=on,wait=off"),
        *("-qmp", f"unix:{MONITOR_SOCKET},server=on,wait=off"),
        *("-device", panic),
    ]
