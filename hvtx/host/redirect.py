"""Two devices made one wire: what comes in by either leaves by the other (tc u32, mirred).

For a VM in a container's namespace, whose TAP is to have what the veth peer there gets. The filter
is u32 with a key that fits all: some kernels have no matchall.

Constants are those of include/uapi/linux/{rtnetlink,pkt_cls,pkt_sched}.h, tc_act/tc_mirred.h.
"""

from __future__ import annotations

import struct
from functools import partial

from hvtx.host.links import Links
from hvtx.host.netlink import CREATE, EXCL, attribute, attribute_map, legible, nested, text
from hvtx.host.retry import retry_transient

_NEWQDISC, _NEWFILTER, _GETFILTER = 36, 44, 46
_TCMSG = struct.Struct("=BxxxiIII")
_KIND, _OPTIONS, _CHAIN = 1, 2, 11
_INGRESS, _INGRESS_HANDLE = 0xFFFFFFF1, 0xFFFF0000
_PRIORITY = 1 << 16 | 0x0300  # the first, and ETH_P_ALL in the network's order
_U32_SEL, _U32_ACT, _TERMINAL = 5, 7, 1
_SELECTOR = struct.Struct("=BBBxHHhhI")  # struct tc_u32_sel
_ANY_KEY = struct.pack("=IIii", 0, 0, 0, 0)  # no bit of the first word is looked at
_ACT_KIND, _ACT_OPTIONS, _MIRRED_PARMS = 1, 2, 2
_STOLEN, _EGRESS_REDIRECT = 4, 1
_MIRRED = struct.Struct("=IIiiiiI")  # struct tc_mirred


def join(first: int, second: int, links: Links) -> None:
    """Have all frames that come in by either of two devices leave by the other. Raises OSError."""
    for one, other in ((first, second), (second, first)):
        qdisc = _TCMSG.pack(0, one, _INGRESS_HANDLE, _INGRESS, 0) + text(_KIND, "ingress")
        links.channel.request(_NEWQDISC, CREATE | EXCL, qdisc)
        links.channel.request(_NEWFILTER, CREATE | EXCL, _redirect(one, other))


def are_joined(first: int, second: int, links: Links) -> bool:
    """Whether both still do so. Raises OSError, DumpInterrupted."""
    return _leads(first, second, links) and _leads(second, first, links)


def _leads(one: int, other: int, links: Links) -> bool:
    asked = _TCMSG.pack(0, one, 0, _INGRESS_HANDLE, 0)
    found = retry_transient(partial(links.channel.dump, _GETFILTER, asked))
    return any(_target(body) == other for body in found)


@legible
def _target(body: bytes) -> int | None:
    """Where a filter sends all that a device gets; None for one that does less, or else (pure)."""
    *_, asked = _TCMSG.unpack_from(body)
    found = attribute_map(body, _TCMSG.size)
    if asked & 0xFFFF != _PRIORITY & 0xFFFF or any(found.get(_CHAIN, b"")):
        return None  # one protocol's, or asked only where another filter leads to it
    options = attribute_map(found.get(_OPTIONS, b""))
    action = attribute_map(attribute_map(options.get(_U32_ACT, b"")).get(1, b""))
    told = attribute_map(action.get(_ACT_OPTIONS, b"")).get(_MIRRED_PARMS)
    selector = options.get(_U32_SEL, b"")
    if told is None or selector[_SELECTOR.size :] != _ANY_KEY:
        return None
    *_, does, to = _MIRRED.unpack_from(told)
    return to if does == _EGRESS_REDIRECT else None


def _redirect(ifindex: int, to: int) -> bytes:
    mirred = _MIRRED.pack(0, 0, _STOLEN, 0, 0, _EGRESS_REDIRECT, to)
    action = nested(
        1, text(_ACT_KIND, "mirred"), nested(_ACT_OPTIONS, attribute(_MIRRED_PARMS, mirred))
    )
    selector = _SELECTOR.pack(_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + _ANY_KEY
    options = nested(_OPTIONS, attribute(_U32_SEL, selector), nested(_U32_ACT, action))
    header = _TCMSG.pack(0, ifindex, 0, _INGRESS_HANDLE, _PRIORITY)
    return header + text(_KIND, "u32") + options
