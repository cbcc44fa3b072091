"""Flows that guests are promised, and what stops one of them. Values only."""

from __future__ import annotations

from hvtx.model.typed import NamedTuple, StrEnum

# UDP ports by family (RFC 2131, RFC 8415).
DHCP_SERVER = {4: 67, 6: 547}
DHCP_CLIENT = {4: 68, 6: 546}


class Way(StrEnum):
    """From whom to whom a flow goes, as a person would say it."""

    GUEST_TO_WORLD = "guest to world"
    WORLD_TO_PORT = "world to published port"
    GUEST_TO_GUEST = "guest to guest"
    HOST_TO_GUEST = "host to guest"
    GUEST_TO_GATEWAY = "guest to gateway"
    GUEST_TO_DHCP = "guest to DHCP server"
    GUEST_TO_ROUTER = "guest to router"  # of IPv6: it asks for one


class Flow(NamedTuple):
    """One flow: the packets of one connection, from the first one and back."""

    way: Way
    family: int  # 4, 6
    protocol: str  # tcp, udp, icmp
    network: str  # the name of the network of the guest
    bridge: str  # the device name of its bridge
    port: int | None = None  # the published port, or the host's; None for icmp


class Stop(NamedTuple):
    """What stops a flow, or why that is not known.

    ``by`` is "nft", "legacy" (iptables-legacy), "ebtables", "route", "setting", "neighbour", "xfrm"
    (a policy of IPsec), "unknown", or "some" where a rule stops most of the world and lets others
    pass.
    ``place`` names where it stands: (family, table, chain) in nftables, (tool, table, chain) in the
    legacy tables, the setting's dotted name, the route's table, a neighbour's address and device;
    empty if unknown.
    ``what`` is the rule, policy, route or value as its own tool prints it, or why it is unknown.
    """

    flow: Flow
    by: str
    place: tuple[str, ...]
    what: str
    fix: str = ""  # where it is known with the cause


class Note(NamedTuple):
    """What is to be said beside flows; ``level`` is that of the finding."""

    level: str
    words: str
    evidence: tuple[str, ...]
    fix: str
