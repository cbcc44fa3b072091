"""A DHCPRELEASE, to the letter of RFC 2131; integration/network/test_dhcp.py sends it."""

from __future__ import annotations

import pytest

from hvtx.host import dhcp_release


def test_the_message() -> None:
    told = dhcp_release.message("10.77.0.1", "10.77.0.7", "02:00:00:00:00:07")
    assert told[:4] == b"\x01\x01\x06\x00"  # a request, of Ethernet, whose addresses are 6 long
    assert told[12:16] == bytes((10, 77, 0, 7))  # ciaddr: what is released
    assert told[28:44] == bytes.fromhex("020000000007") + bytes(10)  # chaddr
    assert told[236:] == (
        b"\x63\x82\x53\x63" b"\x35\x01\x07" b"\x36\x04\x0a\x4d\x00\x01" b"\xff"
    )  # fmt: skip


def test_without_the_device_it_is_an_error_and_goes_nowhere_else() -> None:
    with pytest.raises(OSError, match="No such device"):
        dhcp_release.send("hv-no-such-dev", "127.0.0.1", "10.77.0.7", "02:00:00:00:00:07")
