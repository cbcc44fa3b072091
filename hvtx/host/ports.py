"""Ports of this host that are to be published: free or not, asked of the kernel by binding."""

from __future__ import annotations

import _socket as socket
import contextlib
import errno
from collections.abc import Collection, Iterable

from hvtx.errors import Conflict
from hvtx.host.inet import socket_family
from hvtx.model.address import family_of
from hvtx.model.typed import TYPE_CHECKING
from hvtx.model.vm import Publish

if TYPE_CHECKING:
    from hvtx.host.portowner import Owner

_ANY = {4: "0.0.0.0", 6: "::"}  # noqa: S104 - what is published
_MAPPED = "::ffff:"  # an IPv4 address, in a socket of IPv6


def refuse_taken_port(port: Publish, container: str | None = None) -> bool:
    """Raise Conflict if a socket of the host already has the port.

    False if no device of this host has the address that it is to be published on. That of a process
    which has ``container`` (an id) among its words is no conflict: podman's conmon, for it.
    """
    there = True
    for address in [port.host_ip] if port.host_ip else _ANY.values():
        problem = _unbound(port, address)
        if problem == errno.EADDRINUSE:
            found, conflict = _had(port)
            if not (container and found and all(container in one.words for one in found)):
                raise conflict
        if problem == errno.EADDRNOTAVAIL and port.host_ip:
            there = False
    return there


def refuse_taken_beside(port: Publish, own: Collection[str], addresses: Iterable[str]) -> None:
    """Raise Conflict if a socket of the host has ``port`` on another address than its ``own``.

    It is to be on all addresses, and is held on ``own`` for the same VM: until these are let go,
    nobody can bind to all. So each other one is asked for, of the ``addresses`` that the host has,
    and who listens is looked at: on an address that comes and goes, say.
    """
    found, conflict = _had(port, own)
    families = {family_of(address) for address in own}
    beside = [address for address in addresses if address not in own]
    wanted = [any_ for family, any_ in _ANY.items() if family not in families]
    wanted += [address for address in beside if family_of(address) in families]
    if found or errno.EADDRINUSE in {_unbound(port, address) for address in wanted}:
        raise conflict


def _unbound(port: Publish, address: str) -> int:
    """Why no socket can be bound to a port on ``address``, as errno; 0 if one can."""
    kind = socket.SOCK_DGRAM if port.protocol == "udp" else socket.SOCK_STREAM
    family = socket_family(address)
    try:
        with contextlib.closing(socket.socket(family, kind)) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if kind == socket.SOCK_STREAM:
                # as any server does: connections that are merely ending do not count
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port.host_port))
    except OSError as problem:
        return problem.errno or errno.EIO
    return 0


def taken(port: Publish) -> Conflict:
    """The error of a port that a program of the host has."""
    return _had(port)[1]


def _had(port: Publish, own: Collection[str] = ()) -> tuple[list[Owner], Conflict]:
    """The programs that are seen to have a port, on addresses but ``own``; and the error of it."""
    from hvtx.host import portowner

    found = [one for one in portowner.owners(port) if one.address.removeprefix(_MAPPED) not in own]
    if port.host_port in (53, 67) and any(one.name == "dnsmasq" for one in found):
        return found, Conflict(
            f"port {port.host_port}/{port.protocol} of this host is in use by"
            f" {portowner.listed(found)}: networks with DHCP have one each, for their guests",
            hint="publish it on one address, --publish ADDRESS:53:53, or make networks with"
            " --no-dhcp"
            if port.host_port == 53 and port.host_ip is None
            else "make networks with --no-dhcp, or choose another host port",
        )
    which = f"; `ss -anp` shows which have port {port.host_port}" if not found else ""
    ending = f", or end what has it: {'; '.join(portowner.ended_by(found))}" if found else ""
    return found, Conflict(
        f"port {port.host_port}/{port.protocol} of this host is in use by a program"
        + (f": {portowner.listed(found)}" if found else ""),
        hint=f"choose another host port than {port.host_port}{ending}{which}",
    )
