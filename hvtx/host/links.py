"""Links and addresses of the network namespace: the few rtnetlink messages of the hot path.

Neighbours are asked for in :mod:`hvtx.host.neigh`, filters in :mod:`hvtx.host.tc`, by one socket.

Constants are those of include/uapi/linux/{rtnetlink,if_link,if_addr}.h. Checked against pyroute2 in
integration/kernel/test_links.py.
"""

from __future__ import annotations

import contextlib
import errno
import struct
from collections.abc import Collection, Iterable
from functools import partial

from hvtx.host import link_changes
from hvtx.host.neigh import NeighbourTable, address_text
from hvtx.host.netlink import (
    TYPE_MASK,
    Channel,
    Garbled,
    attribute,
    attribute_map,
    attributes,
    legible,
    nested,
    text,
    u32,
)
from hvtx.host.retry import retry_transient, transient, whole_dump
from hvtx.host.tc import TrafficControl
from hvtx.host.tun import IFF_MULTI_QUEUE, IFF_NO_PI, IFF_VNET_HDR
from hvtx.model.address import is_ipv6
from hvtx.model.resource import Address, Link
from hvtx.model.typed import NamedTuple, Unpack

NEWLINK, GETLINK, GETADDR = 16, 18, 22
_AT_ONCE = 32  # links that are asked for in one call: their answers fit a socket's usual buffer
_IFLA = {
    "address": 1,
    "ifname": 3,
    "mtu": 4,
    "link": 5,
    "qdisc": 6,
    "master": 10,
    "linkinfo": 18,
    "ifalias": 20,
    "group": 27,
    "ext_mask": 29,
    "link_netnsid": 37,
    "xdp": 43,
    "prop_list": 52,
}
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_TUN_TYPE, _TUN_PI, _TUN_VNET_HDR, _TUN_PERSIST, _TUN_MULTI_QUEUE = 3, 4, 5, 6, 7
_TUN_QUEUES, _TUN_DISABLED_QUEUES = 8, 9
_SKIP_STATS = 1 << 3  # RTEXT_FILTER_SKIP_STATS: a third of a dump's time
_BR_MULTI_BOOLOPT = 46
_IFF_UP = 1
_CARRIER, _CARRIER_AT = 0x1, 10  # IFF_LOWER_UP, 0x10000: what netif_carrier_ok says
_MAC, _IFNAME, _MTU, _LINK, _QDISC, _MASTER = (
    _IFLA[name] for name in ("address", "ifname", "mtu", "link", "qdisc", "master")
)
_LINKINFO, _IFALIAS, _GROUP, _LINK_NETNSID, _XDP = (
    _IFLA[name] for name in ("linkinfo", "ifalias", "group", "link_netnsid", "xdp")
)
_PROPERTIES, _ALTNAME = _IFLA["prop_list"], 53
_WANTED = frozenset(
    (_MAC, _IFNAME, _MTU, _LINK, _QDISC, _MASTER, _LINKINFO, _IFALIAS, _GROUP, _LINK_NETNSID, _XDP,
     _PROPERTIES)
)  # fmt: skip
_WANTED_AS = {kind | flags: kind for kind in _WANTED for flags in (0, 0x4000, 0x8000, 0xC000)}
_HEADER = struct.Struct("=HH")
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_TUN_OWNER, _TUN_GROUP = 1, 2
# An address without IFA_F_PERMANENT has a lifetime. 169.254/16 of scope link is what a host gives
# itself; one added by hand (a metadata service's) has another scope or another prefix length.
_IFA_F_PERMANENT, _SCOPE_LINK, _AUTO4 = 0x80, 253, b"\xa9\xfe"


class Links(NeighbourTable, TrafficControl):
    """Reads and changes links; one rtnetlink socket."""

    def __init__(self) -> None:
        """Open the socket in the calling thread's network namespace."""
        self._channel = Channel(0)
        self._held: set[int] = set()  # tun devices that some process had open at the last `all`

    def close(self) -> None:
        """Close the socket."""
        self._channel.close()

    @property
    def channel(self) -> Channel:
        """The socket, for what is asked beside links."""
        return self._channel

    def all(self) -> list[Link]:
        """Every link; interrupted dumps are asked for again, then DumpInterrupted."""
        from hvtx.host.link_shape import LinkReader  # a start asks for its own links alone

        body = _IFINFO.pack(0, 0, 0, 0, 0) + u32(_IFLA["ext_mask"], _SKIP_STATS)
        bodies = whole_dump(self._channel, GETLINK, body)
        read = LinkReader(_link, _WANTED).link
        found = [read(body) for body in bodies]
        self._held = {
            link.ifindex
            for link, body in zip(found, bodies, strict=True)
            if link.kind == "tun" and body[_CARRIER_AT] & _CARRIER
        }
        return found

    def get(self, ifindex: int = 0, name: str = "") -> Link | None:
        """One link by index or name; None if the kernel says that there is none."""
        body = _IFINFO.pack(0, 0, ifindex, 0, 0)
        if not ifindex:
            body += text(_IFLA["ifname"], name)
        body += u32(_IFLA["ext_mask"], _SKIP_STATS)
        try:
            return _link(retry_transient(lambda: self._channel.get(GETLINK, body)))
        except OSError as problem:
            if problem.errno == errno.ENODEV:
                return None
            raise

    def touch(self, *ifindexes: int) -> None:
        """Have the kernel bring what is shown of links up to date, now and not in a second.

        It does so for whoever asks for one (linkwatch_sync_dev). Raises OSError but for a link that
        is gone.
        """
        for start in range(0, len(ifindexes), _AT_ONCE):
            part = ifindexes[start : start + _AT_ONCE]
            refused = self._channel.refusals([(GETLINK, 0, _one(ifindex)) for ifindex in part])
            for n, problem in refused.items():
                if transient(problem):
                    retry_transient(partial(self.get, part[n]))
                elif problem.errno != errno.ENODEV:
                    raise problem

    @legible
    def tun_owner(self, ifindex: int) -> tuple[int | None, int | None]:
        """User and group that may attach to a tun device; None where anybody may. OSError."""
        body = _one(ifindex)
        found = attribute_map(retry_transient(lambda: self._channel.get(GETLINK, body)), 16)
        tun = attribute_map(attribute_map(found[_LINKINFO])[_INFO_DATA])
        user, group = (tun.get(kind) for kind in (_TUN_OWNER, _TUN_GROUP))
        return (
            None if user is None else int.from_bytes(user, "little"),
            None if group is None else int.from_bytes(group, "little"),
        )

    def change(
        self,
        ifindex: int,
        *,
        quiet6: bool = False,
        hairpin: bool = False,
        **new: Unpack[link_changes.LinkChange],
    ) -> None:
        """Give a link what is ``new``; with ``quiet6`` the kernel gives it no fe80:: of its own.

        ``hairpin`` lets its bridge send frames back where they came from: a guest reaches its own
        published port that way where br_netfilter translates inside the bridge.

        The messages (:mod:`hvtx.host.link_changes`) go out in one call.
        """
        wanted = [link_changes.changed(ifindex, **new)]
        if hairpin:
            wanted.append(link_changes.hairpin(ifindex))
        if quiet6:
            wanted.insert(0, link_changes.quiet6(ifindex))
        refused = self._channel.refusals(wanted)
        for n, problem in refused.items():
            if not (quiet6 and n == 0 and problem.errno == errno.EAFNOSUPPORT):  # no IPv6 at all
                raise problem

    def set_apart(self, ifindex: int) -> None:
        """Keep other ports' broadcasts and multicasts from a port (`link_changes.apart`)."""
        self._channel.request(*link_changes.apart(ifindex))

    def rename(self, ifindex: int, name: str) -> None:
        """Give a link another name; where the kernel asks for it (before 6.2), it is down then."""
        naming = text(_IFLA["ifname"], name)
        try:
            self._channel.request(NEWLINK, 0, _IFINFO.pack(0, 0, ifindex, 0, 0) + naming)
        except OSError as problem:
            if problem.errno != errno.EBUSY:
                raise
            self._channel.request(NEWLINK, 0, _IFINFO.pack(0, 0, ifindex, 0, _IFF_UP))
            self._channel.request(NEWLINK, 0, _IFINFO.pack(0, 0, ifindex, 0, 0) + naming)

    def learn_no_link_local(self, ifindex: int) -> None:
        """Keep a bridge from learning the source of frames to 01:80:c2:00:00:0X.

        Those to …:0e (LLDP) meet no netfilter hook, so a guest could divert another's frames by
        them (net/bridge/br_input.c, br_handle_frame).
        """
        option = attribute(_BR_MULTI_BOOLOPT, struct.pack("=II", 1, 1))
        info = nested(_IFLA["linkinfo"], text(_INFO_KIND, "bridge"), nested(_INFO_DATA, option))
        self._channel.request(NEWLINK, 0, _IFINFO.pack(0, 0, ifindex, 0, 0) + info)

    def addresses(self, ifindex: int = 0) -> list[Address]:
        """Every address of the host, or of one link.

        Of all of them the kernel asks each link, those of guests too; of one it looks at no other.
        A link that is gone has none.
        """
        body = _IFADDR.pack(0, 0, 0, 0, ifindex)
        try:
            found = [_address(data) for data in whole_dump(self._channel, GETADDR, body)]
        except OSError as problem:
            if ifindex and problem.errno == errno.ENODEV:
                return []
            raise
        return [one for one in found if ifindex in (0, one.ifindex)]


def _one(ifindex: int) -> bytes:
    """The body of a GETLINK of one link."""
    return _IFINFO.pack(0, 0, ifindex, 0, 0) + u32(_IFLA["ext_mask"], _SKIP_STATS)


def named_again(links: Links, ifindex: int, alias: str, name: str) -> Link | None:
    """The link of an index and an alias, under its name; None if it is another by now. OSError."""
    seen = links.get(ifindex=ifindex)
    if seen is None or seen.alias != alias:
        return None
    if seen.name != name:
        links.rename(seen.ifindex, name)
    return seen._replace(name=name)


def silence(links: Links, ifindex: int, addresses: Iterable[Address], own: Collection[str]) -> None:
    """Keep the kernel from giving a device of ours more link-local addresses, where it has one."""
    mine = (a for a in addresses if a.ifindex == ifindex and a.by_itself)
    if any(is_ipv6(a.address) and a.address not in own for a in mine):
        with contextlib.suppress(OSError):  # the device goes all the same, or stays for a reason
            links.change(ifindex, quiet6=True)


@legible
def _link(data: bytes) -> Link:
    """A link from the body of its message. Raises Garbled.

    Its attributes are walked here and not by :func:`attributes`, which would hand out each of some
    forty: a plan reads thousands of links.
    """
    _, _, ifindex, flags, _ = _IFINFO.unpack_from(data)
    found: dict[int, bytes] = {}
    at, end = 16, len(data)
    header, wanted, last = _HEADER.unpack_from, _WANTED_AS, end - 4
    while at <= last:
        length, kind = header(data, at)
        if length < 4 or (stop := at + length) > end:
            raise Garbled("a netlink attribute runs past its message")
        if kind in wanted:
            found[wanted[kind]] = data[at + 4 : stop]
        at = (stop + 3) & ~3
    raw = found.get
    what, tun = _what_it_is(raw(_LINKINFO, b""))
    alias, xdp = raw(_IFALIAS, b""), raw(_XDP)
    name = found[_IFNAME].rstrip(b"\0").decode(errors="surrogateescape")
    if not name:
        raise Garbled("a link without a name")
    elsewhere = _LINK_NETNSID in found
    return Link(
        ifindex,
        name,
        what,
        alias.rstrip(b"\0").decode(errors="replace") or None,
        raw(_MAC, b"").hex(":"),
        _number(raw(_MTU, b"")),
        _number(raw(_MASTER, b"")),
        0 if elsewhere or what == "veth" else _number(raw(_LINK, b"")),
        _number(raw(_GROUP, b"")),
        bool(flags & _IFF_UP),
        tun.flags,
        tun.queues,
        tun.persistent,
        raw(_QDISC, b"").rstrip(b"\0").decode(),
        xdp is not None and attribute_map(xdp).get(2, b"\0") != b"\0",
        _altnames(found[_PROPERTIES]) if _PROPERTIES in found else (),
    )


def _altnames(properties: bytes) -> tuple[str, ...]:
    return tuple(
        properties[start:end].rstrip(b"\0").decode(errors="surrogateescape")
        for kind, start, end in attributes(properties, 0, len(properties))
        if kind == _ALTNAME
    )


def _number(value: bytes) -> int:
    return int.from_bytes(value[:4], "little") if len(value) >= 4 else 0


def _what_it_is(info: bytes) -> tuple[str, _Tun]:
    """The kind of a link and, of a tun device, its settings: from IFLA_LINKINFO."""
    kind, data, at, end = "", b"", 0, len(info)
    while at + 4 <= end:
        length, number = _HEADER.unpack_from(info, at)
        if length < 4 or at + length > end:
            raise Garbled("a netlink attribute runs past its message")
        if number & TYPE_MASK == _INFO_KIND:
            kind = info[at + 4 : at + length].rstrip(b"\0").decode()
        elif number & TYPE_MASK == _INFO_DATA:
            data = info[at + 4 : at + length]
        at += (length + 3) & ~3
    if kind != "tun":
        return kind, _NO_TUN
    seen = _tuns.get(data)
    if seen is None:
        if len(_tuns) >= _FEW:
            _tuns.clear()
        seen = _tuns[data] = _tun(attribute_map(data))
    return kind, seen


class _Tun(NamedTuple):
    """What a tun device says of itself."""

    flags: int  # the TUNSETIFF flags with which to attach without changing the device
    queues: int
    persistent: bool


_NO_TUN = _Tun(0, 0, False)
_FEW = 64
_tuns: dict[bytes, _Tun] = {}  # by what the kernel said: nearly all TAPs of a host say the same


def _tun(tun: dict[int, bytes]) -> _Tun:
    if not tun:
        return _NO_TUN

    def on(kind: int) -> bool:
        return tun.get(kind, b"\0") != b"\0"

    flags = tun.get(_TUN_TYPE, b"\0")[0]
    flags |= 0 if on(_TUN_PI) else IFF_NO_PI
    flags |= IFF_VNET_HDR if on(_TUN_VNET_HDR) else 0
    flags |= IFF_MULTI_QUEUE if on(_TUN_MULTI_QUEUE) else 0
    # a queue that its holder has switched off (TUNSETQUEUE) holds the device all the same
    counts = (tun.get(_TUN_QUEUES, b""), tun.get(_TUN_DISABLED_QUEUES, b""))
    queues = sum(int.from_bytes(count, "little") for count in counts)
    return _Tun(flags, queues, bool(tun.get(_TUN_PERSIST, b"\0")[0]))


@legible
def _address(data: bytes) -> Address:
    """An address from the body of its message. Raises Garbled."""
    _, prefix, flags, scope, ifindex = _IFADDR.unpack_from(data)
    found = attribute_map(data, 8)
    packed = found.get(2) or found[1]  # IFA_LOCAL is the host's own end of a point-to-point
    passing = not flags & _IFA_F_PERMANENT
    if len(packed) != 16:
        passing |= packed[:2] == _AUTO4 and (prefix, scope) == (16, _SCOPE_LINK)
        return Address(ifindex, f"{address_text(packed)}/{prefix}", passing)
    import ipaddress  # writes all of IPv6 as it is on record, which inet_ntop does not

    return Address(ifindex, f"{ipaddress.IPv6Address(packed)}/{prefix}", passing)
