"""Firecracker's configuration file (its API's objects under their endpoints' names) and argv.

Works with Firecracker 1.5 and later, where the logger's path may be left out: messages, and the
guest's serial port, then go to standard output, the VM's log. The process ends when the guest
reboots, since Firecracker has no reset; ``reboot=k panic=1`` make both a reset.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from hvtx.hypervisors.base import (
    API_SOCKET,
    Handing,
    Launch,
    Nic,
    Probes,
    kernel_arguments,
    need_fit,
)
from hvtx.model.seed import SEED, has_seed
from hvtx.model.typed import Any
from hvtx.model.vm import Vm

CONFIGURATION = "firecracker.json"


def render(vm: Vm, ports: Sequence[Nic], probes: Probes, directory: str) -> Launch:
    """The launch of ``vm``; its files hold the configuration.

    Raises ValueError for what Firecracker cannot do: no kernel, or a disk that is not raw.
    """
    handing = Handing()
    content = json.dumps(configuration(vm, ports, probes, handing), indent=2) + "\n"
    return Launch(
        argv=(
            probes.binary or "firecracker",
            *("--id", vm.name),
            *("--api-sock", API_SOCKET),
            *("--config-file", CONFIGURATION),
        ),
        environment={},
        directory=directory,
        files={CONFIGURATION: content.encode()},
        ready="firecracker api",
        power_down="ctrl-alt-del api",
        console=None,
        sockets=(API_SOCKET,),
        handed=handing.all(),
    )


def configuration(vm: Vm, ports: Sequence[Nic], probes: Probes, handing: Handing) -> dict[str, Any]:
    """The configuration as an object; ValueError as for :func:`render`."""
    need_fit("firecracker", vm, probes.formats)
    assert vm.kernel is not None
    defaults = ("console=ttyS0", "reboot=k", "panic=1", "pci=off")
    boot: dict[str, Any] = {
        "kernel_image_path": handing.file("kernel", vm.kernel, probes),
        "boot_args": kernel_arguments(vm, ports, defaults),
    }
    if vm.initrd:
        boot["initrd_path"] = handing.file("initrd", vm.initrd, probes)
    disks = [handing.file("disk", path, probes) for path in vm.disks]
    return {
        "boot-source": boot,
        "drives": [*(_drive(number, path, vm) for number, path in enumerate(disks)), *_seed(vm)],
        "network-interfaces": [
            {"iface_id": f"eth{n}", "host_dev_name": port.device, "guest_mac": port.mac}
            for n, port in enumerate(ports)
        ],
        "machine-config": {"vcpu_count": vm.cpus, "mem_size_mib": vm.memory},
        "logger": {"level": "Warning", "show_level": True, "show_log_origin": False},
    }


def _drive(number: int, path: str, vm: Vm) -> dict[str, Any]:
    return {
        "drive_id": f"disk{number}",
        "path_on_host": path,
        # the root device gets root=/dev/vda on the kernel's command line: not with an initrd
        "is_root_device": number == 0 and vm.initrd is None,
        "is_read_only": False,
    }


def _seed(vm: Vm) -> list[dict[str, Any]]:
    """The drive with what cloud-init reads, by its name in the working directory."""
    if not has_seed(vm):
        return []
    return [
        {"drive_id": "seed", "path_on_host": SEED, "is_root_device": False, "is_read_only": True}
    ]
