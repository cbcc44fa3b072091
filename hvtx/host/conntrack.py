"""The table of connection tracking: how full it is, what is in it, and taking flows out of it.

Sources: include/uapi/linux/netfilter/nfnetlink_conntrack.h, net/netfilter/nf_conntrack_netlink.c
(CTA_FILTER is there since Linux 5.8; older kernels ignore it and list everything, so what comes is
always matched again here). For IPv6 addresses the kernel's filter is the wrong way round (tried on
6.18: it lists exactly the flows that do not match), so IPv6 flows are listed whole.
"""

from __future__ import annotations

import _socket as socket
import errno
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from hvtx.host.ctmessages import Flow, filters, parse
from hvtx.host.inet import packed
from hvtx.host.netlink import (
    Channel,
    KernelError,
    attribute_map,
    legible,
)
from hvtx.host.retry import retry_transient, transient
from hvtx.model.typed import NamedTuple

_NETFILTER, _ROUTE = 12, 0
_GET, _DELETE = 0x101, 0x102  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET, _DELETE
_FEW = 2048  # flows; so many are read about as fast as the kernel searches its table four times
_COUNT = "/proc/sys/net/netfilter/nf_conntrack_count"
_LIMIT = "/proc/sys/net/netfilter/nf_conntrack_max"
_GET_ADDRESS, _ADDRESS, _LOCAL = 22, 1, 2  # RTM_GETADDR, IFA_ADDRESS, IFA_LOCAL
_TOGETHER = 64  # deletions in one datagram; their answers fit any receive buffer


def open_channel() -> Channel:
    """A socket to ask connection tracking with. Raises OSError."""
    return Channel(_NETFILTER)


def family_of(raw: bytes) -> int:
    """The family of a packed address."""
    return socket.AF_INET if len(raw) == 4 else socket.AF_INET6


def tracked() -> int | None:
    """How many flows this namespace has; 0 without connection tracking, None if unknown."""
    try:
        with open(_COUNT, encoding="utf-8") as count:
            return int(count.read())
    except OSError as problem:
        # a /proc that is not mounted proves nothing
        known = problem.errno == errno.ENOENT and os.path.isdir("/proc/sys/net/core")
        return 0 if known else None
    except ValueError:
        return None


class Fill(NamedTuple):
    """How many flows this namespace tracks, and how many it may."""

    entries: int
    limit: int

    @property
    def part(self) -> float:
        """0 to 1; a limit of 0 is none."""
        return self.entries / self.limit if self.limit else 0.0


def fill() -> Fill | None:
    """How full the table is; None where nothing is tracked, or that cannot be read."""
    entries = tracked()
    try:
        with open(_LIMIT, encoding="ascii") as limit:
            return None if entries is None else Fill(entries, int(limit.read()))
    except (OSError, ValueError):
        return None


def users(addresses: Iterable[str]) -> dict[str, int]:
    """How many flows each of ``addresses`` has at an end; those without any are left out.

    It reads the whole table. Raises OSError, DumpInterrupted.
    """
    wanted = {packed(address): address for address in addresses}
    found: dict[str, int] = {}
    channel = open_channel()
    try:
        for family in to_list(sorted({family_of(raw) for raw in wanted}), None):
            for flow in flows(channel, family, None):
                for raw in wanted.keys() & set(flow[1:5]):
                    found[wanted[raw]] = found.get(wanted[raw], 0) + 1
    finally:
        channel.close()
    return found


def passing(problem: BaseException) -> bool:
    """Whether asking again can help; a flow is EBUSY while hardware forwards it."""
    return transient(problem) or getattr(problem, "errno", None) == errno.EBUSY


def to_list(families: Sequence[int], ends: set[bytes] | None) -> Sequence[int]:
    """The families to ask :func:`flows` for, so that the flows of all of these are listed.

    It is 0 for several where each list would be of all flows of its family: the kernel walks
    through the same table for one family as for all (ctnetlink_dump_table).
    """
    return [0] if len(families) > 1 and (ends is None or _are_few()) else families


def _are_few() -> bool:
    entries = tracked()
    return entries is not None and entries <= _FEW


def flows(channel: Channel, family: int, ends: set[bytes] | None) -> Iterator[Flow]:
    """The flows of a family; with ``ends`` and many flows, only those with such an end.

    Those of every family for 0.
    """
    head = struct.pack("=BBH", family, 0, 0)
    if ends is None or family != socket.AF_INET or _are_few():
        bodies = channel.dump(_GET, head)
    else:
        bodies = []
        for raw in (end for end in ends if family_of(end) == family):
            for question in filters(raw):
                bodies += _asked(channel, head, question)
    for body in bodies:
        if ends is not None and not any(end in body for end in ends):
            continue  # whatever else it is: taking it apart is ten times as much work
        flow = parse(body)
        if flow is not None:
            yield flow


def _asked(channel: Channel, head: bytes, question: bytes) -> list[bytes]:
    try:
        return channel.dump(_GET, head + question)
    except OSError as problem:
        if problem.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        return channel.dump(_GET, head)


def delete(channel: Channel, listed: Iterable[Flow]) -> tuple[int, KernelError | None]:
    """End flows: those very ones, not later ones between the same ends (the id tells).

    How many ended, and the first error but ENOENT, which says that one had ended by itself. One
    that cannot be ended keeps none of the others.
    """
    ended, problem = 0, None
    waiting = iter(listed)
    while some := list(islice(waiting, _TOGETHER)):
        heads = [struct.pack("=BBH", flow.family, 0, 0) for flow in some]
        failures = channel.refusals(
            [(_DELETE, 0, head + flow.name) for head, flow in zip(heads, some, strict=True)]
        )
        ended += len(some) - len(failures)
        refused = [failure for failure in failures.values() if failure.errno != errno.ENOENT]
        problem = problem or next(iter(refused), None)
        if problem is not None and not passing(problem):
            break
    return ended, problem


@legible
def own_addresses() -> list[tuple[bytes, int]]:
    """The packed addresses of this host's interfaces, with the lengths of their prefixes."""
    channel = Channel(_ROUTE)
    try:
        bodies = retry_transient(lambda: channel.dump(_GET_ADDRESS, bytes(8)))
    finally:
        channel.close()
    found = []
    for body in bodies:
        parts = attribute_map(body, 8)
        found.append((parts.get(_LOCAL) or parts.get(_ADDRESS, b""), body[1]))
    return found
