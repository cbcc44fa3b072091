"""IPsec policies that match guests' packets. Pure.

What is blocked is stopped; what has to pass a tunnel may pass it, which nobody can try without its
keys. The first policy by priority decides (net/xfrm/xfrm_policy.c).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from hvtx.model.address import is_of
from hvtx.model.xfrm import Meant, Policy
from hvtx.planner.routing import within

_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp"}


def speaks_of(policy: Policy, packet: Meant) -> bool:
    """Whether a policy's selector fits a packet without a mark."""
    return (
        is_of(packet.destination, policy.family)
        and within(packet.source, policy.source)
        and within(packet.destination, policy.destination)
        and policy.protocol in (0, packet.protocol)
        and not policy.sport
        and policy.dport in (0, packet.dport)
        and not policy.mark
        and not policy.interface
    )


def decides(policies: Iterable[Policy], direction: str, packet: Meant) -> Policy | None:
    """The policy that decides about a packet; None if none speaks of it."""
    found = [p for p in policies if p.direction == direction and speaks_of(p, packet)]
    return min(found, key=lambda policy: policy.priority, default=None)


def stopping(policies: Sequence[Policy], packets: Iterable[Meant]) -> Policy | None:
    """A policy that does not let one of these packets pass as it is; None if there is none."""
    for packet in packets:
        for direction in ("fwd", "out", "in"):
            policy = decides(policies, direction, packet)
            if policy is not None and (policy.block or policy.templates):
                return policy
    return None


def over(policies: Sequence[Policy], subnet: str) -> list[Policy]:
    """The policies that block or take packets of a subnet's guests, or those for them.

    Those that speak of everything are left out: whole flows are tried elsewhere.
    """
    found = []
    for policy in policies:
        if not (policy.block or policy.templates) or not is_of(subnet, policy.family):
            continue
        for near, far, ours in (
            (policy.source, policy.destination, True),
            (policy.destination, policy.source, False),
        ):
            guest = _shared(near, subnet)
            if guest is None or int(near.rpartition("/")[2]) == 0:
                continue
            other = _sample(far, guest)
            meant = Meant(guest, other) if ours else Meant(other, guest)
            meant = meant._replace(protocol=policy.protocol, dport=policy.dport)
            if decides(policies, policy.direction, meant) == policy:
                found.append(policy)
                break
    return found


def _shared(prefix: str, subnet: str) -> str | None:
    """An address of both prefixes; None if they have none."""
    one, other = (ipaddress.ip_network(p, strict=False) for p in (prefix, subnet))
    if one.version != other.version or not one.overlaps(other):
        return None
    return _sample(str(one if one.prefixlen >= other.prefixlen else other), "")


def _sample(prefix: str, but: str) -> str:
    net = ipaddress.ip_network(prefix, strict=False)
    if net.prefixlen == 0:
        return "9.9.9.9" if net.version == 4 else "2620:fe::fe"
    near = [net.network_address + n for n in range(min(4, net.num_addresses))]
    told = [str(a) for a in near[2:] + near[1:2] + near[:1]]
    return next((a for a in told if a != but), told[0])


def shown(policy: Policy) -> str:
    """A policy as ``ip xfrm policy`` shows it, in one line."""
    words = [*_selector(policy), "dir", policy.direction]
    if policy.block:
        words += ["action", "block"]
    words += ["priority", str(policy.priority)] if policy.priority else []
    return " ".join(words)


def _selector(policy: Policy) -> list[str]:
    words = ["src", policy.source, "dst", policy.destination]
    if policy.protocol:
        words += ["proto", _PROTOCOLS.get(policy.protocol, str(policy.protocol))]
        words += ["sport", str(policy.sport)] if policy.sport else []
        words += ["dport", str(policy.dport)] if policy.dport else []
    return words


def fix(policy: Policy) -> str:
    """What lets guests' packets pass a policy that blocks them."""
    return f"ip xfrm policy delete {' '.join(_selector(policy))} dir {policy.direction}"
