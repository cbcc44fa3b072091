"""QEMU's command line.

Sockets have relative names in the working directory, the VM's run-time directory: a unix socket's
path holds at most 107 bytes, and run-time directories may be longer. The guest's serial output
goes where QEMU's own standard output goes, so one log tells the whole story.
"""

from __future__ import annotations

from collections.abc import Sequence

from hvtx.hypervisors.base import (
    CONSOLE_SOCKET,
    MONITOR_SOCKET,
    QMP_SOCKET,
    Launch,
    Port,
    Probes,
    disk_format,
    kernel_arguments,
    serial_console,
)
from hvtx.model.vm import Vm

PANIC_SECONDS = 10


def doubled(value: str) -> str:
    """A value inside an option: QEMU reads ``,,`` as a comma."""
    return value.replace(",", ",,")


def render(vm: Vm, ports: Sequence[Port], probes: Probes, directory: str) -> Launch:
    """The launch of ``vm`` with its network ``ports``, in its run-time ``directory``.

    Raises ValueError where QEMU has nothing to boot the guest from (UEFI firmware on aarch64).
    """
    argv = [
        probes.binary or f"qemu-system-{probes.machine}",
        *_machine(vm, probes),
        *_boot(vm, ports, probes),
        *_disks(vm, probes),
        *_networks(ports),
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


def _boot(vm: Vm, ports: Sequence[Port], probes: Probes) -> list[str]:
    if vm.kernel is None:
        if probes.machine != "aarch64":
            return []
        if probes.firmware is None:
            raise ValueError("a guest without --kernel needs UEFI firmware on aarch64")
        return ["-bios", probes.firmware]
    # A guest that reboots does reboot; one that panics does so after a pause instead of hanging.
    defaults = (f"console={serial_console(probes.machine)}", f"panic={PANIC_SECONDS}")
    return [
        *("-kernel", vm.kernel),
        *(("-initrd", vm.initrd) if vm.initrd else ()),
        *("-append", kernel_arguments(vm, ports, defaults)),
    ]


def _disks(vm: Vm, probes: Probes) -> list[str]:
    argv: list[str] = []
    for number, path in enumerate(vm.disks):
        kind = disk_format(path, probes.formats)
        argv += ["-drive", f"if=none,id=disk{number},format={kind},file={doubled(path)}"]
        argv += ["-device", f"virtio-blk-pci,drive=disk{number},bootindex={number + 1}"]
    return argv


def _networks(ports: Sequence[Port]) -> list[str]:
    argv: list[str] = []
    for number, port in enumerate(ports):
        backend = f"tap,id=net{number},ifname={doubled(port.device)}"
        argv += ["-netdev", f"{backend},script=no,downscript=no"]
        # romfile empty: no network boot ROM to load, search and wait for
        argv += ["-device", f"virtio-net-pci,netdev=net{number},mac={port.mac},romfile="]
    return argv


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
