"""dnsmasq on this host: the program, the user that it becomes, and who is in its way."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable

from hvtx.errors import Conflict, HostRefused
from hvtx.host import capabilities, program
from hvtx.host.inet import socket_family
from hvtx.model.vm import Publish

HINT = "apt install dnsmasq-base"
NAMES = ("dnsmasq", "/usr/sbin/dnsmasq", "/usr/local/sbin/dnsmasq")
USERS = ("dnsmasq", "nobody")
NEEDS = ("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE")
DNS, DHCP, DHCP6 = 53, 67, 547
_VERSION_SECONDS = 10.0
_NOBODYS = {  # nobody's own addresses: who is in the way there listens on all of the family
    socket.AF_INET: "127.83.86.84", socket.AF_INET6: "fd83:8684::1"
}  # fmt: skip
_FREEBIND = {socket.AF_INET: (socket.IPPROTO_IP, 15), socket.AF_INET6: (socket.IPPROTO_IPV6, 78)}
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


def broken() -> HostRefused | None:
    """Why the program that is installed does not run, if so: it is asked for its version."""
    path = find()
    if path is None:
        return None
    try:
        ended = program.run((path, "--version"), _VERSION_SECONDS)
    except OSError as problem:
        how = problem.strerror or str(problem)
    else:
        if program.ended_well(ended.status, shown=_tells_version(ended.output)):
            return None
        said = next((line for line in reversed(ended.output.splitlines()) if line.strip()), "")
        how = f"{program.how(ended.status)}: {said.strip() or 'it says nothing'}"
    return HostRefused(
        f"dnsmasq does not run: {path} --version: {how}",
        hint=f"see what is wrong with it: {path} --version; or make networks with --no-dhcp",
    )


def fills_no_sets() -> Conflict | None:
    """Why the dnsmasq of this host cannot fill sets of nftables with addresses of names, if so."""
    path = find()
    if path is None:
        words = "dnsmasq, which looks names up for guests, is not installed"
        return Conflict(f"names cannot be allowed: {words}", hint=HINT)
    try:
        if "nftset" in _options(path):
            return None
    except OSError as problem:
        return Conflict(f"names cannot be allowed: {path}: {problem.strerror}", hint=HINT)
    return Conflict(
        f"names cannot be allowed: {path} fills no sets of nftables",
        hint="it is needed from version 2.87, built with nftset, as Debian has it: "
        "`dnsmasq --version` tells; or allow addresses instead",
    )


_asked: dict[tuple[int, ...], frozenset[str]] = {}  # by the identity of the program's file


def _options(path: str) -> frozenset[str]:
    """With what it was compiled, as it says itself; each file is asked once. Raises OSError."""
    found = os.stat(path)
    file = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    if file not in _asked:
        ended = program.run((path, "--version"), _VERSION_SECONDS)
        if not program.ended_well(ended.status, shown=_tells_version(ended.output)):
            return frozenset()
        _asked[file] = frozenset(ended.output.split())
    return _asked[file]


def _tells_version(said: str) -> bool:
    return said.startswith("Dnsmasq version ")


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


def taken(subnets: Iterable[str]) -> list[Publish]:
    """Which of its ports some program has so that none is left for a network with ``subnets``."""
    families = {socket_family(subnet.partition("/")[0]) for subnet in subnets}
    found: dict[Publish, None] = {}
    for family in sorted(families):
        dhcp = DHCP if family == socket.AF_INET else DHCP6
        for protocol, number in (("udp", DNS), ("tcp", DNS), ("udp", dhcp)):
            if _is_taken(socket.AddressFamily(family), _KINDS[protocol], number):
                found[Publish(protocol, None, number, number)] = None
    return list(found)


def _is_taken(family: socket.AddressFamily, kind: socket.SocketKind, number: int) -> bool:
    try:
        with socket.socket(family, kind) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.setsockopt(*_FREEBIND[family], 1)
            address = _NOBODYS[family]
            if number != DNS:  # each dnsmasq binds it for all addresses on its own device
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
                address = "0.0.0.0" if family == socket.AF_INET else "::"  # noqa: S104 - a probe
            probe.bind((address, number))
    except OSError as problem:
        return problem.errno == errno.EADDRINUSE
    return False
