"""Answers of sock_diag, byte for byte as a kernel gave them."""

from __future__ import annotations

import socket
import struct

import pytest

from hvtx.host import sock_diag
from hvtx.host.netlink import Garbled
from hvtx.host.socket_table import Listener


def answer(family: int, address: bytes, port: int, uid: int, inode: int) -> bytes:
    """`struct inet_diag_msg` of a socket that listens."""
    head = struct.pack("=BBBB", family, 10, 0, 0)
    ends = struct.pack(">HH16s16s", port, 0, address, b"") + struct.pack("=III", 0, 1, 2)
    return head + ends + struct.pack("=IIIII", 0, 0, 128, uid, inode)


@pytest.mark.parametrize(
    ("family", "address", "spelt"),
    [
        (socket.AF_INET, bytes([127, 0, 0, 1]), "127.0.0.1"),
        (socket.AF_INET, b"", "0.0.0.0"),
        (socket.AF_INET6, b"", "::"),
        (socket.AF_INET6, bytes(10) + b"\xff\xff\x0a\x4d\x00\x01", "::ffff:10.77.0.1"),
    ],
)
def test_a_listener_is_read_with_whose_it_is(family: int, address: bytes, spelt: str) -> None:
    told = sock_diag._listener(answer(family, address, 8080, 1000, 4242), family)
    assert told == Listener(spelt, 8080, 1000, 4242)
    with_more = answer(family, address, 8080, 1000, 4242) + struct.pack("=HHI", 8, 15, 7)
    assert sock_diag._listener(with_more, family) == told  # attributes follow


def test_an_answer_that_ends_too_early_is_garbled() -> None:
    whole = answer(socket.AF_INET, b"", 80, 0, 1)
    for size in range(len(whole)):
        with pytest.raises(Garbled):
            sock_diag._listener(whole[:size], socket.AF_INET)
