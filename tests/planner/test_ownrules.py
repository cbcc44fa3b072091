"""Our own tables and chains: expected and seen, compared."""

from __future__ import annotations

import pytest

from hvtx.model.hook import Hook
from hvtx.model.ruleset import (
    Difference,
    SeenElement,
    SeenLine,
    SeenRule,
    SeenTable,
    WantedElement,
    WantedLine,
    WantedTable,
)
from hvtx.planner.ownrules import REPAIR, by_row, of_lines, of_table, told

MARK, GUEST, OTHER = "hvtx:1:abc:1.x", "hvtx:1:abc:2.y", "hvtx:1:abc:9.z"
HOOK = Hook("filter", 0, -300)
WANTED = WantedTable(
    1, MARK, {"pre": HOOK, "guard": None}, {"pre": (("d1", "jump guard"),),
    "guard": (("d2", "accept"), ("d3", "drop"))}, frozenset({"own4"}),
    {("own4", b"a"): WantedElement(2, GUEST, b"", 0), ("own4", b"f"): WantedElement(2, GUEST, b"v", 9)},
    frozenset({OTHER}),
)  # fmt: skip
RULES = (SeenRule("pre", 1, "d1", MARK), SeenRule("guard", 2, "d2", MARK),
         SeenRule("guard", 3, "d3", MARK))  # fmt: skip
ELEMENTS = (SeenElement("own4", b"a", b"", GUEST, 0, "tap a", '"tap" . a'),
            SeenElement("own4", b"f", b"v", GUEST, 9, "tap f", '"tap" . f'))  # fmt: skip
SEEN = SeenTable("bridge", "hvtx-abc", 0, dict(WANTED.hooks), RULES, {"own4": "set"}, (), ELEMENTS)


def differences(seen: SeenTable) -> list[Difference]:
    return of_table(WANTED, seen, str)


def test_a_table_as_it_was_made_differs_in_nothing() -> None:
    assert differences(SEEN) == []


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (SEEN._replace(flags=1), "dormant"),
        (SEEN._replace(hooks={"pre": HOOK._replace(policy=0), "guard": None}), "the chain has"),
        (SEEN._replace(hooks={"pre": HOOK._replace(priority=1), "guard": None}), "the chain has"),
        (SEEN._replace(hooks={"pre": HOOK._replace(devices=("e",)), "guard": None}), "the chain"),
        (SEEN._replace(hooks={"pre": None, "guard": None}), "the chain has"),
        (SEEN._replace(hooks={"guard": None}), "the chain is gone"),
        (SEEN._replace(sets={}), "the set is gone"),
        (SEEN._replace(rules=RULES[:2]), "a rule is gone: `drop`"),
        (SEEN._replace(rules=(*RULES, RULES[1])), "1 more of a rule that hvtx has once"),
        (SEEN._replace(rules=(RULES[0], RULES[2], RULES[1])), "another order"),
        (SEEN._replace(rules=(*RULES, SeenRule("guard", 9, "dx", MARK))), "is another rule"),
    ],
)  # fmt: skip
def test_what_is_ours_is_put_back(seen: SeenTable, said: str) -> None:
    found = differences(seen)
    assert len(found) == 1
    assert said in found[0].words
    assert (found[0].row, found[0].fix) == (1, REPAIR)


@pytest.mark.parametrize("flags", [2, 4])
def test_other_flags_are_no_sleep(flags: int) -> None:
    assert differences(SEEN._replace(flags=flags)) == []


def test_elements_that_were_changed_are_put_back() -> None:
    first, second = ELEMENTS
    for changed in (second._replace(flows=10), second._replace(data=b"w")):
        found = differences(SEEN._replace(elements=(first, changed)))
        assert [(d.row, d.fix) for d in found] == [(2, REPAIR)]


@pytest.mark.parametrize("comment", [None, "theirs", GUEST, "hvtx:1:other:1.x"])
def test_an_element_of_somebody_else_is_named_with_its_command(comment: str | None) -> None:
    more = SeenElement("own4", b"b", b"", comment, 0, "tap b", '"tap" . b')
    [found] = differences(SEEN._replace(elements=(*ELEMENTS, more)))
    assert found.row is None
    assert found.fix == "nft 'delete element bridge hvtx-abc own4 { \"tap\" . b }'"


def test_one_that_an_operation_or_gc_has_to_do_with_is_not_told() -> None:
    more = SeenElement("own4", b"b", b"", OTHER, 0, "tap b", "b")
    assert differences(SEEN._replace(elements=(*ELEMENTS, more))) == []


def test_one_with_a_mark_of_ours_that_is_not_on_record_is_for_gc() -> None:
    """`nft delete` would be wrong advice: a VM that an older store does not know may need it."""
    lost = "hvtx:1:abc:8.w"
    more = SeenElement("own4", b"b", b"", lost, 0, "tap b", '"tap" . b')
    seen = SEEN._replace(elements=(*ELEMENTS, more))
    [found] = of_table(WANTED._replace(unrecorded=frozenset({lost})), seen, str)
    assert (found.row, found.fix, found.unrecorded) == (None, "hvtx gc --plan", True)
    assert "not on record" in found.words
    in_its_place = SEEN._replace(elements=(ELEMENTS[0]._replace(comment=lost), ELEMENTS[1]))
    [found] = of_table(WANTED._replace(unrecorded=frozenset({lost})), in_its_place, str)
    assert (found.instead, found.fix) == (2, "hvtx gc --plan")


def test_a_legacy_rule_with_a_mark_that_is_not_on_record_is_for_gc() -> None:
    lost = "hvtx:1:abc:8.w"
    strange = line("-j ACCEPT", lost, "H-FWD", 3)
    [found] = of_lines([JUMP, DROP], [*OURS, strange], CHAINS, frozenset(), frozenset({lost}))
    assert (found.row, found.fix, found.unrecorded) == (None, "hvtx gc --plan", True)


def test_one_in_the_place_of_ours_goes_before_ours_is_put_back() -> None:
    bare = ELEMENTS[0]._replace(comment=None)
    [found] = differences(SEEN._replace(elements=(bare, ELEMENTS[1])))
    assert (found.row, found.instead) == (None, 2)
    assert found.fix.endswith(f"; {REPAIR}")


def test_what_has_no_words_for_nft_gets_no_command() -> None:
    more = SeenElement("own4", b"b", b"", None, 0, "tap b", "")
    [found] = differences(SEEN._replace(elements=(*ELEMENTS, more)))
    assert found.fix == "see nft list set bridge hvtx-abc own4"
    [found] = differences(SEEN._replace(hooks={**SEEN.hooks, "a;reboot": HOOK}))
    assert found.fix == "see nft -a list table bridge hvtx-abc"


def test_things_of_somebody_else_are_told_by_what_they_do() -> None:
    seen = SEEN._replace(
        hooks={**SEEN.hooks, "more": HOOK, "aside": None},
        rules=(*RULES, SeenRule("guard", 7, "dx", None, "jump aside"),
               SeenRule("more", 8, "dy", None, "accept")),
        sets={"own4": "set", "m": "map"}, objects=(("counter", "c"), ("flowtable", "f")),
    )  # fmt: skip
    found = {str(d.place): (d.stops, d.fix) for d in differences(seen)}
    place = "bridge hvtx-abc"
    assert found == {
        f"nft {place} guard": (True, f"nft delete rule {place} guard handle 7"),
        f"nft {place} more": (
            True, f"nft 'flush chain {place} more; delete chain {place} more'"),
        f"nft {place} aside": (
            False, f"nft 'flush chain {place} aside; delete chain {place} aside'"),
        f"nft {place} m": (False, f"nft delete map {place} m"),
        f"nft {place} c": (False, f"nft delete counter {place} c"),
        f"nft {place} f": (False, f"nft delete flowtable {place} f"),
    }  # fmt: skip


# -- legacy tables ---------------------------------------------------------------------------------

CHAINS = {"mangle": frozenset({"H-FWD"}), "filter": frozenset({"H-PASS"})}
JUMP = WantedLine(1, MARK, "iptables", "mangle", "FORWARD", "-j H-FWD", first=True)
DROP = WantedLine(2, GUEST, "iptables", "mangle", "H-FWD", "-i br0 -j DROP", first=False)


def line(text: str, mark: str | None = None, chain: str = "FORWARD", place: int = 1) -> SeenLine:
    return SeenLine("iptables", "mangle", chain, text, mark, place)


OURS = [line("-j H-FWD", MARK), line("-i br0 -j DROP", GUEST, "H-FWD")]


def lines(*seen: SeenLine) -> list[Difference]:
    return of_lines([JUMP, DROP], seen, CHAINS, frozenset({OTHER}))


def test_legacy_chains_as_they_were_made_differ_in_nothing() -> None:
    assert lines(*OURS) == []
    assert lines(*OURS, line("-j ACCEPT", None, "FORWARD", 2)) == []
    assert lines(*OURS, line("-j DROP", OTHER, "H-FWD", 2)) == []


def test_legacy_rules_that_are_gone_and_copies() -> None:
    assert [(d.row, d.fix) for d in lines(OURS[1])] == [(1, REPAIR)]
    [copy] = lines(*OURS, OURS[1]._replace(place=2))
    assert (copy.row, copy.stops, copy.copies) == (2, False, True)


@pytest.mark.parametrize(
    ("strange", "fix"),
    [
        (line("-j ACCEPT", None, "H-FWD", 3), "-D H-FWD -j ACCEPT"),
        (line("-j ACCEPT", GUEST, "H-FWD", 3), "-D H-FWD 3"),
        (line("-j ACCEPT", "hvtx:1:else:1.a", "H-FWD", 3), "-D H-FWD 3"),
        (line('-m comment --comment "$(reboot)" -j ACCEPT', None, "H-FWD", 3), "-D H-FWD 3"),
        (line("-i eth0 -g H-FWD", None, "FORWARD", 2), "-D FORWARD -i eth0 -g H-FWD"),
    ],
)
def test_legacy_rules_of_somebody_else(strange: SeenLine, fix: str) -> None:
    [found] = lines(*OURS, strange)
    assert (found.row, found.fix) == (None, f"iptables-legacy -t mangle {fix}")


@pytest.mark.parametrize(
    ("text", "past"),
    [
        ("-j ACCEPT", True),
        ("-i br0 -j ACCEPT", True),
        ("-o br0 -p tcp -j ACCEPT", True),
        ("-i eth9 -j ACCEPT", True),
        ("-i eth9 -o eth8 -j ACCEPT", False),
        ("! -i br0 ! -o br0 -j ACCEPT", False),
        ("-i br+ -j NFQUEUE --queue-num 1", True),
        ("-j DROP", False),
        ("-j MARK --set-xmark 0x7/0xffffffff", False),
        ("-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", False),
        ("-m conntrack ! --ctstate RELATED,ESTABLISHED -j ACCEPT", True),
        ("-m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT", True),
        ("-j AWAY", True),
        ("-g LOOP", False),
        ("-j EMPTY", False),
    ],
)
def test_what_lets_packets_past_a_guard(text: str, past: bool) -> None:
    chains = [line("-p tcp -j ACCEPT", None, "AWAY"), line("-j LOOP", None, "LOOP")]
    found = lines(line(text), OURS[0]._replace(place=2), OURS[1], *chains)
    assert [d.row for d in found] == ([1] if past else [])


def test_the_differences_of_a_row_are_told_together() -> None:
    found = [Difference(f"p{n}", "gone", REPAIR, 1) for n in range(5)]
    strange = Difference("q", "strange", "rm")
    assert by_row([*found, strange]) == {1: found}
    assert told(found) == "p0: gone; p1: gone; p2: gone; and 2 more"
