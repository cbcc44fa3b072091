"""Entries of legacy tables: what is built of words, and what is refused.

That they are what iptables itself builds of the same words is shown on the kernel
(integration/kernel/test_iptables.py::test_our_entries_equal_those_of_the_tool_byte_for_byte).
"""

from __future__ import annotations

import struct

import pytest

from hvtx.host import xtentry

SIZES = {4: 112, 6: 168}  # sizeof(struct ipt_entry), sizeof(struct ip6t_entry)
HOST = {4: "10.77.0.2/32", 6: "fd77::2/128"}
WIDE = {4: "10.77.0.2/29", 6: "fd77::2/120"}


def parts(family: int, entry: bytes) -> list[tuple[str, int, bytes]]:
    """Name, revision and payload of each match, and of the target as the last."""
    target, following = struct.unpack_from("=HH", entry, {4: 88, 6: 140}[family])
    assert following == len(entry)
    at, found = SIZES[family], []
    while at < following:
        size, name, revision = struct.unpack_from("=H29sB", entry, at)
        assert size % 8 == 0
        assert at + size <= (target if at < target else following), "nothing across the target"
        found.append((name.rstrip(b"\0").decode(), revision, entry[at + 32 : at + size]))
        at += size
    assert at == following
    return found


@pytest.mark.parametrize("family", [4, 6])
def test_matches_stand_in_the_order_of_the_words_and_the_comment_is_the_last(family: int) -> None:
    """Their revisions and sizes are the kernel's."""
    words = "-m addrtype --dst-type LOCAL -m conntrack ! --ctstate DNAT -p tcp -m tcp --dport 80"
    found = parts(family, xtentry.build(family, f"{words} -j HVTX-abcdefghij-PRE", "hvtx:x"))
    assert [(name, revision, len(data)) for name, revision, data in found] == [
        ("addrtype", 1, 8),
        ("conntrack", 3, 168),
        ("tcp", 0, 16),
        ("comment", 0, 256),
        ("HVTX-abcdefghij-PRE", 0, 8),
    ]
    assert found[0][2] == struct.pack("=HHI", 0, 4, 0)
    assert struct.unpack_from("=HHHH", found[1][2], 146) == (1, 1, 128, 0)
    assert struct.unpack("=4H4B4x", found[2][2]) == (0, 65535, 80, 80, 0, 0, 0, 0)
    assert found[3][2].rstrip(b"\0") == b"hvtx:x"


def test_the_type_of_a_source_address() -> None:
    """struct xt_addrtype_info_v1: of the source, of the destination, what is inverted."""
    for words, data in (
        ("--src-type LOCAL", (4, 0, 0)), ("! --src-type LOCAL", (4, 0, 1)),
        ("--dst-type LOCAL", (0, 4, 0)), ("! --dst-type LOCAL", (0, 4, 2)),
    ):  # fmt: skip
        found = parts(4, xtentry.build(4, f"-m addrtype {words} -j DROP", "x"))
        assert found[0] == ("addrtype", 1, struct.pack("=HHI", *data)), words


@pytest.mark.parametrize(("family", "bits", "mask"), [(4, 32, "ffffffff"), (4, 25, "ffffff80"),
                                                     (6, 128, "ff" * 16), (6, 10, "ffc0")])  # fmt: skip
def test_connections_are_counted_by_address_or_prefix(family: int, bits: int, mask: str) -> None:
    words = "-m connlimit --connlimit-above 7 --connlimit-mask {} --connlimit-saddr -j DROP"
    (counted, *_) = parts(family, xtentry.build(family, words.format(bits), "x"))
    name, revision, data = counted
    assert (name, revision) == ("connlimit", 1)
    assert data[:16] == bytes.fromhex(mask).ljust(16, b"\0")
    assert struct.unpack_from("=II", data, 16) == (7, 0)
    for wrong in (0, {4: 33, 6: 129}[family]):
        with pytest.raises(ValueError, match="connlimit"):
            xtentry.build(family, words.format(wrong), "x")


@pytest.mark.parametrize("family", [4, 6])
def test_addresses_and_devices(family: int) -> None:
    """Host bits are cut off, a device is matched by its whole name, what is inverted is marked."""
    width = {4: 4, 6: 16}[family]
    words = f"-s {HOST[family]} ! -d {WIDE[family]} -i hvbr0 ! -o hvbr -j DROP"
    entry = xtentry.build(family, words, "x")
    source, destination, mask, narrow = (entry[n * width : (n + 1) * width] for n in range(4))
    assert mask == b"\xff" * width
    assert source.endswith(b"\2")
    assert destination == source[:-1] + b"\0"
    assert narrow == mask[:-1] + {4: b"\xf8", 6: b"\0"}[family]
    devices = entry[4 * width : 4 * width + 64]
    assert [devices[n * 16 : n * 16 + 16].rstrip(b"\0") for n in range(4)] == [
        b"hvbr0", b"hvbr", b"\xff" * 6, b"\xff" * 5,
    ]  # fmt: skip
    inverted = entry[4 * width + 64 + {4: 3, 6: 4}[family]]
    assert inverted == 0x10 | 0x02  # IPT_INV_DSTIP, IPT_INV_VIA_OUT


def test_a_protocol_is_asked_for_in_both_families() -> None:
    """IPv6 has a flag for it, without which the kernel does not look at the protocol."""
    assert struct.unpack_from("=HBB", xtentry.build(4, "-p udp -j DROP", "x"), 80) == (17, 0, 0)
    assert struct.unpack_from("=HBBB", xtentry.build(6, "-p udp -j DROP", "x"), 128) == (
        17,
        0,
        1,
        0,
    )


@pytest.mark.parametrize("family", [4, 6])
def test_a_bit_of_the_mark_is_taken_off(family: int) -> None:
    """struct xt_mark_tginfo2: the bits that are set, and those that are cleared before."""
    words = "-o hvbr0 -j MARK --set-xmark 0x1/0x8000000"
    assert parts(family, xtentry.build(family, words, "x"))[-1] == (
        "MARK", 2, struct.pack("=II", 1, 0x8000000),
    )  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-s 10.0.0.1",
        "-s",
        "-s 10.0.0.1/33 -j DROP",
        "-s fd77::1 -j DROP",
        "-p sctp -j DROP",
        "-i a-name-of-16-byte -j DROP",
        "-i hvbr+ -j DROP",
        "-m conntrack --ctstate NONE -j DROP",
        "-m conntrack --ctexpire 5 -j DROP",
        "-m conntrack -j DROP",
        "-m addrtype --dst-type LOCAL --dst-type LOCAL -j DROP",
        "-m addrtype --src-type LOCAL --dst-type LOCAL -j DROP",
        "-m addrtype --dst-type UNICAST -j DROP",
        "-m multiport --dports 1,2 -j DROP",
        "-p tcp -m tcp --dport 65536 -j DROP",
        "-p tcp -m tcp --dport -j",
        "-g CHAIN",
        "! -j DROP",
        "-j DROP -s 10.0.0.1",
        "-j DNAT --to-destination 10.0.0.1",
        "-j MARK",
        "-j MARK --set-xmark 0x1",
        "-j MARK --set-mark 0x1",
        "--dport 5",
    ],
)
def test_words_that_are_not_ours_are_refused(text: str) -> None:
    """Never a rule that is nearly what was said."""
    with pytest.raises(ValueError, match=r"\w"):
        xtentry.build(4, text, "hvtx:x")
    with pytest.raises(ValueError, match="comment"):
        xtentry.build(4, "-j DROP", "x" * 256)
