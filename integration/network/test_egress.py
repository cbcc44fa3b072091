"""What guests may reach: egress policies with packets, on both backends and in both families.

The world (`eth0` of the neighbour) has addresses of the real internet, of private networks and of
metadata services, all behind the host's default route: only a policy keeps a guest from them.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from integration import lab
from integration.lab import HOST4, HOST6
from integration.lab.firewall_contract import (
    bridged_frames_see_iptables,
    checksum,
    inside,
    ipv4,
    ipv6,
    reach,
    udp,
)
from integration.lab.program import Forked, Program, preload
from integration.lab.vms import end_vms
from integration.network.test_guests_network import GUEST, GuestVm

GATEWAY4, GATEWAY6 = "10.77.0.1", "fd77::1"
INTERNET = {4: "8.8.4.4", 6: "2606:4700::4"}
METADATA4 = ("169.254.169.254", "169.254.42.42", "100.100.100.200")
METADATA6 = ("fd00:ec2::254", "fd20:ce::254")
PRIVATE4 = ("10.1.2.3", "172.16.9.9", "192.168.5.5", "100.64.0.9", "198.18.0.1", "168.63.129.16")
PRIVATE6 = ("fd12::5", "2001:db8:5::5", "2002:0a01:0203::1", "2001:2::1", "64:ff9b::a01:203")
WORLDLY = (*INTERNET.values(), *METADATA4, *METADATA6, *PRIVATE4, *PRIVATE6)
# Seconds. What passes goes through a guest's process, which a busy machine lets wait: it has time.
PATIENCE, LONG = 0.3, 20.0  # for what is to be dropped, for what is to pass


@pytest.fixture
def hvtx(firewall: str, world: lab.Namespace) -> Iterator[Program]:
    preload()
    lab.duplicate_detection("1")
    bridged_frames_see_iptables(False)
    for address in WORLDLY:
        length = "128" if ":" in address else "32"
        more = ["nodad"] if ":" in address else []
        world.run("ip", "addr", "add", f"{address}/{length}", "dev", "eth0", *more)
    world.run("ip", "route", "add", "10.77.0.0/16", "via", HOST4)
    world.run("ip", "-6", "route", "add", "fd77::/16", "via", HOST6)
    program = Forked(HVTX_FIREWALL=firewall)
    yield program
    end_vms(program)


def network(hvtx: Program, name: str, number: int, *more: str) -> None:
    subnets = ("--subnet", f"10.77.{number}.0/24", "--subnet", f"fd77:{number}::/64")
    hvtx("network", "create", name, *subnets, *more)


def run(hvtx: Program, name: str, of: str, *more: str) -> GuestVm:
    hvtx("vm", "run", name, "--network", of, *more, "--", sys.executable, str(GUEST))
    return GuestVm(hvtx, name)


def answers(
    guest: GuestVm, there: object, address: str, port: int = 443, protocol: str = "tcp",
    *, patience: float = LONG,
) -> bool:  # fmt: skip
    return (
        reach(guest, there, protocol, address, port, port, patience=patience, listen=address)  # type: ignore[arg-type]
        is not None
    )


def silent(*flow: Any) -> bool:
    """Whether nothing answers, for as long as a test waits for what is dropped."""
    return not answers(*flow, patience=PATIENCE)


def reached(
    guest: GuestVm, world: lab.Namespace, addresses: tuple[str, ...], open_: Collection[str]
) -> set[str]:
    """Those that answer; for the ones that are to be open it is waited longer."""
    return {
        address
        for address in addresses
        if answers(guest, world, address, patience=LONG if address in open_ else PATIENCE)
    }


def reaches_only(
    guest: GuestVm, world: lab.Namespace, addresses: tuple[str, ...], wanted: set[str]
) -> None:
    """Of the addresses these answer, and no other."""
    assert reached(guest, world, addresses, wanted) == wanted


def echoes(guest: GuestVm, address: str) -> bool:
    """Whether an echo request (of ICMP or ICMPv6) is answered."""
    six = ":" in address
    with inside(guest):  # type: ignore[arg-type]
        family, protocol = (socket.AF_INET6, 58) if six else (socket.AF_INET, 1)
        raw = socket.socket(family, socket.SOCK_RAW, protocol)
    with raw:
        raw.settimeout(LONG)
        raw.connect((address, 0))
        body = bytes((128 if six else 8, 0, 0, 0, 0x13, 0x37, 0, 1))
        raw.send(body if six else body[:2] + checksum(body).to_bytes(2, "big") + body[4:])
        try:
            while True:
                answer = raw.recv(1500)[0 if six else 20 :]
                if answer[0] == (129 if six else 0):
                    return True
        except OSError:
            return False


def test_open_reaches_all_but_link_local_and_metadata(hvtx: Program, world: lab.Namespace) -> None:
    network(hvtx, "net", 0)
    guest = run(hvtx, "a", "net")
    reaches_only(guest, world, (*METADATA4, *METADATA6), set())
    rest = (*INTERNET.values(), *PRIVATE4, *PRIVATE6)
    reaches_only(guest, world, rest, set(rest))
    assert answers(guest, None, GATEWAY4, 8000)
    assert hvtx("vm", "show", "a", "--json").json()["resources"] != []
    kinds = [row["key"] for row in hvtx("vm", "show", "a", "--json").json()["resources"]]
    assert not any("egress" in key for key in kinds)  # a guest without a policy costs nothing


def test_internet_reaches_the_world_only(hvtx: Program, world: lab.Namespace) -> None:
    network(hvtx, "net", 0, "--egress", "internet")
    network(hvtx, "near", 1)
    guest, other, near = run(hvtx, "a", "net"), run(hvtx, "b", "net"), run(hvtx, "c", "near")
    reaches_only(guest, world, WORLDLY, set(INTERNET.values()))
    for there, address in ((None, HOST4), (None, GATEWAY4), (None, HOST6), (None, "fd77:0::1"),
                           (near, near.ipv4), (near, near.ipv6), (None, "10.77.1.1")):  # fmt: skip
        for protocol in ("tcp", "udp"):
            assert silent(guest, there, address, 8000, protocol), (address, protocol)
    for address in (GATEWAY4, "fd77:0::1"):
        assert answers(guest, None, address, 53, "udp")
        assert answers(guest, None, address, 53, "tcp")
        assert echoes(guest, address)
    assert silent(guest, None, HOST4, 53, "udp")  # of another address than the bridge's
    assert answers(guest, other, other.ipv4, 8000)
    assert answers(guest, other, other.ipv6, 8000)
    assert answers(near, None, "10.77.1.1", 8000)  # the neighbour network is as it was


def test_what_is_allowed_is_all_that_opens(hvtx: Program, world: lab.Namespace) -> None:
    network(
        hvtx, "net", 0, "--egress", "internet", "--allow", "192.168.5.0/24:443/tcp",
        "--allow", "169.254.169.254:443", "--allow", "[fd12::5]:443", "--allow", f"{HOST4}:8000",
    )  # fmt: skip
    network(hvtx, "near", 1)
    near = run(hvtx, "c", "near")
    guest = run(hvtx, "a", "net")
    opened = {"192.168.5.5", "169.254.169.254", "fd12::5"}
    reaches_only(guest, world, WORLDLY, {*INTERNET.values(), *opened})
    assert silent(guest, world, "192.168.5.5", 444)
    assert silent(guest, world, "192.168.5.5", 443, "udp")
    assert answers(guest, world, "fd12::5", 443, "udp")
    assert answers(guest, None, HOST4, 8000)
    assert silent(guest, None, HOST4, 8001)
    assert silent(guest, near, near.ipv4, 8000)
    # a VM's own rules come before its network's, and open a neighbour's guest
    own = run(
        hvtx, "d", "net", "--allow", f"{near.ipv4}:8000", "--deny", "192.168.5.5",
        "--allow", f"[{near.ipv6}]:8000",
    )  # fmt: skip
    assert answers(own, near, near.ipv4, 8000)
    assert answers(own, near, near.ipv6, 8000)
    assert silent(own, near, near.ipv4, 8001)
    reaches_only(own, world, WORLDLY, {*INTERNET.values(), *opened} - {"192.168.5.5"})


def test_a_vm_has_a_policy_of_its_own_in_an_open_network(
    hvtx: Program, world: lab.Namespace
) -> None:
    network(hvtx, "net", 0)
    shut = run(hvtx, "a", "net", "--egress", "none", "--allow", "8.8.4.4:443")
    free = run(hvtx, "b", "net")
    reaches_only(shut, world, WORLDLY, {"8.8.4.4"})
    assert silent(shut, None, GATEWAY4, 8000)
    assert answers(shut, None, GATEWAY4, 53, "udp")
    assert answers(shut, free, free.ipv4, 8000)
    reaches_only(free, world, tuple(INTERNET.values()), set(INTERNET.values()))
    assert answers(free, None, GATEWAY4, 8000)
    counted = hvtx("vm", "show", "a", "--json").json()["interfaces"][0]["egress"]
    assert counted["mode"] == "none"
    assert counted["from"] == "vm"
    assert counted["dropped"]["packets"] > 0
    found = hvtx("doctor", "--json", code=None).json()["findings"]
    assert [f for f in found if f["check"] == "forward" and f["level"] == "error"] == []
    assert any(f["check"] == "egress" and f["evidence"] for f in found)
    assert hvtx("repair").out.strip() == "nothing is missing"
    hvtx("vm", "stop", "a", "--force")
    hvtx("vm", "start", "a")
    again = GuestVm(hvtx, "a")
    reaches_only(again, world, (*INTERNET.values(), *PRIVATE4), {"8.8.4.4"})


def test_denials_come_first(hvtx: Program, world: lab.Namespace) -> None:
    network(hvtx, "net", 0, "--deny", "10.1.0.0/16:400-500", "--deny", "fd12::/16",
            "--deny", f"{GATEWAY4}:8000", "--allow", "10.0.0.0/8:443")  # fmt: skip
    guest = run(hvtx, "a", "net")
    reaches_only(guest, world, ("10.1.2.3", "fd12::5", "192.168.5.5"), {"192.168.5.5"})
    assert answers(guest, world, "10.1.2.3", 501)
    assert silent(guest, None, GATEWAY4, 8000)
    assert answers(guest, None, GATEWAY4, 8001)


@contextlib.contextmanager
def talking(
    guest: GuestVm, world: lab.Namespace, address: str
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """An established connection of the guest's: its end, and the world's."""
    with inside(world):
        door = socket.create_server((address, 443))
    with inside(guest):  # type: ignore[arg-type]
        near = socket.create_connection((address, 443), timeout=LONG)
    far, _ = door.accept()
    door.close()
    with near, far:
        yield near, far


def goes_on(near: socket.socket, far: socket.socket, *, patience: float = LONG) -> bool:
    """Whether what one end sends now still arrives at the other."""
    near.settimeout(patience)
    far.settimeout(patience)
    with contextlib.suppress(OSError):
        near.sendall(b"more")
        return far.recv(4) == b"more"
    return False


def test_a_living_guest_is_limited_and_its_refused_flows_end(
    hvtx: Program, world: lab.Namespace
) -> None:
    network(hvtx, "net", 0)
    guest = run(hvtx, "a", "net")
    with talking(guest, world, "10.1.2.3") as private, talking(guest, world, "8.8.4.4") as public:
        limited_while_it_talks(hvtx, guest, world, private, public)
    hvtx("network", "set", "net", "--no-egress")
    assert answers(guest, world, "192.168.5.5")
    hvtx("vm", "stop", "a", "--force")
    hvtx("vm", "rm", "a")
    hvtx("network", "rm", "net")
    assert hvtx("gc", "--plan", "--json").json()["items"] == []


def limited_while_it_talks(
    hvtx: Program,
    guest: GuestVm,
    world: lab.Namespace,
    private: tuple[socket.socket, socket.socket],
    public: tuple[socket.socket, socket.socket],
) -> None:
    hvtx("vm", "set", "a", "--egress", "internet", "--allow", "192.168.5.5")
    reaches_only(guest, world, WORLDLY, {*INTERNET.values(), "192.168.5.5"})
    assert not goes_on(*private, patience=PATIENCE)
    assert goes_on(*public)
    shown = hvtx("vm", "show", "a", "--json").json()["interfaces"][0]["egress"]
    assert (shown["mode"], shown["from"], shown["rules"]) == (
        "internet",
        "vm",
        ["allow 192.168.5.5"],
    )
    assert shown["dropped"]["packets"] > 0
    hvtx("vm", "set", "a", "--no-egress", "--no-rules")
    assert answers(guest, world, "10.1.2.3")
    hvtx("network", "set", "net", "--egress", "none", "--allow", "8.8.4.4:443/tcp")
    reaches_only(guest, world, WORLDLY, {"8.8.4.4"})
    assert goes_on(*public)
    shown = hvtx("vm", "show", "a", "--json").json()["interfaces"][0]["egress"]
    assert (shown["mode"], shown["from"]) == ("none", "network")
    assert shown["dropped"]["packets"] > 0, "it is counted from its network's first policy on"
    hvtx("network", "set", "net", "--no-rules")
    reaches_only(guest, world, WORLDLY, set())
    assert not goes_on(*public, patience=PATIENCE)


def test_a_change_that_is_killed_opens_nothing(
    hvtx: Program, world: lab.Namespace, tmp_path: Path
) -> None:
    """Killed at each point: what neither policy allows stays shut, and `recover` ends at one."""
    network(hvtx, "net", 0)
    guest = run(
        hvtx, "a", "net", "--egress", "internet", "--deny", "8.8.4.4", "--allow", "10.1.2.3"
    )
    before, after = {"2606:4700::4", "10.1.2.3"}, {"192.168.5.5"}
    asked = (*INTERNET.values(), "10.1.2.3", "192.168.5.5", "172.16.9.9")
    change = ("vm", "set", "a", "--no-rules", "--egress", "none", "--allow", "192.168.5.5:443")
    back = ("vm", "set", "a", "--no-rules", "--egress", "internet", "--deny", "8.8.4.4",
            "--allow", "10.1.2.3")  # fmt: skip
    log = tmp_path / "points"
    hvtx(*change, HVTX_FAILPOINT_LOG=str(log))
    points = list(dict.fromkeys(log.read_text().split()))
    assert "flushing:refused" in points

    def seen() -> set[str]:
        """What answers; what a busy machine has let wait is asked once more, with time."""
        found = reached(guest, world, asked, ())
        return found if found in (before, after) else reached(guest, world, asked, asked)

    for point in points:
        hvtx(*back)
        hvtx(*change, code=None, HVTX_FAILPOINT=f"{point}:kill")
        assert seen() in (before, after), point
        hvtx("recover")
        assert seen() in (before, after), point
        assert hvtx("repair").out.strip() == "nothing is missing", point


def raw_packets(guest: GuestVm, *packets: bytes) -> None:
    """Send whole packets, as they are, by the guest's own routes."""
    with inside(guest):  # type: ignore[arg-type]
        four = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        six = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
    with four, six:
        for packet in packets:
            if packet[0] >> 4 == 4:
                four.sendto(packet, (socket.inet_ntoa(packet[16:20]), 0))
            else:
                six.sendto(packet, (socket.inet_ntop(socket.AF_INET6, packet[24:40]), 0))


def in_fragments(packet: bytes) -> list[bytes]:
    """An IPv4 packet as two."""
    head, body = packet[:20], packet[20:]
    return [
        head[:2] + (20 + len(part)).to_bytes(2, "big") + b"\x13\x37" + field + head[8:10] + b"\0\0"
        + head[12:] + part
        for part, field in ((body[:16], b"\x20\0"), (body[16:], b"\0\x02"))
    ]  # fmt: skip


def in_fragments6(source: str, to: str, body: bytes) -> list[bytes]:
    """A UDP datagram of IPv6 in two packets, behind an option for the way."""
    way = bytes((44, 0, 1, 4, 0, 0, 0, 0))  # hop-by-hop, then a fragment header
    return [
        ipv6(
            source, to, 0, way + bytes((17, 0)) + field.to_bytes(2, "big") + b"\0\0\x13\x37" + part
        )
        for part, field in ((body[:16], 1), (body[16:], 16))
    ]


def source_routed(source: str, by: str, to: str, body: bytes) -> bytes:
    """An IPv4 packet to ``by``, which is to be led on to ``to`` (LSRR)."""
    whole = ipv4(source, by, 17, body)
    options = bytes((131, 7, 4)) + socket.inet_aton(to) + b"\0"
    head = bytes((0x47,)) + whole[1:2] + (len(whole) + 8).to_bytes(2, "big") + whole[4:10]
    return head + b"\0\0" + whole[12:20] + options + body


def test_no_shape_of_a_packet_gets_past(hvtx: Program, world: lab.Namespace) -> None:
    """Fragments, options, extension headers, source routes: to the world yes, elsewhere no."""
    for name in ("all", "default"):
        path = Path(f"/proc/sys/net/ipv4/conf/{name}/accept_source_route")
        path.write_text("1")
    for name in ("all", "eth0"):  # who is led to takes it
        world.run("sh", "-c", f"echo 1 > /proc/sys/net/ipv4/conf/{name}/accept_source_route")
    # what is led on by its options still is for the gateway when rules are asked
    network(hvtx, "net", 0, "--egress", "internet", "--allow", f"{GATEWAY4}:443")
    guest = run(hvtx, "a", "net")
    payload = b"sixteen bytes and some"
    wanted = {"8.8.4.4", "2606:4700::4"}
    with contextlib.ExitStack() as stack:
        doors = {}
        for address in ("8.8.4.4", "10.1.2.3", "2606:4700::4", "fd12::5"):
            with inside(world):
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                door = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            door.bind((address, 443))
            door.settimeout(LONG if address in wanted else PATIENCE)
            doors[address] = door
        for address in ("8.8.4.4", "10.1.2.3"):
            datagram = udp(guest.ipv4, address, (5000, 443), payload)
            raw_packets(
                guest,
                *in_fragments(ipv4(guest.ipv4, address, 17, datagram)),
                source_routed(guest.ipv4, GATEWAY4, address, datagram),
                source_routed(guest.ipv4, "8.8.4.4", address, datagram),
            )
        for address in ("2606:4700::4", "fd12::5"):
            datagram = udp(guest.ipv6, address, (5000, 443), payload)
            raw_packets(guest, *in_fragments6(guest.ipv6, address, datagram))
        assert {a for a, door in doors.items() if arrived(door)} == wanted


def arrived(door: socket.socket) -> bool:
    with contextlib.suppress(OSError):
        return bool(door.recv(100))
    return False
