"""Which rule is to blame: the one without which a flow passes."""

from __future__ import annotations

from hvtx.engine import blocking_rules
from hvtx.host.replica.causes import UNKNOWN, Cause, Suspect
from hvtx.host.replica.ruleset import Ruleset, handle_of
from hvtx.host.replica.scratch import Picture
from hvtx.host.replica.topology import Topology
from hvtx.model.traffic import Flow, Way
from tests.host.test_replica import rule

PLACE = ("inet", "t", "c")
FLOWS = [Flow(Way.GUEST_TO_WORLD, 4, protocol, "net", "br") for protocol in ("tcp", "udp")]
LEGACY = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j NOTRACK\nCOMMIT\n"


def picture(*handles: int) -> Picture:
    rules = [rule(handle=handle) for handle in handles]
    return Picture(Topology((), (), (), (), {}), Ruleset(rules=rules), {4: LEGACY}, ())


def judged(suspects: list[Suspect], bad: set[int], *, legacy: bool = False) -> list[Cause]:
    """Flows stop as long as one of the ``bad`` rules is there (handles of the copy are 100 more)."""
    before = [(flow, UNKNOWN._replace(suspects=tuple(suspects))) for flow in FLOWS]

    def again(host: Picture) -> blocking_rules.Stopped:
        there = {handle_of(body) for body in host.ruleset.rules} & bad
        return before if there or (legacy and "NOTRACK" in host.legacy[4]) else []

    handles = {(PLACE, number + 100): number for number in (7, 8, 9)}
    found = blocking_rules.find_blocking_rules(picture(7, 8, 9), before, handles, again)
    assert [flow for flow, _ in found] == FLOWS
    return [cause for _, cause in found]


def suspect(number: int) -> Suspect:
    return Suspect(PLACE, number + 100)


def test_the_one_without_which_flows_pass() -> None:
    found = judged([suspect(7), suspect(8), suspect(9)], {8})
    assert found == [Cause("nft", PLACE, "", 108)] * 2


def test_two_that_do_the_same() -> None:
    """The last of them is named; once it is gone, the first is found."""
    assert (
        judged([suspect(7), suspect(8), suspect(9)], {7, 9}) == [Cause("nft", PLACE, "", 109)] * 2
    )


def test_a_rule_of_a_legacy_table() -> None:
    line = Suspect(("iptables-legacy", "raw", "PREROUTING"), 0, "-A PREROUTING -j NOTRACK")
    found = judged([suspect(7), line], set(), legacy=True)
    assert found == [Cause("legacy", line.place, line.text)] * 2


def test_where_none_is_to_blame_it_stays_unknown() -> None:
    assert {cause.by for cause in judged([suspect(7)], {9})} == {"unknown"}
