"""Neighbour entries over rtnetlink: the neighbour table, and a bridge's own (``bridge fdb``).

Constants are those of include/uapi/linux/{rtnetlink,neighbour}.h.
"""

from __future__ import annotations

import _socket as socket
import errno
import struct
from collections.abc import Iterable

from hvtx.host.inet import packed, socket_family
from hvtx.host.netlink import (
    CREATE,
    REPLACE,
    Channel,
    Garbled,
    attribute,
    attribute_map,
    legible,
    u32,
)
from hvtx.host.retry import retry_transient

_NO_ENTRY = frozenset({errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP, errno.EAFNOSUPPORT})
_NDMSG = struct.Struct("=BxxxiHBB")
_NEWNEIGH, _DELNEIGH, _GETNEIGH = 28, 29, 30
_NDA_DST, _NDA_LLADDR, _NDA_MASTER = 1, 2, 9
_AF_BRIDGE, _NUD_PERMANENT, _NTF_SELF = 7, 0x80, 0x02
_STATIC = 0x40  # NUD_NOARP, in a bridge's table
_FIXED = 0x80 | 0x40  # NUD_PERMANENT, _NOARP: entered by hand, and never asked about
_EXT_LEARNED = 0x10  # NTF_EXT_LEARNED: entered by a routing daemon
_ANSWERED = 0x02 | 0x08 | 0x10 | 0x80  # NUD_REACHABLE, _DELAY, _PROBE, _PERMANENT


class NeighbourTable:
    """Reads and forgets entries; part of :class:`hvtx.host.links.Links`."""

    _channel: Channel

    @legible
    def neighbours(self) -> frozenset[str]:
        """Addresses that answered the host of late (or were entered by hand), of all devices."""
        bodies = retry_transient(
            lambda: self._channel.dump(_GETNEIGH, _NDMSG.pack(0, 0, 0, 0, 0)), attempts=20
        )
        found = set()
        for data in bodies:
            family, _, state, _, _ = _NDMSG.unpack_from(data)
            packed = attribute_map(data, _NDMSG.size).get(_NDA_DST, b"")
            if state & _ANSWERED and family in (socket.AF_INET, socket.AF_INET6):
                found.add(address_text(packed))
        return frozenset(found)

    @legible
    def knows_itself(self, bridge: int, mac: str) -> bool:
        """Whether frames for a bridge's own address reach the host; True where it cannot be told.

        ``bridge fdb flush`` takes the entry that the kernel made: then they leave by every port
        instead. Raises OSError.
        """
        asked = attribute(_NDA_LLADDR, _lladdr(mac)) + u32(_NDA_MASTER, bridge)
        body = _NDMSG.pack(_AF_BRIDGE, 0, 0, 0, 0) + asked
        try:
            entry = retry_transient(lambda: self._channel.get(_GETNEIGH, body))
        except OSError as problem:
            if problem.errno == errno.ENOENT:
                return False
            if problem.errno in (errno.EOPNOTSUPP, errno.ENODEV):  # before 5.0; gone meanwhile
                return True
            raise
        _, _, state, _, _ = _NDMSG.unpack_from(entry)
        return bool(state & _NUD_PERMANENT)

    @legible
    def fixed_in_bridges(self) -> list[tuple[int, int, str, bool]]:
        """Bridge, port, MAC address of what is in bridges' tables for good; whether it is local.

        Frames for a local one go to the host, whatever port it is entered at. Raises OSError.
        """
        bodies = retry_transient(
            lambda: self._channel.dump(_GETNEIGH, _NDMSG.pack(_AF_BRIDGE, 0, 0, 0, 0)), attempts=20
        )
        found = []
        for data in bodies:
            _, port, state, _, _ = _NDMSG.unpack_from(data)
            parts = attribute_map(data, _NDMSG.size)
            bridge = int.from_bytes(parts.get(_NDA_MASTER, b""), "little")
            if bridge and state & (_NUD_PERMANENT | _STATIC):
                mac = parts.get(_NDA_LLADDR, b"").hex(":")
                found.append((bridge, port, mac, bool(state & _NUD_PERMANENT)))
        return found

    def introduce(self, bridge: int, mac: str) -> None:
        """Tell a bridge its own address, whatever port it is thought behind. Raises OSError."""
        body = _NDMSG.pack(_AF_BRIDGE, bridge, _NUD_PERMANENT, _NTF_SELF, 0)
        body += attribute(_NDA_LLADDR, _lladdr(mac))
        self._channel.request(_NEWNEIGH, CREATE | REPLACE, body)

    def forget_neighbours(self, known: Iterable[tuple[int, str]]) -> None:
        """Drop what the host has learnt of who has an address: pairs of a device and an address.

        What an administrator or a routing daemon entered stays. Raises OSError.
        """
        found = []
        for ifindex, address in known:
            family, where = socket_family(address), attribute(_NDA_DST, packed(address))
            try:
                entry = self._channel.get(_GETNEIGH, _NDMSG.pack(family, ifindex, 0, 0, 0) + where)
            except OSError as problem:
                if problem.errno in _NO_ENTRY:
                    continue
                raise
            if _may_forget(entry):
                found.append(_NDMSG.pack(family, ifindex, 0, 0, 0) + where)
        for refusal in self._channel.refusals([(_DELNEIGH, 0, body) for body in found]).values():
            if refusal.errno not in _NO_ENTRY:
                raise refusal

    @legible
    def fixed_neighbours(self) -> list[tuple[int, str, str]]:
        """Device, address and MAC address of each entry that somebody entered. Raises OSError."""
        bodies = retry_transient(
            lambda: self._channel.dump(_GETNEIGH, _NDMSG.pack(0, 0, 0, 0, 0)), attempts=20
        )
        found = []
        for data in bodies:
            family, ifindex, _, _, _ = _NDMSG.unpack_from(data)
            parts = attribute_map(data, _NDMSG.size)
            if family in (socket.AF_INET, socket.AF_INET6) and not _may_forget(data):
                mac = parts.get(_NDA_LLADDR, b"").hex(":")
                found.append((ifindex, address_text(parts.get(_NDA_DST, b"")), mac))
        return found


@legible
def _may_forget(entry: bytes) -> bool:
    """Whether the kernel made an entry of the neighbour table by itself (pure). Raises Garbled."""
    _, _, state, flags, _ = _NDMSG.unpack_from(entry)
    return not state & _FIXED and not flags & _EXT_LEARNED


def address_text(packed: bytes) -> str:
    """An address as people write it. Raises Garbled."""
    if len(packed) not in (4, 16):
        raise Garbled(f"an address of {len(packed)} bytes")
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def _lladdr(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
