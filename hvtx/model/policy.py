"""What guests may reach, and how much of it: egress policies and limits, as they are on record."""

from typing import NamedTuple

OPEN, INTERNET, NONE = EGRESS = ("open", "internet", "none")


class EgressRule(NamedTuple):
    """One ``--allow`` or ``--deny``."""

    action: str  # "allow" or "deny"
    to: str  # "192.0.2.0/24", "2001:db8::1", or a host's name
    first_port: int | None = None  # None: all that is sent there, of any protocol
    last_port: int | None = None
    protocol: str | None = None  # "tcp" or "udp"; None beside a port: both


class Policy(NamedTuple):
    """What a guest may reach: denials first, then what is allowed, then the mode."""

    egress: str | None = None  # one of EGRESS; None: what the network says, and it: the setting
    rules: tuple[EgressRule, ...] = ()


class Limits(NamedTuple):
    """How much an interface may carry, in bits and packets a second; None: what the device does."""

    into_guest: int | None = None
    out_of_guest: int | None = None
    packets_into_guest: int | None = None
    packets_out_of_guest: int | None = None


NO_POLICY = Policy()
NO_LIMITS = Limits()
