"""Firewall rows: what they stand for, and what was read back of it.

The shapes of ``spec`` and ``observed`` of the FIREWALL_KINDS; both stay JSON objects in the store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

from hvtx.model.resource import FIREWALL_KINDS, Resource
from hvtx.model.typed import Literal, NamedTuple, TypedDict, cast


class FirewallSpec(TypedDict, total=False):
    """What a firewall row stands for; the backend compiles it to elements or rules.

    ``what`` selects the fields:

    ``base``        the installation's own tables and chains, in this backend; families: of the
                    tables (nftables; rows of earlier versions, without them, stand for both)
    ``network``     bridge, subnets, nat, isolate, gateway6 (link-local of the bridge, or None),
                    flows (tracked connections that one guest may have), uplink
    ``port``        device, mac, ipv4, ipv6, more (anti-spoofing), bridge, gateway6, isolate (its
                    network's; no default, so that it is never forgotten), forward (bool:
                    also accept forwarding for its addresses; false where the other backend does),
                    flows
    ``forward``     ipv4, ipv6, more, bridge: accept forwarding for these addresses
    ``pass``        family (4, 6), uplinks (devices where the world is): the way to what is accepted
                    where the policy of FORWARD drops (iptables)
    ``passage``     family, bridge, hook (INPUT or FORWARD), accepts (rules in the words of
                    iptables-save): what lets a network pass the filter of somebody else, in the
                    tables of iptables-nft (nftables) or the legacy ones (iptables); of firewalld
                    the bridge alone, which is in its zone `hvtx`
    ``masquerade``  address, bridge, source
    ``publish``     protocol, host_ip (None: any), host_port, ipv4, ipv6, guest_port, bridge
    ``egress``      bridge, mac (of a VM's interface; absent: of a network), egress (the mode; None:
                    as the network's; absent: only what is refused is counted), rules (lists of
                    :class:`hvtx.model.policy.EgressRule`), alone (bool: the network's own
                    elements are not nftables'), and whose flows it is about: ipv4, ipv6, more of a
                    VM's, subnets of a network's
    ``imported``    place, text, native: somebody else's rule, which was taken over as it is;
                    words: its text before a mark stood in it; ipv4 or ipv6: whose it is
    """

    backend: Literal["nftables", "iptables", "firewalld"]
    what: Literal[
        "base",
        "network",
        "port",
        "forward",
        "pass",
        "passage",
        "masquerade",
        "publish",
        "egress",
        "imported",
    ]
    family: int
    uplinks: list[str]
    hook: str
    accepts: list[str]
    passage: bool  # of a network row of iptables: false where its guests get no accepts
    bridge: str
    subnets: list[str]
    nat: bool
    isolate: bool
    gateway6: str | None
    device: str
    mac: str
    ipv4: str | None
    ipv6: str | None
    more: list[str]  # further addresses, of either family; absent where there are none
    forward: bool
    address: str
    source: str  # whom that address is outside; absent: masqueraded
    uplink: str  # the only device by which guests leave the host; absent: any
    protocol: str
    host_ip: str | None
    host_port: int
    guest_port: int
    flows: int
    egress: str | None
    rules: list[list[str | int | None]]
    alone: bool
    families: list[str]
    place: str  # as hvtx.model.place writes it
    text: str
    native: str
    words: str
    imported: str  # which program had it


class NftablesObserved(TypedDict, total=False):
    """What was read back of a row of nftables."""

    rules: dict[str, list[str] | str]  # of a base row: digests by "<family> <chain>", in order
    layout: dict[str, str]  # of a base row: by family, what changes with a version of hvtx
    elements: int  # of other rows


class IptablesObserved(TypedDict, total=False):
    """What was read back of a row of iptables."""

    rules: list[tuple[str, str, bool]]  # place, text, and whether it stands at the head


class ChainRules(NamedTuple):
    """The digests of a base row's rules in one chain."""

    family: str
    chain: str
    digests: list[str]


def firewall_spec(row: Resource) -> FirewallSpec:
    """The spec of a row of one of the FIREWALL_KINDS."""
    assert row.kind in FIREWALL_KINDS, row.kind
    return cast("FirewallSpec", row.spec)


# what has nothing in nftables' table bridge
_IN_INET = frozenset(("network", "forward", "masquerade", "publish", "egress"))


def stands_on(row: Resource, base: Resource) -> bool:
    """Whether a row may have elements or rules in the tables of a base row of its backend.

    What guards a guest's device is in the table ``bridge``, on both backends, and what lets it
    through in ``inet``, as all else (:mod:`hvtx.rulesets.nftables_elements`).
    """
    families = firewall_spec(base).get("families")
    if families is None:  # iptables' chains, or both tables of an earlier version
        return True
    if row.role == "port":
        return "bridge" in families or bool(firewall_spec(row).get("forward"))
    return "inet" in families or row.role not in _IN_INET


def nftables_observed(row: Resource) -> NftablesObserved:
    """What was read back of a row of nftables; empty while it is not made."""
    return cast("NftablesObserved", row.observed)


def iptables_observed(row: Resource) -> IptablesObserved:
    """What was read back of a row of iptables; empty while it is not made."""
    return cast("IptablesObserved", row.observed)


def chain_key(family: str, chain: str) -> str:
    """How ``observed`` names a chain of ours."""
    return f"{family} {chain}"


_DIGEST, _CHAINS = 10, 256  # bytes; texts of chains that are kept unpacked


def packed_digests(digests: Sequence[str]) -> str:
    """Digests of rules, 20 hexadecimal digits each, in the form that takes the least room.

    Base64 of all of them: a row that needs pages beside its own is one that a damaged page changes
    without SQLite noticing it.
    """
    from binascii import b2a_base64

    return b2a_base64(bytes.fromhex("".join(digests)), newline=False).decode()


def digests_in(kept: Sequence[str] | str) -> list[str]:
    """The digests that a row keeps of a chain; rows of earlier versions have them one by one."""
    return list(_unpacked(kept) if isinstance(kept, str) else kept)


@lru_cache(_CHAINS)  # of one layout: every base row has the same, and each plan asks for them
def _unpacked(kept: str) -> tuple[str, ...]:
    from binascii import a2b_base64

    raw = a2b_base64(kept)
    return tuple([raw[place : place + _DIGEST].hex() for place in range(0, len(raw), _DIGEST)])


def chain_rules(row: Resource) -> Iterator[ChainRules]:
    """The rules that a base row of nftables was made with."""
    for key, digests in nftables_observed(row).get("rules", {}).items():
        family, chain = key.split(" ")
        yield ChainRules(family, chain, digests_in(digests))


def addresses_in(spec: FirewallSpec) -> list[str]:
    """The guest's addresses that a row is about, the first of IPv4 first."""
    return [a for a in (spec.get("ipv4"), spec.get("ipv6"), *spec.get("more", ())) if a]
