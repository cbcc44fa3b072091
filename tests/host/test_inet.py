"""Addresses as bytes."""

from __future__ import annotations

import socket

import pytest

from hvtx.host.inet import packed, socket_family


def test_packed_and_socket_family() -> None:
    assert (packed("10.77.0.1"), socket_family("10.77.0.1")) == (b"\x0a\x4d\0\1", socket.AF_INET)
    assert (packed("fd77::1"), socket_family("fd77::1")) == (
        b"\xfd\x77" + bytes(13) + b"\1",
        socket.AF_INET6,
    )


@pytest.mark.parametrize("text", ["", "10.77.0", "10.77.0.1/24", "fd77:::1", "fe80::1%lo"])
def test_packed_refuses_what_is_no_address(text: str) -> None:
    with pytest.raises(OSError, match="illegal IP address"):
        packed(text)
