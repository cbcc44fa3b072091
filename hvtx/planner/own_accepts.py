"""Which stops of flows `repair` ends by an accept of hvtx's own (docs/adr/0047). Pure."""

from __future__ import annotations

from collections.abc import Container

from hvtx.model.filter_chain import is_policy
from hvtx.model.traffic import Stop, Way
from hvtx.model.typed import NamedTuple


class Net(NamedTuple):
    """What of a network a fix names."""

    bridge: str
    subnets: tuple[str, ...]
    gateways: tuple[str, ...]
    firewall: str
    passage: bool = True  # hvtx puts accepts of its own where a default drops
    dhcp: bool = False  # it answers DHCP and DNS
    uplink: str | None = None  # the only device by which its guests leave the host


def is_ours_to_accept(
    stop: Stop, net: Net, owners: Container[tuple[str, str]], late: Container[str] = ()
) -> bool:
    """Whether a policy of iptables' tables stops a flow, and an accept of hvtx's answers that.

    ``owners`` holds the tables that only one process may change; ``late`` the bridges whose accepts
    are not yet there, or not where they belong.
    """
    by, place, flow = stop.by, stop.place, stop.flow
    if len(place) == 3 and is_policy(place[2]):
        return net.passage and flow.bridge in late
    if not net.passage or not stop.what.startswith("policy") or len(place) != 3:
        return False
    if by not in ("nft", "legacy") or place[1] != "filter":
        return False
    if by == "nft" and (place[0] not in ("ip", "ip6") or (place[0], place[1]) in owners):
        return False
    service = flow.way is Way.GUEST_TO_GATEWAY and flow.protocol != "icmp"
    return place[2] == "FORWARD" or (place[2] == "INPUT" and (net.dhcp or not service))
