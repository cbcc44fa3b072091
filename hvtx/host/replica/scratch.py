"""The scratch namespace: made in a thread of its own, asked, and gone with that thread.

:func:`look` reads the host, :func:`within` makes it again and lets questions be asked of it. What
could not be carried is in :attr:`Scratch.lacks`: whoever asks has to take it for unknown.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress

from hvtx.errors import HostRefused
from hvtx.host import network_namespace, xfrm
from hvtx.host.netlink import Channel, forbidden
from hvtx.host.replica import (
    copying,
    frames,
    legacy,
    making,
    memory,
    ruleset,
    sameness,
    topology,
    trace,
)
from hvtx.host.replica.frames import Asked, Packet, Told
from hvtx.host.replica.ruleset import Place, Ruleset
from hvtx.host.replica.topology import Device, Topology
from hvtx.host.xfrm import Ipsec
from hvtx.model.typed import NamedTuple, TypeVar

T = TypeVar("T")
_SECONDS = 20.0  # for all of it; a small host takes a fiftieth
_CHANCES = 40
_ROUNDS = 400  # of reading what one frame led to
_LONGEST = 70000
WORLD_MAC = bytes.fromhex("020000005e01")  # of everybody beyond the host


class Unavailable(Exception):
    """No scratch can be made here; ``hint`` says what would help."""

    def __init__(self, words: str, hint: str) -> None:
        """Say why."""
        super().__init__(words)
        self.hint = hint


class Picture(NamedTuple):
    """What was read of the host."""

    topology: Topology
    ruleset: Ruleset
    legacy: Mapping[int, str]  # what iptables-legacy-save prints, by family
    lacks: tuple[str, ...]
    listening: frozenset[tuple[str, str, int]] = frozenset()  # protocol, address, port
    ipsec: Ipsec = Ipsec()

    def plus(
        self,
        devices: Iterable[Device],
        addresses: Iterable[bytes] = (),
        routes: Iterable[bytes] = (),
        settings: Mapping[str, str] | None = None,
    ) -> Picture:
        """The same with more, that only the scratch has."""
        known, added = self.topology, list(devices)
        made = sorted((*known.devices, *added), key=lambda d: d.kind != "bridge")
        more = known._replace(
            devices=made,
            addresses=(*known.addresses, *addresses),
            routes=(*known.routes, *routes),
            settings={**known.settings, **(settings or {})},
            invented=known.invented | {device.ifindex for device in added},
        )
        return self._replace(topology=more)

    def addresses(self) -> list[tuple[str, bytes, int]]:
        """Device, address and prefix length of each address that is of the whole world."""
        names = {device.ifindex: device.name for device in self.topology.devices}
        read = (topology.address_of(body) for body in self.topology.addresses)
        return [(names[index], address, length) for index, address, length, world in read
                if world and index in names]  # fmt: skip

    def device(self, name: str) -> Device | None:
        """A device by its name."""
        return next((d for d in self.topology.devices if d.name == name), None)


def look(ports: Collection[str] = ()) -> Picture:
    """Read the host; ``ports`` are devices that must be there.

    Raises OSError, HvtxError, DumpInterrupted.
    """
    from hvtx.host.listeners import listening

    texts, lacks = legacy.read()
    return Picture(topology.read(ports), ruleset.read(), texts, lacks, listening()[0], xfrm.read())


def within(
    picture: Picture, ask: Callable[[Scratch], T], furnish: Callable[[], None] | None = None
) -> T:
    """What ``ask`` says of a scratch that is as ``picture``; ``furnish`` adds to it before.

    Both run in the scratch. Raises Unavailable where none can be made or it takes too long, and
    what they raise.
    """
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            _enter()
            scratch = Scratch(picture)
            try:
                scratch.build(furnish)
                found.append(ask(scratch))
            finally:
                scratch.close()
        except BaseException as problem:  # noqa: BLE001  it is raised where it was asked
            failed.append(problem)

    thread = threading.Thread(target=run, name="replica", daemon=True)
    try:
        thread.start()
    except (RuntimeError, MemoryError) as problem:
        words = f"no thread can be made to try it in: {problem}"
        raise Unavailable(words, "raise the limit of tasks, or free memory") from problem
    thread.join(_SECONDS)
    if thread.is_alive():
        raise Unavailable("it took too long to try", "try again when the host is less busy")
    if failed:
        raise failed[0]
    return found[0]


def _enter() -> None:
    """Give this thread a network namespace of its own."""
    try:
        network_namespace.enter_new()
    except OSError as problem:
        hint = (
            "run it as root with CAP_SYS_ADMIN, and not under RestrictNamespaces= or a seccomp"
            " filter"
        )
        if not forbidden(problem):
            hint = "see the limit user.max_net_namespaces, and the kernel's log"
        code = os.strerror(problem.errno or 0)
        words = f"no network namespace can be made to try it in: {code}"
        raise Unavailable(words, hint) from problem


class Owner(NamedTuple):
    """Who answers at a far end: a guest's device, MAC address and addresses."""

    device: str
    mac: bytes
    addresses: tuple[bytes, ...]


class Scratch:
    """The replica, from within."""

    def __init__(self, picture: Picture) -> None:
        """Of that picture, still empty."""
        self.picture = picture
        self.lacks: list[str] = list(picture.lacks)
        self.copy = Ruleset()  # as the scratch has it, for its handles
        self.route: Channel
        self.patience = 0.0  # seconds of silence after which nothing more is expected
        self.crooked = False  # devices, routes or settings are not all as the host has them
        self.doubts: frozenset[tuple[Place, int]] = frozenset()  # rules that do what nobody knows
        self.legacy: Mapping[int, legacy.Written] = {}
        self._heard: list[bytes] = []  # what was traced since the last frame that was sent
        self._all: list[bytes] = []  # and since a try began
        self._owners: dict[str, Owner] = {}
        self._open = ExitStack()
        self._number = 40000
        self._deadline = time.monotonic() + _SECONDS - 1

    def close(self) -> None:
        """Close what holds the namespace."""
        self._open.close()

    def build(self, furnish: Callable[[], None] | None) -> None:
        """Make everything. Raises OSError, HvtxError, Unavailable."""
        known = self.picture.topology
        try:
            self._maker = making.Maker()
            self._open.callback(self._maker.close)
            self._maker.make(known)
            self.lacks += self._maker.lacks
            self.crooked = bool(self._maker.lacks)
            if not self._maker.ends:
                why = "; ".join(self._maker.lacks[:1]) or "the host has no device"
                raise Unavailable(f"there is nothing to send from: {why}", "see the check tun")
        except OSError as problem:
            raise Unavailable(
                f"no copy can be made: {problem}", "see the kernel's log"
            ) from problem
        self.route = Channel(0)
        self._open.callback(self.route.close)
        names = {device.name for device in known.devices}
        known_rules = self.picture.ruleset
        copied = copying.write(known_rules, names)
        self.lacks += copied.lacks
        self.copy = ruleset.read()
        self.lacks += sameness.differences(known_rules, self.copy, names, copied)
        numbers = ruleset.handles(known_rules, self.copy) if copied.doubts else {}
        self.doubts = frozenset((where, number) for (where, number), old in numbers.items()
                                if (where, old) in copied.doubts)  # fmt: skip
        self.legacy, lacks = legacy.write(self.picture.legacy)
        self.lacks += lacks
        if self.picture.ipsec.decides:
            self.lacks += xfrm.write(self.picture.ipsec)
        if furnish is not None:
            furnish()
        self._listen()
        self._epoll = select.epoll()
        self._open.callback(self._epoll.close)
        self._device = {descriptor: name for name, descriptor in self._maker.ends.items()}
        self._ether = {device.name: device.ether for device in known.devices}
        for descriptor in self._device:
            self._epoll.register(descriptor, select.EPOLLIN)
        self._pump()

    def _listen(self) -> None:
        from hvtx.host import libnftables

        ends = sorted(self._maker.ends)
        try:
            libnftables.run(trace.rules(ends))
        except HostRefused:  # a kernel without chains of devices, or of ARP
            with suppress(HostRefused):
                libnftables.run(trace.rules(ends, ()))
            with suppress(HostRefused):
                libnftables.run(trace.rules((), ("arp",)))
            libnftables.run(trace.rules((), ("inet", "bridge")))
        self._listener = trace.Listener()
        self._open.callback(self._listener.close)

    # -- who is where ----------------------------------------------------------------------------

    def belongs(self, owner: Owner) -> None:
        """From now on ``owner`` answers at its device, and nobody else does."""
        self._owners[owner.device] = owner

    def owner_of(self, address: bytes) -> Owner | None:
        """Which guest has an address."""
        return next((o for o in self._owners.values() if address in o.addresses), None)

    @property
    def worlds(self) -> list[str]:
        """The far ends that are nobody's of ours."""
        return [name for name in self._maker.ends if name not in self._owners]

    def is_world(self, device: str) -> bool:
        """Whether that is no guest's device."""
        return device in self._maker.ends and device not in self._owners

    def ether(self, device: str) -> bool:
        """Whether a device carries frames."""
        return self._ether.get(device, True)

    def number(self) -> int:
        """A number that was not used before here, for ports and the like."""
        self._number += 1
        return self._number

    # -- frames ----------------------------------------------------------------------------------

    def send(self, device: str, data: bytes) -> list[Packet | Told]:
        """Send one frame in at a far end; what arrived at others until all was still."""
        if time.monotonic() > self._deadline:
            raise Unavailable("it took too long to try", "try again when the host is less busy")
        self._listener.heard()
        if (end := self._maker.ends.get(device)) is not None:
            with suppress(OSError):  # a device that is down takes nothing
                os.write(end, data)
        return self.settle()

    def steps(self) -> list[trace.Step]:
        """What was traced since the last frame that was sent."""
        return trace.steps(self._heard)

    def begin(self) -> None:
        """A flow is about to be tried."""
        self._all = []

    def met(self) -> list[trace.Step]:
        """What was traced since the flow was begun."""
        return trace.steps(self._all)

    def refresh(self) -> bool:
        """Forget what rules learned of earlier flows; whether they can have learned anything."""
        return memory.forget(self.picture.ruleset, self.picture.legacy)

    def chances(self) -> int:
        """How often a flow is tried again: a packet that is lost by chance is sent again."""
        lossy = memory.by_chance(self.picture.ruleset, self.picture.legacy)
        return _CHANCES if lossy else 0

    def settle(self) -> list[Packet | Told]:
        """What arrives now."""
        found = self._pump()
        self._heard = self._listener.heard()
        self._all += self._heard
        return found

    def _pump(self) -> list[Packet | Told]:
        found: list[Packet | Told] = []
        answered: set[tuple[bytes, bytes]] = set()
        for _ in range(_ROUNDS):
            ready = self._epoll.poll(0) or (self.patience and self._epoll.poll(self.patience))
            if not ready:
                break
            for descriptor, _ in ready:
                for seen in self._read(descriptor):
                    if isinstance(seen, Asked):
                        self._answer(seen, answered)
                    else:
                        found.append(seen)
        return found

    def _read(self, descriptor: int) -> list[Packet | Asked | Told]:
        found: list[Packet | Asked | Told] = []
        name = self._device[descriptor]
        for _ in range(_ROUNDS):
            try:
                data = os.read(descriptor, _LONGEST)
            except OSError:
                return found
            seen = frames.read(name, data, ether=self._ether[name])
            owner = self._owners.get(name)
            if isinstance(seen, Packet) and owner is not None and seen.to_mac != owner.mac:
                continue  # it was flooded, and is for somebody else
            if seen is not None:
                found.append(seen)
        return found

    def _answer(self, asked: Asked, answered: set[tuple[bytes, bytes]]) -> None:
        """Say who has an address: its guest, or beyond the host anybody, once."""
        if not any(asked.source) or (asked.address, asked.mac) in answered:
            return
        owner = self._owners.get(asked.device)
        if owner is not None and asked.address not in owner.addresses:
            return
        answered.add((asked.address, asked.mac))
        mac = WORLD_MAC if owner is None else owner.mac
        with suppress(OSError):
            os.write(self._maker.ends[asked.device], frames.tells(mac, asked))

    def neighbour(self, owner: Owner, address: bytes) -> bytes | None:
        """The MAC address that an owner is told of ``address``; None if nobody tells."""
        own = next(a for a in owner.addresses if len(a) == len(address))
        seen = self.send(owner.device, frames.asks(owner.mac, own, address))
        return next((told.mac for told in seen if isinstance(told, Told)
                     and (told.device, told.address) == (owner.device, address)), None)  # fmt: skip

    def forget_neighbours(self) -> None:
        """Have the scratch ask again for every MAC address."""
        making.forget_neighbours(self.route)

    def packets(self, seen: Sequence[Packet | Told]) -> list[Packet]:
        """Only the packets."""
        return [one for one in seen if isinstance(one, Packet)]
