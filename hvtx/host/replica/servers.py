"""Programs of the host once more, where a rule leads a guest's flow to one of them.

A name server that guests' questions are redirected to, a proxy: whether something listens there is
seen on the host; whether a flow comes to it and back is tried with sockets that stand for them.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from hvtx.host.inet import socket_family
from hvtx.model.address import is_ipv6

_MOST = 256
_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75

Listening = Iterable[tuple[str, str, int]]  # protocol, address, port


@contextmanager
def serving(listening: Listening, protocol: str) -> Iterator[list[socket.socket]]:
    """Sockets of one protocol in the calling thread's namespace, as long as it lasts."""
    with ExitStack() as stack:
        found = []
        wanted = sorted(one for one in listening if one[0] == protocol)
        for _, address, port in wanted[:_MOST]:
            with suppress(OSError):  # of a device that there is not
                server = _server(protocol, address)
                stack.callback(server.close)
                server.bind((address, port))
                if protocol == "tcp":
                    server.listen(4)
                found.append(server)
        yield found


def _server(protocol: str, address: str) -> socket.socket:
    """A socket that a rule of TPROXY may give packets to, too."""
    server = socket.socket(socket_family(address), _KINDS[protocol] | socket.SOCK_NONBLOCK)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if is_ipv6(address):  # one of both families is told of once for each
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address != "::")
    with suppress(OSError):
        if is_ipv6(address):
            server.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
        else:
            server.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
    return server


def answered(servers: Iterable[socket.socket]) -> None:
    """Send every datagram that came back to its sender."""
    for server in servers:
        with suppress(OSError):
            data, who = server.recvfrom(2048)
            server.sendto(data, who)
