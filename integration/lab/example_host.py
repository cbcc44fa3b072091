"""An example host: VMs that run, crashed, were interrupted; and what Docker, libvirt, people left.

Everything is made in the calling thread's network namespace, by hvtx's command line and by the
tools that others use. `scripts/screens` shows it, tests look at it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct

from integration import lab
from integration.lab.processes import is_alive
from integration.lab.program import Program
from integration.lab.vms import end_vms
from integration.lab.waiting import until

SUBNET = "10.77.0.0/24"
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
_PATIENCE = 20.0


def furnish(hvtx: Program, *, other: Program | None = None) -> None:
    """Ours: two that run, two that crashed, one half-made, one unknown, one that is only defined.

    ``other`` is another installation of hvtx on the same host, with a network and a VM of its own.
    """
    hvtx("network", "create", "lan", "--subnet", SUBNET, "--subnet", "fd77::/64")
    hvtx("network", "create", "dmz", "--subnet", "10.78.0.0/24", "--isolate")
    _run(hvtx, "web", "lan", "-p", "8080:80")
    _run(hvtx, "mail", "dmz", "-p", "2525:25", "-p", "5353:53/udp")
    _run(hvtx, "db", "lan", "-p", "5432:5432")
    _run(hvtx, "cache", "lan")
    hvtx("vm", "create", "build", "--network", "lan", "--", "sleep", "600")
    hvtx("vm", "start", "build", code=-signal.SIGKILL, HVTX_FAILPOINT="acted:filter:kill")
    hvtx("vm", "create", "appliance", "--network", "dmz", "--hypervisor", "external")
    hvtx("vm", "start", "appliance")
    hvtx("vm", "create", "spare", "--network", "lan", "-p", "9090:90", "--", "sleep", "600")
    for name in ("db", "cache"):
        crash(hvtx, name)
    if other is not None:
        other("network", "create", "theirs", "--subnet", "10.99.0.0/24")
        _run(other, "guest", "theirs")


def _run(hvtx: Program, name: str, network: str, *more: str) -> None:
    hvtx("vm", "run", name, "--network", network, *more, "--", "sleep", "600")


def crash(hvtx: Program, name: str) -> None:
    """Kill a VM's process as a crash would, and wait until it is gone."""
    pid = hvtx.vm(name)["pid"]
    os.kill(pid, signal.SIGKILL)
    until(f"the end of process {pid} of {name}", lambda: not is_alive(pid), _PATIENCE)


def end_all(*programs: Program) -> None:
    """Kill what runs of these installations' VMs."""
    for hvtx in programs:
        end_vms(hvtx)


def plant_strangers() -> None:
    """What Docker and libvirt look like, a forgotten TAP, and an administrator's NAT rule."""
    _bridge("docker0", "172.17.0.1/16")
    lab.run("ip", "link", "add", "veth3f2a91c", "type", "veth", "peer", "veth-in-box")
    _without_link_local("veth3f2a91c")
    lab.run("ip", "link", "set", "veth3f2a91c", "master", "docker0", "up")
    for rule in (
        ("-N", "DOCKER"),
        ("-A", "POSTROUTING", "-s", "172.17.0.0/16", "!", "-o", "docker0", "-j", "MASQUERADE"),
        ("-A", "DOCKER", "!", "-i", "docker0", "-p", "tcp", "--dport", "6379",
         "-j", "DNAT", "--to-destination", "172.17.0.2:6379"),
    ):  # fmt: skip
        lab.run("iptables-nft", "-t", "nat", *rule)
    _bridge("virbr0", "192.168.122.1/24")
    lab.run("ip", "tuntap", "add", "vnet0", "mode", "tap")
    _without_link_local("vnet0")
    lab.run("ip", "link", "set", "vnet0", "master", "virbr0", "up")
    lab.run("iptables-nft", "-t", "nat", "-N", "LIBVIRT_PRT")
    lab.run(
        "iptables-nft", "-t", "nat", "-A", "LIBVIRT_PRT", "-s", "192.168.122.0/24",
        "!", "-d", "192.168.122.0/24", "-j", "MASQUERADE",
    )  # fmt: skip
    lab.run("ip", "tuntap", "add", "tap-foo", "mode", "tap")
    lab.run("ip", "link", "set", "tap-foo", "alias", "test bench, ask before removing")
    lab.run("nft", "add", "table", "ip", "office")
    hook = "{ type nat hook postrouting priority 110; }"
    lab.run("nft", "add", "chain", "ip", "office", "post", hook)
    rule = ("ip", "saddr", SUBNET, "oifname", "vpn0", "masquerade", "comment", "admins: VPN")
    lab.run("nft", "add", "rule", "ip", "office", "post", *[_quoted(word) for word in rule])


def _quoted(word: str) -> str:
    return f'"{word}"' if " " in word else word


def _bridge(name: str, address: str) -> None:
    lab.run("ip", "link", "add", name, "type", "bridge")
    _without_link_local(name)
    lab.run("ip", "addr", "add", address, "dev", name)
    lab.run("ip", "link", "set", name, "up")


def _without_link_local(name: str) -> None:
    """No address that changes by itself when duplicate address detection ends."""
    lab.run("ip", "link", "set", name, "addrgenmode", "none")


def hold(device: str) -> int:
    """Open a TAP as a hypervisor does; the descriptor, for the caller to close."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TAP | IFF_NO_PI))
    return descriptor


def drop_forwarding() -> None:
    """Docker's drop in FORWARD, for `doctor` to find."""
    for rule in (
        ("-N", "DOCKER-USER"),
        ("-A", "FORWARD", "-j", "DOCKER-USER"),
        ("-P", "FORWARD", "DROP"),
    ):
        lab.run("iptables-nft", *rule)
