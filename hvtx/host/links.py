"""Links and addresses of the network namespace: the few rtnetlink messages of the hot path.

Constants are those of include/uapi/linux/{rtnetlink,if_link,if_addr}.h. Checked against pyroute2 in
integration/test_links.py.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Collection, Iterable
from typing import NamedTuple

from hvtx.host.inet import packed, socket_family
from hvtx.host.netlink import (
    ACK,
    CREATE,
    EXCL,
    REQUEST,
    TYPE_MASK,
    Channel,
    Garbled,
    attribute,
    attribute_map,
    attributes,
    legible,
    message,
    nested,
    text,
    u32,
)
from hvtx.host.retry import persistently
from hvtx.host.tun import IFF_MULTI_QUEUE, IFF_NO_PI, IFF_VNET_HDR
from hvtx.model.address import is_ipv6
from hvtx.model.resource import Address, Link

NEWLINK, GETLINK, SETLINK, GETADDR = 16, 18, 19, 22
_IFLA = {
    "address": 1,
    "ifname": 3,
    "mtu": 4,
    "link": 5,
    "qdisc": 6,
    "master": 10,
    "protinfo": 12,
    "linkinfo": 18,
    "ifalias": 20,
    "af_spec": 26,
    "group": 27,
    "ext_mask": 29,
    "link_netnsid": 37,
    "xdp": 43,
    "prop_list": 52,
}
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_BRPORT_MODE = 4
_TUN_TYPE, _TUN_PI, _TUN_VNET_HDR, _TUN_PERSIST, _TUN_MULTI_QUEUE, _TUN_QUEUES = 3, 4, 5, 6, 7, 8
_SKIP_STATS = 1 << 3  # RTEXT_FILTER_SKIP_STATS: a third of a dump's time
_INET6, _ADDR_GEN_MODE, _GEN_NONE = 10, 8, 1
_AF_BRIDGE, _BRPORT_MODE, _BR_MULTI_BOOLOPT = 7, 4, 46
_BRPORT_ROUTER, _BRPORT_MCAST_FLOOD, _BRPORT_BCAST_FLOOD = 25, 27, 30
_IFF_UP, _CARRIER = 1, 0x10000  # IFF_LOWER_UP: what netif_carrier_ok says
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
_HEADER = struct.Struct("=HH")
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_TCMSG = struct.Struct("=BxxxiIII")
_GETQDISC, _NEWQDISC = 38, 36
_NEWFILTER, _DELFILTER, _GETFILTER = 44, 45, 46
_TCA_KIND, _TCA_OPTIONS = 1, 2
_CLSACT, _CLSACT_HANDLE, INGRESS, EGRESS = 0xFFFFFFF1, 0xFFFF0000, 0xFFFFFFF2, 0xFFFFFFF3
_BPF_OPS_LEN, _BPF_OPS, _BPF_FLAGS, _BPF_ACT_DIRECT = 4, 5, 8, 1
# Priority and handles by which a filter is known as hvtx's own, of whatever installation: "hv" and
# "hvtx", and the next (hvtx.host.sums). The mark is that of the device, with which they go.
OWN_PRIORITY, _OWN_HANDLE, SUM_HANDLE, _ETH_P_ALL = 0x6876, 0x68767478, 0x68767479, 0x0003
_NO_SUCH_KIND = frozenset({errno.ENOENT, errno.EOPNOTSUPP})
_TUN_OWNER, _TUN_GROUP = 1, 2
# An address without IFA_F_PERMANENT has a lifetime. 169.254/16 of scope link is what a host gives
# itself; one added by hand (a metadata service's) has another scope or another prefix length.
_IFA_F_PERMANENT, _SCOPE_LINK, _AUTO4 = 0x80, 253, b"\xa9\xfe"
_NO_ENTRY = frozenset({errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP, errno.EAFNOSUPPORT})
_NDMSG = struct.Struct("=BxxxiHBB")
_DELNEIGH, _GETNEIGH = 29, 30
_NDA_DST, _NDA_LLADDR = 1, 2
_FIXED = 0x80 | 0x40  # NUD_PERMANENT, _NOARP: entered by hand, and never asked about
_EXT_LEARNED = 0x10  # NTF_EXT_LEARNED: entered by a routing daemon
# Beside eight processes that started and stopped VMs, 300 others up, on two busy processors, a stop
# ended with 9 after 20 interrupted dumps.
_ATTEMPTS, _SECONDS = 60, 5.0
_ANSWERED = 0x02 | 0x08 | 0x10 | 0x80  # NUD_REACHABLE, _DELAY, _PROBE, _PERMANENT


class Links:
    """Reads and changes links; one rtnetlink socket."""

    def __init__(self) -> None:
        """Open the socket in the calling thread's network namespace."""
        self._channel = Channel(0)
        self._held: set[int] = set()  # tun devices that some process had open at the last `all`

    def close(self) -> None:
        """Close the socket."""
        self._channel.close()

    def all(self) -> list[Link]:
        """Every link; interrupted dumps are asked for again, then DumpInterrupted."""
        body = _IFINFO.pack(0, 0, 0, 0, 0) + u32(_IFLA["ext_mask"], _SKIP_STATS)
        bodies = persistently(
            lambda: self._channel.dump(GETLINK, body), attempts=_ATTEMPTS, seconds=_SECONDS
        )
        found = [_link(body) for body in bodies]
        carried = {
            _IFINFO.unpack_from(b)[2] for b in bodies if _IFINFO.unpack_from(b)[3] & _CARRIER
        }
        self._held = {link.ifindex for link in found if link.kind == "tun"} & carried
        return found

    def get(self, ifindex: int = 0, name: str = "") -> Link | None:
        """One link by index or name; None if the kernel says that there is none."""
        body = _IFINFO.pack(0, 0, ifindex, 0, 0)
        if not ifindex:
            body += text(_IFLA["ifname"], name)
        body += u32(_IFLA["ext_mask"], _SKIP_STATS)
        try:
            return _link(persistently(lambda: self._channel.get(GETLINK, body)))
        except OSError as problem:
            if problem.errno == errno.ENODEV:
                return None
            raise

    @legible
    def tun_owner(self, ifindex: int) -> tuple[int | None, int | None]:
        """User and group that may attach to a tun device; None where anybody may. OSError."""
        body = _IFINFO.pack(0, 0, ifindex, 0, 0) + u32(_IFLA["ext_mask"], _SKIP_STATS)
        found = attribute_map(persistently(lambda: self._channel.get(GETLINK, body)), 16)
        tun = attribute_map(attribute_map(found[_LINKINFO])[_INFO_DATA])
        user, group = (tun.get(kind) for kind in (_TUN_OWNER, _TUN_GROUP))
        return (
            None if user is None else int.from_bytes(user, "little"),
            None if group is None else int.from_bytes(group, "little"),
        )

    @legible
    def neighbours(self) -> frozenset[str]:
        """Addresses that answered the host of late (or were entered by hand), of all devices."""
        bodies = persistently(
            lambda: self._channel.dump(_GETNEIGH, _NDMSG.pack(0, 0, 0, 0, 0)), attempts=20
        )
        found = set()
        for data in bodies:
            family, _, state, _, _ = _NDMSG.unpack_from(data)
            packed = attribute_map(data, _NDMSG.size).get(_NDA_DST, b"")
            if state & _ANSWERED and family in (socket.AF_INET, socket.AF_INET6):
                found.add(_address_text(packed))
        return frozenset(found)

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
        if not found:
            return
        seqs = [self._channel.next_seq() for _ in found]
        flags = [REQUEST] * (len(found) - 1) + [REQUEST | ACK]
        parts = zip(flags, seqs, found, strict=True)
        for refusal in self._channel.errors(
            b"".join(message(_DELNEIGH, flag, seq, body) for flag, seq, body in parts), seqs
        ):
            if refusal.errno not in _NO_ENTRY:
                raise refusal

    @legible
    def fixed_neighbours(self) -> list[tuple[int, str, str]]:
        """Device, address and MAC address of each entry that somebody entered. Raises OSError."""
        bodies = persistently(
            lambda: self._channel.dump(_GETNEIGH, _NDMSG.pack(0, 0, 0, 0, 0)), attempts=20
        )
        found = []
        for data in bodies:
            family, ifindex, _, _, _ = _NDMSG.unpack_from(data)
            parts = attribute_map(data, _NDMSG.size)
            if family in (socket.AF_INET, socket.AF_INET6) and not _may_forget(data):
                mac = parts.get(_NDA_LLADDR, b"").hex(":")
                found.append((ifindex, _address_text(parts.get(_NDA_DST, b"")), mac))
        return found

    def change(
        self,
        ifindex: int,
        *,
        alias: str | None = None,
        master: int | None = None,
        mac: str | None = None,
        mtu: int | None = None,
        up: bool = False,
        quiet6: bool = False,
        hairpin: bool = False,
    ) -> None:
        """Change a link; ``quiet6`` keeps the kernel from giving it an fe80:: of its own.

        ``hairpin`` lets its bridge send frames back where they came from: a guest reaches its own
        published port that way where br_netfilter translates inside the bridge.

        The kernel handles IFLA_AF_SPEC after it brought the link up, so ``quiet6`` is a message of
        its own before the other; both go out in one call.
        """
        flag = _IFF_UP if up else 0
        body = _IFINFO.pack(0, 0, ifindex, flag, flag)
        if mac is not None:
            body += attribute(_IFLA["address"], bytes.fromhex(mac.replace(":", "")))
        if mtu is not None:
            body += u32(_IFLA["mtu"], mtu)
        if alias is not None:
            body += attribute(_IFLA["ifalias"], alias.encode())
        if master is not None:
            body += u32(_IFLA["master"], master)
        bodies = [(NEWLINK, body)]
        if hairpin:
            port = nested(_IFLA["protinfo"], attribute(_BRPORT_MODE, b"\1"))
            bodies.append((SETLINK, _IFINFO.pack(_AF_BRIDGE, 0, ifindex, 0, 0) + port))
        if quiet6:
            gen = attribute(_ADDR_GEN_MODE, bytes([_GEN_NONE]))
            spec = nested(_IFLA["af_spec"], nested(_INET6, gen))
            bodies.insert(0, (NEWLINK, _IFINFO.pack(0, 0, ifindex, 0, 0) + spec))
        seqs = [self._channel.next_seq() for _ in bodies]
        pairs = zip(seqs, bodies, strict=True)
        data = b"".join(message(kind, REQUEST | ACK, seq, one) for seq, (kind, one) in pairs)
        try:
            self._channel.transact(data, seqs)
        except OSError as problem:
            if quiet6 and problem.errno == errno.EAFNOSUPPORT:  # a kernel without IPv6
                self.change(
                    ifindex, alias=alias, master=master, mac=mac, mtu=mtu, up=up, hairpin=hairpin
                )
                return
            raise

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

    def keep_apart(self, ifindex: int) -> None:
        """Keep other ports' broadcasts and multicasts from a port; the bridge's own still come.

        The flag for that (``isolated``) would also stop what br_netfilter translates inside the
        bridge: a neighbour's published port.
        """
        kinds = (_BRPORT_ROUTER, _BRPORT_MCAST_FLOOD, _BRPORT_BCAST_FLOOD)
        port = nested(_IFLA["protinfo"], *(attribute(kind, b"\0") for kind in kinds))
        self._channel.request(SETLINK, 0, _IFINFO.pack(_AF_BRIDGE, 0, ifindex, 0, 0) + port)

    def learn_no_link_local(self, ifindex: int) -> None:
        """Keep a bridge from learning the source of frames to 01:80:c2:00:00:0X.

        Those to …:0e (LLDP) meet no netfilter hook, so a guest could divert another's frames by
        them (net/bridge/br_input.c, br_handle_frame).
        """
        option = attribute(_BR_MULTI_BOOLOPT, struct.pack("=II", 1, 1))
        info = nested(_IFLA["linkinfo"], text(_INFO_KIND, "bridge"), nested(_INFO_DATA, option))
        self._channel.request(NEWLINK, 0, _IFINFO.pack(0, 0, ifindex, 0, 0) + info)

    def addresses(self) -> list[Address]:
        """Every address of the host."""
        body = _IFADDR.pack(0, 0, 0, 0, 0)
        bodies = persistently(
            lambda: self._channel.dump(GETADDR, body), attempts=_ATTEMPTS, seconds=_SECONDS
        )
        return [_address(found) for found in bodies]

    def guard(self, ifindex: int, program: bytes, side: int = INGRESS) -> bool:
        """Give a link hvtx's own filter, or another program to it; False where the kernel cannot.

        ``program`` is a classic BPF program that answers with a TC_ACT. Others' filters on the
        link stay, and see what ours lets pass. Raises OSError.
        """
        kind = text(_TCA_KIND, "clsact")
        qdisc = _TCMSG.pack(0, ifindex, _CLSACT_HANDLE, _CLSACT, 0) + kind
        options = attribute(_BPF_OPS_LEN, struct.pack("=H", len(program) // 8))
        options += attribute(_BPF_OPS, program) + u32(_BPF_FLAGS, _BPF_ACT_DIRECT)
        body = _own_filter(ifindex, side) + text(_TCA_KIND, "bpf") + nested(_TCA_OPTIONS, options)
        try:
            self._channel.request(_NEWQDISC, CREATE | EXCL, qdisc)
        except OSError as problem:
            if problem.errno in _NO_SUCH_KIND:
                return False
            if problem.errno != errno.EEXIST:
                raise
        try:
            self._channel.request(_NEWFILTER, CREATE, body)
        except OSError as problem:
            if problem.errno not in _NO_SUCH_KIND:
                raise
            return False
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
    def filtered(self, closely: Collection[int] = ()) -> frozenset[int]:
        """Indexes of links with traffic control of someone's (tc qdiscs, clsact filters).

        The kernel's own default queue has handle 0; every other has one of its own. Where filters
        are attached (clsact) and all of them are hvtx's own, it is nobody else's. TAPs that were
        held open when :meth:`all` was asked are not looked at so closely, but those in ``closely``.
        """
        found = set()
        for data in self._dump(_GETQDISC, _TCMSG.pack(0, 0, 0, 0, 0)):
            _, ifindex, handle, _, _ = _TCMSG.unpack_from(data)
            spared = ifindex in self._held and ifindex not in closely
            if handle == _CLSACT_HANDLE and (spared or self._only_ours(ifindex)):
                continue
            if handle:
                found.add(ifindex)
        return frozenset(found)

    def _only_ours(self, ifindex: int) -> bool:
        """Whether there are filters on a link, and hvtx's own alone."""
        mine = 0
        for side in (INGRESS, EGRESS):
            for data in self._dump(_GETFILTER, _TCMSG.pack(0, ifindex, 0, side, 0)):
                _, _, handle, _, info = _TCMSG.unpack_from(data)
                if info >> 16 != OWN_PRIORITY or handle not in (0, _OWN_HANDLE, SUM_HANDLE):
                    return False
                mine += 1
        return mine > 0

    def _dump(self, kind: int, body: bytes) -> list[bytes]:
        return persistently(
            lambda: self._channel.dump(kind, body), attempts=_ATTEMPTS, seconds=_SECONDS
        )


def silence(links: Links, ifindex: int, addresses: Iterable[Address], own: Collection[str]) -> None:
    """Keep the kernel from giving a device of ours more link-local addresses, where it has one."""
    mine = (a for a in addresses if a.ifindex == ifindex and a.by_itself)
    if any(is_ipv6(a.address) and a.address not in own for a in mine):
        with contextlib.suppress(OSError):  # the device goes all the same, or stays for a reason
            links.change(ifindex, quiet6=True)


def _own_filter(ifindex: int, side: int) -> bytes:
    info = OWN_PRIORITY << 16 | socket.htons(_ETH_P_ALL)
    return _TCMSG.pack(0, ifindex, _OWN_HANDLE, side, info)


@legible
def _link(data: bytes) -> Link:
    """A link from the body of its message. Raises Garbled.

    Its attributes are walked here and not by :func:`attributes`, which would hand out each of some
    forty: a plan reads thousands of links.
    """
    _, _, ifindex, flags, _ = _IFINFO.unpack_from(data)
    found: dict[int, bytes] = {}
    at, end = 16, len(data)
    header, wanted = _HEADER.unpack_from, _WANTED
    while at + 4 <= end:
        length, kind = header(data, at)
        if length < 4 or at + length > end:
            raise Garbled("a netlink attribute runs past its message")
        kind &= TYPE_MASK
        if kind in wanted:
            found[kind] = data[at + 4 : at + length]
        at += (length + 3) & ~3
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


@legible
def _may_forget(entry: bytes) -> bool:
    """Whether the kernel made an entry of the neighbour table by itself (pure). Raises Garbled."""
    _, _, state, flags, _ = _NDMSG.unpack_from(entry)
    return not state & _FIXED and not flags & _EXT_LEARNED


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
    queues = int.from_bytes(tun.get(_TUN_QUEUES, b""), "little")
    return _Tun(flags, queues, bool(tun.get(_TUN_PERSIST, b"\0")[0]))


def _address_text(packed: bytes) -> str:
    """An address as people write it. Raises Garbled."""
    if len(packed) not in (4, 16):
        raise Garbled(f"an address of {len(packed)} bytes")
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


@legible
def _address(data: bytes) -> Address:
    """An address from the body of its message. Raises Garbled."""
    _, prefix, flags, scope, ifindex = _IFADDR.unpack_from(data)
    found = attribute_map(data, 8)
    packed = found.get(2) or found[1]  # IFA_LOCAL is the host's own end of a point-to-point
    passing = not flags & _IFA_F_PERMANENT
    if len(packed) != 16:
        passing |= packed[:2] == _AUTO4 and (prefix, scope) == (16, _SCOPE_LINK)
        return Address(ifindex, f"{_address_text(packed)}/{prefix}", passing)
    import ipaddress  # writes all of IPv6 as it is on record, which inet_ntop does not

    return Address(ifindex, f"{ipaddress.IPv6Address(packed)}/{prefix}", passing)
