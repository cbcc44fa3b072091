"""The commands that take off a device what others put on it (integration/ui/test_hints.py runs them)."""

from __future__ import annotations

from hvtx.planner.leftovers import taken_away
from tests.planner import scene


def test_who_looks_for_others_filters_is_shown_them() -> None:
    """A list of queues has hvtx's own and not the filters that stand in it."""
    pair = scene.link(7, "hv3k", "veth", None)
    assert taken_away(pair, (), (), frozenset(), frozenset()) == []
    (found,) = taken_away(pair, (), (), frozenset({7}), frozenset())
    for command in (
        "qdisc show dev hv3k",
        "filter show dev hv3k ingress",
        "filter show dev hv3k egress",
    ):
        assert f"`tc {command}`" in found
