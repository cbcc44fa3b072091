"""Veth pairs: made by one message, with the peer in another namespace; the peer's own settings.

One RTM_NEWLINK names the pair, gives indexes, MAC addresses, the group and the bridge, and puts the
peer where its namespace's descriptor says. The alias it would ignore (as of bridges).

Constants are those of include/uapi/linux/{rtnetlink,if_link,if_addr,veth}.h.
"""

from __future__ import annotations

import contextlib
import errno
import struct
from collections.abc import Iterable

from hvtx.host import sysctl
from hvtx.host.inet import packed
from hvtx.host.links import Links
from hvtx.host.netlink import CREATE, EXCL, Channel, attribute, nested, text, u32
from hvtx.model.address import family_of
from hvtx.model.typed import NamedTuple

_NEWLINK, _DELLINK, _NEWADDR, _NEWROUTE = 16, 17, 20, 24
_ADDRESS, _IFNAME, _MTU, _MASTER, _LINKINFO, _GROUP, _NET_NS_FD = 1, 3, 4, 10, 18, 27, 28
_INFO_KIND, _INFO_DATA, _PEER = 1, 2, 1
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_AF = {4: 2, 6: 10}
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _NO_DAD, _UNIVERSE = 1, 2, 4, 0x02, 0
_RTA_OIF, _RTA_GATEWAY = 4, 5
_MAIN, _STATIC, _UNICAST = 254, 4, 1


class Pair(NamedTuple):
    """A veth pair, as it is to be made."""

    name: str
    ifindex: int
    mac: str
    master: int  # index of the bridge
    group: int
    mtu: int
    peer: str  # its name in the other namespace
    peer_mac: str


class PeerAddress(NamedTuple):
    """An address of the peer, with its network's gateway."""

    address: str  # with prefix length
    gateway: str


def create(pair: Pair, namespace: int, links: Links) -> None:
    """Make a pair whose peer is in an open namespace. OSError: EEXIST where a name or index is."""
    inside = _IFINFO.pack(0, 0, 0, 0, 0) + text(_IFNAME, pair.peer)
    inside += attribute(_ADDRESS, _mac(pair.peer_mac)) + u32(_MTU, pair.mtu)
    inside += u32(_NET_NS_FD, namespace)
    body = _IFINFO.pack(0, 0, pair.ifindex, 0, 0) + text(_IFNAME, pair.name)
    body += attribute(_ADDRESS, _mac(pair.mac)) + u32(_MTU, pair.mtu) + u32(_GROUP, pair.group)
    body += u32(_MASTER, pair.master)
    body += nested(_LINKINFO, text(_INFO_KIND, "veth"), nested(_INFO_DATA, nested(_PEER, inside)))
    links.channel.request(_NEWLINK, CREATE | EXCL, body)


def delete(ifindex: int, links: Links) -> None:
    """Remove a pair by one of its ends. OSError: ENODEV where it is gone."""
    links.channel.request(_DELLINK, 0, _IFINFO.pack(0, 0, ifindex, 0, 0))


def furnish(name: str, alias: str, addresses: Iterable[PeerAddress]) -> list[int]:
    """Mark the peer, bring it up and give it its addresses and routes.

    In a thread that is inside its namespace. A default route that is there, of an interface before
    this one, stays; the families of these are returned. Raises OSError.
    """
    links = Links()
    try:
        seen = links.get(name=name)
        if seen is None:
            raise OSError(errno.ENODEV, f"{name} is gone")
        links.change(seen.ifindex, alias=alias, up=True)
        given = list(addresses)
        if any(family_of(one.gateway) == 6 for one in given):
            _enable_ipv6(name)
        for one in given:
            _add_address(links.channel, seen.ifindex, one.address)
        gateways = dict.fromkeys(one.gateway for one in given)
        stay = [one for one in gateways if not _add_default(links.channel, seen.ifindex, one)]
        return [family_of(one) for one in stay]
    finally:
        links.close()


def announce(name: str) -> None:
    """Have the peer's kernel announce its addresses to its neighbours, now and by itself then.

    In a thread that is inside its namespace, with the other end up. A message that gives the device
    the MAC address that it has is what makes it do so (net/ipv4/devinet.c, net/ipv6/ndisc.c), as
    long as both settings are on. Raises OSError.
    """
    for setting in (f"net/ipv4/conf/{name}/arp_notify", f"net/ipv6/conf/{name}/ndisc_notify"):
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            sysctl.write(setting, "1")
    with contextlib.closing(Links()) as links:
        seen = links.get(name=name)
        if seen is not None:
            links.change(seen.ifindex, mac=seen.mac)


def _enable_ipv6(name: str) -> None:
    """Turn IPv6 on for a device whose namespace has it off. Raises OSError."""
    path = f"net/ipv6/conf/{name}/disable_ipv6"
    with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6: the address is refused
        if sysctl.value(path) != "0":
            sysctl.write(path, "0")


def _add_address(channel: Channel, ifindex: int, address: str) -> None:
    bare, _, length = address.partition("/")
    family = family_of(bare)
    raw = packed(bare)
    body = _IFADDR.pack(_AF[family], int(length), _NO_DAD if family == 6 else 0, _UNIVERSE, ifindex)
    body += attribute(_IFA_LOCAL, raw) + attribute(_IFA_ADDRESS, raw)
    if family == 4 and int(length) < 31:
        last = int.from_bytes(raw, "big") | (1 << (32 - int(length))) - 1
        body += attribute(_IFA_BROADCAST, last.to_bytes(4, "big"))
    channel.request(_NEWADDR, CREATE | EXCL, body)


def _add_default(channel: Channel, ifindex: int, gateway: str) -> bool:
    """Make a default route; False where the family has one. Raises OSError."""
    family = _AF[family_of(gateway)]
    body = _RTMSG.pack(family, 0, 0, 0, _MAIN, _STATIC, _UNIVERSE, _UNICAST, 0)
    body += u32(_RTA_OIF, ifindex) + attribute(_RTA_GATEWAY, packed(gateway))
    try:
        channel.request(_NEWROUTE, CREATE | EXCL, body)
    except OSError as problem:
        if problem.errno != errno.EEXIST:
            raise
        return False
    return True


def _mac(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
