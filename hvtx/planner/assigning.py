"""Which interface the addresses of `--ip` are for, and which its network's DHCP gives. Pure.

dnsmasq gives a reserved address only where it has a range. One of DHCPv6 is a /64 at most, and only
that of the gateway is served: so it is the first /64 of a wider subnet. Further addresses of a
guest are no matter of DHCP.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from hvtx.errors import UsageError
from hvtx.model.address import LEAST_PREFIX6, family_of
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Network, Vm

MOST = 16  # addresses of one interface: each is a step of the filter that every frame meets


class Asked(NamedTuple):
    """The addresses of one interface that were asked for; None: any."""

    ipv4: str | None = None
    ipv6: str | None = None
    more: tuple[str, ...] = ()

    @property
    def addresses(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(a for a in (self.ipv4, self.ipv6, *self.more) if a)


def assigned(ips: Sequence[str], networks: Sequence[Network]) -> list[Asked]:
    """The addresses of each network's interface.

    The nth address of a family is for the nth network that has this family. What is left is a
    further address in the network whose subnet it is in: subnets do not overlap. Raises UsageError.
    """
    more: list[list[str]] = [[] for _ in networks]
    first: list[list[str | None]] = []
    for version in (4, 6):
        family = [ip for ip in ips if family_of(ip) == version]
        places = [n for n, network in enumerate(networks) if version in network.families]
        places = places or list(range(len(networks)))  # none has it: who looks closer says so
        own = dict(zip(places, family, strict=False))
        first.append([own.get(number) for number in range(len(networks))])
        for address in family[len(places) :]:
            more[_holder(address, networks)].append(address)
    found = [Asked(*each) for each in zip(*first, map(tuple, more), strict=True)]
    for asked, network in zip(found, networks, strict=True):
        if len(asked.addresses) > MOST:
            raise UsageError(
                f"{len(asked.addresses)} addresses are asked for in network {network.name!r}",
                hint=f"an interface has at most {MOST}",
            )
    return found


def _holder(address: str, networks: Sequence[Network]) -> int:
    wanted = ipaddress.ip_address(address)
    for number, network in enumerate(networks):
        if any(wanted in ipaddress.ip_network(cidr) for cidr in network.subnets):
            return number
    names = ", ".join(repr(network.name) for network in networks)
    raise UsageError(
        f"{address} is in no subnet of {names}",
        hint="the nth --ip of a family is for the nth network that has it, and a further one for"
        " the network that it is in; hvtx network show NAME tells its subnets",
    )


def given_of(network: Network) -> str | None:
    """What is given of a wide IPv6 subnet ("fd77::/64"); None where all of the network is."""
    for cidr in network.subnets if network.dhcp else ():
        subnet = ipaddress.ip_network(cidr)
        if subnet.version == 6 and subnet.prefixlen < LEAST_PREFIX6:
            return f"{subnet.network_address}/{LEAST_PREFIX6}"
    return None


def is_given(ipv6: str | None, network: Network) -> bool:
    """Whether a guest that asks for this address of its is given it; None is as good as given."""
    part = given_of(network) if ipv6 else None
    return part is None or ipaddress.ip_address(ipv6 or "") in ipaddress.ip_network(part)


def refuse_never_given(ipv6: str | None, network: Network) -> None:
    """Raise UsageError for the address of a guest that would ask for it in vain."""
    if not is_given(ipv6, network):
        part = given_of(network)
        raise UsageError(
            f"{ipv6} cannot be given by DHCPv6: network {network.name!r} gives what is in {part}",
            hint=f"choose an address in {part}; a network without DHCP (--no-dhcp) has no such"
            " limit, and its guests are told their addresses otherwise",
        )


def never_given(vm: Vm, network: Network) -> list[str]:
    """The addresses of a VM, whose guest asks for them, that it would ask for in vain."""
    return [
        interface.ipv6
        for interface in vm.interfaces
        if interface.ipv6 and interface.network == network.id
        if not is_given(interface.ipv6, network)
    ]
