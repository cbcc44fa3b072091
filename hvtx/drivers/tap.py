"""TAP devices: published by their last call, deleted only by attaching.

Making: the device is made non-persistent (it lives as long as our descriptor), marked, enslaved and
brought up in one message, and only then made persistent. A SIGKILL before that last call removes
it; after it, it is marked.

A persistent device without an owner is open to every local user who may open ``/dev/net/tun``, so
each gets one: its VM's own, or for a VM whose process is not another user's than hvtx, or not
started by hvtx, ``tap_user`` of the settings.

Each has filters of its own that hold the guest to its addresses, and apart from its neighbours
where they are isolated, also when all rules are flushed (:mod:`hvtx.host.tapguard`).

A port is in hairpin mode: where br_netfilter is on, a guest reaches its own published port only so
(the translated frame leaves by the port that it came in by).

Removing: RTM_DELLINK would succeed on a device that a VM holds, and cut the VM. TUNSETIFF with the
device's own flags is the lock instead: EBUSY while a VM holds it, and while we hold it no VM can
attach. On the held device index and mark are checked, then it is made non-persistent and let go.
Every unregistered device waits for RCU (15-19 ms) outside of RTNL, so removals run in threads.

=============  =====================================================================
errno          means
=============  =====================================================================
EBUSY          making: the name or index exists; removing: somebody holds the device
EINVAL         the flags are not the device's: it was changed, look again
ENOENT         /dev/net/tun is missing; ENODEV: no tun in this kernel
EXFULL         the bridge has its 1,023 ports
EPERM          no CAP_NET_ADMIN
=============  =====================================================================
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from hvtx.drivers.base import Host
from hvtx.errors import Conflict, HostRefused, HvtxError, NotPermitted
from hvtx.host import failpoint, openfiles, tun
from hvtx.host.links import Links, silence
from hvtx.host.netlink import DumpInterrupted
from hvtx.host.tun import refusal
from hvtx.model.resource import (
    GONE,
    Address,
    Kind,
    Link,
    Outcome,
    Resource,
    filters_on,
    index_of,
    put_by_others,
    tap_spec,
)

Guard = Callable[[Resource, Links], dict[str, bool]]

_THREADS = 64
_SPARE = 5  # descriptors that holding devices leaves to the rest of a release
_LATE_SECONDS, _PAUSE = 3.0, 0.002


class TapDriver:
    """Makes and removes TAP devices (``TapSpec``)."""

    kinds = frozenset({Kind.TAP})

    def __init__(self, host: Host) -> None:
        """Work in the network namespace of the calling thread."""
        self._host = host
        self._links: Links | None = None
        self._grips: dict[int, tuple[int, Link]] = {}

    @property
    def links(self) -> Links:
        """One rtnetlink socket for the driver's life."""
        if self._links is None:
            self._links = Links()
        return self._links

    def create(self, resources: Sequence[Resource]) -> Mapping[int, dict[str, Any]]:
        """Make the devices; returns ``{"ifindex", "mac", "guarded", "summed"}`` each."""
        from hvtx.host import tapguard  # 1 ms that only a start has to pay

        try:
            with tapguard.program() as program:
                guard = partial(tapguard.guard, program)
                made = {row.id: self._create(row, guard) for row in resources}
        except OSError as problem:
            raise _refused(tap_spec(resources[0])["device"], problem) from problem
        self._forget_guests(resources)  # whoever had these addresses before, by whatever way
        return made

    def _create(self, row: Resource, guard: Guard) -> dict[str, Any]:
        spec = tap_spec(row)
        name = spec["device"]
        try:
            descriptor = tun.open_device()
        except OSError as problem:
            raise _refused(name, problem) from problem
        try:
            tun.create(descriptor, name, spec["ifindex"])
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

    def keep_macs(self, resources: Sequence[Resource]) -> None:
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

    def seize(self, resources: Sequence[Resource]) -> Mapping[int, Outcome]:
        """Hold the devices until :meth:`release` or :meth:`let_go`; nobody can take them meanwhile.

        Returns those that somebody else holds, and those that could not be held. Of what is gone,
        or is not the row's, nothing is held and nothing said: the release tells.
        """
        busy: dict[int, Outcome] = {}
        with _spare_descriptors():
            for row in resources:
                try:
                    found = self._seize(row)
                except (OSError, DumpInterrupted) as problem:
                    words = f"{row.key} could not be held: {problem}"
                    found = Outcome(False, "observe-failed", words)
                if found is not None:
                    busy[row.id] = found
        self._name_holders(resources, busy)
        return busy

    def _seize(self, row: Resource) -> Outcome | None:
        seen = self.links.get(ifindex=tap_spec(row)["ifindex"])
        if seen is None or wrong_mark(row, seen) is not None:
            return None
        found = hold(seen, self.links, partial(wrong_mark, row))
        if not isinstance(found, Outcome):
            self._grips[row.id] = (found, seen)
            return None
        return found if found.reason == "in-use" else None

    def let_go(self) -> None:
        """Let go of what is still held; the devices stay."""
        while self._grips:
            descriptor, seen = self._grips.popitem()[1]
            os.close(descriptor)
            for index in filter(None, (seen.ifindex, seen.master)):
                self.links.get(ifindex=index)  # its shown carrier follows now, not a second later

    def release(self, resources: Sequence[Resource]) -> Mapping[int, Outcome]:
        """Remove the devices by attaching; ``in-use`` names the holder where it can."""
        try:
            own = {index_of(row) for row in resources}
            around = Around(self.links.all(), self.links.addresses(), self.links.filtered(own))
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

    def _release(self, row: Resource, around: Around) -> Outcome:
        try:
            with contextlib.closing(Links()) as links:
                grip = self._grips.pop(row.id, None)
                if grip is None:
                    return release_one(row, links, around)
                return _release_held(row, links, around, *grip)
        except HvtxError as problem:
            return Outcome(False, problem.code, problem.message)
        except (OSError, DumpInterrupted) as problem:
            return Outcome(False, "observe-failed", f"{row.key}: {problem}")
        except Exception as problem:  # noqa: BLE001 - memory, say: the others are to be released
            return Outcome(False, "failed", f"{row.key}: {type(problem).__name__} {problem}")

    def _name_holders(self, resources: Sequence[Resource], outcomes: dict[int, Outcome]) -> None:
        named = [row for row in resources if row.id in outcomes]
        names = {row.key for row in named if outcomes[row.id].reason == "in-use"}
        if not names:
            return
        holders = openfiles.tap_holders(names).found
        for row in named:
            if row.key in names and holders.get(row.key):
                who = ", ".join(f"{h.command} (pid {h.pid})" for h in holders[row.key])
                outcomes[row.id] = Outcome(False, "in-use", f"{row.key} is held open by {who}")


def _guest_addresses(row: Resource) -> list[str]:
    """The addresses of the guest behind a device (pure); none where an older row does not say."""
    told = tap_spec(row).get("guard") or {}
    return [told[family] for family in ("ipv4", "ipv6") if told.get(family)]


@contextlib.contextmanager
def _spare_descriptors() -> Iterator[None]:
    """Keep some descriptors back: with all of them on devices nothing else could be released."""
    with contextlib.ExitStack() as spare:
        with contextlib.suppress(OSError):
            for _ in range(_SPARE):
                spare.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        yield


class Around(NamedTuple):
    """What may stand on a device: all links, all addresses, indexes with traffic control."""

    links: Sequence[Link]
    addresses: Sequence[Address]
    filtered: frozenset[int]


def release_one(row: Resource, links: Links, around: Around) -> Outcome:
    """Remove one device if it is the row's; the whole of the proof is in here."""
    seen = links.get(ifindex=index_of(row))
    if seen is None:
        stranger = links.get(name=row.key)
        if stranger is None or stranger.name != row.key:  # found by an alternative name
            return GONE
        return Outcome(
            False,
            "mark-mismatch",
            f"a device named {row.key} is there, but it is not the recorded one",
        )
    problem = wrong_mark(row, seen) or _kept(row, seen, links, around)
    if problem is not None:
        return problem
    return delete_by_attaching(seen, links, lambda held: wrong_mark(row, held))


def _release_held(
    row: Resource, links: Links, around: Around, descriptor: int, seen: Link
) -> Outcome:
    """Remove a device that was seized, after one more look at it."""
    try:
        held = links.get(ifindex=seen.ifindex)
    except BaseException:
        os.close(descriptor)
        raise
    if held is None:
        return _give_up(descriptor, Outcome(False, "contended", f"{row.key} is gone while held"))
    problem = wrong_mark(row, held) or _kept(row, held, links, around)
    if problem is not None:
        return _give_up(descriptor, problem)
    return let_die(descriptor, held, links)


def _kept(row: Resource, seen: Link, links: Links, around: Around) -> Outcome | None:
    """What of strangers keeps a device of ours, which gets no more addresses of its own."""
    own = row.addresses
    silence(links, seen.ifindex, around.addresses, own)
    return dependents(seen, around, own)


def delete_by_attaching(
    seen: Link, links: Links, objection: Callable[[Link], Outcome | None]
) -> Outcome:
    """Remove the device ``seen`` if nobody holds it and ``objection`` has none once it is held.

    The attach is the lock: EBUSY while another holds the device, and while we hold it nobody else
    can. Raises OSError.
    """
    descriptor = hold(seen, links, objection)
    if isinstance(descriptor, Outcome):
        return descriptor
    return let_die(descriptor, seen, links)


def hold(seen: Link, links: Links, objection: Callable[[Link], Outcome | None]) -> int | Outcome:
    """Attach to a device, which keeps everybody else from it; the descriptor, or why not."""
    descriptor = tun.open_device()
    try:
        failpoint.reach("seen:tap")
        if not _attached(descriptor, seen):
            words = f"{seen.name} is held open by some process"
            return _give_up(descriptor, Outcome(False, "in-use", words))
        failpoint.reach("attached:tap")
        held = links.get(ifindex=seen.ifindex)
        if held is None or held.name != seen.name:
            changed = f"{seen.name} changed while it was looked at"
            return _give_up(descriptor, Outcome(False, "contended", changed))
        problem = objection(held)
        if problem is None and held.queues > 1:
            words = f"{held.name} has another queue that some process holds open"
            problem = Outcome(False, "in-use", words)
        return descriptor if problem is None else _give_up(descriptor, problem)
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(descriptor)
        raise


def _attached(descriptor: int, seen: Link) -> bool:
    """Whether the device could be attached to, for which readers of fdinfo are waited for.

    Whoever reads ``/proc/<pid>/fdinfo`` of a process that ends meanwhile holds its descriptor for
    a moment longer than the process lived. No process has that descriptor, which tells it from use.
    """
    deadline = time.monotonic() + _LATE_SECONDS
    while True:
        try:
            tun.attach(descriptor, seen.name, seen.tun_flags)
        except OSError as refusal:
            if refusal.errno != errno.EBUSY:
                raise
        else:
            return True
        if openfiles.tap_holders({seen.name}).found or time.monotonic() >= deadline:
            return False
        time.sleep(_PAUSE)


def _give_up(descriptor: int, outcome: Outcome) -> Outcome:
    os.close(descriptor)
    return outcome


def let_die(descriptor: int, seen: Link, links: Links) -> Outcome:
    """Remove a device that is held, by letting go of it; closes the descriptor."""
    try:
        tun.set_persistent(descriptor, False)
    finally:
        os.close(descriptor)
    if not _has_gone(seen.ifindex, links):
        return Outcome(False, "contended", f"{seen.name} is still there after its removal")
    return GONE


def _has_gone(ifindex: int, links: Links) -> bool:
    """Whether a device that was let go is gone, or goes within some seconds.

    Whoever reads our ``/proc/<pid>/fdinfo`` holds the descriptor meanwhile, and waits for RTNL to
    do so (tun_chr_show_fdinfo), so that the device goes with the reader's reference and not with
    ours. Seen with 32 removals at a time beside two readers: 40 of 1,200 were up to 52 ms late.
    """
    deadline = time.monotonic() + _LATE_SECONDS
    while links.get(ifindex=ifindex) is not None:
        if time.monotonic() >= deadline:
            return False
        time.sleep(_PAUSE)
    return True


def wrong_mark(row: Resource, seen: Link) -> Outcome | None:
    """Why this link is not the row's, or None if it is."""
    if seen.alias == row.mark and seen.kind == "tun":
        return None
    carried = f"its alias is {seen.alias!r}" if seen.alias else "it has no alias"
    return Outcome(
        False,
        "mark-mismatch",
        f"{seen.name} does not carry the recorded mark {row.mark}: {carried}",
    )


def dependents(seen: Link, around: Around, known: Sequence[str] = ()) -> Outcome | None:
    """Strangers' things that would go with the device; ``known`` addresses are nobody's."""
    upper = [link.name for link in around.links if link.lower == seen.ifindex]
    own = put_by_others(seen.ifindex, around.addresses, known)
    filters = filters_on(seen, around.filtered)
    if not upper and not own and not filters:
        return None
    things = ", ".join([*upper, *own, *filters])
    return Outcome(False, "foreign-dependents", f"others put something on {seen.name}: {things}")


def in_threads(work: Callable[[Resource], None], rows: Sequence[Resource]) -> None:
    """Do ``work``, which raises nothing, for each row.

    Up to 64 at a time: they wait in the kernel, not for the CPU. Where the system gives no more
    threads (memory, a limit of tasks) the calling one, which works too, does what is left.
    """
    waiting = list(rows)

    def worker() -> None:
        while True:
            try:
                row = waiting.pop()
            except IndexError:
                return
            work(row)

    threads = []
    if len(rows) > 1:
        import threading

        with contextlib.suppress(RuntimeError, MemoryError):
            for _ in range(min(_THREADS, len(rows)) - 1):
                thread = threading.Thread(target=worker)
                thread.start()
                threads.append(thread)
    worker()
    for thread in threads:
        thread.join()


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
        return HostRefused(
            f"bridge {bridge} has no port left for {name} (the kernel allows 1,023)",
            hint="put the VM into another network",
        )
    if problem.errno == errno.ENODEV and not problem.filename:
        return HostRefused(
            f"bridge {bridge} of {name} is gone", hint="`hvtx repair` puts networks back"
        )
    return HostRefused(
        f"the kernel refused the TAP device {name}: {problem.strerror}",
        hint="`hvtx doctor` checks this host",
    )
