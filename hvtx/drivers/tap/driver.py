"""What the engine calls to make, hold and remove TAP devices."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from hvtx.drivers.base import Host
from hvtx.errors import HvtxError
from hvtx.host.links import Links, named_again
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.address import guest_addresses
from hvtx.model.resource import (
    Kind,
    Link,
    Outcome,
    Resource,
    tap_spec,
)
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.drivers.tap.standing import Above
    from hvtx.host.link_settings import LinkSettingsSocket
    from hvtx.model.link_settings import WantedSettings

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
        making = _making()
        with making.filters.program() as program:
            made: dict[int, dict[str, Any]] = making.make(
                resources, self.links, program, self._host.tap_user
            )
        specs = list(map(tap_spec, resources))
        try:
            shown = [spec["ifindex"] for spec in specs]
            # what is shown follows now, not up to a second later
            self.links.touch(*shown, *{spec["master"] for spec in specs})
        except OSError as problem:
            raise making.refused(specs[0]["device"], problem) from problem
        self._forget_guests(resources)  # whoever had these addresses before, by whatever way
        return made

    def _forget_guests(self, resources: Sequence[Resource]) -> None:
        """Drop the host's neighbour entries of guests, which nobody behind a new device answers.

        The kernel believes an entry for up to a minute, and asks its old MAC address thrice before
        it asks everybody. It is a help, no promise: what cannot be dropped becomes stale.
        """
        with contextlib.suppress(OSError):
            self.links.forget_neighbours(
                (tap_spec(row)["master"], address)
                for row in resources
                for address in guest_addresses(tap_spec(row).get("guard"))
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
        if named_again(self.links, row.ifindex, row.mark, row.key) is None:
            return False
        _making().filters.put_back(self.links, row, master=master, spec=guard)
        return True

    def limit(self, resources: Sequence[Resource]) -> None:
        """Hold devices to the limits of their rows (:func:`hvtx.drivers.tap.filters.limit`)."""
        for row in resources:
            if named_again(self.links, row.ifindex, row.mark, row.key) is not None:
                _making().filters.limit(row)

    def set_traits(self, row: Resource, wanted: WantedSettings, traits: LinkSettingsSocket) -> None:
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
        from hvtx.drivers.tap.removal import in_threads
        from hvtx.drivers.tap.standing import devices_above

        outcomes: dict[int, Outcome] = {}
        try:
            with devices_above(self.links) as above, _sockets() as sockets:

                def one(row: Resource) -> None:
                    outcomes[row.id] = self._release(row, above, sockets)

                in_threads(one, resources)
        except (OSError, DumpInterrupted) as problem:
            kept = Outcome(False, "observe-failed", f"the links could not be listed: {problem}")
            return {row.id: kept for row in resources} | outcomes
        self._forget_guests([row for row in resources if outcomes[row.id].gone])
        for master in {spec["master"] for spec in map(tap_spec, resources) if "master" in spec}:
            self.links.get(ifindex=master)  # its shown carrier follows now, not a second later
        self._name_holders(resources, outcomes)
        return outcomes

    def _release(self, row: Resource, above: Above, sockets: list[Links]) -> Outcome:
        from hvtx.drivers.tap.removal import release_held, release_one

        try:
            with _socket(sockets) as links:
                grip = self._attached_taps.pop(row.id, None)
                if grip is None:
                    return release_one(row, links, above)
                return release_held(row, links, above, *grip)
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


@contextlib.contextmanager
def _sockets() -> Iterator[list[Links]]:
    """Sockets that no thread uses at the moment; all are closed in the end."""
    spare: list[Links] = []
    try:
        yield spare
    finally:
        for links in spare:
            links.close()


@contextlib.contextmanager
def _socket(spare: list[Links]) -> Iterator[Links]:
    """A socket for the calling thread alone; one that failed is not used again."""
    try:
        links = spare.pop()
    except IndexError:
        links = Links()
    try:
        yield links
    except BaseException:
        links.close()
        raise
    spare.append(links)


def _making() -> Any:
    from hvtx.drivers.tap import making  # 1 ms that only a start has to pay

    return making


@contextlib.contextmanager
def _spare_descriptors() -> Iterator[None]:
    """Keep some descriptors back: with all of them on devices nothing else could be released."""
    with contextlib.ExitStack() as spare:
        with contextlib.suppress(OSError):
            for _ in range(_SPARE):
                spare.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        yield
