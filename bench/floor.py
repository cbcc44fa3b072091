"""The floor: the system calls that no implementation can do without, with buffers made before."""

from __future__ import annotations

import os
import socket
import sqlite3
import struct
import time
from contextlib import closing
from typing import TYPE_CHECKING

from hvtx.host import nfmessages, nfnumbers, tun
from hvtx.host.netlink import ACK, DUMP, REQUEST, attribute, message, text, u32
from hvtx.host.tun import IFF_NO_PI, IFF_TAP, IFF_VNET_HDR
from hvtx.rulesets.nftables_base import SKELETONS
from hvtx.rulesets.nftables_elements import pieces
from hvtx.rulesets.nftables_layout import table_name

if TYPE_CHECKING:
    from bench.population import World

_ROUTE, _NETFILTER = 0, 12
_NEWLINK, _GETLINK = 16, 18
_DONE, _ERROR = 3, 2
_GETFLOWS = 0x101  # ctnetlink
_PAGE = b"\0" * 4096
_NAME, _INDEX = "hvfloor", (1 << 23) + 7
_GENMSG = struct.Struct(">BBH")


class Floor:
    """One device, its elements and two durable writes, without any of hvtx around them."""

    def __init__(self, world: World) -> None:
        """Encode everything; the calling thread is in the world's namespace."""
        self.world = world
        self.laps: dict[str, float] = {}  # "start: elements" -> seconds; what the limit is made of
        with closing(self._store()) as sql:
            self.installation: str = sql.execute("SELECT installation FROM meta").fetchone()[0]
            bridge = world.networks[0].bridge
        self.master = socket.if_nametoindex(bridge)
        self.route = _netlink(_ROUTE)
        self.netfilter = _netlink(_NETFILTER)
        self.file = os.open(world.directory / "floor", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.pwrite(self.file, _PAGE, 0)
        os.fsync(self.file)
        self.link = self._link_message()
        spec = {
            "device": _NAME,
            "mac": "02:00:00:00:00:07",
            "ipv4": "10.100.3.250",
            "ipv6": None,
            "bridge": bridge,
            "gateway6": None,
            "forward": True,
            "isolate": False,
        }
        wanted = pieces(self.installation, {**spec, "what": "port"})
        wanted += pieces(self.installation, {"what": "masquerade", "address": spec["ipv4"]})
        port = {"protocol": "tcp", "host_ip": None, "host_port": 10007, "guest_port": 80}
        wanted += pieces(self.installation, {**spec, **port, "what": "publish"})
        mark = "hvtx:1:aaaaaaaaaa:1.aaaaaaaaaaaaaaaa"
        self.add = _batch([nfmessages.add_element(piece, mark) for piece in wanted])
        self.remove = _batch([nfmessages.delete_element(piece) for piece in wanted])

    def close(self) -> None:
        """Close what is open."""
        self.route.close()
        self.netfilter.close()
        os.close(self.file)

    def _store(self) -> sqlite3.Connection:
        path = f"file:{self.world.settings.state_directory}/hvtx.db?mode=ro"
        return sqlite3.connect(path, uri=True)

    def _link_message(self) -> bytes:
        body = struct.pack("=BxHiII", 0, 0, _INDEX, 1, 1)
        body += attribute(1, bytes.fromhex("fe0000000007"))
        body += attribute(20, b"hvtx:1:aaaaaaaaaa:1.aaaaaaaaaaaaaaaa") + u32(10, self.master)
        return message(_NEWLINK, REQUEST | ACK, 1, body)

    def _durable(self) -> None:
        os.pwrite(self.file, _PAGE, 0)
        os.fdatasync(self.file)

    def _lap(self, name: str, since: float) -> float:
        """Add what was taken since then to a part; now."""
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + now - since
        return now

    def start(self) -> float:
        """Seconds: write, make, mark, enslave, persist, elements, write."""
        begun = at = time.perf_counter()
        self._durable()
        at = self._lap("start: two writes with fdatasync", at)
        descriptor = tun.open_device()
        tun.create(descriptor, _NAME, _INDEX)
        at = self._lap("start: TAP made", at)
        _exchange(self.route, self.link)
        tun.set_persistent(descriptor, True)
        os.close(descriptor)
        at = self._lap("start: TAP marked, on the bridge, up, kept", at)
        _exchange(self.netfilter, self.add)
        at = self._lap("start: set elements in one batch", at)
        self._durable()
        return self._lap("start: two writes with fdatasync", at) - begun

    def stop(self) -> float:
        """Seconds: write, elements, list flows, attach, let go, write.

        Listing flows walks the kernel's whole table, letting go waits for RCU.
        """
        begun = at = time.perf_counter()
        self._durable()
        at = self._lap("stop: two writes with fdatasync", at)
        _exchange(self.netfilter, self.remove)
        at = self._lap("stop: set elements in one batch", at)
        _dump(self.netfilter, message(_GETFLOWS, REQUEST | DUMP, 9, bytes((2, 0, 0, 0))))
        at = self._lap("stop: list of tracked flows", at)
        descriptor = tun.open_device()
        tun.attach(descriptor, _NAME, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
        tun.set_persistent(descriptor, False)
        os.close(descriptor)
        at = self._lap("stop: TAP let go, which waits for RCU", at)
        self._durable()
        return self._lap("stop: two writes with fdatasync", at) - begun

    def scan(self) -> float:
        """Seconds: dump links and all sets, read all rows; nothing is parsed."""
        begun = at = time.perf_counter()
        body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + u32(29, 1 << 3)
        _dump(self.route, message(_GETLINK, REQUEST | DUMP, 2, body))
        at = self._lap("gc --plan: dump of links", at)
        table = table_name(self.installation)
        for family, skeleton in SKELETONS.items():
            head = _GENMSG.pack(nfnumbers.FAMILIES[family], 0, 0)
            for name in skeleton.sets:
                kind = nfnumbers.SUBSYSTEM << 8 | nfnumbers.GETSETELEM
                body = head + text(1, table) + text(2, name)
                _dump(self.netfilter, message(kind, REQUEST | DUMP, 3, body))
        at = self._lap("gc --plan: dump of all sets", at)
        connection = self._store()
        connection.execute("SELECT * FROM resource WHERE state <> 'released'").fetchall()
        connection.close()
        return self._lap("gc --plan: SELECT of all rows", at) - begun


def _netlink(family: int) -> socket.socket:
    found = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
    found.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
    found.bind((0, 0))
    return found


def _batch(commands: list[nfmessages.Command]) -> bytes:
    edge = _GENMSG.pack(0, 0, nfnumbers.SUBSYSTEM)
    parts = [message(16, REQUEST, 1, edge)]
    for n, (number, flags, family, body) in enumerate(commands):
        acknowledged = ACK if n == len(commands) - 1 else 0
        head = _GENMSG.pack(nfnumbers.FAMILIES[family], 0, 0)
        kind = nfnumbers.SUBSYSTEM << 8 | number
        parts.append(message(kind, REQUEST | flags | acknowledged, 2 + n, head + body))
    return b"".join([*parts, message(17, REQUEST, 2 + len(commands), edge)])


def _exchange(channel: socket.socket, data: bytes) -> None:
    channel.send(data)
    answer = channel.recv(1 << 16)
    _, kind = struct.unpack_from("=IH", answer)
    code = struct.unpack_from("=i", answer, 16)[0]
    if kind != _ERROR or code != 0:
        raise OSError(-code, os.strerror(-code))


def _dump(channel: socket.socket, data: bytes) -> int:
    channel.send(data)
    size = 0
    while True:
        answer = channel.recv(1 << 18)
        size += len(answer)
        at = 0
        while at + 16 <= len(answer):
            length, kind = struct.unpack_from("=IH", answer, at)
            if kind == _DONE:
                return size
            if kind == _ERROR:
                raise OSError(-struct.unpack_from("=i", answer, at + 16)[0], "dump")
            at += (length + 3) & ~3
