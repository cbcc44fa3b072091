"""Bridges, made through pyroute2.

A bridge takes its MAC address and its group in the creating message, its alias (the mark) only in a
later one. So the random MAC of the row and the group ``hvtx`` are its mark until the alias stands
(docs/adr/0004). The MAC is set explicitly, which keeps it fixed whatever ports come and go;
``addrgenmode none`` keeps the kernel from adding a link-local address of its own.

127.0.0.1 of the host reaches guests through ``route_localnet`` on the bridge, which is on only
while a port is published there (:mod:`hvtx.host.localnet`, :mod:`hvtx.engine.loopback`); the
firewall, and a filter on each TAP that a flush of rules does not take, drop 127.0.0.0/8 that comes
*from* our bridges.

What is routed to the guests of a network with NAT carries a bit of its mark (``SEEN``), which the
last chain of our nftables table sets. A filter of the bridge drops the rest: where the rules are
gone, no neighbour of the host reaches guests by a route of his own.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from contextlib import closing

from hvtx.drivers.base import Host
from hvtx.errors import Conflict, HostRefused, HvtxError, NotPermitted
from hvtx.host import failpoint, sysctl
from hvtx.host.links import Links, named_again, silence
from hvtx.host.localnet import lead_loopback
from hvtx.host.netlink import DumpInterrupted
from hvtx.host.tc import EGRESS
from hvtx.host.tun import passing_tap, refusal
from hvtx.model.address import is_ipv6
from hvtx.model.remaking import awaits_mark
from hvtx.model.resource import (
    BRIDGE_GROUP,
    GONE,
    Kind,
    Link,
    Outcome,
    Resource,
    bridge_spec,
    device_observed,
    filters_on,
    put_by_others,
)
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.host.link_changes import LinkChange
    from hvtx.host.link_settings import LinkSettingsSocket
    from hvtx.model.link_settings import WantedSettings

_MTU_LIMIT = 65000  # anything between what guests' devices can have and what a bridge can


class BridgeDriver:
    """Makes and removes bridges (``BridgeSpec``)."""

    kinds = frozenset({Kind.BRIDGE})

    def __init__(self, host: Host) -> None:
        """Work in the network namespace of the calling thread."""
        self._host = host

    def create(self, resources: Sequence[Resource]) -> Mapping[int, dict[str, Any]]:
        """Make the bridges; returns ``{"ifindex", "mac", "guarded"}`` each."""
        return {row.id: self._create(row) for row in resources}

    def _create(self, row: Resource) -> dict[str, Any]:
        from pyroute2 import IPRoute, NetlinkError

        spec = bridge_spec(row)
        try:
            with IPRoute() as route:
                route.link(
                    "add",
                    ifname=spec["device"],
                    kind="bridge",
                    index=spec["ifindex"],
                    address=spec["mac"],
                    group=BRIDGE_GROUP,
                    mtu=spec["mtu"] + (-1 if spec["mtu"] > _MTU_LIMIT else 1),
                )
            failpoint.reach("created:bridge")
            with closing(Links()) as links:
                complete(row, links)
                guarded = spec.get("guard", False) and guard(row, links)
            lead_loopback(spec["device"], on=False)  # whatever new devices have here
        except NetlinkError as problem:
            raise _refused(spec["device"], problem.code, str(problem)) from problem
        except OSError as problem:
            why = f": guests of {spec['device']} could not have devices"
            if (missing := refusal(problem, why)) is not None:
                raise missing from problem
            raise _refused(spec["device"], problem.errno or 0, str(problem.strerror)) from problem
        return {"ifindex": spec["ifindex"], "mac": spec["mac"], "guarded": guarded}

    def repair(self, row: Resource, *, guarded: bool) -> bool:
        """Give a bridge what others changed of it; False if it is another by now.

        Who made it anew may have been cut off before its mark. ``guarded``: it is to have its
        filter. Whether 127.0.0.1 leads to its guests stays as it is. Raises OSError, HostRefused,
        NotPermitted.
        """
        with closing(Links()) as links:
            seen = links.get(ifindex=bridge_spec(row)["ifindex"])
            if seen is not None and seen.alias is None and carries_mark(row, seen):
                complete(row, links)
            seen = named_again(links, bridge_spec(row)["ifindex"], row.mark, row.key)
            if seen is None:
                return False
            restore(row, seen, links)
            if guarded:
                guard(row, links)
        return True

    def set_traits(self, row: Resource, wanted: WantedSettings, traits: LinkSettingsSocket) -> None:
        """Set a bridge as it should be, beyond what :meth:`repair` does. Raises OSError."""
        index = bridge_spec(row)["ifindex"]
        traits.set(index, wanted)
        if wanted.silent:
            with closing(Links()) as links:
                links.change(index, quiet6=True)

    def release(self, resources: Sequence[Resource]) -> Mapping[int, Outcome]:
        """Remove the bridges that carry their mark and nothing of others."""
        return {row.id: self._release(row) for row in resources}

    def _release(self, row: Resource) -> Outcome:
        links = Links()
        try:
            seen = links.get(ifindex=bridge_spec(row)["ifindex"])
            if seen is None:
                foreign_object = links.get(name=row.key)
                if (
                    foreign_object is None or foreign_object.name != row.key
                ):  # found by an alternative name
                    return GONE
                return Outcome(
                    False,
                    "mark-mismatch",
                    f"a device named {row.key} exists, but it is not the recorded one",
                )
            if not carries_mark(row, seen):
                return Outcome(
                    False,
                    "mark-mismatch",
                    f"{seen.name} does not carry the recorded mark: its alias is {seen.alias!r}",
                )
            foreign = _dependents(row, seen, links)
            if foreign:
                return Outcome(
                    False, "foreign-dependents", f"foreign resources use {seen.name}: {foreign}"
                )
            return self._delete(seen, links)
        except (OSError, DumpInterrupted) as problem:
            return Outcome(False, "observe-failed", f"{row.key}: {problem}")
        finally:
            links.close()

    def _delete(self, seen: Link, links: Links) -> Outcome:
        from pyroute2 import IPRoute, NetlinkError

        try:
            with IPRoute() as route:
                route.link("del", index=seen.ifindex)
        except NetlinkError as problem:
            return Outcome(False, "host-refused", f"{seen.name} cannot be removed: {problem}")
        if links.get(ifindex=seen.ifindex) is not None:
            return Outcome(False, "contended", f"{seen.name} still exists after its removal")
        return GONE


def program(row: Resource) -> bytes:
    """The filter of a bridge with NAT: what no rule of ours has seen reaches no guest."""
    from hvtx.rulesets.bridge_filter import bridge_program

    return bridge_program(address.partition("/")[0] for address in bridge_spec(row)["addresses"])


def guard(row: Resource, links: Links) -> bool:
    """Put the filter on a bridge; False where this kernel has none. Raises OSError."""
    return links.guard(bridge_spec(row)["ifindex"], program(row), EGRESS)


def unguarded(row: Resource, links: Links) -> bool:
    """Whether the filter of a bridge that should have one is gone or another. Raises OSError."""
    spec = bridge_spec(row)
    if device_observed(row).get("guarded") is False and spec.get("guard"):  # this kernel has none
        return False
    return links.guarding(spec["ifindex"], EGRESS) != program(row)


def hidden(row: Resource, links: Links) -> bool:
    """Whether a bridge does not know its own address, so that guests do not reach the host.

    Raises OSError.
    """
    spec = bridge_spec(row)
    return not links.knows_itself(spec["ifindex"], spec["mac"])


def settings(row: Resource, device: str) -> dict[str, str]:
    """What guests need of a bridge's own settings, whatever new devices have here.

    It forwards what comes from guests, and takes neither routes nor addresses from anybody there:
    in a network without IPv6 neither. ``forwarding`` of IPv6 stays: to turn it on drops the default
    routes of other devices.
    """
    found = _in6(device, _TAKES_NOTHING6)
    six = [is_ipv6(address) for address in bridge_spec(row).get("addresses", ())]
    if not all(six):
        found[f"net/ipv4/conf/{device}/forwarding"] = "1"
    if any(six):
        found |= _in6(device, _FORWARDS6)
    return found


_TAKES_NOTHING6 = {"accept_ra": "0", "accept_redirects": "0"}
_FORWARDS6 = {"disable_ipv6": "0", "force_forwarding": "1"}


def _in6(device: str, settings6: dict[str, str]) -> dict[str, str]:
    return {f"net/ipv6/conf/{device}/{name}": value for name, value in settings6.items()}


def tune(row: Resource, device: str) -> None:
    """Give a bridge its settings; what this kernel does not have is left out.

    Raises HostRefused, NotPermitted.
    """
    for path, value in settings(row, device).items():
        try:
            if sysctl.value(path) != value:
                sysctl.write(path, value)
        except FileNotFoundError:
            continue
        except OSError as problem:
            raise sysctl.refusal(path, value, problem) from problem


def complete(row: Resource, links: Links) -> None:
    """Give a bridge that was only just made its settings and its mark.

    Raises OSError, HostRefused, NotPermitted.
    """
    spec = bridge_spec(row)
    links.learn_no_link_local(spec["ifindex"])
    tune(row, spec["device"])
    # Only a changed MTU stays what it is when ports come and go (br_change_mtu).
    links.change(spec["ifindex"], alias=row.mark, mtu=spec["mtu"], up=True, quiet6=True)
    _settle(spec["ifindex"], links)


def restore(row: Resource, seen: Link, links: Links) -> None:
    """Give a bridge of ours what others changed of it: up, its MAC, its MTU, its settings.

    A MAC that it has is not set again: that would take entries of the neighbour table that somebody
    made for good (neigh_changeaddr). An entry of its own in its table is made only where there is
    none: the kernel's goes with the address, one that was made does not.
    """
    tune(row, seen.name)
    spec = bridge_spec(row)
    wanted: LinkChange = {"mtu": spec["mtu"], "up": True}
    if seen.mac != spec["mac"]:
        wanted["mac"] = spec["mac"]
    links.change(seen.ifindex, **wanted)
    if hidden(row, links):
        links.introduce(seen.ifindex, spec["mac"])


def _settle(bridge: int, links: Links) -> None:
    """Let a port come and go, so that the bridge looks as it will when its last VM has stopped.

    A bridge that never had a port shows no missing carrier, other segmentation limits and no
    multicast route (br_port_state_selection, br_set_gso_limits, addrconf_dev_config). The port is a
    TAP that lives as long as our descriptor.
    """
    descriptor, index = passing_tap()
    try:
        links.change(index, master=bridge, up=True, quiet6=True)
        links.get(ifindex=bridge)  # makes the kernel bring the shown state up to date
    finally:
        os.close(descriptor)
    links.get(ifindex=bridge)


def carries_mark(row: Resource, seen: Link) -> bool:
    """The alias, or before it stands the recorded MAC and group of the creating message."""
    if seen.kind != "bridge":
        return False
    if seen.alias is None:
        return (
            awaits_mark(row) and seen.mac == bridge_spec(row)["mac"] and seen.group == BRIDGE_GROUP
        )
    return seen.alias == row.mark


def _dependents(row: Resource, seen: Link, links: Links) -> str:
    things = [
        link.name
        for link in links.all()
        if seen.ifindex in (link.master, link.lower) and link != seen
    ]
    addresses, own = links.addresses(seen.ifindex), row.addresses
    silence(links, seen.ifindex, addresses, own)
    things += put_by_others(seen.ifindex, addresses, own)
    return ", ".join([*things, *filters_on(seen, links.filtered_among([seen.ifindex]))])


def _refused(name: str, code: int, words: str) -> HvtxError:
    if code in (errno.EEXIST, errno.EBUSY):
        return Conflict(f"a device named {name} exists already", hint="choose another --bridge")
    if code in (errno.EPERM, errno.EACCES):
        return NotPermitted(
            f"not permitted to make the bridge {name}", hint="run hvtx as root (CAP_NET_ADMIN)"
        )
    if code == errno.EOPNOTSUPP:
        return HostRefused(
            f"this kernel makes no bridges ({name})", hint="load the module: modprobe bridge"
        )
    return HostRefused(
        f"the kernel refused the bridge {name}: {words}", hint="`hvtx doctor` checks this host"
    )
