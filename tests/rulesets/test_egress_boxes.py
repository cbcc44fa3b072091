"""Rules as boxes: they never overlap, and hold what the rules hold together."""

from __future__ import annotations

from ipaddress import ip_network

from hypothesis import given
from hypothesis import strategies as st

from hvtx.model.policy import EgressRule
from hvtx.rulesets.egress_boxes import Box, boxes, joined, range_of

PORTS = st.integers(1, 12)
RULES = st.lists(
    st.builds(
        lambda host, length, ports, protocol: EgressRule(
            "allow",
            str(ip_network((host, length), strict=False)),
            *((None, None, None) if ports is None else (min(ports), max(ports), protocol)),
        ),
        st.integers(0, 15).map(lambda n: n + (10 << 24)),
        st.integers(28, 32),
        st.none() | st.tuples(PORTS, PORTS),
        st.sampled_from([None, "tcp", "udp"]),
    ),
    max_size=8,
)


def inside(box: Box, address: int, protocol: str, port: int) -> bool:
    if not box.first <= address <= box.last:
        return False
    return box.ports is None or (box.protocol == protocol and box.ports[0] <= port <= box.ports[1])


def matches(rule: EgressRule, address: int, protocol: str, port: int) -> bool:
    _, first, last = range_of(rule.to)
    if not first <= address <= last or rule.first_port is None:
        return first <= address <= last
    assert rule.last_port is not None
    return rule.protocol in (None, protocol) and rule.first_port <= port <= rule.last_port


@given(RULES)
def test_boxes_hold_what_rules_say_each_once(rules: list[EgressRule]) -> None:
    found = boxes(rules, 4, "allow")
    for address in range((10 << 24) - 1, (10 << 24) + 17):
        for protocol in ("tcp", "udp"):
            for port in range(14):
                hits = [box for box in found if inside(box, address, protocol, port)]
                wanted = any(matches(rule, address, protocol, port) for rule in rules)
                assert bool(hits) == wanted
                assert len([box for box in hits if box.ports is None]) <= 1
                assert len([box for box in hits if box.ports is not None]) <= 1


def test_only_rules_of_the_action_and_family_count() -> None:
    rules = [EgressRule("deny", "10.0.0.0/8"), EgressRule("allow", "fd00::/8")]
    assert boxes(rules, 4, "allow") == []
    assert boxes(rules, 6, "deny") == []
    assert len(boxes(rules, 6, "allow")) == 1


def test_ranges_that_touch_become_one() -> None:
    assert joined([(5, 9), (1, 2), (3, 4), (20, 30), (25, 26)]) == [(1, 9), (20, 30)]
