#!/usr/bin/env python3
"""A thousand VMs' networks, started by one process, in a network namespace of its own.

    python3 docs/examples/thousand_networks.py [--vms 1000] [--threads 4]

Needs root. Each VM is an `external` one: hvtx makes its TAP, bridge port, addresses and firewall
elements, and whoever runs this would start a hypervisor of their own on the TAP. Everything is
removed at the end, and the namespace goes with the process.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from hvtx import Host, ShownVm

A_BRIDGE = 500  # VMs of one network; a Linux bridge has 1,023 ports
CLONE_NEWNET = 0x40000000


def enter_namespace() -> None:
    """Let this process, and the threads that it starts, have a network of their own."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def open_files() -> int:
    """How many this process has."""
    return len(os.listdir("/proc/self/fd")) - 1


@contextmanager
def timed(what: str, count: int) -> Iterator[None]:
    """Tell how many a second there were."""
    begun = time.perf_counter()
    yield
    seconds = time.perf_counter() - begun
    print(f"{what}: {count} in {seconds:.2f} s, {count / seconds:.0f} a second")


def by_network(names: list[str]) -> dict[str, str]:
    """The network of each VM."""
    return {name: f"lab{number // A_BRIDGE}" for number, name in enumerate(names)}


def run(host: Host, names: list[str], threads: int) -> None:
    """Make the networks, start every VM's network, look at them, and take all of it away."""
    where, before = by_network(names), open_files()
    networks = sorted(set(where.values()))
    for number, network in enumerate(networks):
        host.network.create(network, [f"10.64.{4 * number}.0/22"], dhcp=False)
    with ThreadPoolExecutor(threads) as pool:

        def each(verb: Callable[[str], ShownVm | None]) -> list[ShownVm | None]:
            return list(pool.map(verb, names))

        def start(name: str) -> ShownVm:
            return host.vm.run(name, networks=[where[name]], hypervisor="external")

        with timed("networks started", len(names)):
            started = each(start)
        taps = {i.device for vm in started if vm for i in vm.interfaces}
        assert len(taps) == len(names)
        with timed("listed", len(names)):
            assert len(host.vm.ls()) == len(names)
        with timed("networks stopped, VMs removed", len(names)):
            each(lambda name: host.vm.rm(name, force=True))
    for network in networks:
        host.network.rm(network)
    print(f"open files: {before} before, {open_files()} at the end")


def main() -> None:
    """Read the arguments, and do it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--vms", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=4)
    wanted = parser.parse_args()
    names = [f"vm{number}" for number in range(wanted.vms)]
    enter_namespace()
    with (
        tempfile.TemporaryDirectory(prefix="hvtx-example-") as place,
        Host(
            state_dir=f"{place}/state",
            run_dir=f"{place}/run",
            config=os.devnull,
            firewall="nftables",
            lock_timeout=60,
        ) as host,
    ):
        run(host, names, wanted.threads)


if __name__ == "__main__":
    main()
