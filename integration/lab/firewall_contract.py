"""What every firewall backend must do, shown with real packets between namespaces.

A backend is registered in :data:`BACKENDS`. Guests are namespaces behind veth pairs whose host end
stands for a TAP device. Anti-spoofing (`port` rows) and its table of the bridge family are the
nftables driver's on every backend.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from hvtx.drivers.base import FirewallDriver, Host
from hvtx.drivers.iptables import IptablesDriver
from hvtx.drivers.nftables import NftablesDriver
from hvtx.model.mark import make_mark
from hvtx.model.resource import Entry, Outcome, Resource
from hvtx.planner.provision import missing_bases
from integration import lab

BACKENDS: dict[str, Callable[[Host], FirewallDriver]] = {
    "nftables": NftablesDriver,
    "iptables": IptablesDriver,
}

INSTALLATION = "abcdefghij"
BRIDGE, BRIDGE_MAC = "hvbr0", "02:77:00:00:00:01"
GATEWAY4, GATEWAY6, GATEWAY_LINK = "10.77.0.1", "fd77::1", "fe80::77"
SECOND4 = "203.0.113.9"
SUBNETS = ["10.77.0.0/24", "fd77::/64"]


class Guest:
    """A namespace that plays a guest: its leases, and the host's end of its wire."""

    def __init__(self, number: int, *, bridge: str = BRIDGE, prefix: str = "hvtap") -> None:
        self.device = f"{prefix}{number}"
        self.bridge = bridge
        self.mac = f"02:77:00:00:01:{number:02x}"
        self.ipv4, self.ipv6 = f"10.77.0.{number}", f"fd77::{number:x}"
        self.link_local = f"fe80::77:{number:x}"
        self.namespace = lab.Namespace()
        pid = str(self.namespace.pid)
        lab.run(
            *("ip", "link", "add", self.device, "type", "veth"),
            *("peer", "eth0", "address", self.mac, "netns", pid),
        )
        lab.run("ip", "link", "set", self.device, "addrgenmode", "none", "master", bridge, "up")
        # its own published port is reached through its own bridge port (see hvtx.rulesets.nftables_base)
        lab.run("ip", "link", "set", self.device, "type", "bridge_slave", "hairpin", "on")
        inside = self.namespace.run
        inside("ip", "link", "set", "eth0", "addrgenmode", "none", "up")
        inside("ip", "addr", "add", f"{self.ipv4}/24", "dev", "eth0")
        inside("ip", "addr", "add", f"{self.ipv6}/64", "dev", "eth0", "nodad")
        inside("ip", "addr", "add", f"{self.link_local}/64", "dev", "eth0", "nodad")
        inside("ip", "route", "add", "default", "via", GATEWAY4)
        inside("ip", "-6", "route", "add", "default", "via", GATEWAY6)

    def close(self) -> None:
        """Unplug it."""
        lab.run("ip", "link", "del", self.device, check=False)
        self.namespace.close()


class Firewall:
    """Rows for a network and its guests, made and released through the drivers of one backend."""

    def __init__(self, backend: str, *, nat: bool = True, isolate: bool = False) -> None:
        host = Host(INSTALLATION, os.environ["HVTX_RUN_DIR"], os.environ["HVTX_STATE_DIR"], 10.0)
        self.backend, self.nat, self.isolate = backend, nat, isolate
        self.drivers: dict[str, FirewallDriver] = {"nftables": NftablesDriver(host)}
        if backend not in self.drivers:
            self.drivers[backend] = BACKENDS[backend](host)
        self.rows: list[Resource] = []

    def row(self, backend: str, what: str, **spec: Any) -> Resource:
        """A row as the store would hold it, with a fresh mark."""
        kind = what if what in {"masquerade", "publish"} else "filter"
        number = len(self.rows) + 1
        found = Resource(
            id=number,
            kind=kind,
            key=f"{what} {number}",
            state="intended",
            mark=make_mark(INSTALLATION, number, os.urandom(10)),
            spec={"backend": backend, "what": what, **spec},
            observed={},
            operation=1,
            life=1,
            vm=None,
            network=None,
        )
        self.rows.append(found)
        return found

    def network(self, bridge: str = BRIDGE) -> list[Resource]:
        """The bases that are still missing, and the network's own row."""
        shape = {
            "bridge": bridge,
            "subnets": SUBNETS,
            "nat": self.nat,
            "isolate": self.isolate,
            "gateway6": GATEWAY_LINK,
        }
        there = [row.spec for row in self.rows if row.spec["what"] == "base"]
        found = []
        for name in missing_bases(self.backend, there):
            backend, _, family = name.partition(" ")
            found.append(self.row(backend, "base", **({"families": [family]} if family else {})))
        return [*found, self.row(self.backend, "network", **shape)]

    def guest(self, guest: Guest) -> list[Resource]:
        """Port, forward and masquerade rows of a guest."""
        own = {"ipv4": guest.ipv4, "ipv6": guest.ipv6, "bridge": guest.bridge}
        native = self.backend == "nftables"
        found = [
            self.row(
                "nftables",
                "port",
                device=guest.device,
                mac=guest.mac,
                gateway6=GATEWAY_LINK,
                isolate=self.isolate,
                forward=native,
                **own,
            )
        ]
        if not native:
            found.append(self.row(self.backend, "forward", **own))
        if self.nat:
            found += [
                self.row(self.backend, "masquerade", address=address, bridge=guest.bridge)
                for address in (guest.ipv4, guest.ipv6)
            ]
        return found

    def publish(
        self, guest: Guest, protocol: str, host_port: int, guest_port: int, host_ip: Any = None
    ) -> Resource:
        """A published port."""
        return self.row(
            self.backend,
            "publish",
            protocol=protocol,
            host_ip=host_ip,
            host_port=host_port,
            guest_port=guest_port,
            ipv4=guest.ipv4,
            ipv6=guest.ipv6,
            bridge=guest.bridge,
        )

    def make(self, rows: Sequence[Resource]) -> None:
        """Create rows, and keep what the drivers observed."""
        for backend, driver in self.drivers.items():
            mine = [row for row in rows if row.spec["backend"] == backend]
            if mine:
                observed = driver.create(mine)
                assert set(observed) == {row.id for row in mine}
                for row in mine:
                    row.observed.update(observed[row.id])

    def release(self, rows: Sequence[Resource]) -> dict[int, Outcome]:
        """Release rows, the backend's first."""
        outcomes: dict[int, Outcome] = {}
        for backend, driver in reversed(self.drivers.items()):
            mine = [row for row in rows if row.spec["backend"] == backend]
            outcomes.update(driver.release(mine))
        return outcomes

    def expected(self, rows: Sequence[Resource]) -> list[Entry]:
        """What the drivers say that rows stand for."""
        return [e for row in rows for e in self.drivers[row.spec["backend"]].expected(row)]

    def observed(self) -> list[Entry]:
        """What the drivers see."""
        return [entry for driver in self.drivers.values() for entry in driver.observe()]

    def close(self) -> None:
        """Close what the drivers hold open."""
        for driver in self.drivers.values():
            close = getattr(driver, "close", None)
            if close:
                close()


def setting(path: str, value: str) -> None:
    """Write a kernel setting of this thread's network namespace."""
    Path("/proc/sys/net", path).write_text(value)


def make_bridge(name: str = BRIDGE, mac: str = BRIDGE_MAC) -> None:
    """A bridge as the bridge driver makes it, with both gateways."""
    shape = ("type", "bridge", "mcast_snooping", "0")
    lab.run("ip", "link", "add", name, "address", mac, *shape)
    lab.run("ip", "link", "set", name, "addrgenmode", "none")
    lab.run("ip", "addr", "add", f"{GATEWAY4}/24", "dev", name)
    lab.run("ip", "addr", "add", f"{GATEWAY6}/64", "dev", name, "nodad")
    lab.run("ip", "addr", "add", f"{GATEWAY_LINK}/64", "dev", name, "nodad")
    lab.run("ip", "link", "set", name, "up")
    setting(f"ipv4/conf/{name}/route_localnet", "1")
    setting("ipv4/ip_forward", "1")
    setting("ipv6/conf/all/forwarding", "1")


def bridged_frames_see_iptables(on: bool) -> None:
    """Switch br_netfilter's calls, where the kernel has it."""
    for name in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"):
        with contextlib.suppress(FileNotFoundError):
            setting(f"bridge/{name}", "1" if on else "0")


class Inhabited(Protocol):
    """A namespace, known by a process in it."""

    @property
    def pid(self) -> int | None:
        """The process; None for our own namespace."""


@contextlib.contextmanager
def inside(place: Inhabited | None) -> Iterator[None]:
    """Be in another namespace for a moment; sockets opened there stay there.

    That of the process of ``place``; without either, where we are.
    """
    if place is None or place.pid is None:
        yield
        return
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(f"/proc/{place.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        lab.setns(there)
        yield
    finally:
        lab.setns(before)
        os.close(there)
        os.close(before)


# Seconds. What passes may go through a guest's process, which a busy machine lets wait: it has time.
QUICK, LONG = 0.4, 20.0  # for what must not come, for what must


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def reach(
    client: lab.Namespace | None,
    server: lab.Namespace | None,
    protocol: str,
    address: str,
    port: int,
    server_port: int,
    *,
    patience: float = LONG,
    listen: str | None = None,
) -> str | None:
    """Talk from ``client`` to ``address``; the client's address as ``server`` saw it, or None.

    Both directions carry data. ``patience`` is in seconds and only ends attempts that fail.
    """
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    bind_to = listen or ("::" if ":" in address else "0.0.0.0")
    with inside(server):
        service = socket.socket(_family(address), kind)
    with inside(client):
        caller = socket.socket(_family(address), kind)
    with service, caller:
        service.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        service.bind((bind_to, server_port))
        service.settimeout(patience)
        caller.settimeout(patience)
        try:
            if protocol == "tcp":
                return _talk_tcp(caller, service, address, port)
            return _talk_udp(caller, service, address, port)
        except OSError:
            return None


def _talk_tcp(caller: socket.socket, service: socket.socket, address: str, port: int) -> str:
    service.listen(1)
    caller.connect((address, port))
    accepted, peer = service.accept()
    with accepted:
        accepted.settimeout(service.gettimeout())
        caller.sendall(b"question")
        assert accepted.recv(64) == b"question"
        accepted.sendall(b"answer")
        assert caller.recv(64) == b"answer"
    return str(peer[0])


def _talk_udp(caller: socket.socket, service: socket.socket, address: str, port: int) -> str:
    caller.connect((address, port))
    caller.send(b"question")
    data, peer = service.recvfrom(64)
    assert data == b"question"
    service.sendto(b"answer", peer)
    assert caller.recv(64) == b"answer"
    return str(peer[0])


def unreachable(*call: Any, **options: Any) -> bool:
    """Whether :func:`reach` fails; the wait is short, since failing is what is expected."""
    return reach(*call, patience=QUICK, **options) is None


# ---------------------------------------------------------------- frames


def _bytes_mac(address: str) -> bytes:
    return bytes.fromhex(address.replace(":", ""))


def _ip(address: str) -> bytes:
    return socket.inet_pton(_family(address), address)


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) & 1)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ether(source: str, target: str, kind: int, payload: bytes) -> bytes:
    """An Ethernet frame."""
    frame = _bytes_mac(target) + _bytes_mac(source) + struct.pack(">H", kind) + payload
    return frame.ljust(60, b"\0")


def ipv4(source: str, target: str, protocol: int, payload: bytes) -> bytes:
    """An IPv4 packet."""
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0)
    head += _ip(source) + _ip(target)
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def ipv6(source: str, target: str, following: int, payload: bytes) -> bytes:
    """An IPv6 packet, with the hop limit that neighbour discovery asks for."""
    return (
        struct.pack(">IHBB", 6 << 28, len(payload), following, 255)
        + _ip(source)
        + _ip(target)
        + payload
    )


def udp(source: str, target: str, ports: tuple[int, int], payload: bytes) -> bytes:
    """A UDP datagram for these addresses, with its checksum."""
    length = 8 + len(payload)
    pseudo = _ip(source) + _ip(target) + struct.pack(">HH", 17, length)
    bare = struct.pack(">HHHH", *ports, length, 0) + payload
    return bare[:6] + struct.pack(">H", checksum(pseudo + bare) or 0xFFFF) + bare[8:]


def udp4(source: str, target: str, ports: tuple[int, int], payload: bytes) -> bytes:
    """An IPv4 packet with a UDP datagram."""
    return ipv4(source, target, 17, udp(source, target, ports, payload))


def udp6(source: str, target: str, ports: tuple[int, int], payload: bytes) -> bytes:
    """An IPv6 packet with a UDP datagram."""
    return ipv6(source, target, 17, udp(source, target, ports, payload))


def icmp6(source: str, target: str, body: bytes) -> bytes:
    """An ICMPv6 message (type, code, two zero bytes, rest) with its checksum."""
    pseudo = _ip(source) + _ip(target) + struct.pack(">II", len(body), 58)
    return body[:2] + struct.pack(">H", checksum(pseudo + body)) + body[4:]


def arp(operation: int, mac: str, address: str, target: str) -> bytes:
    """An ARP packet; the target's MAC stays zero."""
    head = struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation)
    return head + _bytes_mac(mac) + _ip(address) + bytes(6) + _ip(target)


BROADCAST = "ff:ff:ff:ff:ff:ff"
ALL_NODES_MAC = "33:33:00:00:00:01"


class Wire:
    """Raw Ethernet between two guests: what one sends, the other may see."""

    def __init__(self, sender: Guest, receiver: Guest) -> None:
        self.sender, self.receiver = sender, receiver
        with inside(sender.namespace):
            self._out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            self._out.bind(("eth0", 0))
        with inside(receiver.namespace):
            self._in = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            self._in.bind(("eth0", 3))
        self._in.settimeout(3)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._out.close()
        self._in.close()

    def send(self, frame: bytes) -> None:
        """Just send a frame."""
        self._out.send(frame)

    def arrives(self, make: Callable[[bytes], bytes]) -> bool:
        """Send the frame that ``make(cookie)`` builds; whether it came before a later honest one.

        The honest frame is resent until it is seen, so that nothing depends on time.
        """
        cookie, fence = os.urandom(8), os.urandom(8)
        self._out.send(make(cookie))
        honest = ether(
            self.sender.mac,
            self.receiver.mac,
            0x0800,
            udp4(self.sender.ipv4, self.receiver.ipv4, (7, 7), fence),
        )
        for _ in range(5):
            self._out.send(honest)
            found = self._until(cookie, fence)
            if found is not None:
                return found
        raise AssertionError("honest frames do not arrive: the wire is cut")

    def _until(self, cookie: bytes, fence: bytes) -> bool | None:
        limit = time.monotonic() + 3
        while time.monotonic() < limit:
            try:
                frame, origin = self._in.recvfrom(4096)
            except TimeoutError:
                return None
            if origin[2] == socket.PACKET_OUTGOING:
                continue
            if cookie in frame:
                return True
            if fence in frame:
                return False
        return None

    def silent(self, frame: bytes, cookie: bytes) -> bool:
        """Send a frame where no honest one can follow; whether it stayed away for a moment."""
        return not self._seen(frame, cookie, QUICK)

    def comes(self, frame: bytes, cookie: bytes) -> bool:
        """Send a frame that must come; whether it did, however busy the machine is."""
        return self._seen(frame, cookie, LONG)

    def _seen(self, frame: bytes, cookie: bytes, seconds: float) -> bool:
        self._out.send(frame)
        self._in.settimeout(seconds)
        limit = time.monotonic() + seconds
        try:
            while time.monotonic() < limit:
                found, origin = self._in.recvfrom(4096)
                if cookie in found and origin[2] != socket.PACKET_OUTGOING:
                    return True
        except TimeoutError:
            pass
        finally:
            self._in.settimeout(3)
        return False


def option(cookie: bytes) -> bytes:
    """A neighbour discovery option that no one knows, holding the cookie."""
    return bytes((200, 2)) + cookie.ljust(14, b"\0")


def neighbour(kind: int, target: str, cookie: bytes) -> bytes:
    """The body of a neighbour solicitation (135) or advertisement (136)."""
    flags = 0x20000000 if kind == 136 else 0
    return struct.pack(">BBHI", kind, 0, 0, flags) + _ip(target) + option(cookie)
