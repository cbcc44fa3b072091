"""Which interface the addresses of `--ip` are for. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from hvtx.errors import UsageError
from hvtx.model.address import family_of
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Network

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
        " the network that it is in; hvtx network show tells the subnets",
    )
