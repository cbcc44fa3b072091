"""Whether a port of this host is free to be published: asked of the kernel by binding it."""

from __future__ import annotations

import socket

from hvtx.errors import Conflict
from hvtx.model.vm import Publish


def refuse_taken_port(port: Publish) -> None:
    """Raise Conflict if a socket of the host already has the port."""
    kind = socket.SOCK_DGRAM if port.protocol == "udp" else socket.SOCK_STREAM
    wanted = [port.host_ip] if port.host_ip else ["0.0.0.0", "::"]  # noqa: S104 - what is published
    for address in wanted:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            with socket.socket(family, kind) as probe:
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                if kind == socket.SOCK_STREAM:
                    # as any server does: connections that are merely ending do not count
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address, port.host_port))
        except OSError as problem:
            if problem.errno == 98:  # EADDRINUSE
                raise Conflict(
                    f"port {port.host_port}/{port.protocol} of this host is in use by a program",
                    hint=f"`ss -lnp` shows whose; choose another host port than {port.host_port}",
                ) from problem
