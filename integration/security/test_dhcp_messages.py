"""What guests say by DHCP: it fills no log of the host, and nobody of them is a relay.

dnsmasq tells of each message with which something is wrong, `quiet-dhcp` or not. It would speak to
`/dev/log`, which is the test's own here: in namespaces of processes, mounts and network.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from integration import lab
from integration.lab.dhcp import COOKIE
from integration.lab.firewall_contract import ether, inside, udp4
from integration.lab.isolated import run_alone
from integration.lab.program import Forked, Program, preload
from integration.network.test_dhcp import Guest, end, network, start
from integration.security.test_fail_closed import bridge_of, mac_of

COUNT = 15000  # datagrams, of which most are told of in more than a hundred bytes
GATEWAY = IPv4Address("10.77.0.1").packed
LIMIT = 1 << 20  # bytes of a network's log, both halves
Messages = Callable[[bytes, bytes], bytes]  # of a guest's MAC and address


def message(
    mac: bytes,
    kind: int,
    *options: tuple[int, bytes],
    own: bytes = bytes(4),
    relay: bytes = bytes(4),
) -> bytes:
    """One that a client sends, from its address if it says that it has one, or a relay for it."""
    head = struct.pack("!BBBBIHH4s8x4s6s10x192x", 1, 1, 6, 0, 7, 0, 0, own, relay, mac)
    body = b"".join(bytes([number, len(data)]) + data for number, data in options)
    return head + COOKIE + bytes([53, 1, kind]) + body + b"\xff"


def release(mac: bytes, own: bytes) -> bytes:
    """It gives up what it has no more."""
    return message(mac, 7, (54, GATEWAY), own=own)


def decline(mac: bytes, own: bytes) -> bytes:
    """Somebody else is said to have its address, in words of its own."""
    return message(mac, 4, (54, GATEWAY), (50, own), (56, b"the words of a guest " * 9))


def elsewhere(mac: bytes, own: bytes) -> bytes:
    """It asks for an address of a subnet that is not there."""
    return message(mac, 1, (118, IPv4Address("198.51.100.0").packed))


FLOODS: dict[str, Messages] = {"release": release, "decline": decline, "elsewhere": elsewhere}


class Syslog:
    """Whoever reads `/dev/log` of a host."""

    def __init__(self, place: Path) -> None:
        """`/dev` of this mount namespace becomes one that holds what programs need, and the log."""
        there = place / "dev"
        there.mkdir()
        for name in ("null", "zero", "random", "urandom"):
            (there / name).touch()
            lab.run("mount", "--bind", f"/dev/{name}", str(there / name))
        for name in ("net", "shm"):
            (there / name).mkdir()
            lab.run("mount", "--bind", f"/dev/{name}", str(there / name))
        (there / "fd").symlink_to("/proc/self/fd")
        lab.run("mount", "--rbind", str(there), "/dev")
        self.lines: list[str] = []
        self._ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ear.bind("/dev/log")
        os.chmod("/dev/log", 0o666)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            self.lines.append(self._ear.recv(1 << 16).decode(errors="replace"))

    def told_by_dnsmasq(self) -> list[str]:
        return [line for line in self.lines if "dnsmasq" in line]


def flood(guest: Guest, bridge: str, make: Messages, count: int, port: int = 68) -> None:
    mac = guest.shown["interfaces"][0]["mac"]
    raw = bytes.fromhex(mac.replace(":", ""))
    body = make(raw, IPv4Address(guest.ipv4).packed)
    frame = ether(mac, mac_of(bridge), 0x0800, udp4(guest.ipv4, "10.77.0.1", (port, 67), body))
    with inside(guest), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:  # type: ignore[arg-type]
        wire.bind(("eth0", 0))
        for number in range(count):
            wire.send(frame)
            if number % 20 == 19:
                time.sleep(0.002)  # the guest moves frames one by one


def logs() -> list[Path]:
    return sorted(Path(os.environ["HVTX_RUN_DIR"]).glob("*/networks/*/log*"))


@pytest.mark.parametrize("what", FLOODS)
def test_what_guests_say_by_dhcp_fills_no_log(tmp_path: Path, what: str) -> None:
    """It is served all the same, and who looks finds the last of it in the network's log."""

    def part() -> dict[str, Any]:
        syslog = Syslog(tmp_path)
        preload()
        hvtx = Forked(HVTX_DHCP="auto")
        network(hvtx, "--subnet", "10.77.0.0/24")
        web = start(hvtx, "web")
        assert web.does("four", "eth0")["address"] == web.ipv4
        flood(web, bridge_of(hvtx), FLOODS[what], COUNT)
        web_again = web.does("four", "eth0")
        found = {
            "again": what == "decline" or (web_again or {}).get("address") == web.ipv4,
            "syslog": len(syslog.told_by_dnsmasq()), "bytes": [one.stat().st_size for one in logs()],
        }  # fmt: skip
        end(hvtx)
        return found

    found = run_alone(part)
    lab.tell(**found)
    assert found["again"], found
    assert found["syslog"] == 0, found
    assert 0 < sum(found["bytes"]) <= LIMIT, found


@pytest.fixture
def hvtx(firewall: str) -> Iterator[Program]:
    """The program with DHCP, on each backend."""
    preload()
    found = Forked(HVTX_FIREWALL=firewall, HVTX_DHCP="auto")
    yield found
    end(found)


def relayed(mac: bytes, own: bytes) -> bytes:
    """It says that it asks for a client behind it."""
    return message(mac, 1, relay=own)


def test_a_guest_is_no_relay(hvtx: Program) -> None:
    """dnsmasq would answer to whatever address a relay says that it has."""
    network(hvtx, "--subnet", "10.77.0.0/24")
    web = start(hvtx, "web")
    web.take()
    with inside(web):  # type: ignore[arg-type]
        ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with ear:
        ear.bind((web.ipv4, 67))
        ear.connect(("10.77.0.1", 67))
        flood(web, bridge_of(hvtx), relayed, 20, port=1067)
        assert web.does("four", "eth0")["address"] == web.ipv4, "what came first is answered by now"
        ear.setblocking(False)
        with pytest.raises(BlockingIOError):
            ear.recv(2000)


STRICT = """table inet theirs {
 chain in {
  type filter hook input priority 0; policy drop
  ct state established,related accept
  iifname "lo" accept
  meta l4proto ipv6-icmp accept
  udp dport { 53, 67, 547 } ct state new accept
 }
}
"""


def test_a_firewall_that_lets_pass_what_is_new_serves_dhcp(hvtx: Program) -> None:
    """What a guest sends from a link-local address is not tracked, but for this."""
    network(hvtx)
    lab.run("nft", "-f", "-", stdin=STRICT)
    web = start(hvtx, "web")
    web.link()
    assert web.does("four", "eth0")["address"] == web.ipv4
    assert web.does("six", "eth0")["addresses"] == [web.ipv6]
