"""Rules of iptables-nft are read back in the words that they were built of.

That iptables-nft prints the very same words, and goes on reading its table, is shown on the kernel
(integration/network/test_passages.py).
"""

from __future__ import annotations

import pytest

from hvtx.host.netlink import attribute, nested, text
from hvtx.host.nfanswers import Rule, xt_comment
from hvtx.host.nfxt import expressions_of, words_of
from hvtx.rulesets.passage_rules import forward_rules, input_rules

MARK = "hvtx:1:0123456789:7.abcdefghijklmnop"
EVERY = [
    *forward_rules("hvbr0", nat=False, isolate=False, uplinks=["eth0", "enp0s31f6.100"]),
    *input_rules(4, "hvbr0", dhcp=True),
    *input_rules(6, "hvbr0", dhcp=True),
]


def rule(expressions: bytes) -> Rule:
    return Rule("ip", "filter", "FORWARD", 1, expressions, None)


@pytest.mark.parametrize("words", dict.fromkeys(EVERY))
def test_what_is_built_is_read(words: str) -> None:
    built = rule(expressions_of(words, MARK))
    assert words_of(built) == words
    assert xt_comment(built) == MARK


def restored(words: str) -> bytes:
    """The same as iptables-nft 1.8.10 and 1.8.11 have it when they restore it, in IPv4."""
    register, base = attribute(1, b"\0\0\0\1"), attribute(2, b"\0\0\0\1")
    where = attribute(3, b"\0\0\0\x09") + attribute(4, b"\0\0\0\1")
    by_field = nested(1, text(1, "payload"), nested(2, register + base + where))
    by_meta = nested(1, text(1, "meta"), nested(2, register + attribute(2, b"\0\0\0\x10")))
    built = expressions_of(words, MARK)
    assert built.count(by_meta) == 1
    return built.replace(by_meta, by_field)


@pytest.mark.parametrize("words", input_rules(4, "hvbr0", dhcp=True)[1:])
def test_what_a_newer_iptables_restores_is_the_same_rule(words: str) -> None:
    assert words_of(rule(restored(words))) == words
    other = Rule("ip6", "filter", "INPUT", 1, restored(words), None)
    assert words_of(other) is None  # there that byte is of an address


@pytest.mark.parametrize(
    "words",
    [
        "-i hvbr0 -j DROP",
        "-i hvbr0",
        "-i a+ -j ACCEPT",
        "-i sixteen-letters0 -j ACCEPT",
        "-p sctp -j ACCEPT",
        "-s 10.0.0.1 -j ACCEPT",
        "-m conntrack --ctstate ODD -j ACCEPT",
        "-m addrtype --ctstate LOCAL -j ACCEPT",
    ],
)
def test_other_words_are_refused(words: str) -> None:
    with pytest.raises(ValueError, match="cannot build"):
        expressions_of(words, MARK)


def test_what_was_changed_is_no_rule_of_ours() -> None:
    built = expressions_of("-i hvbr0 -o eth0 -j ACCEPT", MARK)
    for had, now in ((b"meta\0", b"xeta\0"), (b"immediate\0", b"imxediate\0")):
        assert words_of(rule(built.replace(had, now))) is None
    assert words_of(rule(built.replace(b"eth0", b"eth1"))) == "-i hvbr0 -o eth1 -j ACCEPT"
    assert words_of(rule(built.replace(b"eth0\0", b"eth0x"))) is None  # a pattern: no end
    assert words_of(rule(built + built)) is None
    assert words_of(rule(b"")) is None
