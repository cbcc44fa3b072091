"""Elements as bytes alone: those that the layout says, for every row that has some."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvtx.errors import UsageError
from hvtx.rulesets.nftables_base import SKELETONS
from hvtx.rulesets.nftables_elements import unplaced
from hvtx.rulesets.nftables_numbered import number_of, numbered

ADDRESSES = st.sampled_from([None, "10.77.0.9", "192.0.2.200"])
ADDRESSES6 = st.sampled_from([None, "fd00::9", "2001:db8::1"])
NAMES = st.sampled_from(["hvt7abc", "x", "fifteen-letters"])


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """Rows of the firewall of any kind that elements stand for."""
    what = draw(st.sampled_from(["port", "masquerade", "publish", "network", "forward", "egress"]))
    more = draw(st.sampled_from([[], ["10.77.0.50", "fd00::50"]]))
    found: dict[str, Any] = {
        "what": what,
        "device": draw(NAMES),
        "bridge": draw(NAMES),
        "mac": "02:00:00:0a:0b:0c",
        "ipv4": draw(ADDRESSES),
        "ipv6": draw(ADDRESSES6),
        "isolate": draw(st.booleans()),
        "nat": draw(st.booleans()),
        "address": draw(st.sampled_from(["10.77.0.9", "fd00::9"])),
        "protocol": draw(st.sampled_from(["tcp", "udp"])),
        "host_ip": draw(
            st.sampled_from([None, "", "0.0.0.0", "::", "192.0.2.1", "fd00::2", "::1"])
        ),
        "host_port": draw(st.sampled_from([1, 80, 65535])),
        "guest_port": draw(st.sampled_from([1, 8080, 65535])),
        "alone": draw(st.booleans()),
    }
    if more:
        found["more"] = more
    extra = {"forward": True, "gateway6": "fe80::1", "flows": 7, "egress": "none"}
    found |= {key: value for key, value in extra.items() if draw(st.booleans())}
    if draw(st.booleans()) and what == "masquerade":
        found["source"] = {"1": "192.0.2.7", "f": "2001:db8::7"}[found["address"][0]]
    return found


@settings(max_examples=600, deadline=None)
@given(specs())
def test_they_are_what_the_layout_says(spec: dict[str, Any]) -> None:
    wanted = [number_of(p.family, p.set) + p.key + p.data for p in unplaced(spec)]
    assert sorted(numbered(spec)) == sorted(wanted)


def test_each_set_of_the_layout_has_a_number_of_its_own() -> None:
    sets = [(family, name) for family, skeleton in SKELETONS.items() for name in skeleton.sets]
    assert len({number_of(*one) for one in sets}) == len(sets)
    assert number_of("inet", "of_others") not in {number_of(*one) for one in sets}


@pytest.mark.parametrize("name", ["", "sixteen-letters-"])
def test_a_name_that_no_device_can_have_is_refused(name: str) -> None:
    spec = {
        "what": "port",
        "device": name,
        "bridge": "b",
        "mac": "02:00:00:0a:0b:0c",
        "isolate": False,
    }
    with pytest.raises(UsageError, match="cannot be the name"):
        numbered(spec)
