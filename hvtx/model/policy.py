"""What guests may reach, and how much of it: egress policies and limits, as they are on record."""

from __future__ import annotations

from collections.abc import Iterable

from hvtx.model.address import is_ipv6
from hvtx.model.typed import NamedTuple

OPEN, INTERNET, NONE = EGRESS = ("open", "internet", "none")


class EgressRule(NamedTuple):
    """One ``--allow`` or ``--deny``."""

    action: str  # "allow" or "deny"
    to: str  # "192.0.2.0/24", "2001:db8::1/128"; of an allowance also a name: "example.org"
    first_port: int | None = None  # None: all that is sent there, of any protocol
    last_port: int | None = None
    protocol: str | None = None  # "tcp" or "udp"; None beside a port: both


def is_name(rule: EgressRule) -> bool:
    """Whether a rule is about a name, and whatever addresses it has at the time."""
    return "/" not in rule.to


def names_in(rules: Iterable[EgressRule]) -> tuple[EgressRule, ...]:
    """The rules among these that are about names."""
    return tuple(rule for rule in rules if is_name(rule))


def written(rule: EgressRule) -> str:
    """A rule as people write it, without its action.

    ``192.0.2.0/24``, ``[2001:db8::1]:443``, ``example.org:443/tcp``.
    """
    address, _, length = rule.to.partition("/")
    six = is_ipv6(address)
    to = address if length == ("128" if six else "32") else rule.to
    if rule.first_port is None:
        return to
    ports = str(rule.first_port)
    if rule.last_port not in (None, rule.first_port):
        ports = f"{ports}-{rule.last_port}"
    return (f"[{to}]" if six else to) + f":{ports}" + (f"/{rule.protocol}" if rule.protocol else "")


class Policy(NamedTuple):
    """What a guest may reach: denials first, then what is allowed, then the mode."""

    egress: str | None = None  # one of EGRESS; None: what the network says, and it: the setting
    rules: tuple[EgressRule, ...] = ()


def policy_words(policy: Policy) -> str:
    """A policy in a line of the history."""
    rules = [f"{rule.action} {written(rule)}" for rule in policy.rules]
    return ", ".join([policy.egress or "no mode", *rules])


class Egress(NamedTuple):
    """What holds for one guest, and whose word it is."""

    mode: str
    rules: tuple[EgressRule, ...]  # in the order in which they are asked: denials first
    source: str  # "vm", "network" or "default": who says the mode


class Limits(NamedTuple):
    """How much an interface may carry, in bits and packets a second; None: what the device does."""

    into_guest: int | None = None
    out_of_guest: int | None = None
    packets_into_guest: int | None = None
    packets_out_of_guest: int | None = None


NO_POLICY = Policy()
NO_LIMITS = Limits()
