"""A bridge's table of addresses (``bridge fdb``): whether it knows its own, over rtnetlink.

Constants are those of include/uapi/linux/{rtnetlink,neighbour}.h.
"""

from __future__ import annotations

import errno
import struct

from hvtx.host.netlink import CREATE, REPLACE, Channel, attribute, legible, u32
from hvtx.host.retry import retry_transient

_NEWNEIGH, _GETNEIGH = 28, 30
_NDMSG = struct.Struct("=BxxxiHBB")
_NDA_LLADDR, _NDA_MASTER = 2, 9
_AF_BRIDGE, _NUD_PERMANENT, _NTF_SELF = 7, 0x80, 0x02


@legible
def knows_itself(channel: Channel, bridge: int, mac: str) -> bool:
    """Whether frames for a bridge's own address reach the host; True where it cannot be told.

    ``bridge fdb flush`` takes the entry that the kernel made: then they leave by every port
    instead. Raises OSError.
    """
    asked = attribute(_NDA_LLADDR, bytes.fromhex(mac.replace(":", ""))) + u32(_NDA_MASTER, bridge)
    body = _NDMSG.pack(_AF_BRIDGE, 0, 0, 0, 0) + asked
    try:
        entry = retry_transient(lambda: channel.get(_GETNEIGH, body))
    except OSError as problem:
        if problem.errno == errno.ENOENT:
            return False
        if problem.errno in (errno.EOPNOTSUPP, errno.ENODEV):  # before 5.0; gone meanwhile
            return True
        raise
    _, _, state, _, _ = _NDMSG.unpack_from(entry)
    return bool(state & _NUD_PERMANENT)


def introduce(channel: Channel, bridge: int, mac: str) -> None:
    """Tell a bridge its own address, whatever port it is thought behind. Raises OSError."""
    body = _NDMSG.pack(_AF_BRIDGE, bridge, _NUD_PERMANENT, _NTF_SELF, 0)
    body += attribute(_NDA_LLADDR, bytes.fromhex(mac.replace(":", "")))
    channel.request(_NEWNEIGH, CREATE | REPLACE, body)
