"""A resolver for tests, which a network's dnsmasq forwards to: ``python resolver.py ADDRESS FILE``.

It answers over UDP, from a JSON object ``{name: [address, …, "=another name", …]}`` in FILE, which
is read anew for every question. Without a name it says that there is none. RFC 1035.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
from ipaddress import ip_address
from pathlib import Path

A, CNAME, AAAA = 1, 5, 28
SECONDS = 300  # how long an answer may be kept, as it says


def asked(data: bytes) -> tuple[str, int, int]:
    """The name and the type that a question is about, and where it ends."""
    labels, at = [], 12
    while length := data[at]:
        labels.append(data[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return ".".join(labels).lower(), struct.unpack_from("!H", data, at + 1)[0], at + 5


def named(name: str) -> bytes:
    """A name as it stands in an answer."""
    labels = [bytes([len(label)]) + label.encode() for label in name.split(".")]
    return b"".join(labels) + b"\0"


def record(name: str, kind: int, data: bytes) -> bytes:
    """A record of an answer."""
    return named(name) + struct.pack("!HHIH", kind, 1, SECONDS, len(data)) + data


def records(known: dict[str, list[str]], name: str, kind: int) -> list[bytes]:
    """What is answered, with the chain of names that leads to it."""
    found = []
    for value in known.get(name, ()):
        if value.startswith("="):
            found.append(record(name, CNAME, named(value[1:])))
            found += records(known, value[1:], kind)
            continue
        address = ip_address(value)
        if kind == (A if address.version == 4 else AAAA):
            found.append(record(name, kind, address.packed))
    return found


def main(address: str, path: str) -> None:
    """Answer until somebody ends it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, 53))
        sys.stdout.write("it answers\n")
        sys.stdout.flush()
        while True:
            data, who = server.recvfrom(4096)
            known = json.loads(Path(path).read_text())
            name, kind, end = asked(data)
            found = records(known, name, kind)
            code = 0 if name in known else 3
            head = struct.pack("!HHHHH", 0x8180 | code, 1, len(found), 0, 0)
            server.sendto(data[:2] + head + data[12:end] + b"".join(found), who)


if __name__ == "__main__":
    main(*sys.argv[1:])
