"""dnsmasq on this host: the program, the user that it becomes, and who is in its way."""

from __future__ import annotations

import errno
import os
import socket

from hvtx.errors import HostRefused
from hvtx.host import capabilities, program
from hvtx.model.vm import Publish

HINT = "apt install dnsmasq-base"
NAMES = ("dnsmasq", "/usr/sbin/dnsmasq", "/usr/local/sbin/dnsmasq")
USERS = ("dnsmasq", "nobody")
NEEDS = ("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE")
DNS, DHCP, DHCP6 = 53, 67, 547
PORTS = (
    Publish("udp", None, DNS, DNS), Publish("tcp", None, DNS, DNS), Publish("udp", None, DHCP, DHCP)
)  # fmt: skip
_ANY_LOCAL = "127.83.86.84"  # nobody's own: who is in the way there listens on all addresses
_IP_FREEBIND = 15
_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


def find() -> str | None:
    """The path of the program; None if it is not installed."""
    return program.find(NAMES)


def lack() -> HostRefused | None:
    """Why this process can start none, if so: the program or a capability is missing."""
    if find() is None:
        return HostRefused(
            "dnsmasq, which gives guests their addresses and names, is not installed",
            hint=f"{HINT}; or make the network with --no-dhcp",
        )
    held = capabilities.sets()["CapEff"]
    for name in NEEDS:
        if not held >> capabilities.NUMBERS[name] & 1:
            return HostRefused(
                f"dnsmasq cannot be started: it needs the capability {name}",
                hint=f"run hvtx as root, or with {name} as well (docs/privileges.md); or make the"
                " network with --no-dhcp",
            )
    return None


def user() -> tuple[str, int, str, int] | None:
    """Whom it becomes, and that user's group, by name and number; None where it stays who it is.

    That is where hvtx is not root itself, or may not change users.
    """
    if os.geteuid() != 0 or not all(map(capabilities.has, ("CAP_SETUID", "CAP_SETGID"))):
        return None
    import grp
    import pwd

    for name in USERS:
        try:
            found = pwd.getpwnam(name)
            return name, found.pw_uid, grp.getgrgid(found.pw_gid).gr_name, found.pw_gid
        except KeyError:
            continue
    return None


def taken() -> list[Publish]:
    """Which of its ports some program has on every address of the host, so that none is left."""
    return [port for port in PORTS if _is_taken(port)]


def _is_taken(port: Publish) -> bool:
    with socket.socket(socket.AF_INET, _KINDS[port.protocol]) as probe:
        probe.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        if port.host_port == DHCP:  # each dnsmasq binds it on its own device, and shares it so
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            probe.bind((_ANY_LOCAL, port.host_port))
        except OSError as problem:
            return problem.errno == errno.EADDRINUSE
    return False
