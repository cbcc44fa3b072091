"""Filters of traffic control on links (``tc``): hvtx's own, and whether others' are there.

Constants are those of include/uapi/linux/{rtnetlink,pkt_sched,pkt_cls}.h.
"""

from __future__ import annotations

import _socket as socket
import errno
import struct
from collections.abc import Collection, Iterable

from hvtx.host.netlink import (
    CREATE,
    EXCL,
    Channel,
    attribute,
    attribute_map,
    legible,
    nested,
    text,
    u32,
)
from hvtx.host.retry import retry_transient, whole_dump

_TCMSG = struct.Struct("=BxxxiIII")
_DEFAULT = bytes(4)  # the handle of a queue that the kernel gave a device by itself
_GETQDISC, _NEWQDISC = 38, 36
NEWFILTER, _DELFILTER, _GETFILTER = 44, 45, 46
_TCA_KIND, _TCA_OPTIONS = 1, 2
_CLSACT, _CLSACT_HANDLE, INGRESS, EGRESS = 0xFFFFFFF1, 0xFFFF0000, 0xFFFFFFF2, 0xFFFFFFF3
_BPF_OPS_LEN, _BPF_OPS, _BPF_FLAGS, _BPF_ACT_DIRECT = 4, 5, 8, 1
# Priority and handles by which a filter is known as hvtx's own, of whatever installation: "hv" and
# "hvtx", and the next two (hvtx.host.checksum_filter, rate_filter). The mark is the device's, with
# which they go.
OWN_PRIORITY, _OWN_HANDLE, SUM_HANDLE, _ETH_P_ALL = 0x6876, 0x68767478, 0x68767479, 0x0003
RATE_HANDLE = 0x6876747A  # hvtx.host.rate_filter
_OWN_HANDLES = (0, _OWN_HANDLE, SUM_HANDLE, RATE_HANDLE)
NO_SUCH_KIND = frozenset({errno.ENOENT, errno.EOPNOTSUPP})
_ROOT = 0xFFFFFFFF  # TC_H_ROOT: the outermost queue
_NO_QUEUE = frozenset({errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP})


class TrafficControl:
    """Reads and sets filters; part of :class:`hvtx.host.links.Links`."""

    _channel: Channel
    _held: set[int]  # tun devices that some process had open at the last `Links.all`

    def guard(self, ifindex: int, program: bytes, side: int = INGRESS) -> bool:
        """Give a link hvtx's own filter, or another program to it; False where the kernel cannot.

        ``program`` is a classic BPF program that answers with a TC_ACT. Others' filters on the
        link stay, and see what ours lets pass. Raises OSError.
        """
        for problem in self._channel.refusals(guard_messages(ifindex, program, side)).values():
            if problem.errno in NO_SUCH_KIND:
                return False
            if problem.errno != errno.EEXIST:  # others use it already
                raise problem
        return True

    def guarding(self, ifindex: int, side: int = INGRESS) -> bytes | None:
        """The program of hvtx's own filter on a link; None where there is none. OSError."""
        try:
            found = self._channel.get(_GETFILTER, _own_filter(ifindex, side))
        except OSError as problem:
            if problem.errno in {errno.ENOENT, errno.EINVAL, errno.ENODEV, errno.EOPNOTSUPP}:
                return None
            raise
        options = attribute_map(found, _TCMSG.size).get(_TCA_OPTIONS, b"")
        return attribute_map(options).get(_BPF_OPS)

    @legible
    def filtered(
        self, closely: Collection[int] = (), spared: Collection[int] = ()
    ) -> frozenset[int]:
        """Indexes of links with traffic control of someone's (tc qdiscs, clsact filters).

        The kernel's own default queue has handle 0; every other has one of its own. Where filters
        are attached (clsact) and all of them are hvtx's own, it is nobody else's. TAPs that were
        held open when :meth:`all` was asked are not looked at so closely, but those in ``closely``;
        nor are those that are ``spared``.
        """
        found = set()
        for data in whole_dump(self._channel, _GETQDISC, _TCMSG.pack(0, 0, 0, 0, 0)):
            if data[8:12] == _DEFAULT:  # nearly all
                continue
            _, ifindex, handle, _, _ = _TCMSG.unpack_from(data)
            held = ifindex in self._held and ifindex not in closely
            at_once = held or ifindex in spared
            if handle == _CLSACT_HANDLE and (at_once or self._only_ours(ifindex)):
                continue
            found.add(ifindex)
        return frozenset(found)

    def filtered_among(self, ifindexes: Iterable[int]) -> frozenset[int]:
        """Those of these links that :meth:`filtered` tells; each is asked for. Raises OSError."""
        return frozenset(
            index for index in ifindexes if self.controlled(index, closely=index not in self._held)
        )

    @legible
    def controlled(self, ifindex: int, *, queues: bool = True, closely: bool = True) -> bool:
        """The same of one link alone, at whose filters is looked ``closely``. Raises OSError.

        A queue below another has a number of its own only where the one above it has: it is enough
        to ask for the outermost, and for what filters are attached to. Without ``queues`` only what
        filters are attached to counts.
        """
        if queues and self._handle(ifindex, _ROOT):
            return True
        handle = self._handle(ifindex, _CLSACT)
        at_filters = handle == _CLSACT_HANDLE
        return bool(handle) and not (at_filters and (not closely or self._only_ours(ifindex)))

    def _handle(self, ifindex: int, parent: int) -> int:
        """The number of a link's queue in one place; 0 for the kernel's own, and where is none."""
        body = _TCMSG.pack(0, ifindex, 0, parent, 0)
        try:
            found = retry_transient(lambda: self._channel.echo(_GETQDISC, body))
        except OSError as problem:
            if problem.errno in _NO_QUEUE:
                return 0
            raise
        return 0 if found is None else int(_TCMSG.unpack_from(found)[2])

    def _only_ours(self, ifindex: int) -> bool:
        """Whether there are filters on a link, and hvtx's own alone."""
        mine = 0
        for side in (INGRESS, EGRESS):
            for data in whole_dump(self._channel, _GETFILTER, _TCMSG.pack(0, ifindex, 0, side, 0)):
                _, _, handle, _, info = _TCMSG.unpack_from(data)
                if info >> 16 != OWN_PRIORITY or handle not in _OWN_HANDLES:
                    return False
                mine += 1
        return mine > 0


def guard_messages(
    ifindex: int, program: bytes, side: int = INGRESS
) -> tuple[tuple[int, int, bytes], ...]:
    """The messages (type, flags, body) that give a link hvtx's own filter (pure)."""
    qdisc = _TCMSG.pack(0, ifindex, _CLSACT_HANDLE, _CLSACT, 0) + text(_TCA_KIND, "clsact")
    options = attribute(_BPF_OPS_LEN, struct.pack("=H", len(program) // 8))
    options += attribute(_BPF_OPS, program) + u32(_BPF_FLAGS, _BPF_ACT_DIRECT)
    body = _own_filter(ifindex, side) + text(_TCA_KIND, "bpf") + nested(_TCA_OPTIONS, options)
    return (_NEWQDISC, CREATE | EXCL, qdisc), (NEWFILTER, CREATE, body)


def _own_filter(ifindex: int, side: int) -> bytes:
    info = OWN_PRIORITY << 16 | socket.htons(_ETH_P_ALL)
    return _TCMSG.pack(0, ifindex, _OWN_HANDLE, side, info)
