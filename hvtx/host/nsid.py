"""Ids of network namespaces (RTM_GETNSID, RTM_NEWNSID): what tells that one lives, or is gone.

The kernel keeps an id for a namespace from the first request to the namespace's end: nobody can
change it or take it away (RTM_DELNSID is EOPNOTSUPP), and it counts in this namespace alone. It
stays while anything holds the namespace, a name, a process or a descriptor, and is gone after that
(net/core/net_namespace.c: peernet2id, get_net_ns_by_id, unhash_nsid).

A dump can miss an id that is there: it counts the ids that it has told so far, and one of these may
vanish between two of its messages (rtnl_net_dumpid). So what a dump lacks is asked for by itself.

Constants are those of include/uapi/linux/{rtnetlink,net_namespace}.h.
"""

from __future__ import annotations

import contextlib
import errno
import struct
from collections.abc import Collection, Iterator

from hvtx.host.netlink import Channel, attribute, attribute_map, legible, u32
from hvtx.host.retry import retry_transient, whole_dump
from hvtx.model.typed import Self

NEWNSID, GETNSID = 88, 90
_GETLINK, _IFALIAS, _LINK_NETNSID = 18, 20, 37
_NSID, _FD = 1, 3
_GENERAL = bytes(4)  # struct rtgenmsg, padded: any family
_UNASSIGNED = -1  # NETNSA_NSID_NOT_ASSIGNED
_GONE = frozenset({errno.ENOENT, errno.ENONET})


class NamespaceIds:
    """Asks for and gives ids, as the calling thread's network namespace counts them."""

    def __init__(self) -> None:
        """Open a socket in the calling thread's network namespace."""
        self._channel = Channel(0)

    def __enter__(self) -> Self:
        """Keep it open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._channel.close()

    def of(self, namespace: int) -> int | None:
        """The id of an open namespace; None where it has none yet. Raises OSError."""
        body = _GENERAL + u32(_FD, namespace)
        found = _nsid(retry_transient(lambda: self._channel.get(GETNSID, body)))
        return None if found == _UNASSIGNED else found

    def give(self, namespace: int, wanted: int) -> int:
        """Give an open namespace an id; the one that it has by now, which may be an earlier one.

        Raises OSError: ENOSPC where another namespace has ``wanted``.
        """
        body = _GENERAL + attribute(_NSID, struct.pack("=i", wanted)) + u32(_FD, namespace)
        try:
            retry_transient(lambda: self._channel.request(NEWNSID, 0, body))
        except OSError as problem:
            if problem.errno != errno.EEXIST:
                raise
            known = self.of(namespace)
            if known is None:
                raise
            return known
        return wanted

    def there(self, wanted: Collection[int]) -> set[int]:
        """Those of these ids whose namespaces live: one dump, then what it lacks by itself.

        Raises OSError, DumpInterrupted.
        """
        if not wanted:
            return set()
        listed = {_nsid(body) for body in whole_dump(self._channel, GETNSID, _GENERAL)}
        found = listed.intersection(wanted)
        return found | {one for one in wanted if one not in found and self._is_there(one)}

    def of_peer(self, ifindex: int, alias: str) -> int | None:
        """The id of the namespace that the other end of a veth pair is in; None: in this one.

        -1 while that namespace ends. Raises OSError: ENODEV where no such pair has this alias.
        """
        body = struct.pack("=BxHiII", 0, 0, ifindex, 0, 0)
        told = _link(retry_transient(lambda: self._channel.get(_GETLINK, body)))
        if told.get(_IFALIAS, b"").rstrip(b"\0") != alias.encode():
            raise OSError(errno.ENODEV, f"the device {ifindex} is another")
        number = told.get(_LINK_NETNSID)
        return None if number is None else _id(number)

    def _is_there(self, nsid: int) -> bool:
        body = _GENERAL + attribute(_NSID, struct.pack("=i", nsid))
        try:
            retry_transient(lambda: self._channel.get(GETNSID, body))
        except OSError as problem:
            if problem.errno in _GONE:
                return False
            raise
        return True


@legible
def _nsid(body: bytes) -> int:
    """The id that a message tells. Raises Garbled."""
    return _id(attribute_map(body, 4)[_NSID])


@legible
def _id(raw: bytes) -> int:
    """The number in an attribute. Raises Garbled."""
    return int(struct.unpack_from("=i", raw)[0])


@legible
def _link(body: bytes) -> dict[int, bytes]:
    """The attributes of a link's message. Raises Garbled."""
    return attribute_map(body, 16)


@contextlib.contextmanager
def ids() -> Iterator[NamespaceIds]:
    """A socket for some requests. Raises OSError."""
    with NamespaceIds() as found:
        yield found
