"""Addresses of the host on our own bridges, made through pyroute2.

An address has no room for a mark: it is ours if its device carries the mark that the network's
bridge row has (``spec["owner"]``), and it is the very address of the row. It goes with the device.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Collection, Mapping, Sequence

from hvtx.drivers.base import Host
from hvtx.errors import Conflict, HostRefused, HvtxError, NotPermitted
from hvtx.host.links import Links
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.address import is_ipv6
from hvtx.model.resource import (
    GONE,
    AddressSpec,
    Kind,
    Outcome,
    Resource,
    address_spec,
    put_by_others,
)
from hvtx.model.typed import Any


class AddressDriver:
    """Adds and removes addresses (``AddressSpec``)."""

    kinds = frozenset({Kind.ADDRESS})

    def __init__(self, host: Host) -> None:
        """Work in the network namespace of the calling thread."""
        self._host = host

    def create(self, resources: Sequence[Resource]) -> Mapping[int, dict[str, Any]]:
        """Add the addresses; returns ``{}`` each."""
        from pyroute2 import IPRoute, NetlinkError

        for row in resources:
            spec = address_spec(row)
            try:
                with IPRoute() as route:
                    _add(route, spec)
            except NetlinkError as problem:
                raise _refused(spec, problem.code, str(problem)) from problem
            except (OSError, DumpInterrupted) as problem:  # the look at an equal one
                raise _refused(spec, getattr(problem, "errno", 0), str(problem)) from problem
        return {row.id: {} for row in resources}

    def release(self, resources: Sequence[Resource]) -> Mapping[int, Outcome]:
        """Remove the addresses from devices that carry the owner's mark."""
        outcomes = {}
        links = Links()
        try:
            for row in resources:
                try:
                    outcomes[row.id] = self._release(row, links)
                except (OSError, DumpInterrupted) as problem:
                    words = f"the addresses could not be listed: {problem}"
                    outcomes[row.id] = Outcome(False, "observe-failed", words)
        finally:
            links.close()
        return outcomes

    def _release(self, row: Resource, links: Links) -> Outcome:
        from pyroute2 import IPRoute, NetlinkError

        spec = address_spec(row)
        addresses = links.addresses(spec["ifindex"])
        if not any(each.address == spec["address"] for each in addresses):
            return GONE
        seen = links.get(ifindex=spec["ifindex"])
        if seen is None:
            return GONE
        if seen.alias != spec["owner"]:
            return Outcome(
                False,
                "mark-mismatch",
                f"{seen.name}, with {row.key}, lacks the network's mark",
            )
        others = _same_subnet(spec["address"], put_by_others(spec["ifindex"], addresses, ()))
        if others:
            message = f"{row.key} on {seen.name} stays: {', '.join(others)} would go with it"
            return Outcome(False, "foreign-dependents", message)
        address, _, prefix = spec["address"].partition("/")
        try:
            with IPRoute() as route:
                route.addr("del", index=spec["ifindex"], address=address, prefixlen=int(prefix))
        except NetlinkError as problem:
            if problem.code not in (errno.EADDRNOTAVAIL, errno.ENODEV):
                return Outcome(False, "host-refused", f"{row.key} cannot be removed: {problem}")
        return GONE


def _add(route: Any, spec: AddressSpec) -> None:
    """Add an address. An equal one that came to our own bridge by itself is ours.

    Where a manager of networks sets a new bridge's addrgenmode back, the kernel gives it the very
    link-local address that the network is about to add, but one that waits for a carrier to be
    seen as the only one of its link. Raises NetlinkError, OSError, DumpInterrupted.
    """
    from pyroute2 import NetlinkError

    address, _, prefix = spec["address"].partition("/")
    wanted: dict[str, Any] = {
        "index": spec["ifindex"],
        "address": address,
        "prefixlen": int(prefix),
        **({"flags": _IFA_F_NODAD} if is_ipv6(address) else {}),
    }
    for attempt in range(_TAKEOVERS):
        try:
            route.addr("add", **wanted)
        except NetlinkError as problem:
            last = attempt == _TAKEOVERS - 1
            if problem.code != errno.EEXIST or last or not _is_ours(spec):
                raise
        else:
            return
        if not is_ipv6(address):
            route.addr("replace", **wanted)  # which takes its lifetime, if it had one
            return
        with contextlib.suppress(NetlinkError):  # it went meanwhile
            route.addr("del", index=spec["ifindex"], address=address, prefixlen=int(prefix))


def remove_link_local(ifindex: int, own: Collection[str]) -> None:
    """Take the link-local addresses of IPv6 off a device of ours, but those in ``own``."""
    from pyroute2 import IPRoute, NetlinkError

    with contextlib.closing(Links()) as links:
        every = links.addresses()
    mine = [a for a in every if a.ifindex == ifindex and a.by_itself]
    found = [a.address for a in mine if is_ipv6(a.address)]
    with IPRoute() as route:
        for text in found:
            address, _, prefix = text.partition("/")
            if text not in own and address.startswith("fe"):
                with contextlib.suppress(NetlinkError):  # it went by itself
                    route.addr("del", index=ifindex, address=address, prefixlen=int(prefix))


def _is_ours(spec: AddressSpec) -> bool:
    """Whether the very address is on the bridge, and that carries the network's mark."""
    links = Links()
    try:
        seen = links.get(ifindex=spec["ifindex"])
        here = {a.address for a in links.addresses() if a.ifindex == spec["ifindex"]}
    finally:
        links.close()
    return seen is not None and seen.alias == spec["owner"] and spec["address"] in here


def _same_subnet(address: str, there: Sequence[str]) -> list[str]:
    """Others' IPv4 addresses of the same subnet: the kernel takes secondaries with their primary.

    (That is so unless promote_secondaries is on: then one of them would become the primary.)
    """
    import ipaddress

    if is_ipv6(address):
        return []
    subnet = ipaddress.IPv4Interface(address).network
    return [
        other
        for other in there
        if not is_ipv6(other)
        and other != address
        and ipaddress.IPv4Interface(other).network == subnet
    ]


_IFA_F_NODAD = 0x02
_TAKEOVERS = 5


def _refused(spec: AddressSpec, code: int, words: str) -> HvtxError:
    what = f"{spec['address']} on {spec['device']}"
    if code == errno.EEXIST:
        return Conflict(f"the address {what} exists already")
    if is_ipv6(spec["address"]) and code in (
        errno.EACCES,
        errno.EOPNOTSUPP,
    ):  # not for lack of rights
        return HostRefused(
            f"IPv6 is switched off at {spec['device']}: {spec['address']} cannot be added",
            hint="sysctl -w net.ipv6.conf.all.disable_ipv6=0",
        )
    if code in (errno.EPERM, errno.EACCES):
        return NotPermitted(f"not permitted to add {what}", hint="run hvtx as root (CAP_NET_ADMIN)")
    return HostRefused(f"the kernel refused the address {what}: {words}")
