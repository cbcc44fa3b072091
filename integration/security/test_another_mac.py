"""A TAP device with the MAC address of another guest: what its process could get by one ioctl.

Whoever has a TAP open may change its address (SIOCSIFHWADDR on the descriptor asks for nothing),
and the bridge then sends what is for that address there, or keeps it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator

import pytest

from integration import lab
from integration.lab.frames import bare, packed_mac, packet4
from integration.lab.program import Program
from integration.lab.vms import alone, findings
from integration.lab.waiting import until
from integration.security.test_frames import NO_GSO, Air, laboratory, tap

SIOCSIFHWADDR = 0x8924
TAKES = """
import errno, fcntl, os, struct, sys, time
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", sys.argv[1].encode(), 0x5002))  # TUNSETIFF
mac = bytes.fromhex("020000000099")
try:
    fcntl.ioctl(tap, 0x8924, struct.pack("16sH6s8x", b"", 1, mac))
    print("taken", flush=True)
except OSError as problem:
    print(errno.errorcode[problem.errno], flush=True)
time.sleep(600)
"""


@pytest.fixture(params=["nftables", "iptables"])
def hvtx(request: pytest.FixtureRequest, world: lab.Namespace) -> Iterator[Program]:
    with alone(str(request.param)) as made:
        yield made


def test_a_vm_process_gives_its_device_no_other_address(hvtx: Program) -> None:
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    words = ("--network", "net", "--", sys.executable, "-c", TAKES, "{tap}")
    hvtx("vm", "run", "web", *words)
    until("it has tried", lambda: hvtx("vm", "logs", "web").out)
    assert hvtx("vm", "logs", "web").out == "EPERM\n"
    assert "02:00:00:00:00:99" not in lab.run("ip", "link")
    assert [f["level"] for f in findings(hvtx, "damage")] == ["ok"]


def take_address(descriptor: int, mac: str) -> None:
    """As a user without any capability, who has a TAP open."""
    pid = os.fork()
    if pid == 0:
        os.setresuid(54321, 54321, 54321)
        fcntl.ioctl(descriptor, SIOCSIFHWADDR, struct.pack("16sH6s8x", b"", 1, packed_mac(mac)))
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def came(air: Air, fence: bytes, *, at: str) -> list[tuple[str, bytes]]:
    """What has come until one frame was seen somewhere."""
    found: list[tuple[str, bytes]] = []
    for _ in range(300):
        found += air.frames()
        if any(where == at and fence in frame for where, frame in found):
            return found
        time.sleep(0.02)
    raise AssertionError(f"{fence!r} is not seen at {at}")


def test_what_is_for_one_guest_comes_to_no_other(hvtx: Program, world: lab.Namespace) -> None:
    """A process that hvtx did not start has the other's address; `doctor` tells, `repair` ends it."""
    with laboratory(hvtx, world) as air, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
        for guest in (air.one, air.two):
            to = ("lladdr", guest.mac, "dev", air.bridge, "nud", "permanent")
            lab.run("ip", "neigh", "replace", guest.ipv4, *to)
        take_address(air.own, air.two.mac)
        assert air.two.mac in lab.run("ip", "link", "show", air.one.device), "the kernel lets it"
        for _ in range(3):
            host.sendto(b"for the other", (air.two.ipv4, 9))
        host.sendto(b"for the one", (air.one.ipv4, 9))
        seen = came(air, b"for the one", at="itself")
        assert not [where for where, frame in seen if b"for the other" in frame]
        (told,) = [f for f in findings(hvtx, "damage") if air.one.device in f["message"]]
        assert told["hint"] == "hvtx repair"
        hvtx("repair")
        air.wait()
        host.sendto(b"once more", (air.two.ipv4, 9))
        came(air, b"once more", at="guest")


def test_what_the_bridge_sends_to_all_ports_comes_to_its_guest(
    hvtx: Program, world: lab.Namespace
) -> None:
    """What is for a guest that was silent for long is sent to every port, from host and guests."""
    with laboratory(hvtx, world) as air, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
        to = ("lladdr", air.two.mac, "dev", air.bridge, "nud", "permanent")
        lab.run("ip", "neigh", "replace", air.two.ipv4, *to)
        hvtx("vm", "create", "three", "--network", "net", "--hypervisor", "external")
        hvtx("vm", "start", "three")
        third = hvtx.vm("three")["interfaces"][0]
        descriptor = tap(third["device"])
        try:
            until("it is up", lambda: "LOWER_UP" in lab.run("ip", "link", "show", third["device"]))
            packet = packet4(third["ipv4"], air.two.ipv4, 253, b"from a guest")
            air.wait()
            for fence in (b"from the host", b"from a guest"):
                lab.run("bridge", "fdb", "del", air.two.mac, "dev", air.two.device, "master")
                if fence == b"from a guest":
                    frame = bare(third["mac"], air.two.mac, 0x0800, packet)
                    os.write(descriptor, NO_GSO + frame)
                else:
                    host.sendto(fence, (air.two.ipv4, 9))
                seen = came(air, fence, at="guest")
                assert {where for where, frame in seen if fence in frame} == {"guest"}
                air.wait()
        finally:
            os.close(descriptor)
