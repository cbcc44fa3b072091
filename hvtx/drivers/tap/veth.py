"""Veth pairs: the host's end is a port as a TAP is, the peer an interface of a container.

Making: one message makes both ends (:mod:`hvtx.host.veth`); until the alias is set, index, MAC and
group are the mark (docs/adr/0004). The namespace is opened by its path, and is the one of the row
if it has the row's id. With it the pair goes, so that a killed start leaves it no longer than that.

The host's end gets the settings and filters of a TAP's, and is brought up last: a container that
runs may have its own end up before. The filter for checksums is there too: no frame has a
virtio-net header here, but a packet socket with one (PACKET_VNET_HDR), which CAP_NET_RAW allows,
asks the same of the host.

Removing: by the index, if the device carries the mark. Nothing can hold it. A VM's TAP device in
the namespace goes with it, if it is found.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from functools import partial

from hvtx.drivers.base import Host
from hvtx.errors import Conflict, Contended, HostRefused, HvtxError, NotFound, NotPermitted
from hvtx.host import failpoint, network_namespace, nsid, procfs, veth
from hvtx.host.links import Links, named_again
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.container import NO_NAMESPACE, veth_spec
from hvtx.model.resource import (
    BRIDGE_GROUP,
    GONE,
    Link,
    Outcome,
    Resource,
    State,
    index_of,
    tap_spec,
)
from hvtx.model.typed import TYPE_CHECKING, Any
from hvtx.model.vm import no_port_left

if TYPE_CHECKING:
    from types import ModuleType

    from hvtx.drivers.tap.standing import Above
    from hvtx.host.link_settings import LinkSettingsSocket
    from hvtx.model.link_settings import WantedSettings


class VethDriver:
    """Makes and removes veth pairs (``VethSpec``)."""

    def __init__(self, host: Host) -> None:
        """Work in the network namespace of the calling thread."""
        del host

    def create(self, resources: Sequence[Resource]) -> Mapping[int, dict[str, Any]]:
        """Make the pairs; returns a ``VethObserved`` each."""
        from hvtx.drivers.tap import filters

        with closing(Links()) as links, filters.program() as program:
            made = {row.id: self._create(row, links, program) for row in resources}
            specs = list(map(veth_spec, resources))
            links.touch(*(spec["ifindex"] for spec in specs), *{spec["master"] for spec in specs})
        return made

    def _create(self, row: Resource, links: Links, program: int | None) -> dict[str, Any]:
        from hvtx.drivers.tap import filters

        spec = veth_spec(row)
        try:
            with network_namespace.opened(spec["netns"]) as namespace, nsid.ids() as ids:
                if ids.of(namespace) != spec["nsid"]:
                    raise Contended(
                        f"{spec['netns']} is another network namespace by now", hint="try again"
                    )
                pair = veth.Pair(
                    spec["device"], spec["ifindex"], spec["mac"], spec["master"], BRIDGE_GROUP,
                    spec["mtu"], spec["peer"], spec["peer_mac"],
                )  # fmt: skip
                _make(pair, namespace, links, row)
                failpoint.reach("made:veth")
                links.change(spec["ifindex"], alias=row.mark, quiet6=True, hairpin=True)
                failpoint.reach("marked:veth")
                guarded = filters.guard(program, row, links)
                links.change(spec["ifindex"], up=True)
                failpoint.reach("guarded:veth")
                given = [veth.PeerAddress(*each) for each in spec["peer_addresses"]]
                inside = network_namespace.inside(namespace, partial(_furnish, row, given))
                if given:
                    _announce(row, links, namespace)
        except OSError as problem:
            raise _refused(row, problem) from problem
        return {"ifindex": spec["ifindex"], "mac": spec["mac"], **guarded, **inside}

    def repair(self, row: Resource, *, master: int, guard: Mapping[str, Any] | None) -> bool:
        """Give the host's end what others changed of it; False if it is another by now. OSError."""
        from hvtx.drivers.tap import filters

        with closing(Links()) as links:
            if named_again(links, row.ifindex, row.mark, row.key) is None:
                return False
            filters.put_back(links, row, master=master, spec=guard)
        return True

    def set_traits(self, row: Resource, wanted: WantedSettings, traits: LinkSettingsSocket) -> None:
        """Set the host's end as it should be, beyond what :meth:`repair` does. Raises OSError."""
        index = tap_spec(row)["ifindex"]
        traits.set(index, wanted)
        if wanted.silent:
            with closing(Links()) as links:
                links.change(index, quiet6=True)

    def standing(self, resources: Sequence[Resource]) -> Mapping[int, Outcome]:
        """Those whose host end is there, or something in its place, each with why; none is changed.

        Where that could not be learnt, ``observe-failed``.
        """
        try:
            with closing(Links()) as links:
                looked = {row.id: _looked_at(row, links) for row in resources}
        except (OSError, DumpInterrupted) as problem:
            unseen = Outcome(False, "observe-failed", f"the links could not be read: {problem}")
            return {row.id: unseen for row in resources}
        return {
            number: Outcome(False, "in-use", f"{found.name} is there")
            if isinstance(found, Link)
            else found
            for number, found in looked.items()
            if found is not GONE
        }

    def release(self, resources: Sequence[Resource]) -> Mapping[int, Outcome]:
        """Remove the pairs whose host end carries its mark and nothing of others."""
        from hvtx.drivers.tap.standing import devices_above

        outcomes: dict[int, Outcome] = {}
        try:
            with closing(Links()) as links, devices_above(links) as above:
                for row in resources:
                    outcomes[row.id] = _release(row, links, above)
                    if outcomes[row.id].gone:
                        _leave_namespace(row)
                for master in {
                    spec["master"] for spec in map(veth_spec, resources) if "master" in spec
                }:
                    links.get(ifindex=master)  # its shown carrier follows now, not a second later
        except (OSError, DumpInterrupted) as problem:
            kept = Outcome(False, "observe-failed", f"the links could not be listed: {problem}")
            return {row.id: kept for row in resources} | outcomes
        return outcomes


def _furnish(row: Resource, given: list[veth.PeerAddress]) -> dict[str, Any]:
    """The peer's own settings, and a TAP beside it where it is for a VM. OSError, Conflict.

    Returns ``{"others_default"}``, the families that have a default route by another interface, if
    any have; ``{"tap_mac"}`` of a TAP; and ``{"cookie"}`` of the namespace, where the kernel has
    them (Linux 5.14).
    """
    spec = veth_spec(row)
    stay = veth.furnish(spec["peer"], row.mark, given)
    found: dict[str, Any] = {"others_default": stay} if stay else {}
    if (tap := spec.get("tap")) is not None:
        found["tap_mac"] = _inner().make(spec, tap, row.mark)
    try:
        return {**found, "cookie": procfs.netns_cookie()}
    except OSError as problem:
        if problem.errno != errno.ENOPROTOOPT:
            raise
        return found


def _announce(row: Resource, links: Links, namespace: int) -> None:
    """Tell neighbours of the peer's addresses, which another MAC address may have had before.

    It is a help, no promise: what the kernel does not take is not sent.
    """
    spec = veth_spec(row)
    with suppress(OSError):
        links.touch(spec["ifindex"])  # the bridge knows now that the wire is whole, not soon
        network_namespace.inside(namespace, partial(veth.announce, spec["peer"]))


def _inner() -> ModuleType:
    """What is loaded for a VM in the container alone."""
    from hvtx.drivers.tap import inner

    return inner


def _make(pair: veth.Pair, namespace: int, links: Links, row: Resource) -> None:
    try:
        veth.create(pair, namespace, links)
    except OSError as problem:
        if problem.errno != errno.EEXIST:
            raise
        raise _taken(row, namespace, problem) from problem


def _taken(row: Resource, namespace: int, problem: OSError) -> HvtxError:
    """Which name exists already: the peer's in its namespace, or the host's."""
    spec = veth_spec(row)

    def there() -> bool:
        with closing(Links()) as links:
            return links.get(name=spec["peer"]) is not None

    if network_namespace.inside(namespace, there):
        return Conflict(
            f"the network namespace {spec['netns']} has an interface {spec['peer']} already",
            hint="remove it there, or choose another interface name (CNI_IFNAME)",
        )
    return Conflict(
        f"a device named {row.key} exists already: {problem.strerror}",
        hint="try again: names are random",
    )


def _release(row: Resource, links: Links, above: Above) -> Outcome:
    from hvtx.drivers.tap.standing import kept_by_others

    try:
        seen = _looked_at(row, links)
        if isinstance(seen, Outcome):
            return seen
        # CNI's bandwidth leaves its queue here (findings/bandwidth-plugin-leaves-its-queue.sh)
        problem = kept_by_others(seen, links, above, row.addresses, queues=False)
        return problem or _delete(seen, links)
    except (OSError, DumpInterrupted) as problem:
        return Outcome(False, "observe-failed", f"{row.key}: {problem}")


def _looked_at(row: Resource, links: Links) -> Link | Outcome:
    """A row's host end; GONE, or what is in its place. Raises OSError, DumpInterrupted."""
    seen = links.get(ifindex=index_of(row))
    if seen is None:
        other = links.get(name=row.key)
        if other is None or other.name != row.key:  # found by an alternative name
            return GONE
        words = f"a device named {row.key} exists, but it is not the recorded one"
        return Outcome(False, "mark-mismatch", words)
    if not carries_mark(row, seen):
        words = f"{seen.name} does not carry the recorded mark: its alias is {seen.alias!r}"
        return Outcome(False, "mark-mismatch", words)
    return seen


def _leave_namespace(row: Resource) -> None:
    """Remove what would be left in the namespace, as far as it is found: a VM's TAP device."""
    spec = veth_spec(row)
    if (tap := spec.get("tap")) is not None:
        _inner().leave(spec, tap, row.mark)


def _delete(seen: Link, links: Links) -> Outcome:
    failpoint.reach("seen:veth")
    try:
        veth.delete(seen.ifindex, links)
    except OSError as problem:
        if problem.errno == errno.ENODEV:  # with its namespace, meanwhile
            return GONE
        return Outcome(False, "host-refused", f"{seen.name} cannot be removed: {problem}")
    if links.get(ifindex=seen.ifindex) is not None:
        return Outcome(False, "contended", f"{seen.name} still exists after its removal")
    return GONE


def carries_mark(row: Resource, seen: Link) -> bool:
    """The alias, or before it stands the recorded MAC and group of the creating message."""
    if seen.kind != "veth":
        return False
    if seen.alias is None:
        return (
            row.state != State.COMMITTED
            and seen.mac == veth_spec(row)["mac"]
            and seen.group == BRIDGE_GROUP
        )
    return seen.alias == row.mark


def _refused(row: Resource, problem: OSError) -> HvtxError:
    spec = veth_spec(row)
    name, code = spec["device"], problem.errno
    if code in (errno.EPERM, errno.EACCES):
        return NotPermitted(
            f"not permitted to make the veth pair {name}",
            hint="run hvtx as root (CAP_NET_ADMIN, CAP_SYS_ADMIN)",
        )
    if code == errno.ENOENT and problem.filename == spec["netns"]:
        return NotFound(
            f"there is no network namespace {spec['netns']}",
            hint="give the path of a network namespace that exists (CNI_NETNS)",
            code=NO_NAMESPACE,
        )
    if code == errno.EXFULL:
        message, hint = no_port_left(spec["bridge"], f"the veth pair {name}")
        return HostRefused(message, hint=hint)
    if code == errno.EOPNOTSUPP:
        return HostRefused(
            f"this kernel makes no veth pairs ({name})", hint="load the module: modprobe veth"
        )
    return HostRefused(
        f"the kernel refused the veth pair {name}: {problem}", hint="`hvtx doctor` checks this host"
    )
