"""Cloud Hypervisor's command line.

The guest's serial port goes to standard output, the VM's log: the one of its outputs that every
release has and that may be appended to (``file=`` truncates, ``socket=`` keeps no log). Works with
release 51 and later: from then on a disk's format must be named, else a raw one's first sector
cannot be written, and backing files of qcow2 images are followed only on request.
"""

from __future__ import annotations

from collections.abc import Sequence

from hvtx.hypervisors.base import (
    API_SOCKET,
    Handing,
    Launch,
    Nic,
    Probes,
    disk_format,
    kernel_arguments,
    need_fit,
    serial_console,
)
from hvtx.model.seed import SEED, has_seed
from hvtx.model.vm import Vm


def render(vm: Vm, ports: Sequence[Nic], probes: Probes, directory: str) -> Launch:
    """The launch of ``vm``; raises ValueError without a kernel, or for a path with a comma."""
    need_fit("cloud-hypervisor", vm, probes.formats)
    assert vm.kernel is not None
    handing = Handing()
    defaults = (f"console={serial_console(probes.machine)}", "panic=1")
    argv = [
        probes.binary or "cloud-hypervisor",
        *("--api-socket", f"path={API_SOCKET}"),
        *("--cpus", f"boot={vm.cpus}"),
        *("--memory", f"size={vm.memory}M"),
        *("--kernel", handing.file("kernel", vm.kernel, probes)),
        *(("--initramfs", handing.file("initrd", vm.initrd, probes)) if vm.initrd else ()),
        *("--cmdline", kernel_arguments(vm, ports, defaults)),
        *_disks(vm, probes, handing),
        *_networks(vm, ports),
        *("--serial", "tty", "--console", "off"),
    ]
    return Launch(
        argv=tuple(argv),
        environment={},
        directory=directory,
        files={},
        ready="cloud-hypervisor api",
        power_down="power-button api",
        console=None,
        sockets=(API_SOCKET,),
        handed=handing.all(),
    )


def _disks(vm: Vm, probes: Probes, handing: Handing) -> list[str]:
    """One ``--disk`` with a value for each; a repeated option is refused."""
    values = []
    for path in vm.disks:
        kind = disk_format(path, probes.formats)
        more = ",backing_files=on" if kind == "qcow2" else ""
        name = handing.file("disk", path, probes)
        values.append(f"path={name},image_type={kind}{more}")
    if has_seed(vm):  # by its name in the working directory, which is no path of somebody else's
        values.append(f"path={SEED},image_type=raw,readonly=on")
    return ["--disk", *values] if values else []


def _networks(vm: Vm, ports: Sequence[Nic]) -> list[str]:
    """The guest is told the MTU of the TAP; ``num_queues`` counts both directions."""
    more = f",num_queues={2 * vm.queues}" if vm.queues > 1 else ""
    values = [f"tap={port.device},mac={port.mac}{more}" for port in ports]
    return ["--net", *values] if values else []
