"""Ports of this host that are to be published: free or not, asked of the kernel by binding."""

from __future__ import annotations

import _socket as socket
import contextlib

from hvtx.errors import Conflict
from hvtx.host.inet import socket_family
from hvtx.model.vm import Publish


def refuse_taken_port(port: Publish, container: str | None = None) -> bool:
    """Raise Conflict if a socket of the host already has the port.

    False if no device of this host has the address that it is to be published on. That of a process
    which has ``container`` (an id) among its words is no conflict: podman's conmon, for it.
    """
    there = True
    kind = socket.SOCK_DGRAM if port.protocol == "udp" else socket.SOCK_STREAM
    wanted = [port.host_ip] if port.host_ip else ["0.0.0.0", "::"]  # noqa: S104 - what is published
    for address in wanted:
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
            if problem.errno == 98:  # EADDRINUSE
                conflict = _conflict(port, container)
                if conflict is not None:
                    raise conflict from problem
            if problem.errno == 99 and port.host_ip:  # EADDRNOTAVAIL
                there = False
    return there


def taken(port: Publish) -> Conflict:
    """The error of a port that a program of the host has."""
    found = _conflict(port, None)
    assert found is not None, "it is nobody's own"
    return found


def _conflict(port: Publish, container: str | None) -> Conflict | None:
    """The same; None where the program has the port for ``container``."""
    from hvtx.host import portowner

    found = portowner.owners(port)
    if container and found and all(container in one.words for one in found):
        return None
    if port.host_port in (53, 67) and any(one.name == "dnsmasq" for one in found):
        return Conflict(
            f"port {port.host_port}/{port.protocol} of this host is in use by"
            f" {portowner.listed(found)}: networks with DHCP have one each, for their guests",
            hint="publish it on one address, --publish ADDRESS:53:53, or make networks with"
            " --no-dhcp"
            if port.host_port == 53 and port.host_ip is None
            else "make networks with --no-dhcp, or choose another host port",
        )
    which = f"; `ss -anp` shows which have port {port.host_port}" if not found else ""
    ending = f", or end what has it: {'; '.join(portowner.ended_by(found))}" if found else ""
    return Conflict(
        f"port {port.host_port}/{port.protocol} of this host is in use by a program"
        + (f": {portowner.listed(found)}" if found else ""),
        hint=f"choose another host port than {port.host_port}{ending}{which}",
    )
