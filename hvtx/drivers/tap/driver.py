"""What the engine calls to make, hold and remove TAP devices."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from hvtx.drivers.base import Host
from hvtx.errors import Conflict, HostRefused, HvtxError, NotPermitted
from hvtx.host import failpoint, tun
from hvtx.host.links import Links, named_again
from hvtx.host.netlink import DumpInterrupted
from hvtx.host.tun import refusal
from hvtx.model.resource import (
    Kind,
    Link,
    Outcome,
    Resource,
    index_of,
    tap_spec,
)
from hvtx.model.typed import TYPE_CHECKING, Any
from hvtx.model.vm import no_port_left

if TYPE_CHECKING:
    from hvtx.drivers.tap.removal import LinkContext
    from hvtx.host.link_settings import LinkSettingsSocket
    from hvtx.model.link_settings import Wanted

Guard = Callable[..., dict[str, bool]]  # `filters.guard` with the program that it puts there

_SPARE = 5  # descriptors that holding devices leaves to the rest of a release


class TapDriver:
    """Makes and removes TAP devices (``TapSpec``)."""

    kinds = frozenset({Kind.TAP})

    def __init__(self, host: Host) -> None:
        """Work in the network namespace of the calling thread."""
        self._host = host
        self._links: Links | None = None
        self._attached_taps: dict[int, tuple[int, Link]] = {}

    def close(self) -> None:
        """Close the socket, and let go of devices that are still held."""
        self.detach()
        if self._links is not None:
            self._links.close()
            self._links = None

    @property
    def links(self) -> Links:
        """One rtnetlink socket for the driver's life."""
        if self._links is None:
            self._links = Links()
        return self._links

    def create(self, resources: Sequence[Resource]) -> Mapping[int, dict[str, Any]]:
        """Make the devices; returns ``{"ifindex", "mac", "guarded", "summed"}`` each."""
        try:
            with self._guarding() as guard:
                made = {row.id: self._create(row, guard) for row in resources}
        except OSError as problem:
            raise _refused(tap_spec(resources[0])["device"], problem) from problem
        self._forget_guests(resources)  # whoever had these addresses before, by whatever way
        return made

    @contextlib.contextmanager
    def _guarding(self) -> Iterator[Guard]:
        """What puts the filters on a device, where they can be had; it is loaded once."""
        filters = _filters()
        with filters.program() as program:
            yield partial(filters.guard, program)

    def _create(self, row: Resource, guard: Guard) -> dict[str, Any]:
        spec = tap_spec(row)
        name = spec["device"]
        try:
            descriptor = tun.open_device()
        except OSError as problem:
            raise _refused(name, problem) from problem
        try:
            tun.create(descriptor, name, spec["ifindex"], tun.tap_flags(spec.get("queues", 1)))
            self.links.change(
                spec["ifindex"],
                alias=row.mark,
                master=spec["master"],
                mac=spec["mac"],
                mtu=spec["mtu"],
                up=True,
                quiet6=True,
                hairpin=True,
            )
            guarded = guard(row, self.links)
            tun.set_owner(descriptor, spec.get("owner", self._host.tap_user))
            failpoint.reach("marked:tap")
            tun.set_persistent(descriptor, True)
        except OSError as problem:
            # a master that does not exist is EINVAL
            gone = problem.errno == errno.EINVAL and not self.links.get(ifindex=spec["master"])
            why = OSError(errno.ENODEV, "no bridge") if gone else problem
            raise _refused(name, why, bridge=spec["bridge"]) from problem
        finally:
            os.close(descriptor)
        for shown in (spec["ifindex"], spec["master"]):
            self.links.get(ifindex=shown)  # what is shown follows now, not up to a second later
        return {"ifindex": spec["ifindex"], "mac": spec["mac"], **guarded}

    def _forget_guests(self, resources: Sequence[Resource]) -> None:
        """Drop the host's neighbour entries of guests, which nobody behind a new device answers.

        The kernel believes an entry for up to a minute, and asks its old MAC address thrice before
        it asks everybody. It is a help, no promise: what cannot be dropped becomes stale.
        """
        with contextlib.suppress(OSError):
            self.links.forget_neighbours(
                (tap_spec(row)["master"], address)
                for row in resources
                for address in _guest_addresses(row)
            )

    def restore_macs(self, resources: Sequence[Resource]) -> None:
        """Give devices their MAC addresses again where something else gave them others meanwhile.

        udev does (MACAddressPolicy=persistent, its default) if it looks at a new device before its
        address was set, and writes after it was. It looks once; ours stays then. What cannot be
        set now is left to `repair`.
        """
        for row in resources:
            with contextlib.suppress(OSError, DumpInterrupted):
                seen = self.links.get(ifindex=row.ifindex)
                if seen is not None and seen.alias == row.mark and seen.mac != tap_spec(row)["mac"]:
                    self.links.change(seen.ifindex, mac=tap_spec(row)["mac"])

    def repair(self, row: Resource, *, master: int, guard: Mapping[str, Any] | None) -> bool:
        """Give a device what others changed of it; False if it is another by now.

        ``master`` is the index of its bridge, ``guard`` what its filters hold the guest to. Raises
        OSError.
        """
        spec = tap_spec(row)
        seen = named_again(self.links, spec["ifindex"], row.mark, row.key)
        if seen is None:
            return False
        self.links.change(
            seen.ifindex, master=master, mac=spec["mac"], mtu=spec["mtu"], up=True, hairpin=True
        )
        if guard is not None:
            with self._guarding() as put:
                put(row, self.links, guard)
            self.limit([row])
        return True

    def limit(self, resources: Sequence[Resource]) -> None:
        """Hold devices to the limits of their rows (:func:`hvtx.drivers.tap.filters.limit`)."""
        for row in resources:
            if named_again(self.links, row.ifindex, row.mark, row.key) is not None:
                _filters().limit(row)

    def set_traits(self, row: Resource, wanted: Wanted, traits: LinkSettingsSocket) -> None:
        """Set a device as it should be, beyond what :meth:`repair` does. Raises OSError."""
        index = tap_spec(row)["ifindex"]
        traits.set(index, wanted)
        if wanted.silent:
            self.links.change(index, quiet6=True)

    def mark(self, planned: Link, mark: str, *, idle: bool) -> Outcome:
        """Give a device of others its mark, if it is still just what was judged. Raises OSError.

        Where nobody was seen to hold it (``idle``), attaching proves that nobody does: a look at
        all processes may miss some.
        """
        from hvtx.drivers.tap.removal import hold, set_alias

        if not idle:
            return set_alias(self.links, planned, mark)
        descriptor = hold(planned, self.links, lambda held: None)
        if isinstance(descriptor, Outcome):
            return descriptor
        try:
            return set_alias(self.links, planned, mark)
        finally:
            os.close(descriptor)

    def attach(self, resources: Sequence[Resource]) -> Mapping[int, Outcome]:
        """Hold the devices until :meth:`release` or :meth:`let_go`; nobody can take them meanwhile.

        Returns those that somebody else holds, and those that could not be held. Of what is gone,
        or is not the row's, nothing is held and nothing said: the release tells.
        """
        busy: dict[int, Outcome] = {}
        with _spare_descriptors():
            for row in resources:
                try:
                    found = self._attach(row)
                except (OSError, DumpInterrupted) as problem:
                    words = f"{row.key} could not be attached: {problem}"
                    found = Outcome(False, "observe-failed", words)
                if found is not None:
                    busy[row.id] = found
        self._name_holders(resources, busy)
        return busy

    def _attach(self, row: Resource) -> Outcome | None:
        from hvtx.drivers.tap.removal import hold, wrong_mark

        seen = self.links.get(ifindex=tap_spec(row)["ifindex"])
        if seen is None or wrong_mark(row, seen) is not None:
            return None
        found = hold(seen, self.links, partial(wrong_mark, row))
        if not isinstance(found, Outcome):
            self._attached_taps[row.id] = (found, seen)
            return None
        return found if found.reason == "in-use" else None

    def detach(self) -> None:
        """Let go of what is still held; the devices stay."""
        while self._attached_taps:
            descriptor, seen = self._attached_taps.popitem()[1]
            os.close(descriptor)
            for index in filter(None, (seen.ifindex, seen.master)):
                self.links.get(ifindex=index)  # its shown carrier follows now, not a second later

    def release(self, resources: Sequence[Resource]) -> Mapping[int, Outcome]:
        """Remove the devices by attaching; ``in-use`` names the holder where it can."""
        from hvtx.drivers.tap.removal import LinkContext, in_threads

        try:
            own = {index_of(row) for row in resources}
            around = LinkContext(self.links.all(), self.links.addresses(), self.links.filtered(own))
        except (OSError, DumpInterrupted) as problem:
            kept = Outcome(False, "observe-failed", f"the links could not be listed: {problem}")
            return {row.id: kept for row in resources}
        outcomes: dict[int, Outcome] = {}

        def one(row: Resource) -> None:
            outcomes[row.id] = self._release(row, around)

        in_threads(one, resources)
        self._forget_guests([row for row in resources if outcomes[row.id].gone])
        for master in {spec["master"] for spec in map(tap_spec, resources) if "master" in spec}:
            self.links.get(ifindex=master)  # its shown carrier follows now, not a second later
        self._name_holders(resources, outcomes)
        return outcomes

    def _release(self, row: Resource, around: LinkContext) -> Outcome:
        from hvtx.drivers.tap.removal import release_held, release_one

        try:
            with contextlib.closing(Links()) as links:
                grip = self._attached_taps.pop(row.id, None)
                if grip is None:
                    return release_one(row, links, around)
                return release_held(row, links, around, *grip)
        except HvtxError as problem:
            return Outcome(False, problem.code, problem.message)
        except (OSError, DumpInterrupted) as problem:
            return Outcome(False, "observe-failed", f"{row.key}: {problem}")
        except Exception as problem:  # noqa: BLE001 - memory, say: the others are to be released
            return Outcome(False, "failed", f"{row.key}: {type(problem).__name__} {problem}")

    def _name_holders(self, resources: Sequence[Resource], outcomes: dict[int, Outcome]) -> None:
        from hvtx.host import openfiles

        named = [row for row in resources if row.id in outcomes]
        names = {row.key for row in named if outcomes[row.id].reason == "in-use"}
        if not names:
            return
        holders = openfiles.tap_holders(names).found
        for row in named:
            if row.key in names and holders.get(row.key):
                who = ", ".join(f"{h.command} (pid {h.pid})" for h in holders[row.key])
                outcomes[row.id] = Outcome(False, "in-use", f"{row.key} is held open by {who}")


def _filters() -> Any:
    from hvtx.drivers.tap import filters  # 1 ms that only a start has to pay

    return filters


def _guest_addresses(row: Resource) -> list[str]:
    """The addresses of the guest behind a device (pure); none where an older row does not say."""
    told = tap_spec(row).get("guard") or {}
    return [a for a in (told.get("ipv4"), told.get("ipv6"), *told.get("more", ())) if a]


@contextlib.contextmanager
def _spare_descriptors() -> Iterator[None]:
    """Keep some descriptors back: with all of them on devices nothing else could be released."""
    with contextlib.ExitStack() as spare:
        with contextlib.suppress(OSError):
            for _ in range(_SPARE):
                spare.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        yield


def _refused(name: str, problem: OSError, *, bridge: str = "") -> HvtxError:
    if problem.errno == errno.EBUSY:
        return Conflict(f"a device named {name} exists already", hint="try again: names are random")
    if problem.errno in (errno.EPERM, errno.EACCES):
        return NotPermitted(
            f"not permitted to make the TAP device {name}", hint="run hvtx as root (CAP_NET_ADMIN)"
        )
    if (missing := refusal(problem)) is not None:
        return missing
    if problem.errno == errno.EXFULL:
        message, hint = no_port_left(bridge, f"the TAP device {name}")
        return HostRefused(message, hint=hint)
    if problem.errno == errno.ENODEV and not problem.filename:
        return HostRefused(
            f"bridge {bridge} of {name} is gone", hint="`hvtx repair` puts networks back"
        )
    return HostRefused(
        f"the kernel refused the TAP device {name}: {problem.strerror}",
        hint="`hvtx doctor` checks this host",
    )
