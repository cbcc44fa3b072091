"""What a rule of others does, told from the bytes that the kernel gives."""

from __future__ import annotations

import struct

import pytest

from hvtx.host import xtentry
from hvtx.host.filter_chains import chain_rule, legacy_rule
from hvtx.host.netlink import attribute, nested, text
from hvtx.host.nfanswers import Rule
from hvtx.host.nfxt import expressions_of
from hvtx.model.filter_chain import Does

MARK = "hvtx:1:0123456789:7.abcdefghijklmnop"


def expression(name: str, *inside: bytes) -> bytes:
    return nested(1, text(1, name), nested(2, *inside))


def verdict(code: int, chain: str = "") -> bytes:
    leads = text(2, chain) if chain else b""
    inside = nested(2, nested(2, attribute(1, struct.pack(">i", code)) + leads))
    return expression("immediate", attribute(1, bytes(4)), inside)


def target(name: str) -> bytes:
    return expression("target", text(1, name))


COUNTER, IIF = expression("counter"), expression("meta", attribute(2, bytes(4)))


@pytest.mark.parametrize(
    ("parts", "does", "leads"),
    [
        (COUNTER + verdict(0), Does.DROP, ""),
        (COUNTER + verdict(1), Does.ACCEPT, ""),
        (verdict(-5), Does.RETURN, ""),
        (COUNTER + verdict(-3, "ufw-before-forward"), Does.JUMP, "ufw-before-forward"),
        (verdict(-4, "elsewhere"), Does.SOME, ""),
        (COUNTER + target("REJECT"), Does.DROP, ""),
        (COUNTER + expression("reject"), Does.DROP, ""),
        (IIF + COUNTER + verdict(0), Does.SOME, ""),
        (IIF + COUNTER + verdict(-3, "one"), Does.SOME, ""),
        (IIF + COUNTER + verdict(1), Does.MAY_ACCEPT, ""),
        (IIF + verdict(-3, "ufw-skip-to-policy-input"), Does.POLICY, "ufw-skip-to-policy-input"),
        (IIF + COUNTER + target("LOG"), Does.NOTHING, ""),
        (expression("log"), Does.NOTHING, ""),
        (target("NFQUEUE"), Does.SOME, ""),
        (expression("queue"), Does.SOME, ""),
        (IIF + expression("lookup"), Does.SOME, ""),  # in a map, which may hold verdicts
        (expression("synproxy"), Does.SOME, ""),
        (expression("fwd"), Does.SOME, ""),
        (expression("dup"), Does.SOME, ""),
        (expression("last") + expression("log") + verdict(0), Does.DROP, ""),
        (b"", Does.NOTHING, ""),
    ],
)
def test_a_rule_of_nf_tables(parts: bytes, does: Does, leads: str) -> None:
    seen = chain_rule(Rule("ip", "filter", "FORWARD", 3, parts, None))
    assert (seen.does, seen.leads, seen.handle, seen.mark) == (does, leads, 3, None)


def test_ours_is_told_by_its_mark_and_its_words() -> None:
    built = expressions_of("-i hvbr0 -o eth0 -j ACCEPT", MARK)
    seen = chain_rule(Rule("ip", "filter", "FORWARD", 3, built, None))
    assert (seen.does, seen.mark, seen.words) == (
        Does.MAY_ACCEPT,
        MARK,
        "-i hvbr0 -o eth0 -j ACCEPT",
    )


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("words", "does", "leads"),
    [
        ("-j DROP", Does.DROP, ""),
        ("-j ACCEPT", Does.ACCEPT, ""),
        ("-j RETURN", Does.RETURN, ""),
        ("-j REJECT", Does.DROP, ""),
        ("-j DOCKER-USER", Does.JUMP, "DOCKER-USER"),
        ("-j LOG", Does.NOTHING, ""),
        ("-j NFQUEUE", Does.SOME, ""),
        ("-i eth0 -j DROP", Does.SOME, ""),
        ("-m conntrack --ctstate ESTABLISHED -j DROP", Does.SOME, ""),
        ("-i eth0 -j DOCKER-USER", Does.SOME, ""),
        ("-i eth0 -j ACCEPT", Does.MAY_ACCEPT, ""),
        ("-i eth0 -j ufw6-skip-to-policy-input", Does.POLICY, "ufw6-skip-to-policy-input"),
    ],
)
def test_a_rule_of_a_legacy_table(family: int, words: str, does: Does, leads: str) -> None:
    entry = xtentry.build(family, words, MARK)
    seen = legacy_rule(family, entry, {"DOCKER-USER": (), "ufw6-skip-to-policy-input": ()})
    assert (seen.does, seen.leads, seen.mark) == (does, leads, MARK)
