"""Policies of IPsec: read raw, so that a replica can have the same, and in values.

No key is read: of states only their number. Layouts: include/uapi/linux/xfrm.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Mapping
from contextlib import closing

from hvtx.host.netlink import CREATE, Channel, attribute_map, attributes, legible
from hvtx.host.netlink import attribute as raw
from hvtx.host.retry import retry_transient
from hvtx.model.typed import NamedTuple
from hvtx.model.xfrm import Policy

_NETLINK_XFRM = 6
_NEWPOLICY, _GETPOLICY, _GETSADINFO, _SETDEFAULT, _GETDEFAULT = 0x13, 0x15, 0x23, 0x27, 0x28
_SIZE = 168  # struct xfrm_userpolicy_info
_SELECTOR = struct.Struct("=16s16sHHHHHBBBxxxiI")  # ports are big-endian
_PRIORITY = struct.Struct("=IIBBBB")  # priority, index, direction, action, flags, share
_AT = 152
_TEMPLATES, _TYPE, _MARK, _IF_ID, _CONTEXT = 5, 16, 21, 31, 8
_TEMPLATE = 64  # struct xfrm_user_tmpl
_DIRECTIONS = ("in", "out", "fwd")  # above them are those of single sockets
_SAD_COUNT = 1
_MOST = 8192  # bytes of the kernel's counts, some thirty lines
_ACCEPTED = b"\2\2\2"  # struct xfrm_userpolicy_default: in, fwd, out
# a kernel without IPsec, or without its netlink
_NONE = frozenset({errno.EPROTONOSUPPORT, errno.ECONNREFUSED, errno.EAFNOSUPPORT})


class Ipsec(NamedTuple):
    """What a namespace has of IPsec."""

    policies: tuple[bytes, ...] = ()
    default: bytes = _ACCEPTED  # what happens where no policy speaks of a packet
    states: int = 0

    @property
    def decides(self) -> bool:
        """Whether it can stop a packet."""
        return bool(self.policies) or self.default != _ACCEPTED


def read() -> Ipsec:
    """IPsec of the calling thread's namespace. Raises OSError, DumpInterrupted, Garbled."""
    try:
        channel = Channel(_NETLINK_XFRM)
    except OSError as problem:
        if problem.errno in _NONE:
            return Ipsec()
        raise
    with closing(channel):
        try:
            bodies = retry_transient(lambda: channel.dump(_GETPOLICY, b""), attempts=20)
        except OSError as problem:
            if problem.errno in _NONE:
                return Ipsec()
            raise
        own = tuple(body for body in bodies if _direction(body) is not None)
        return Ipsec(own, _default(channel), _states(channel) if own else 0)


def _default(channel: Channel) -> bytes:
    try:
        return channel.get(_GETDEFAULT, bytes(4))[:3]
    except OSError:  # before Linux 5.14
        return _ACCEPTED


def _states(channel: Channel) -> int:
    told = attribute_map(channel.get(_GETSADINFO, bytes(4)), 4)
    return int.from_bytes(told.get(_SAD_COUNT, b""), "little")


def write(ipsec: Ipsec) -> list[str]:
    """Give the calling thread's namespace the same policies; what it refused, in words.

    States stay where they are, with their keys: what has to be encrypted passes nowhere here.
    """
    lacks = []
    with closing(Channel(_NETLINK_XFRM)) as channel:
        for body in ipsec.policies:
            fields = attribute_map(body, _SIZE)
            if _CONTEXT in fields:
                lacks.append("an IPsec policy for a security label cannot be copied")
                continue
            kept = b"".join(
                raw(kind, body[a:b])
                for kind, a, b in attributes(body, _SIZE, len(body))
                if kind in (_TEMPLATES, _TYPE, _MARK, _IF_ID)
            )
            try:
                channel.request(_NEWPOLICY, CREATE, body[:_SIZE] + kept)
            except OSError as problem:
                lacks.append(f"an IPsec policy cannot be copied: {problem.strerror}")
        if ipsec.default != _ACCEPTED:
            try:
                channel.request(_SETDEFAULT, 0, ipsec.default + b"\0")
            except OSError as problem:
                lacks.append(f"IPsec's default cannot be copied: {problem.strerror}")
    return lacks


@legible
def _direction(body: bytes) -> str | None:
    """The direction of a policy; None for one of a single socket."""
    number = _PRIORITY.unpack_from(body, _AT)[2]
    index = _PRIORITY.unpack_from(body, _AT)[1] & 7
    return _DIRECTIONS[number] if max(number, index) < len(_DIRECTIONS) else None


@legible
def policy_of(body: bytes) -> Policy:
    """A policy from the body of its message. Raises Garbled. Pure."""
    to, source, dport, _, sport, _, family, to_length, length, protocol, index, _ = (
        _SELECTOR.unpack_from(body)
    )
    priority, _, direction, action, _, _ = _PRIORITY.unpack_from(body, _AT)
    fields = attribute_map(body, _SIZE)
    six = family == socket.AF_INET6
    return Policy(
        _DIRECTIONS[direction % len(_DIRECTIONS)],
        6 if six else 4,
        _prefix(source, length, six=six),
        _prefix(to, to_length, six=six),
        bool(action),
        len(fields.get(_TEMPLATES, b"")) // _TEMPLATE,
        priority,
        protocol,
        socket.ntohs(sport),
        socket.ntohs(dport),
        index,
        int.from_bytes(fields.get(_MARK, b"")[:4], "little"),
        int.from_bytes(fields.get(_IF_ID, b""), "little"),
    )


def _prefix(packed: bytes, length: int, *, six: bool) -> str:
    if six:
        return f"{socket.inet_ntop(socket.AF_INET6, packed)}/{length}"
    return f"{socket.inet_ntop(socket.AF_INET, packed[:4])}/{length}"


def policies(ipsec: Ipsec) -> list[Policy]:
    """All of them, in values."""
    return [policy_of(body) for body in ipsec.policies]


def counted() -> dict[str, int]:
    """How many packets IPsec stopped in the calling thread's namespace, by the kernel's words.

    Empty where this kernel does not count them.
    """
    try:
        descriptor = os.open("/proc/thread-self/net/xfrm_stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return {}
    try:
        return counts_of(os.read(descriptor, _MOST).decode(errors="replace"))
    except OSError:
        return {}
    finally:
        os.close(descriptor)


def counts_of(text: str) -> dict[str, int]:
    """The counts that ``xfrm_stat`` shows, without those that are 0. Pure."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition("\t")
        if value.strip().isdecimal() and int(value):
            found[name.strip()] = int(value)
    return found


def moved(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """What was counted meanwhile. Pure."""
    return [name for name, count in after.items() if count > before.get(name, 0)]


def blocked(names: Iterable[str]) -> bool:
    """Whether counts tell of a policy that blocks, and not of a tunnel that is not there. Pure."""
    told = list(names)
    return bool(told) and all(name.endswith(("PolBlock", "NoPols")) for name in told)
