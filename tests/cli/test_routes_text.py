"""Routes to other hosts' blocks, as routing daemons read them."""

from __future__ import annotations

import pytest

from hvtx.cli.routes_text import lines_of
from hvtx.commands.cluster_status import ShownRoute

ROUTES = [
    ShownRoute("lab", "10.64.0.0/26", "a", "one", None, local=True),
    ShownRoute("lab", "10.64.1.0/26", "b", "two", "192.0.2.2", local=False),
    ShownRoute("lab", "10.64.2.0/26", "c", "three", None, local=False),
    ShownRoute("six", "fd00::40/122", "b", "two", "2001:db8::2", local=False),
]


def test_frr() -> None:
    assert lines_of(ROUTES, "frr") == [
        "ip route 10.64.1.0/26 192.0.2.2",
        "ipv6 route fd00::40/122 2001:db8::2",
    ]


def test_bird() -> None:
    assert lines_of(ROUTES, "bird") == [
        "protocol static hvtx4 {",
        "    ipv4;",
        "    route 10.64.1.0/26 via 192.0.2.2;",
        "}",
        "protocol static hvtx6 {",
        "    ipv6;",
        "    route fd00::40/122 via 2001:db8::2;",
        "}",
    ]


@pytest.mark.parametrize(("form", "mark"), [("frr", "!"), ("bird", "#")])
def test_an_address_of_the_other_family_is_no_next_hop(form: str, mark: str) -> None:
    """FRR takes ``ip route 10.64.4.0/26 2001:db8::4`` for a route to an interface of that name."""
    odd = ShownRoute("lab", "10.64.4.0/26", "d", "four", "2001:db8::4", local=False)
    lines = lines_of([*ROUTES, odd], form)
    assert lines == [
        *lines_of(ROUTES, form),
        f"{mark} 10.64.4.0/26 is left out: its host is reached by 2001:db8::4, of the other family",
    ]
