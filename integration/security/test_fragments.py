"""Memory for packets that are put together: all who speak to the host share it, guests too.

docs/security.md says so, and what an administrator can do; here is what it does.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import lab
from integration.lab.firewall_contract import (
    LONG,
    QUICK,
    bridged_frames_see_iptables,
    checksum,
    ether,
    inside,
    ipv6,
)
from integration.lab.program import Program
from integration.network.test_guests_network import GuestVm, make_network, run
from integration.security.test_fail_closed import bridge_of, mac_of, program

GATEWAY4, GATEWAY6 = "10.77.0.1", "fd77::1"
COUNT = 8000  # first fragments, each of another packet: more than there is room for
# what the page tells an administrator to do
NO_FRAGMENTS = """table bridge no-fragments {
 chain prerouting {
  type filter hook prerouting priority -310
  iifname "hv*" ip frag-off & 0x3fff != 0 drop
  iifname "hv*" exthdr frag exists drop
 }
}
"""


@pytest.fixture
def hvtx(firewall: str, world: lab.Namespace) -> Iterator[Program]:
    bridged_frames_see_iptables(False)
    with program(firewall) as found:
        make_network(found)
        yield found


def first4(source: str, target: str, number: int) -> bytes:
    """The first fragment of a packet of which no more comes."""
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + 1400, number, 0x2000, 64, 17, 0)
    head += socket.inet_aton(source) + socket.inet_aton(target)
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + bytes(1400)


def first6(source: str, target: str, number: int) -> bytes:
    head = struct.pack(">BBHIHHHH", 17, 0, 1, number, 7, 8, 4000, 0)
    return ipv6(source, target, 44, head + bytes(1400))


def flood(guest: GuestVm, bridge: str, family: int) -> None:
    """Packets of which the rest never comes, to the gateway."""
    mac = mac_of(bridge)
    make, kind = (first4, 0x0800) if family == 4 else (first6, 0x86DD)
    source, target = (guest.ipv4, GATEWAY4) if family == 4 else (guest.ipv6, GATEWAY6)
    with inside(guest), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:  # type: ignore[arg-type]
        wire.bind(("eth0", 0))
        for number in range(COUNT):
            wire.send(ether(guest.mac, mac, kind, make(source, target, number)))
            if number % 50 == 49:
                time.sleep(0.002)  # the guest moves frames one by one


def heard(client: lab.Namespace, address: str, patience: float) -> bool:
    """Whether the host hears a datagram that comes in three fragments."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside(client):
        caller = socket.socket(family, socket.SOCK_DGRAM)
    with socket.socket(family, socket.SOCK_DGRAM) as service, caller:
        service.bind((address, 7000))
        service.settimeout(patience)
        caller.sendto(b"x" * 4000, (address, 7000))
        try:
            return len(service.recv(5000)) == 4000
        except TimeoutError:
            return False


def used(family: int) -> int:
    """Bytes that wait to be put together."""
    lines = Path(f"/proc/thread-self/net/sockstat{'' if family == 4 else '6'}").read_text()
    line = next(one for one in lines.splitlines() if one.startswith("FRAG"))
    return int(line.split()[-1])


@pytest.mark.parametrize("family", [4, 6])
def test_fragments_of_a_guest_leave_others_no_room(
    hvtx: Program, world: lab.Namespace, family: int
) -> None:
    one = run(hvtx, "one")
    host = lab.HOST4 if family == 4 else lab.HOST6
    assert heard(world, host, LONG)
    flood(one, bridge_of(hvtx), family)
    lab.tell(used=used(family), heard=heard(world, host, QUICK))
    assert not heard(world, host, QUICK)


@pytest.mark.parametrize("family", [4, 6])
def test_where_guests_may_send_none_others_have_all_the_room(
    hvtx: Program, world: lab.Namespace, family: int
) -> None:
    lab.run("nft", "-f", "-", stdin=NO_FRAGMENTS)
    one = run(hvtx, "one")
    flood(one, bridge_of(hvtx), family)
    host = lab.HOST4 if family == 4 else lab.HOST6
    lab.tell(used=used(family))
    assert heard(world, host, LONG)
