"""Rules that count, as a single flow meets them: what is made of each kind."""

from __future__ import annotations

import struct

import pytest

from hvtx.host.netlink import attribute, attribute_map, nested, text
from hvtx.host.nfanswers import expressions
from hvtx.host.nfmessages import Command
from hvtx.host.nfnetlink import BatchRefused
from hvtx.host.replica import copying, limits, memory, xtwords
from hvtx.host.replica.ruleset import Ruleset
from tests.host.test_replica import be32, body, chain, expression, rule, table

DROP = expression("immediate", attribute(1, be32(0)), nested(2, nested(2, attribute(1, bytes(4)))))


def be64(number: int) -> bytes:
    return struct.pack(">Q", number)


def match(name: str, info: bytes, revision: int = 0) -> bytes:
    return expression("match", text(1, name), attribute(2, be32(revision)), attribute(3, info))


def names(raw: bytes) -> list[str]:
    return [name for name, _ in expressions(raw)]


def only(raw: bytes) -> dict[int, bytes]:
    ((_, data),) = expressions(raw)
    return attribute_map(data)


def test_a_limit_is_not_reached_and_stays_what_it_was_otherwise() -> None:
    given = expression("limit", attribute(1, be64(2)), attribute(2, be64(60)),
                       attribute(3, be32(5)), attribute(4, be32(0)), attribute(5, be32(1)))  # fmt: skip
    found = only(limits.of_rule(given))
    assert int.from_bytes(found[1], "big") >= 1_000_000
    assert (found[2], found[4], found[5]) == (be64(1), be32(0), be32(1))
    assert limits.of_rule(limits.of_rule(given)) == limits.of_rule(given)


@pytest.mark.parametrize(("flags", "consumed", "spent"), [(1, 0, False), (1, 99, False),
                                                           (1, 100, True), (3, 100, True), (2, 7, True)])  # fmt: skip
def test_a_quota_that_is_spent_stays_spent(flags: int, consumed: int, spent: bool) -> None:
    """The kernel refuses to be told that one is spent; it counts itself."""
    given = expression(
        "quota", attribute(1, be64(100)), attribute(2, be32(flags)), attribute(4, be64(consumed))
    )
    found = only(limits.of_rule(given))
    assert found[2] == be32(flags & 1)
    left = int.from_bytes(found[1], "big") - int.from_bytes(found[4], "big")
    assert left == 0 if spent else left > 1 << 40


@pytest.mark.parametrize(("count", "made"), [(5, 0x7FFFFFFF), (0, 0)])
def test_a_count_of_flows_is_that_of_one(count: int, made: int) -> None:
    assert only(limits.of_rule(expression("connlimit", attribute(1, be32(count)))))[1] == be32(made)


def test_a_meter_is_carried_without_a_timeout_that_there_is_not() -> None:
    inner = nested(7, text(1, "limit"), nested(2, attribute(1, be64(2)), attribute(3, be32(1))))
    given = expression("dynset", text(1, "dyn"), attribute(6, be64(0)), inner)
    found = only(limits.of_rule(given))
    assert 6 not in found
    data = attribute_map(attribute_map(found[7])[2])
    assert int.from_bytes(data[1], "big") >= 1_000_000
    assert 6 in only(limits.of_rule(given.replace(attribute(6, be64(0)), attribute(6, be64(9)))))


def test_elements_and_objects_and_sets_count_likewise() -> None:
    counts = (text(1, "connlimit"), nested(2, attribute(1, be32(3))))
    element = nested(1, nested(1, attribute(1, b"\x0a\x4d\0\2")), nested(7, *counts))
    ((_, data),) = [
        (1, attribute_map(part)) for part in attribute_map(limits.of_elements(element)).values()
    ]
    assert attribute_map(attribute_map(data[7])[2])[1] == be32(0x7FFFFFFF)
    several = nested(18, nested(1, *counts), nested(1, *counts))
    listed = attribute_map(limits.of_set(several))[18]
    assert listed.count(be32(0x7FFFFFFF)) == 2
    assert attribute_map(limits.object_data(5, attribute(1, be32(3))))[1] == be32(0x7FFFFFFF)
    assert limits.object_data(3, b"x") == b"x"


def hashlimit(mode: int) -> bytes:
    return match("hashlimit", bytes(272) + struct.pack("=I", mode) + bytes(60), 3)


def test_matches_of_xtables_that_always_match_go_and_what_never_gets_past_one_ends() -> None:
    limited = match("limit", bytes(40))
    assert names(limits.of_rule(limited + DROP)) == ["immediate"]
    assert names(limits.of_rule(hashlimit(2) + DROP)) == ["immediate"]
    assert names(limits.of_rule(expression("meta") + hashlimit(0x12) + DROP)) == ["meta"]
    counted = match("connlimit", bytes(16) + struct.pack("=II", 2, 0) + bytes(8), 1)
    info = attribute_map(
        next(d for n, d in expressions(limits.of_rule(counted + DROP)) if n == "match")
    )[3]
    assert struct.unpack_from("=I", info, 16) == (0x7FFFFFFF,)
    other = match("comment", b"limit\0")
    assert limits.of_rule(other + DROP) == other + DROP


def test_a_quota_of_xtables_is_not_known() -> None:
    raw = match("quota", bytes(24))
    assert limits.is_doubtful(raw + DROP)
    assert not limits.is_doubtful(match("comment", b"quota\0") + DROP)
    assert names(limits.of_rule(expression("meta") + raw + DROP)) == ["meta"]


@pytest.mark.parametrize(("line", "made", "doubtful"), [
    ("-A F -m limit --limit 5/sec --limit-burst 3 -j ACCEPT", "-A F -j ACCEPT", False),
    ('-A F -m limit --limit 5/sec -m comment --comment "a -m limit b" -j LOG --log-prefix "x -j y"',
     '-A F -m comment --comment "a -m limit b" -j LOG --log-prefix "x -j y"', False),
    ("-A F -m hashlimit --hashlimit-upto 2/sec --hashlimit-mode srcip --hashlimit-name h -j ACCEPT",
     "-A F -j ACCEPT", False),
    ("-A F -p tcp -m hashlimit --hashlimit-above 2/sec --hashlimit-name h -m tcp --dport 2 -j DROP",
     "-A F -p tcp -m tcp --dport 2", False),
    ("-A F -m connlimit --connlimit-above 2 --connlimit-mask 0 --connlimit-saddr -j DROP",
     "-A F -m connlimit --connlimit-above 2147483647 --connlimit-mask 0 --connlimit-saddr -j DROP", False),
    ("-A F -m connlimit --connlimit-above 0 --connlimit-mask 0 -j DROP",
     "-A F -m connlimit --connlimit-above 0 --connlimit-mask 0 -j DROP", False),
    ("-A F -s 192.0.2.1/32 -m quota --quota 1000 -j ACCEPT", "-A F -s 192.0.2.1/32", True),
    ("-A limit -d 192.0.2.1/32 -g quota", "-A limit -d 192.0.2.1/32 -g quota", False),
])  # fmt: skip
def test_rules_of_legacy_tables(line: str, made: str, doubtful: bool) -> None:
    assert xtwords.rule(line) == (made, doubtful)


def test_a_rule_that_cannot_be_restored_only_counts() -> None:
    """First by what every kernel knows; then whoever comes to it."""
    text = "*filter\n:F - [0:0]\n-A F -s 192.0.2.1/32 -m set --match-set bad src -j DROP\n-A F -j DROP\nCOMMIT\n"
    made = xtwords.quiet(text)
    assert made.text == text
    assert not made.doubts
    first = xtwords.without(made, 3)
    assert first is not None
    assert "-A F -s 192.0.2.1/32\n-A F -j DROP" in first.text
    assert first.doubts == {("filter", "-A F -s 192.0.2.1/32")}
    assert first.rules["filter", "-A F -s 192.0.2.1/32"].endswith(
        "-m set --match-set bad src -j DROP"
    )
    second = xtwords.without(first, 3)
    assert second is not None
    assert "-A F\n-A F -j DROP" in second.text
    assert xtwords.without(made, 1) is None
    assert xtwords.without(made, 99) is None


class Refusing:
    """A kernel that takes none of these words."""

    made: list[Command]

    def __init__(self, *words: bytes) -> None:
        self._words = words

    def __call__(self) -> Refusing:
        return self

    def batch(self, batch: list[Command]) -> None:
        for number, command in enumerate(batch):
            if any(word in command.body for word in self._words):
                raise BatchRefused(95, "Operation not supported", number)
        self.made = batch

    def close(self) -> None:
        pass


def test_a_rule_that_the_kernel_does_not_take_is_held_by_one_that_only_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = Refusing(b"odd\0")
    monkeypatch.setattr(copying, "Nftables", kernel)
    given = Ruleset([table()], [chain()], rules=[rule(expression("meta"), expression("odd"), DROP)])
    copied = copying.write(given, ())
    assert (copied.lacks, copied.without) == ((), frozenset())
    assert copied.doubts == {(("inet", "t", "c"), 9)}
    assert names(attribute_map(kernel.made[-1].body)[4]) == ["meta"]


def test_a_set_that_the_kernel_does_not_take_makes_its_rules_doubtful(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that ask another set are as they were."""
    kernel = Refusing(b"bad\0\x08\0\x03\0")
    monkeypatch.setattr(copying, "Nftables", kernel)
    sets = [body(text(1, "t"), text(2, name), attribute(3, bytes(4))) for name in ("bad", "good")]
    elements = [
        body(text(1, "t"), text(2, name), nested(3, nested(1, b""))) for name in ("bad", "good")
    ]
    rules = [rule(expression("meta"), expression("lookup", text(1, name)), DROP, handle=number)
             for number, name in enumerate(("bad", "good"), 7)]  # fmt: skip
    copied = copying.write(
        Ruleset([table()], [chain()], sets=sets, elements=elements, rules=rules), ()
    )
    assert copied.lacks == ()
    assert copied.doubts == {(("inet", "t", "c"), 7)}
    assert copied.unmade == {("inet", "t", "bad")}
    assert len(kernel.made) == 6  # table, chain, set, its elements, two rules


def test_only_sets_that_rules_fill_are_forgotten() -> None:
    rules = [rule(expression("lookup", text(1, "kept"))), rule(expression("dynset", text(1, "dyn"))),
             rule(expression("dynset", text(1, "seen6")), in_="hvtx-a")]  # fmt: skip
    assert memory.filled(Ruleset(rules=rules)) == {("inet", "t", "dyn")}
