"""Settings of links, read by rtnetlink one by one: for `doctor` and `repair`.

Constants are those of include/uapi/linux/if_link.h; the names are iproute2's.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping

from hvtx.host.netlink import Channel, attribute, attribute_map, legible, nested, text, u32
from hvtx.host.retry import retry_transient
from hvtx.model.link_settings import FORWARDING, LinkSettings, WantedSettings

_NEWLINK, _GETLINK, _SETLINK = 16, 18, 19
_PROTINFO, _TXQLEN, _LINKINFO, _AF_SPEC, _EXT_MASK = 12, 13, 18, 26, 29
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_AF_BRIDGE, _INET6, _ADDR_GEN_MODE = 7, 10, 8
_SKIP_STATS = 1 << 3
_IFINFO = struct.Struct("=BxHiII")
_IFF_NOARP, _CARRIER = 0x80, 0x10000
# IFLA_BRPORT_* and IFLA_BR_*, with their sizes in bytes.
_PORT = {
    "state": (1, 1),
    "hairpin": (4, 1),
    "learning": (8, 1),
    "flood": (9, 1),
    "proxy_arp": (10, 1),
    "proxy_arp_wifi": (12, 1),
    "mcast_router": (25, 1),
    "mcast_flood": (27, 1),
    "vlan_tunnel": (29, 1),
    "bcast_flood": (30, 1),
    "group_fwd_mask": (31, 2),
    "neigh_suppress": (32, 1),
    "isolated": (33, 1),
    "locked": (39, 1),
    "mab": (40, 1),
}
_BOOLOPT = 46  # a value and a mask of 32 bits each
_BRIDGE = {
    "ageing_time": (4, 4),
    "stp_state": (5, 4),
    "vlan_filtering": (7, 1),
    "group_fwd_mask": (9, 2),
    "no_linklocal_learn": (_BOOLOPT, 8),
}


class LinkSettingsSocket:
    """Reads and sets them; one rtnetlink socket."""

    def __init__(self) -> None:
        """Open the socket in the calling thread's network namespace."""
        self._channel = Channel(0)

    def close(self) -> None:
        """Close the socket."""
        self._channel.close()

    def get(self, ifindex: int) -> LinkSettings | None:
        """How a link is set; None if there is none. Raises OSError.

        A first look may find the port of a device that was just opened as it was before.
        """
        body = _IFINFO.pack(0, 0, ifindex, 0, 0) + u32(_EXT_MASK, _SKIP_STATS)
        for _ in range(2):
            try:
                found = _traits(retry_transient(lambda: self._channel.get(_GETLINK, body)))
            except OSError as problem:
                if problem.errno == errno.ENODEV:
                    return None
                raise
            if not found.carrier or found.port.get("state", FORWARDING) == FORWARDING:
                break
        return found

    def set(self, ifindex: int, wanted: WantedSettings) -> None:
        """Set what is wanted of a link, but how it makes addresses. Raises OSError."""
        if wanted.arp:
            self.turn_arp_on(ifindex)
        if wanted.bridge:
            self.set_bridge(ifindex, wanted.bridge)
        if wanted.port:
            self.set_port(ifindex, wanted.port)
        if wanted.queue:
            self.set_queue(ifindex, wanted.queue)

    def set_port(self, ifindex: int, wanted: Mapping[str, int]) -> None:
        """Set flags of a port of a bridge. Raises OSError."""
        port = nested(_PROTINFO, *_packed(wanted, _PORT))
        self._channel.request(_SETLINK, 0, _IFINFO.pack(_AF_BRIDGE, 0, ifindex, 0, 0) + port)

    def set_bridge(self, ifindex: int, wanted: Mapping[str, int]) -> None:
        """Set a bridge. Raises OSError."""
        data = nested(_INFO_DATA, *_packed(wanted, _BRIDGE))
        info = nested(_LINKINFO, text(_INFO_KIND, "bridge"), data)
        self._channel.request(_NEWLINK, 0, _IFINFO.pack(0, 0, ifindex, 0, 0) + info)

    def set_queue(self, ifindex: int, length: int) -> None:
        """Set how many frames wait for the reader of a TAP. Raises OSError."""
        head = _IFINFO.pack(0, 0, ifindex, 0, 0)
        self._channel.request(_NEWLINK, 0, head + u32(_TXQLEN, length))

    def turn_arp_on(self, ifindex: int) -> None:
        """Let the host resolve neighbours of a link. Raises OSError."""
        self._channel.request(_NEWLINK, 0, _IFINFO.pack(0, 0, ifindex, 0, _IFF_NOARP))


@legible
def _traits(data: bytes) -> LinkSettings:
    """How a link is set, from the body of its message. Raises Garbled."""
    _, _, _, flags, _ = _IFINFO.unpack_from(data)
    found = attribute_map(data, 16)
    info = attribute_map(found.get(_LINKINFO, b""))
    inet6 = attribute_map(attribute_map(found.get(_AF_SPEC, b"")).get(_INET6, b""))
    mode = inet6.get(_ADDR_GEN_MODE)
    return LinkSettings(
        mode[0] if mode else None,
        not flags & _IFF_NOARP,
        bool(flags & _CARRIER),
        _settings(info, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA, _PORT),
        _settings(info, _INFO_KIND, _INFO_DATA, _BRIDGE),
        int.from_bytes(found[_TXQLEN][:4], "little") if _TXQLEN in found else None,
    )


def _settings(
    info: Mapping[int, bytes], kind: int, data: int, known: Mapping[str, tuple[int, int]]
) -> dict[str, int]:
    """Settings of a bridge, or of a port of one, by name: those that this kernel tells."""
    if info.get(kind, b"").rstrip(b"\0") != b"bridge":
        return {}
    said = attribute_map(info.get(data, b""))
    found = {
        name: int.from_bytes(said[number][:size], "little")
        for name, (number, size) in known.items()
        if number in said
    }
    if "no_linklocal_learn" in found:
        found["no_linklocal_learn"] &= 1
    return found


def _packed(wanted: Mapping[str, int], known: Mapping[str, tuple[int, int]]) -> list[bytes]:
    """Settings as attributes; of the value with a mask, its bit 0 and that of the mask."""
    made = []
    for name, value in wanted.items():
        number, size = known[name]
        packed = value | 1 << 32 if number == _BOOLOPT else value
        made.append(attribute(number, packed.to_bytes(size, "little")))
    return made
