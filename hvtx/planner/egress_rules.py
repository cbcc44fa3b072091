"""Rules of egress policies as people write them. Pure.

``CIDR[:PORT[-PORT][/proto]]``, and what is allowed also ``NAME[:PORT[-PORT][/proto]]``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from hvtx.errors import Conflict, UsageError
from hvtx.model import meant_values
from hvtx.model.address import ZoneError, family_of, is_ipv6, without_zone
from hvtx.model.nearest import meant
from hvtx.model.policy import (
    EGRESS,
    NO_POLICY,
    NONE,
    EgressRule,
    Policy,
    is_name,
    names_in,
    written,
)
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Network
from hvtx.planner.addressing import is_right
from hvtx.planner.egress import effective
from hvtx.rulesets.dnsmasq import DOMAIN

Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network
MOST_RULES = 128  # of one owner: more belong into a proxy or a firewall of one's own
HINT = "write it as 192.0.2.0/24, 192.0.2.1:443, 192.0.2.1:8000-8010/udp or [2001:db8::/32]:443"
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp))?")
_LABEL = re.compile(r"(?ai)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NAME_MOST = 253
_EVERYTHING = ("all", "any", "everything", "internet", "world")


def parse_rule(action: str, text: str) -> EgressRule:
    """One ``--allow`` or ``--deny``; where what was meant is plain, the hint of a refusal says it.

    Raises UsageError.
    """
    try:
        return _rule(action, text)
    except UsageError as problem:
        right = meant_values.rule(text)
        if problem.hint != HINT or not is_right(right, text, lambda one: _rule(action, one)):
            raise
        raise UsageError(problem.message, hint=f"write it as {right}") from problem


def _rule(action: str, text: str) -> EgressRule:
    to, ports = _split(text)
    if ports is None:
        return EgressRule(action, _destination(action, text, to))
    found = _PORTS.fullmatch(ports)
    if found is None:
        raise UsageError(f"--{action} {text!r}: {ports!r} is no port or range of ports", hint=HINT)
    first, last = int(found[1]), int(found[2] or found[1])
    if not 1 <= first <= last <= 65535:
        raise UsageError(
            f"--{action} {text!r}: ports are between 1 and 65535, the lower one first", hint=HINT
        )
    return EgressRule(action, _destination(action, text, to), first, last, found[3])


def _split(text: str) -> tuple[str, str | None]:
    """Where to, and the ports: behind the bracket or the last colon of what is not IPv6."""
    if text.startswith("["):
        inside, bracket, rest = text[1:].partition("]")
        if bracket and (not rest or rest.startswith(":")) and is_ipv6(inside):
            return inside, rest[1:] if rest else None
        return text, None
    if text.count(":") > 1:
        return text, None
    to, colon, ports = text.partition(":")
    return to, ports if colon else None


_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def _destination(action: str, text: str, to: str) -> str:
    words = f"--{action} {text!r}"
    try:
        subnet = ipaddress.ip_network(without_zone(to), strict=False)
    except ZoneError as problem:
        raise UsageError(f"{words}: {to!r} is no address or subnet: {problem}", hint=HINT) from None
    except ValueError:
        labels = to.split(".")
        if all(map(_LABEL.fullmatch, labels)) and not labels[-1].isdigit():
            return _name(action, words, to.lower())
        raise UsageError(
            f"{words}: {to!r} is no address, subnet or name", hint=_ports_hint(to, text)
        ) from None
    if isinstance(subnet, ipaddress.IPv6Network) and subnet.subnet_of(_MAPPED):
        four = subnet.network_address.ipv4_mapped  # no packet has such an address
        hint = f"write it as {ipaddress.ip_network(f'{four}/{subnet.prefixlen - 96}')}"
        raise UsageError(f"{words}: {to} is IPv4 in IPv6 notation", hint=hint)
    try:
        return str(ipaddress.ip_network(to))
    except ValueError:
        hint = f"did you mean {subnet}?"
        raise UsageError(f"{words}: {to} has host bits set", hint=hint) from None


def _ports_hint(to: str, text: str) -> str:
    """How to write what is none of them; a protocol without a port is every port's of it."""
    if to == text and to.isascii() and to.isdigit():
        return f"write a port of every address as 0.0.0.0/0:{to}"
    bare, _, protocol = to.rpartition("/")
    try:
        six = isinstance(ipaddress.ip_network(bare, strict=False), ipaddress.IPv6Network)
    except ValueError:
        six = False
        if not bare or not all(map(_LABEL.fullmatch, bare.split("."))):
            return HINT
    if protocol not in ("tcp", "udp"):
        return HINT
    whole = f"[{bare}]" if six else bare
    return f"a protocol follows a port or a range of ports: {whole}:1-65535/{protocol}"


def _name(action: str, words: str, name: str) -> str:
    """A name as it is kept. Raises UsageError where no rule can be about it."""
    if name in _EVERYTHING:
        mode = "open" if action == "allow" else "none"
        raise UsageError(
            f"{words}: {name!r} is no address, subnet or name",
            hint=f"for all there is a mode: --egress {mode}",
        )
    if action != "allow":
        raise UsageError(
            f"{words}: only addresses and subnets can be denied, since {name} may have others than"
            " a guest was told",
            hint=f"with --egress none --allow NAME guests reach nothing but names; {HINT}",
        )
    if "." not in name or len(name) > _NAME_MOST:
        raise UsageError(f"{words}: {name} is no whole name", hint="write it as example.org:443")
    if name.endswith(f".{DOMAIN}"):
        raise UsageError(
            f"{words}: {name} is a guest's name, and guests of one network reach each other",
            hint="a guest of another network is allowed by its address",
        )
    return name


def mistakable(allow: Iterable[str], deny: Iterable[str]) -> list[str]:
    """The addresses among these that end as if with a port (`2001:db8::1:443`), in words."""
    found = []
    for action, text in (*(("allow", one) for one in allow), *(("deny", one) for one in deny)):
        before, _, last = text.rpartition(":")
        if last.isdecimal() and _is_address(before) and _is_address(text):
            found.append(
                f"--{action} {text} is one address, with all of its ports; a port stands behind a"
                f" bracket: [{before}]:{last}"
            )
    return found


def _is_address(text: str) -> bool:
    try:
        return bool(ipaddress.IPv6Address(text))
    except ValueError:
        return False


class PolicyChange(NamedTuple):
    """What becomes of a policy: first rules go, then others come, and the mode is another."""

    egress: str | None = None  # None: as it is; empty: none of its own
    rules: tuple[EgressRule, ...] = ()
    clear: bool = False  # without the rules that it has

    def only_clears(self) -> bool:
        """Whether rules go, and nothing comes."""
        return self.clear and not self.rules and self.egress is None


def parse_policy(egress: str | None, allow: Iterable[str], deny: Iterable[str]) -> Policy:
    """A policy as it is kept, each rule once. Raises UsageError."""
    return changed(NO_POLICY, parse_change(egress, allow, deny))


def parse_change(
    egress: str | None, allow: Iterable[str], deny: Iterable[str], *, clear: bool = False
) -> PolicyChange:
    """A change of a policy, checked by itself. Raises UsageError."""
    if egress and egress not in EGRESS:
        hint = meant(egress, EGRESS, f"it is one of {', '.join(EGRESS)}")
        raise UsageError(f"--egress cannot be {egress!r}", hint=hint)
    rules = [parse_rule("deny", text) for text in deny]
    rules += [parse_rule("allow", text) for text in allow]
    return PolicyChange(egress, tuple(rules), clear)


def changed(policy: Policy, change: PolicyChange, otherwise: str | None = None) -> Policy:
    """A policy as a change leaves it; raises UsageError if it has too many rules then.

    ``otherwise`` is the mode where the change takes away the policy's own.
    """
    mode = policy.egress if change.egress is None else change.egress or otherwise
    kept = tuple(dict.fromkeys((*(() if change.clear else policy.rules), *change.rules)))
    if len(kept) > MOST_RULES:
        raise UsageError(
            f"{len(kept)} rules are more than the {MOST_RULES} that one policy can have",
            hint="join addresses to subnets, and ports to ranges",
        )
    return Policy(mode, kept)


def useless(policy: Policy, networks: Iterable[Network]) -> list[str]:
    """Rules that decide nothing, or less than they say, for guests of these networks, in words."""
    networks = list(networks)
    families = {family for network in networks for family in network.families}
    modes = {effective(vm=policy, network=network.policy).mode for network in networks}
    found = [
        f"--allow {written(rule)} opens nothing more: a name opens what is on the internet, and"
        f" that is reached without it (--egress {', '.join(sorted(modes))})"
        for rule in names_in(policy.rules)
        if modes and NONE not in modes
    ]
    return (
        found
        + [
            f"--{rule.action} {written(rule)} never applies: the network has no "
            f"IPv{family_of(rule.to)} subnet"
            for rule in policy.rules
            if not is_name(rule) and family_of(rule.to) not in families
        ]
        + [
            f"--{rule.action} {written(rule)} {why}"
            for rule in policy.rules
            if not is_name(rule) and (why := _beside_the_way(rule, networks)) is not None
        ]
    )


_LOOPBACK = tuple(map(ipaddress.ip_network, ("127.0.0.0/8", "::1/128")))


def _beside_the_way(rule: EgressRule, networks: Iterable[Network]) -> str | None:
    """Why what a rule is about never meets an egress policy; None where it may."""
    to = ipaddress.ip_network(rule.to)
    if any(_within(to, loopback) for loopback in _LOOPBACK):
        return "never applies: what guests send to a loopback address is dropped"
    for network in networks:
        if network.block_size is not None:
            continue  # its guests are on other hosts, too: what is sent there is forwarded
        for subnet, gateway in network.ranges:
            if _within(to, ipaddress.ip_network(subnet)) and to != ipaddress.ip_network(gateway):
                return (
                    f"decides nothing between guests of network {network.name!r}, which reach each"
                    " other unless the network has --isolate"
                )
    return None


def _within(one: Subnet, other: Subnet) -> bool:
    return one.network_address in other and one.prefixlen >= other.prefixlen


def refuse_names(
    policy: Policy, networks: Iterable[Network], mend: str = "hvtx network set {} --dhcp"
) -> None:
    """Refuse names where nobody would look them up for guests. Raises Conflict.

    ``mend`` is how a network comes to its own DNS; ``{}`` in it is the network's name.
    """
    for rule in names_in(policy.rules):
        for network in networks:
            if not network.dhcp:
                raise Conflict(
                    f"--allow {written(rule)} needs the network's own DNS, and network"
                    f" {network.name!r} has none",
                    hint=f"{mend.format(network.name)}; or allow addresses instead",
                )
