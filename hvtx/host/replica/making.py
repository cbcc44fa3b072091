"""A topology made again in the calling thread's namespace.

Bridges stay bridges. Every other device becomes a TAP (or, where it carries packets and no frames,
a TUN) of the same name, index, MAC address and group, whose descriptor is the far end: what leaves
by it is read there. Layouts: include/uapi/linux/rtnetlink.h, if_link.h, if_addr.h, fib_rules.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

from hvtx.host import tun
from hvtx.host.netlink import (
    APPEND,
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
from hvtx.host.replica.topology import (
    Device,
    Topology,
    is_entered,
    kept,
    local_key,
    route_key,
    route_of,
    route_words,
    setting,
    to_gateway,
)

_NEWLINK, _GETLINK, _NEWADDR = 16, 18, 20
_NEWROUTE, _DELROUTE, _GETROUTE, _NEWRULE, _DELRULE, _GETRULE = 24, 25, 26, 32, 33, 34
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBi")
_RTMSG = struct.Struct("=BBBBBBBBI")
_MAC, _NAME, _MASTER, _INFO, _GROUP = 1, 3, 10, 18, 27
_KIND, _DATA, _SLAVE_KIND, _SLAVE_DATA = 1, 2, 4, 5
_UP, _NOARP = 0x1, 0x80
_ADDRESS_KEPT = frozenset({1, 2, 3, 4, 9})  # ADDRESS, LOCAL, LABEL, BROADCAST, RT_PRIORITY
_ADDRESS_FLAGS, _NODAD, _NO_PREFIX_ROUTE, _DAD_FAILED = 8, 0x02, 0x200, 0x08
_RULE_INVERTED = 0x2
# Neither the kernel's log nor passing devices are to be written to.
_QUIET = {
    "ipv4/conf/all/log_martians": "0",
    "ipv4/conf/default/log_martians": "0",
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/default/accept_ra": "0",
    "ipv6/conf/default/router_solicitations": "0",
    "ipv6/conf/default/addr_gen_mode": "1",
}


class Maker:
    """Makes a topology in the calling thread's namespace; its far ends are open until closed."""

    def __init__(self) -> None:
        """Open a channel in there."""
        self._channel = Channel(0)
        self.ends: dict[str, int] = {}
        self.lacks: list[str] = []

    def close(self) -> None:
        """Close all descriptors; the devices go with the namespace.

        One by one they would be waited for, some 10 ms each.
        """
        for descriptor in self.ends.values():
            with suppress(OSError):
                tun.set_persistent(descriptor, True)
            os.close(descriptor)
        self.ends.clear()
        self._channel.close()

    def make(self, topology: Topology) -> None:
        """Make all of it; what fails is in ``lacks`` in words."""
        self._set(_QUIET)
        general = {p: v for p, v in topology.settings.items() if _is_general(p)}
        self._set(general)
        for device in topology.devices:
            self._try(f"device {device.name}", self.device, device)
        for device in topology.devices:  # masters are there now
            self._try(f"device {device.name}", self._settle, device)
        self._set({p: v for p, v in topology.settings.items() if p not in general})
        there = {device.ifindex for device in topology.devices}
        self._rules(topology.rules)
        for body in topology.addresses:
            self._address(body, there)
        late = [body for body in topology.routes if not self._route(body, there, last=False)]
        self._nexthops(topology.nexthops)
        late = [body for body in late if not self._route(body, there, last=False)]
        for body in late:
            self._route(body, there, last=True)
        self._prune(topology)
        for body in topology.neighbours:
            self._neighbour(body, there)

    def _try(self, words: str, act: Callable[[Device], None], device: Device) -> None:
        try:
            act(device)
        except OSError as problem:
            self.lacks.append(f"{words} cannot be copied: {problem.strerror}")

    def _set(self, values: Mapping[str, str]) -> None:
        for path, value in values.items():
            if setting(path) == value:
                continue
            try:
                descriptor = os.open(f"/proc/sys/net/{path}", os.O_WRONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # of a device that could not be made, or of another kernel
            except OSError as problem:
                self.lacks.append(f"setting {path} cannot be copied: {problem.strerror}")
                continue
            try:
                os.write(descriptor, value.encode())
            except OSError as problem:
                self.lacks.append(f"setting {path} cannot be copied: {problem.strerror}")
            finally:
                os.close(descriptor)

    def device(self, device: Device) -> None:
        """Make one device, down and of no master."""
        if device.kind == "loopback":
            return
        if device.kind in ("bridge", "vrf"):
            inside = device.bridge if device.kind == "bridge" else device.data
            body = _IFINFO.pack(0, 0, device.ifindex, 0, 0) + text(_NAME, device.name)
            if device.kind == "bridge" and any(device.mac):  # none once its last port has left
                body += attribute(_MAC, device.mac)
            body += nested(_INFO, text(_KIND, device.kind), nested(_DATA, inside))
            self._channel.request(_NEWLINK, CREATE | EXCL, body)
            return
        flags = tun.IFF_NO_PI | (tun.IFF_TAP if device.ether else tun.IFF_TUN)
        descriptor = tun.open_device()
        try:
            tun.create(descriptor, device.name, device.ifindex, flags)
        except BaseException:
            os.close(descriptor)
            raise
        self.ends[device.name] = descriptor

    def _settle(self, device: Device) -> None:
        body = _IFINFO.pack(0, 0, device.ifindex, 0, 0)
        if device.kind not in ("loopback", "bridge", "vrf"):
            if device.ether and any(device.mac):
                body += attribute(_MAC, device.mac)
            if device.master:
                with suppress(OSError):  # a bond's or a team's, which is a TAP here
                    master = _IFINFO.pack(0, 0, device.ifindex, 0, 0) + u32(_MASTER, device.master)
                    self._channel.request(_NEWLINK, 0, master)
        if device.group:
            body += u32(_GROUP, device.group)
        if len(body) > _IFINFO.size:
            self._channel.request(_NEWLINK, 0, body)
        if device.port:
            slave = nested(_INFO, text(_SLAVE_KIND, "bridge"), nested(_SLAVE_DATA, device.port))
            body = _IFINFO.pack(0, 0, device.ifindex, 0, 0) + slave
            self._channel.request(_NEWLINK, 0, body)
        if device.ether and not device.arp:
            body = _IFINFO.pack(0, 0, device.ifindex, _NOARP, _NOARP)
            self._channel.request(_NEWLINK, 0, body)
        if device.up:
            self._channel.request(_NEWLINK, 0, _IFINFO.pack(0, 0, device.ifindex, _UP, _UP))
            # asked for, a change of carrier is seen now and not by and by
            self._channel.get(_GETLINK, _IFINFO.pack(0, 0, device.ifindex, 0, 0))

    def _address(self, body: bytes, there: Collection[int]) -> None:
        family, prefix, _, scope, ifindex = _IFADDR.unpack_from(body)
        fields = attribute_map(body, 8)
        flags = int.from_bytes(fields.get(_ADDRESS_FLAGS, b""), "little")
        if ifindex not in there or flags & _DAD_FAILED:
            return
        flags = _NODAD | _NO_PREFIX_ROUTE
        data = _IFADDR.pack(family, prefix, flags & 0xFF, scope, ifindex)
        data += kept(body[8:], _ADDRESS_KEPT) + u32(_ADDRESS_FLAGS, flags)
        self._make(_NEWADDR, data, "an address")

    def _route(self, body: bytes, there: Collection[int], *, last: bool) -> bool:
        """Make a route; whether it is there, or nobody's. What it needs may come later."""
        data = route_of(body, there)
        if data is None:
            return True
        step = to_gateway(body) if last else None
        flags = CREATE | (APPEND if _is_beside(body) else EXCL)
        if step is None:
            return self._make(_NEWROUTE, data, f"route {route_words(body)}" if last else "", flags)
        with suppress(OSError):
            self._channel.request(_NEWROUTE, CREATE | EXCL, step)
        made = self._make(_NEWROUTE, data, f"route {route_words(body)}")
        with suppress(OSError):
            self._channel.request(_DELROUTE, 0, step)
        return made

    def _nexthops(self, nexthops: Sequence[bytes]) -> None:
        """Make the nexthops that routes name by number: single ones before their groups."""
        alone = [body for body in nexthops if _NH_GROUP not in attribute_map(body, _NHMSG.size)]
        for bodies in (alone, [body for body in nexthops if body not in alone]):
            for body in bodies:
                with suppress(OSError):  # of a device that is not there; then its routes fail
                    self._channel.request(_NEWNEXTHOP, CREATE | EXCL, nexthop_of(body))

    def _prune(self, topology: Topology) -> None:
        """Take away what the kernel made by itself here, and the host has no more."""
        wanted = {route_key(body) for body in topology.routes}
        late = [address for address in topology.addresses if local_key(address) not in wanted]
        self._await([body for body in late if body[0] == socket.AF_INET6])
        invented = {index.to_bytes(4, "little") for index in topology.invented}
        for body in self._there():
            key = route_key(body)
            if key not in wanted and key[-1] not in invented and key[-2] != _MULTICAST:
                self._make(_DELROUTE, body, "", 0)

    def _await(self, addresses: Sequence[bytes]) -> None:
        """Wait for the local routes of addresses, which a worker of the kernel's makes."""
        for _ in range(_WAITS if addresses else 0):
            there = {route_key(body) for body in self._there()}
            if all(local_key(address) in there for address in addresses):
                return
            time.sleep(_WAIT_SECONDS)

    def _there(self) -> list[bytes]:
        found: list[bytes] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            with suppress(OSError):
                asked = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
                found += self._channel.dump(_GETROUTE, asked)
        return found

    def _neighbour(self, body: bytes, there: Collection[int]) -> None:
        family, ifindex, state, flags, kind = _NDMSG.unpack_from(body)
        if ifindex in there and is_entered(body):
            known = kept(body[_NDMSG.size :], _NEIGHBOUR_KEPT)
            head = _NDMSG.pack(family, ifindex, state, flags & _NEIGHBOUR_FLAGS, kind)
            self._make(_NEWNEIGH, head + known, "a neighbour's entry")

    def _rules(self, rules: Sequence[bytes]) -> None:
        """Make the policy rules, and take away those that the host does not have."""
        wanted = [body[:8] + _masked(body) + body[12:] for body in rules]
        for family in (socket.AF_INET, socket.AF_INET6):
            mine = [body for body in wanted if body[0] == family]
            if not mine:
                continue
            try:
                there = self._channel.dump(_GETRULE, _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))
            except OSError:
                continue
            for body in there:
                if body[:8] + _masked(body) + body[12:] not in mine:
                    self._make(_DELRULE, body, "a policy rule", 0)
            for body in mine:
                if body not in there:
                    self._make(_NEWRULE, body, "a policy rule")

    def _make(self, kind: int, body: bytes, words: str, flags: int = CREATE | EXCL) -> bool:
        try:
            self._channel.request(kind, flags, body)
        except OSError as problem:
            if problem.errno == errno.EEXIST:
                return True
            if words:
                self.lacks.append(f"{words} cannot be copied: {problem.strerror}")
            return False
        return True


_MULTICAST = 5
_LED = frozenset({5, 9, 18, 30})  # GATEWAY, MULTIPATH, VIA, NH_ID
_WAITS, _WAIT_SECONDS = 40, 0.002  # all of it only on a host that lacks such a route
_NEWNEIGH, _DELNEIGH, _GETNEIGH, _NDMSG = 28, 29, 30, struct.Struct("=BxxxiHBB")
_NEVER_ASKED = 0x40 | 0x80
_NEIGHBOUR_KEPT, _NEIGHBOUR_FLAGS = frozenset({1, 2}), 0x08 | 0x80  # DST, LLADDR; PROXY, ROUTER
_NEWNEXTHOP, _NHMSG, _NH_GROUP, _NH_FLAGS = 104, struct.Struct("=BBBBI"), 2, 0x4
# ID, GROUP, GROUP_TYPE, BLACKHOLE, OIF, GATEWAY, ENCAP_TYPE, ENCAP
_NEXTHOP_KEPT = frozenset(range(1, 9))


@legible
def _is_beside(route: bytes) -> bool:
    """Whether a route may stand beside another one to its prefix: fe80::/64 has one a device."""
    return route[0] == socket.AF_INET6 and not _LED & attribute_map(route, _RTMSG.size).keys()


@legible
def nexthop_of(body: bytes) -> bytes:
    """A nexthop as it is made again. Raises Garbled. Pure."""
    family, _, protocol, _, flags = _NHMSG.unpack_from(body)
    fields = attribute_map(body, _NHMSG.size)
    if _NH_GROUP in fields:
        family, wanted = socket.AF_UNSPEC, frozenset({1, _NH_GROUP})  # any kind hashes alike here
    else:
        wanted = _NEXTHOP_KEPT
    head = _NHMSG.pack(family, 0, protocol, 0, flags & _NH_FLAGS)
    return head + kept(body[_NHMSG.size :], wanted)


def forget_neighbours(channel: Channel) -> None:
    """Remove all that the kernel learned, or asks for, of the thread's namespace."""
    for body in channel.dump(_GETNEIGH, _NDMSG.pack(0, 0, 0, 0, 0)):
        family, ifindex, state, flags, kind = _NDMSG.unpack_from(body)
        address_ = attribute_map(body, _NDMSG.size).get(1)
        if family in (socket.AF_INET, socket.AF_INET6) and address_ and not state & _NEVER_ASKED:
            asked = _NDMSG.pack(family, ifindex, state, flags, kind) + attribute(1, address_)
            with suppress(OSError):  # it went by itself
                channel.request(_DELNEIGH, 0, asked)


def _is_general(path: str) -> bool:
    return "/conf/" not in path or path.split("/")[2] in ("all", "default")


def _masked(rule: bytes) -> bytes:
    """The flags of a policy rule without those that tell of its devices."""
    return (int.from_bytes(rule[8:12], "little") & (_RULE_INVERTED | 1)).to_bytes(4, "little")
