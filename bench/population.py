"""Namespaces full of VMs to measure in, made by hvtx's own engine in chunks."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from hvtx.commands import vm_create, vm_start
from hvtx.commands.network_create import create_network
from hvtx.engine import effects, vm_options
from hvtx.engine.new_network import NetworkRequest
from hvtx.engine.runtime import Runtime, Settings
from hvtx.engine.scope import networks_now
from hvtx.engine.transaction import begin
from hvtx.host import procfs
from hvtx.model.resource import Kind, Resource
from hvtx.model.vm import Network, Vm
from hvtx.planner.provision import ResourceSpec
from hvtx.store import intents

ONE = "one"  # the VM that is started and stopped
A_BRIDGE = 500  # VMs; the kernel's limit is 1,023 ports
CHUNK = 100  # VMs in one operation
_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


class World:
    """A network namespace with a store of its own and, later, ``vms`` running VMs.

    Their processes read from a pipe that only this one writes to, so they end with it.
    """

    def __init__(self, directory: Path, vms: int, namespace: int, firewall: str) -> None:
        """Use :func:`make_world`."""
        self.directory = directory
        self.vms = vms
        self.namespace = namespace
        self.settings = Settings(str(directory / "state"), str(directory / "run"), firewall)
        self.networks: list[Network] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self._pipe: tuple[int, int] | None = None
        self.environment = {
            **os.environ,
            "HVTX_STATE_DIR": self.settings.state_directory,
            "HVTX_RUN_DIR": self.settings.run_directory,
            "HVTX_CONFIG": os.devnull,
            "HVTX_FIREWALL": firewall,
            "XTABLES_LOCKFILE": str(directory / "xtables.lock"),
            "PYTHONPYCACHEPREFIX": str(directory / "bytecode"),
        }
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def enter(self) -> None:
        """Let the calling thread, and what it spawns, be in this namespace."""
        _check(_LIBC.setns(self.namespace, _NEWNET))

    def end_processes(self) -> None:
        """Let every VM's process end, and wait for them."""
        if self._pipe is not None:
            for descriptor in self._pipe:
                os.close(descriptor)
            self._pipe = None
        for process in self.processes:
            process.wait()

    def talk(self) -> None:
        """Have at least one flow tracked, as any host has: a VM's stop looks through them."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as speaker:
            speaker.sendto(b"hello", ("127.0.0.1", 9))

    def close(self) -> None:
        """End the processes; the namespace goes with its last user."""
        self.end_processes()
        os.close(self.namespace)

    def populate(self, *, attach: bool = True) -> float:
        """Create and start the VMs with processes attached; VMs a second without the latter."""
        number, self.vms = self.vms, 0
        return number / sum(self.grow(number, attach=attach))

    def grow(self, number: int, *, attach: bool = True) -> list[float]:
        """So many VMs more, ``CHUNK`` in an operation; the seconds of each without attaching."""
        self.enter()
        self._pipe = self._pipe or os.pipe()
        runtime = Runtime(self.settings, writable=True)
        runtime.enter()
        taken = []
        for start in range(self.vms, self.vms + number, CHUNK):
            numbers = range(start, min(start + CHUNK, self.vms + number))
            network = self.networks[start // A_BRIDGE]
            begun = time.perf_counter()
            vms = _create(runtime, numbers, network)
            _start(runtime, vms, network)
            taken.append(time.perf_counter() - begun)
            if attach:
                self._attach(runtime, vms)
        runtime.close()
        self.vms += number
        return taken

    def _attach(self, runtime: Runtime, vms: list[Vm]) -> None:
        assert self._pipe is not None
        with begin(runtime, "attach") as (sql, operation):
            for vm in vms:
                process = subprocess.Popen(["cat"], stdin=self._pipe[0], stdout=subprocess.DEVNULL)
                self.processes.append(process)
                want = ResourceSpec(
                    Kind.PROCESS, vm.name, {"hypervisor": "external", "directory": None}
                )
                row = operation.intend(sql, [want], vm=vm.id, committed=True)[0]
                intents.record_observed(sql, row.id, procfs.identify(process.pid)._asdict())
        operation.end("done")


def make_world(directory: Path, vms: int, firewall: str = "auto") -> World:
    """A fresh namespace with its networks and the VM ``one``, which is not started."""
    directory.mkdir()
    _check(_LIBC.unshare(_NEWNET))
    namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    world = World(directory, vms, namespace, firewall)
    os.environ["XTABLES_LOCKFILE"] = world.environment["XTABLES_LOCKFILE"]
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    runtime = Runtime(world.settings, writable=True)
    for number in range(max(1, -(-vms // A_BRIDGE))):
        request = NetworkRequest(f"n{number}", (f"10.{100 + number}.0.0/22",))
        world.networks.append(create_network(runtime, request))
    vm_create.create_vm(runtime, request_for(ONE, "n0", 10080))
    runtime.close()
    return world


def request_for(name: str, network: str, port: int) -> vm_options.VmRequest:
    """An `external` VM with one published port."""
    return vm_options.parse_request(
        name, hypervisor="external", networks=(network,), publish=(f"{port}:80",)
    )


def _create(runtime: Runtime, numbers: range, network: Network) -> list[Vm]:
    with begin(runtime, "create") as (sql, operation):
        vms = []
        for number in numbers:
            request = request_for(f"vm{number}", network.name, 20000 + number)
            vms.append(vm_create.record_vm(operation, sql, request, [network], committed=True)[0])

    def close(sql: Any) -> None:
        sql.execute("UPDATE vm SET operation = NULL WHERE operation = ?", (operation.id,))

    operation.end("done", then=close)
    return vms


def _start(runtime: Runtime, vms: list[Vm], network: Network) -> None:
    rows: list[Resource] = []
    networks = networks_now(runtime, [network.id])
    with begin(runtime, "start") as (sql, operation):
        for vm in vms:
            means = vm_start.means_of(operation, vm, networks)
            rows += vm_start.intend(operation, sql, vm, (), means)
    operation.commit(rows, effects.create(operation, rows))
