"""Clients of DHCP and DNS for tests: what a guest is given, as one JSON object.

Run inside of a guest: ``nsenter -t PID -n python integration/lab/dhcp.py WHAT DEVICE …``. ``four``:
DISCOVER and REQUEST; ``reboot ADDRESS``: the REQUEST of a guest that had an address; ``six``: a
Solicit with rapid commit; ``client``, ``decline``, ``release``: as another guest; ``ask SERVER NAME TYPE``: a name of DNS. RFC 2131, 8415 and 1035.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
from ipaddress import IPv4Address, IPv6Address
from typing import Any

SO_BINDTODEVICE = 25
SECONDS, TRIES = 1.0, 5
COOKIE = b"\x63\x82\x53\x63"
WANTED = bytes([1, 3, 6, 12, 15, 26, 119])


def mac(device: str) -> bytes:
    """The MAC of a device of this namespace, whichever /sys is mounted."""
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        told = fcntl.ioctl(asked, 0x8927, struct.pack("256s", device.encode()))  # SIOCGIFHWADDR
    return told[18:24]


def received(client: socket.socket) -> bytes:
    """The next datagram; empty if none comes in time."""
    return client.recv(4096) if select.select([client], [], [], SECONDS)[0] else b""


class Four:
    """A client of DHCPv4."""

    def __init__(self, device: str, number: int) -> None:
        self.mac, self.number = mac(device), number
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, device.encode())
        self.socket.bind(("", 68))

    def ask(self, *options: tuple[int, bytes]) -> dict[int, bytes] | None:
        """The options of the answer; under 0 the address. None: nobody answers."""
        head = struct.pack("!BBBBIHH16x6s10x192x", 1, 1, 6, 0, self.number, 0, 0x8000, self.mac)
        body = b"".join(bytes([kind, len(data)]) + data for kind, data in options)
        for _ in range(TRIES):
            self.socket.sendto(head + COOKIE + body + b"\xff", ("255.255.255.255", 67))
            while answer := received(self.socket):
                if struct.unpack_from("!I", answer, 4)[0] == self.number:
                    return self._options(answer)
        return None

    @staticmethod
    def _options(answer: bytes) -> dict[int, bytes]:
        found, at = {0: answer[16:20]}, 240
        while at < len(answer) and answer[at] != 255:
            if answer[at]:
                found[answer[at]] = answer[at + 2 : at + 2 + answer[at + 1]]
                at += 1 + answer[at + 1]
            at += 1
        return found


def told4(found: dict[int, bytes]) -> dict[str, Any]:
    """The answer in words."""

    def address(kind: int) -> str:
        return str(IPv4Address(found[kind][:4])) if found.get(kind) else ""

    return {
        "type": {2: "offer", 5: "ack", 6: "nak"}[found[53][0]],
        "address": address(0), "mask": address(1), "router": address(3), "dns": address(6),
        "host": found.get(12, b"").decode(), "domain": found.get(15, b"").decode(),
        "mtu": int.from_bytes(found.get(26, b""), "big"), "search": found.get(119, b"").hex(),
        "seconds": int.from_bytes(found.get(51, b""), "big"),
    }  # fmt: skip


def four(device: str, *more: tuple[int, bytes]) -> dict[str, Any] | None:
    """A new guest."""
    client = Four(device, os.getpid())
    offer = client.ask((53, b"\x01"), (55, WANTED), *more)
    if offer is None:
        return None
    told = client.ask((53, b"\x03"), (50, offer[0]), (54, offer[54]), (55, WANTED), *more)
    return told and told4(told)


def reboot(device: str, address: str) -> dict[str, Any] | None:
    """A guest that had an address, and asks for it again."""
    packed = IPv4Address(address).packed
    told = Four(device, os.getpid()).ask((53, b"\x03"), (50, packed), (55, WANTED))
    return told and told4(told)


def frugal(device: str) -> dict[str, Any] | None:
    """A new guest that asks for what busybox' udhcpc does: not for the MTU."""
    wanted = (55, bytes([1, 3, 6, 12, 15, 28, 42]))
    found = Four(device, os.getpid()).ask((53, b"\x01"), wanted)
    return found and told4(found)


def client(device: str, number: str, address: str = "") -> dict[str, Any] | None:
    """A guest that says who it is by a client id, in hexadecimal; ``address`` is one that it had."""
    chosen = (61, bytes.fromhex(number))
    if not address:
        return four(device, chosen)
    wanted = (50, IPv4Address(address).packed)
    told = Four(device, os.getpid()).ask((53, b"\x03"), wanted, (55, WANTED), chosen)
    return told and told4(told)


def six(device: str, other: str = "") -> dict[str, Any] | None:
    """The addresses and the DNS servers of DHCPv6; who asks says that it is ``other``, by its MAC."""
    link = bytes.fromhex(other.replace(":", "")) or mac(device)
    options = [
        (1, b"\x00\x03\x00\x01" + link), (3, struct.pack("!III", 7, 0, 0)), (14, b""),
        (6, struct.pack("!HH", 23, 24)), (8, b"\x00\x00"),
    ]  # fmt: skip
    return asked6(device, 1, options)


def release(device: str, other: str, address: str, server: str) -> dict[str, Any] | None:
    """Say for another guest that it needs its address no more."""
    link = bytes.fromhex(other.replace(":", ""))
    lease = struct.pack("!HH", 5, 24) + IPv6Address(address).packed + bytes(8)
    options = [
        (1, b"\x00\x03\x00\x01" + link), (2, bytes.fromhex(server)),
        (3, struct.pack("!III", 7, 0, 0) + lease), (8, b"\x00\x00"),
    ]  # fmt: skip
    return asked6(device, 8, options)


def asked6(device: str, kind: int, options: list[tuple[int, bytes]]) -> dict[str, Any] | None:
    """What a server of DHCPv6 answers to a message; None: nobody does."""
    number = os.getpid() & 0xFFFFFF
    body = b"".join(struct.pack("!HH", one, len(data)) + data for one, data in options)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.bind(("::", 546))
        to = ("ff02::1:2", 547, 0, socket.if_nametoindex(device))
        for _ in range(TRIES):
            client.sendto(struct.pack("!I", kind << 24 | number) + body, to)
            answer = received(client)
            if answer[:1] == b"\x07" and int.from_bytes(answer[1:4], "big") == number:
                return told6(answer[4:])
    return None


def told6(body: bytes) -> dict[str, Any]:
    """The answer in words."""
    found: dict[str, Any] = {"addresses": [], "dns": [], "search": ""}
    for kind, data in parts(body):
        if kind == 2:
            found["server"] = data.hex()
        elif kind == 3:
            within = parts(data[12:])
            found["addresses"] += [str(IPv6Address(a[:16])) for k, a in within if k == 5]
        elif kind == 23:
            found["dns"] = [str(IPv6Address(data[n : n + 16])) for n in range(0, len(data), 16)]
        elif kind == 24:
            found["search"] = data.hex()
    return found


def parts(body: bytes) -> list[tuple[int, bytes]]:
    """Options of DHCPv6."""
    found, at = [], 0
    while at + 4 <= len(body):
        kind, size = struct.unpack_from("!HH", body, at)
        found.append((kind, body[at + 4 : at + 4 + size]))
        at += 4 + size
    return found


def ask(server: str, name: str, kind: str, protocol: str = "udp") -> dict[str, Any] | None:
    """The addresses of a name; of a PTR the code alone."""
    number, size = {"A": (1, 4), "AAAA": (28, 16), "PTR": (12, 0)}[kind]
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    query = struct.pack("!6H", 77, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, number, 1)
    family = socket.AF_INET6 if server.count(":") > 1 else socket.AF_INET
    answer = (by_stream if protocol == "tcp" else by_datagram)(family, server, query)
    if not answer:
        return None
    count = struct.unpack_from("!H", answer, 6)[0]
    made = IPv6Address if size == 16 else IPv4Address
    at, found = len(query), []
    for _ in range(count):
        at = behind_name(answer, at)
        told, length = struct.unpack_from("!H6xH", answer, at)
        at += 10
        if told == number and size:  # and not another name on the way
            found.append(str(made(answer[at : at + size])))
        at += length
    return {"code": answer[3] & 15, "addresses": found}


def behind_name(answer: bytes, at: int) -> int:
    """Where a name ends: in itself, or by a pointer to an earlier one."""
    while length := answer[at]:
        if length >= 0xC0:
            return at + 2
        at += 1 + length
    return at + 1


def by_datagram(family: socket.AddressFamily, server: str, query: bytes) -> bytes | None:
    """The answer; None if there is none."""
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        for _ in range(TRIES):
            client.sendto(query, (server, 53))
            if answer := received(client):
                return answer
    return None


def by_stream(family: socket.AddressFamily, server: str, query: bytes) -> bytes | None:
    """The same over TCP."""
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(SECONDS * TRIES)
        try:
            client.connect((server, 53))
            client.sendall(struct.pack("!H", len(query)) + query)
            return client.recv(4096)[2:]
        except OSError:
            return None


def decline(device: str, address: str, other: str) -> None:
    """Say for another guest, by its MAC, that somebody else has its address."""
    client = Four(device, os.getpid())
    client.mac = bytes.fromhex(other.replace(":", ""))
    server = IPv4Address(address).packed[:3] + b"\x01"
    client.ask((53, b"\x04"), (50, IPv4Address(address).packed), (54, server))


def main() -> None:
    """Do what the arguments say."""
    what, *rest = sys.argv[1:]
    if what == "four" and len(rest) > 1:  # with a host name of the guest's own choice
        found = four(rest[0], (12, rest[1].encode()))
    else:
        does: dict[str, Any] = {"four": four, "reboot": reboot, "six": six, "ask": ask}
        does |= {"decline": decline, "client": client, "release": release, "frugal": frugal}
        found = does[what](*rest)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
