"""iptables' words for rules of nf_tables: how they are told apart, without a kernel."""

from __future__ import annotations

import struct

from hvtx.host import libnftables, nftwords
from hvtx.host.netlink import attribute, nested, text
from hvtx.host.nfanswers import Rule, protocol_of


def number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value))


def expression(name: str, *data: bytes) -> bytes:
    return nested(1, text(1, name), nested(2, *data))


def rule(handle: int, *parts: bytes, chain: str = "FORWARD", comment: str | None = None) -> Rule:
    return Rule("ip", "filter", chain, handle, b"".join(parts), comment)


def equals(value: bytes, operator: int = 0) -> bytes:
    return expression("cmp", number(2, operator), nested(3, attribute(1, value)))


L4PROTO = expression("meta", number(1, 1), number(2, 16))
HEADER = expression("payload", number(1, 1), number(2, 1), number(3, 9), number(4, 1))
SOURCE = expression("payload", number(1, 1), number(2, 1), number(3, 12), number(4, 4))


def test_the_protocol_that_a_rule_asks_for() -> None:
    """By the kernel's own look or by the header's byte; not one that it must not be."""
    assert protocol_of(rule(1, L4PROTO, equals(b"\x06"))) == 6
    assert protocol_of(rule(1, SOURCE, equals(b"\x0a\0\0\x01"), HEADER, equals(b"\x11"))) == 17
    assert protocol_of(rule(1, L4PROTO, equals(b"\x06", 1))) == 0
    assert protocol_of(rule(1, SOURCE, equals(b"\x06\0\0\0"))) == 0
    assert protocol_of(rule(1)) == 0


def test_words_are_paired_only_if_all_are_there() -> None:
    rules = [rule(4), rule(7), rule(9, chain="mine")]
    saved = {("filter", "FORWARD"): ["a", "b"], ("filter", "mine"): ["c"]}
    assert nftwords._paired(saved, "filter", rules) == {4: "a", 7: "b", 9: "c"}
    saved["filter", "mine"] = []
    assert nftwords._paired(saved, "filter", rules) is None


def test_rules_that_do_the_same() -> None:
    """Counters do nothing, and a comment may stand beside the rule or in it."""
    inside = expression("match", text(1, "comment"), attribute(3, b"why\0\0"))
    counted = expression("counter", attribute(1, bytes(8)))
    one = rule(1, SOURCE, inside, counted)
    assert nftwords._alike(one) == nftwords._alike(rule(2, SOURCE, comment="why"))
    assert nftwords._alike(one) != nftwords._alike(rule(2, SOURCE, comment="why not"))
    assert nftwords._alike(one) != nftwords._alike(rule(2, HEADER, comment="why"))


def test_nobody_takes_what_only_nft_can_write_for_iptables_own() -> None:
    assert nftwords._is_native(rule(1, expression("ct", number(1, 1))))
    assert nftwords._is_native(rule(1, SOURCE, expression("lookup", text(1, "__set0"))))
    assert not nftwords._is_native(rule(1, SOURCE, equals(b"\x0a\0\0\x01")))


def test_lines_that_a_comment_splits() -> None:
    listing = 'table ip x {\n\tchain c {\n\t\taccept comment "a\n\t}\nb" # handle 5\n\t}\n}\n'
    assert list(libnftables.lines_of(listing))[2] == '\t\taccept comment "a\n\t}\nb" # handle 5'
    assert libnftables.rules_in(listing) == {("ip", "x", "c", 5): 'accept comment "a\n\t}\nb"'}
    assert "".join(libnftables.lines_of('one "\ntwo\n')) == 'one "two'
