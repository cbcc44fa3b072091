"""Policies of IPsec, as far as they decide about packets. Values only."""

from __future__ import annotations

from hvtx.model.typed import NamedTuple


class Policy(NamedTuple):
    """A policy of the kernel's, as ``ip xfrm policy`` shows it."""

    direction: str  # in, out, fwd
    family: int  # 4, 6
    source: str  # prefixes
    destination: str
    block: bool  # action block; else allow
    templates: int  # what has to be done to a packet; 0: it passes as it is
    priority: int = 0  # the lowest is asked first
    protocol: int = 0  # 0 is any, as for the ports
    sport: int = 0
    dport: int = 0
    device: int = 0  # index of the only device that it speaks of
    mark: int = 0
    interface: int = 0  # if_id: only what passes this xfrm interface


class Meant(NamedTuple):
    """A packet that policies are asked about; the addresses are those that routing sees."""

    source: str
    destination: str
    protocol: int = 0
    dport: int = 0
