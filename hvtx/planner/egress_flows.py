"""Whether a flow that goes on would be let through anew by the egress policies of now. Pure.

The same order as the rules of :mod:`hvtx.rulesets.nftables_egress`: known flows pass them unasked,
so those that a change refuses are found here, and ended.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from hvtx.model.firewall import FirewallSpec
from hvtx.model.policy import INTERNET, NONE, OPEN, EgressRule, is_name, names_in
from hvtx.model.typed import NamedTuple
from hvtx.rulesets.egress_boxes import range_of
from hvtx.rulesets.nftables_egress import (
    LINK_LOCAL4,
    METADATA4,
    METADATA6,
    NOT_THE_WORLD4,
    NOT_THE_WORLD6,
    THE_WORLD6,
)

_PROTOCOLS = {"tcp": 6, "udp": 17}
_ECHO = {1, 58}
_HOST_PORTS = {(17, 53), (6, 53), (17, 67), (17, 547)}


class Sent(NamedTuple):
    """Where a flow leads: a packed address, the number of a protocol, and a port or 0."""

    to: bytes
    protocol: int
    port: int
    local: bool  # an address of the host


Named = Callable[[str, str], Collection[bytes]]  # by bridge and name: its addresses of now


def nothing(_bridge: str, _name: str) -> Collection[bytes]:
    """The addresses of names where nobody knows any."""
    return ()


def permitted(sent: Sent, policies: Sequence[FirewallSpec], named: Named = nothing) -> bool:
    """Whether policies let it pass; ``policies`` are those that are asked, a VM's own first."""
    mode = OPEN
    for spec in policies:
        if "egress" not in spec:
            continue
        rules = [EgressRule(*rule) for rule in spec.get("rules", ())]  # type: ignore[arg-type]
        for action in ("deny", "allow"):
            if any(rule.action == action and _matches(rule, sent) for rule in rules):
                return action == "allow"
        if any(_is_named(rule, sent, named, spec.get("bridge", "")) for rule in names_in(rules)):
            return True
        if spec["egress"] is not None:
            mode = spec["egress"]
            break
    return _by_mode(mode, sent)


def _by_mode(mode: str, sent: Sent) -> bool:
    if sent.local:
        needed = sent.protocol in _ECHO or (sent.protocol, sent.port) in _HOST_PORTS
        return mode == OPEN or needed
    if mode == NONE:
        return False
    six = len(sent.to) == 16
    if mode == INTERNET:
        inside = not six or _within(sent.to, (THE_WORLD6,))
        return inside and not _within(sent.to, NOT_THE_WORLD6 if six else NOT_THE_WORLD4)
    return not _within(sent.to, METADATA6 if six else (LINK_LOCAL4, *METADATA4))


def _is_named(rule: EgressRule, sent: Sent, named: Named, bridge: str) -> bool:
    """Whether it is to an address of a name; one that is not on the internet never is."""
    if sent.local or sent.to not in named(bridge, rule.to):
        return False
    return _by_mode(INTERNET, sent) and _at_port(rule, sent)


def _matches(rule: EgressRule, sent: Sent) -> bool:
    return not is_name(rule) and _within(sent.to, (rule.to,)) and _at_port(rule, sent)


def _at_port(rule: EgressRule, sent: Sent) -> bool:
    if rule.first_port is None:
        return True
    known = {_PROTOCOLS[rule.protocol]} if rule.protocol else set(_PROTOCOLS.values())
    last = rule.last_port or rule.first_port
    return sent.protocol in known and rule.first_port <= sent.port <= last


def _within(address: bytes, subnets: Iterable[str]) -> bool:
    number = int.from_bytes(address, "big")
    for subnet in subnets:
        size, first, last = range_of(subnet)
        if size == len(address) and first <= number <= last:
            return True
    return False


class Guests(NamedTuple):
    """Whose flows are looked at: of VMs by their addresses, of networks by their subnets."""

    vms: dict[bytes, tuple[FirewallSpec, ...]]  # the policies that are asked, by address
    networks: tuple[tuple[FirewallSpec, ...], ...]  # of guests that have none of their own
    subnets: tuple[tuple[str, ...], ...]  # of these networks, and of each VM's

    def policies(self, source: bytes) -> tuple[FirewallSpec, ...] | None:
        """Those that hold for who sends from an address; None for somebody else."""
        if source in self.vms:
            return self.vms[source]
        for specs, subnets in zip(self.networks, self.subnets, strict=True):
            if _within(source, subnets):
                return specs
        return None


def refused(
    source: bytes,
    sent: Sent,
    guests: Guests,
    own: Collection[tuple[str, ...]],
    named: Named = nothing,
) -> bool:
    """Whether a flow of a guest's would not pass now; flows within a network always do."""
    policies = guests.policies(source)
    if policies is None:
        return False
    for subnets in own:
        if _within(source, subnets) and _within(sent.to, subnets) and not sent.local:
            return False
    return not permitted(sent, policies, named)
