"""Settings that let a host forward for guests, and their devices. Pure.

IPv4: a packet is forwarded if ``forwarding`` of the device that it came by is on; writing
``ip_forward`` writes all of them, and the one that new devices begin with (ip-sysctl.rst).

IPv6: if ``all.forwarding`` is on, or ``force_forwarding`` of the device that it came by. With
``forwarding`` on, devices take no router advertisements unless their ``accept_ra`` is 2, and to
turn it on, for whatever device, drops every default route that an advertisement brought.
``force_forwarding`` does neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from hvtx.model.typed import NamedTuple

ALL6 = "net/ipv6/conf/all/forwarding"
ALL4 = "net/ipv4/ip_forward"


class Others(NamedTuple):
    """Devices that are not hvtx's, by name: without loopback."""

    every: tuple[str, ...]  # that are no ports of a bridge or bond
    addressed4: tuple[str, ...]  # with an address of more than the link
    addressed6: tuple[str, ...]
    uplinks4: tuple[str, ...]  # by which default routes lead
    uplinks6: tuple[str, ...]
    reached6: tuple[
        str, ...
    ] = ()  # of ``addressed6``, what is no bridge: a network beyond this host

    def addressed(self, family: int) -> tuple[str, ...]:
        """Those with an address of the family."""
        return self.addressed6 if family == 6 else self.addressed4

    def towards_world(self, family: int) -> tuple[str, ...]:
        """Those by which packets for guests come; without a default route, all with an address.

        IPv6 comes to published ports, and in answer to guests, from whatever network the host is
        in. A bridge of others that is no uplink may be shut off from the world on purpose.
        """
        if family == 4:
            return self.uplinks4 or self.addressed4
        if not self.uplinks6:
            return self.addressed6
        return tuple(dict.fromkeys((*self.uplinks6, *self.reached6)))


def wanted(
    families: Iterable[int],
    others: Others,
    read: Callable[[str], str | None],
    *,
    can_force: bool,
    ours: bool,
) -> list[tuple[str, str]]:
    """The settings that guests need of these families, ``(path below /proc/sys, value)`` each.

    ``ours`` tells whether ``all.forwarding`` was turned on by hvtx: what another turned on before
    is left as it is, with whatever it does to advertisements.
    """
    found = [(ALL4, "1")] if 4 in families else []
    if 6 not in families:
        return found
    if can_force:
        return found if read(ALL6) == "1" else found + _forcing(others)
    if read(ALL6) == "1" and not ours:
        return [*found, (ALL6, "1")]
    hearing = [f"net/ipv6/conf/{name}/accept_ra" for name in (*others.every, "default")]
    return [*found, *((path, "2") for path in hearing if read(path) == "1"), (ALL6, "1")]


def _forcing(others: Others) -> list[tuple[str, str]]:
    """Where there is no default route yet, whichever device is there or comes may get one."""
    names = others.towards_world(6) if others.uplinks6 else (*others.every, "default")
    return [(f"net/ipv6/conf/{name}/force_forwarding", "1") for name in names]


def dotted(path: str) -> str:
    """A setting as sysctl(8) names it: a point in a device's name is a slash there."""
    return path.removeprefix("net/").translate(str.maketrans("/.", "./")).join(("net.", ""))


def routed(family: int, names: Sequence[str], turned: Iterable[str]) -> str | None:
    """What the host forwards between networks of others since these settings are on, in words.

    None where it has no two networks.
    """
    if len(names) < 2:
        return None
    between = f"{', '.join(names[:-1])} and {names[-1]}"
    forced = [path.split("/")[3] for path in turned if path.endswith("/force_forwarding")]
    if family == 6 and forced:
        return f"IPv6 that comes by {', '.join(forced)} is forwarded to the networks of {between}"
    return f"this host forwards IPv{family} between the networks of {between} as well"
