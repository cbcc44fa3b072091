"""Which settings guests need, for which devices, and what they make of a host."""

from __future__ import annotations

import pytest

from hvtx.planner import forwarding
from hvtx.planner.forwarding import ALL4, ALL6, Others

ONE = Others(("up0", "lan"), ("up0", "lan"), ("up0",), ("up0",), ("up0",))
NEW = Others(("up0", "lan"), (), (), (), ())


def asked(
    others: Others, *families: int, can_force: bool = True, ours: bool = False, **settings: str
) -> list[tuple[str, str]]:
    """What is wanted where the settings of IPv6 are as given (``up0_accept_ra="1"``)."""
    known = {f"net/ipv6/conf/{name.replace('__', '/')}": value for name, value in settings.items()}
    return forwarding.wanted(families, others, known.get, can_force=can_force, ours=ours)


def test_ipv4_is_one_setting() -> None:
    assert asked(ONE, 4) == [(ALL4, "1")]
    assert asked(ONE) == []


def test_ipv6_is_forced_at_the_uplink_only() -> None:
    """The bridge's own is the bridge driver's."""
    assert asked(ONE, 6) == [("net/ipv6/conf/up0/force_forwarding", "1")]


def test_ipv6_is_forced_where_the_host_is_in_a_network() -> None:
    """A published port is reached from there, too; a bridge without a way out stays shut."""
    two = ONE._replace(addressed6=("up0", "lan", "br0"), reached6=("up0", "lan"))
    forced = [path.split("/")[3] for path, _ in asked(two, 6)]
    assert forced == ["up0", "lan"]


def test_without_a_default_route_whatever_is_there_or_comes() -> None:
    found = [path.split("/")[3] for path, _ in asked(NEW, 6)]
    assert found == ["up0", "lan", "default"]


def test_a_host_that_forwards_already_is_left_as_it_is() -> None:
    assert asked(ONE, 6, all__forwarding="1") == []
    heard = {"up0__accept_ra": "1"}
    assert asked(ONE, 6, can_force=False, all__forwarding="1", **heard) == [(ALL6, "1")]


@pytest.mark.parametrize("ours", [False, True])
def test_an_older_kernel_hears_advertisements_on(ours: bool) -> None:
    """Before forwarding is turned on; of devices that come later, too; and again if it is ours."""
    told = {"up0__accept_ra": "1", "lan__accept_ra": "0", "default__accept_ra": "1"}
    forwards = {"all__forwarding": "1"} if ours else {}
    assert asked(ONE, 6, can_force=False, ours=ours, **told, **forwards) == [
        ("net/ipv6/conf/up0/accept_ra", "2"),
        ("net/ipv6/conf/default/accept_ra", "2"),
        (ALL6, "1"),
    ]


def test_names_as_sysctl_has_them() -> None:
    assert forwarding.dotted(ALL4) == "net.ipv4.ip_forward"
    assert forwarding.dotted("net/ipv6/conf/eth0.7/accept_ra") == "net.ipv6.conf.eth0/7.accept_ra"


def test_what_is_routed_in_words() -> None:
    assert forwarding.routed(4, ["up0"], [ALL4]) is None
    both = forwarding.routed(4, ["up0", "lan"], [ALL4])
    assert both is not None and "up0 and lan" in both
    six = forwarding.routed(6, ["up0", "lan"], ["net/ipv6/conf/up0/force_forwarding"])
    assert six is not None and "comes by up0" in six


def test_where_the_world_is() -> None:
    assert ONE.towards_world(4) == ("up0",)
    lan = Others(("lan",), ("lan",), (), (), ())
    assert lan.towards_world(4) == ("lan",)
    assert lan.addressed(6) == ()
