"""Flows tried in a scratch: whole handshakes, datagrams and echoes, there and back.

Each try ends with None, or with the :class:`Cause` that stopped it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection
from contextlib import suppress

from hvtx.host import xfrm
from hvtx.host.replica import causes, newcomer
from hvtx.host.replica.causes import Cause, Leg
from hvtx.host.replica.evidence import Evidence
from hvtx.host.replica.exchange import FAMILIES, Exchange, Sent, address_like, with_family
from hvtx.host.replica.frames import Packet
from hvtx.host.replica.scratch import WORLD_MAC, Owner, Scratch
from hvtx.host.replica.trace import Step
from hvtx.model.typed import NamedTuple

# Beyond the host: public addresses, as a rule about private or reserved ones would not meet.
WORLD = {4: bytes((20, 0, 0, 1)), 6: bytes.fromhex("2a00000000000000000000000000beef")}
# Seconds that a stopped flow is waited for when it is tried again. The last is for a very busy
# host: once it was in vain, something else stops flows here, and none is waited for so long again.
PATIENCE: tuple[float, ...] = (0.005, 0.05, 0.4)


class Far(NamedTuple):
    """An end beyond the host: the device that it is behind, its address."""

    device: str
    address: bytes


class Tries:
    """Tries flows, one after the other."""

    def __init__(self, scratch: Scratch) -> None:
        """In this scratch."""
        self._scratch = scratch
        self._evidence = Evidence(scratch)
        self._ipsec: dict[str, int] = {}
        self._asked = b""
        self.exchange = Exchange(scratch)
        self._unheard = False  # nobody told the MAC address that a flow begins with
        self._patience = PATIENCE

    # -- the ways ----------------------------------------------------------------------------------

    def from_guest(
        self, guest: Owner, gateway: bytes, target: bytes, protocol: str, port: int,
        legs: list[Leg], leaves_as: Collection[bytes] = (),
    ) -> Cause | None:  # fmt: skip
        """A guest's flow through its gateway to ``target`` beyond the host.

        ``leaves_as``: the addresses that the world can answer to; empty: whichever there is.
        """
        sources: list[bytes] = []

        def arrives(seen: Packet) -> bool:
            if not self._scratch.is_world(seen.device):
                return False
            sources.append(seen.source)
            return True

        def attempt() -> bool:
            to_mac = self._told(guest, gateway)
            if to_mac is None:
                return False
            sent = Sent(guest.device, guest.mac, to_mac, address_like(guest, target), target)
            return self.exchange.there_and_back(sent, protocol, port, arrives)

        led = self.exchange.led(guest, gateway, target, protocol, port)
        cause = self._judge(attempt, len(target), legs, led, (guest,))
        if cause is not None or not leaves_as or not sources or sources[-1] in leaves_as:
            return cause
        shown = socket.inet_ntop(FAMILIES[4 if len(target) == 4 else 6], sources[-1])
        words = f"packets leave as {shown}, which is no address of this host: others' source NAT"
        return Cause("unknown", (), words)

    def between(self, one: Owner, other: Owner, family: int, protocol: str, port: int,
                legs: list[Leg]) -> Cause | None:  # fmt: skip
        """A flow of one guest to another in its bridge."""

        def attempt() -> bool:
            target = with_family(other, family)
            to_mac = self._told(one, target)
            if to_mac is None:
                return False
            sent = Sent(one.device, one.mac, to_mac, with_family(one, family), target)
            return self.exchange.there_and_back(
                sent, protocol, port, lambda seen: seen.device == other.device
            )

        target = with_family(other, family)
        led = self.exchange.led(one, target, target, protocol, port)
        return self._judge(attempt, 4 if family == 4 else 16, legs, led, (one, other))

    def from_world(
        self, far: Far, mac: bytes, target: bytes, protocol: str, port: int,
        arrives: Callable[[Packet], bool], legs: list[Leg], ends: Collection[Owner] = (),
    ) -> Cause | None:  # fmt: skip
        """A flow of somebody in the world to an address of the host."""

        def attempt() -> bool:
            sent = Sent(far.device, WORLD_MAC, mac, far.address, target)
            return self.exchange.there_and_back(sent, protocol, port, arrives)

        return self._judge(attempt, len(target), legs, ends=ends)

    def from_host(
        self, guest: Owner, family: int, protocol: str, port: int, legs: list[Leg]
    ) -> Cause | None:
        """A flow of a program of the host to a guest."""

        def attempt() -> bool:
            with suppress(OSError):
                return self.exchange.dial(guest, with_family(guest, family), family, protocol, port)
            return False

        return self._judge(attempt, 4 if family == 4 else 16, legs, ends=(guest,))

    def to_host(
        self, guest: Owner, gateway: bytes, protocol: str, port: int, legs: list[Leg]
    ) -> Cause | None:
        """A guest's flow to a program of the host at its gateway's address."""

        def attempt() -> bool:
            to_mac = self._told(guest, gateway)
            if to_mac is None:
                return False
            sent = Sent(guest.device, guest.mac, to_mac, address_like(guest, gateway), gateway)
            if protocol == "icmp":
                return self.exchange.echoed(sent)
            return self.exchange.served(sent, protocol, port)

        led = self.exchange.led(guest, gateway, gateway, protocol, port)
        return self._judge(attempt, len(gateway), legs, led, (guest,))

    def to_dhcp(self, guest: Owner, bridge: str, family: int) -> Cause | None:
        """What a guest without an address asks a server of DHCP on its bridge."""

        def attempt() -> bool:
            with suppress(OSError):  # a bridge without IPv6 has no groups
                return newcomer.is_served(self._scratch, guest, bridge, family)
            return False

        return self._judge(attempt, 4 if family == 4 else 16, [], ends=(guest,))

    def to_router(self, guest: Owner, bridge: str) -> Cause | None:
        """How a guest asks for a router of IPv6 on its bridge."""

        def attempt() -> bool:
            with suppress(OSError):
                return newcomer.is_routed(self._scratch, guest, bridge)
            return False

        return self._judge(attempt, 16, [], ends=(guest,))

    def _judge(
        self, attempt: Callable[[], bool], size: int, legs: list[Leg],
        led: Callable[[], bool] | None = None, ends: Collection[Owner] = (),
    ) -> Cause | None:  # fmt: skip
        """Try, and where it fails find out by what.

        ``led`` tries whether it comes to a program of the host, if a rule leads it there; ``ends``
        are guests that it needs.
        """
        family = 4 if size == 4 else 6
        self._scratch.begin()
        if self._scratch.picture.ipsec.decides:
            self._ipsec = xfrm.counted()
        self._unheard = False
        if attempt():
            return self._evidence.doubt(family)
        heard = self._scratch.steps()
        try:
            if led is not None and led():
                return self._evidence.doubt(family)
            cause = self._cause(attempt, family, legs, ends, heard)
            return self._evidence.doubt(family) or cause
        finally:
            self._scratch.patience = 0.0
            self._scratch.forget_neighbours()  # who asked in vain asks again only by and by

    def _cause(
        self, attempt: Callable[[], bool], family: int, legs: list[Leg], ends: Collection[Owner],
        heard: list[Step],
    ) -> Cause | None:  # fmt: skip
        """What stopped it; None where only the kernel was late (a soft interrupt put off)."""
        if any(attempt() for _ in range(self._scratch.chances())):
            return None
        if self._scratch.refresh():  # what earlier flows taught the rules is not this one's
            self._scratch.begin()
            self._scratch.forget_neighbours()
            if attempt():
                return None
            heard = self._scratch.steps()
        found = self._named(attempt, family, legs, ends, heard)
        if found is not None:
            return found
        pauses = self._patience
        for self._scratch.patience in pauses:
            self._scratch.forget_neighbours()
            if attempt():
                return None
            # told late, where the kernel had put the packet's way off
            if (found := causes.of_trace(self._scratch.steps())) is not None:
                return found
        self._patience = PATIENCE[:-1]
        own = None if self._unheard else causes.of_trace(heard, ours=True)
        found = own or causes.UNKNOWN._replace(packets=causes.packets_of(self._scratch, legs))
        return found._replace(suspects=self._evidence.suspects(family, attempt))

    def _named(
        self, attempt: Callable[[], bool], family: int, legs: list[Leg], ends: Collection[Owner],
        heard: list[Step],
    ) -> Cause | None:  # fmt: skip
        """The rule, policy, route or setting that the kernel's own words lead to."""
        if (found := causes.of_trace(heard)) is not None:
            return found
        if (line := self._evidence.line(family, attempt)) is not None:
            return causes.of_line(family, line)
        if (found := self._of_ipsec(legs)) is not None:
            return found
        found = causes.of_ends(self._scratch, ends) or causes.of_legs(self._scratch, family, legs)
        if found is not None:
            return found._replace(by="unknown") if self._scratch.crooked else found
        if self._unheard and legs:
            silent = legs[0]._replace(target=self._asked, forwarded=False, protocol=0)
            if (found := causes.of_silence(self._scratch, family, silent)) is not None:
                return found
        return causes.of_marks(self._scratch, legs)

    def _of_ipsec(self, legs: list[Leg]) -> Cause | None:
        """Whether IPsec took it: blocked, or meant for a tunnel whose keys are not here."""
        if not self._scratch.picture.ipsec.decides:
            return None
        names = xfrm.moved(self._ipsec, xfrm.counted())
        if not names:
            return None
        packets = causes.packets_of(self._scratch, legs)
        by = "xfrm" if xfrm.blocked(names) else "unknown"
        return Cause(by, (), f"a policy of IPsec ({', '.join(names)})", 0, packets=packets)

    def _told(self, guest: Owner, address: bytes) -> bytes | None:
        """The MAC address that a guest is told of another; that nobody tells is remembered."""
        mac = self._scratch.neighbour(guest, address)
        self._unheard, self._asked = mac is None, address
        return mac
