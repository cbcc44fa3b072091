"""Host ports that a VM publishes: refused where they are taken, held while it starts.

Taken is a port that a program has, that a rule of others translates, or that another installation
of hvtx on this host publishes: whose chain comes first would get the packets, so that a second
one's start would cut a live VM off. No lock spans installations. A port is held before anything is
made, and of two that publish it at once the kernel gives it to one; where it could not be held it
is looked for before it is published and once more after: at least one takes it back, and both may.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from hvtx.engine import notice
from hvtx.engine.registry import FIREWALLS
from hvtx.engine.runtime import Runtime
from hvtx.errors import Conflict, HvtxError
from hvtx.host.netlink import DumpInterrupted
from hvtx.host.ports import refuse_taken_beside, refuse_taken_port
from hvtx.model.typed import TYPE_CHECKING
from hvtx.model.vm import Publish

if TYPE_CHECKING:
    from hvtx.drivers.portholder import Held


class Peers:
    """Whose rules may stand in the way of a port that is published: asked anew each time."""

    def __init__(self, runtime: Runtime) -> None:
        """For who publishes ports by the drivers of this run; nothing is asked yet."""
        self._drivers = runtime.drivers
        self._installation = runtime.installation

    def others(self) -> frozenset[str]:
        """Other installations of hvtx on this host; one short dump. Contended, NotPermitted."""
        return self._drivers.of("nftables").others()

    def may_translate(self) -> bool:
        """Whether somebody may give packets a destination; also where that cannot be told."""
        try:
            return self._drivers.of("nftables").may_translate()
        except (HvtxError, OSError, DumpInterrupted):
            return True  # it may be so: the closer look says why it cannot be told

    def refuse_published(self, ports: Sequence[Publish]) -> None:
        """Raise Conflict if another installation publishes one of ``ports``: all rules are read."""
        from hvtx.host.xtnames import legacy_tables
        from hvtx.planner.peer_ports import published_by_others

        for backend in FIREWALLS:
            if backend == "iptables" and not legacy_tables():
                continue
            entries = self._drivers.firewall(backend).observe()
            for port, installation in published_by_others(entries, self._installation):
                mine = next((own for own in ports if own.collides(port)), None)
                if mine is not None:
                    raise Conflict(
                        f"port {mine.host_port}/{mine.protocol} is published by another"
                        f" installation of hvtx on this host ({installation})",
                        hint=f"choose another host port than {mine.host_port}, or release it there",
                    )

    def addresses(self) -> set[str]:
        """Every address that a device of this host has."""
        links = self._drivers.of("tap").links
        return {one.address.partition("/")[0] for one in links.addresses()}


def refuse_ports(
    peers: Peers,
    ports: Sequence[Publish],
    families: Collection[int],
    container: str | None = None,
    own: Sequence[Publish] | None = None,
) -> None:
    """Raise Conflict for a port that a program here or another installation has.

    And for one that a rule of others translates in one of ``families`` (4, 6). Told is one that is
    to be published on an address which no device of this host has. Without ``families``, for a VM
    that starts at once, both are left to :func:`holding_ports`.

    Ports of a ``container`` are not held: podman binds to them itself once the plugin has ended,
    and listens on them while it asks for another network, or for the same one anew.

    ``own``: what a VM holds that is to be stopped, and started with ``ports``: nothing is told.
    """
    fresh, wider = _beside(ports, own or ())
    with _naming_installations(peers, ports):
        away = [port for port in fresh if not refuse_taken_port(port, container)]
        _refuse_wider(peers, wider)
    refuse_others_ports(peers, ports)
    unknown = refuse_translated(peers, ports, families)
    if families and own is None:  # else the start that follows at once tells
        _tell_of_away(away)
        tell_of_unknown(ports, unknown)


def refuse_translated(
    peers: Peers, ports: Sequence[Publish], families: Collection[int]
) -> str | None:
    """Why it is not known whether others translate a port; None if none of them is translated.

    Raises Conflict where one is.
    """
    if not ports or not families or not peers.may_translate():
        return None
    from hvtx.engine import translated_ports

    return translated_ports.refuse(ports, families)


@contextmanager
def holding_ports(
    peers: Peers,
    ports: Sequence[Publish],
    families: Collection[int],
    own: Sequence[Publish] = (),
    *,
    look: bool = True,
) -> Iterator[Held | None]:
    """The same, and from here on no program gets them: sockets are bound to them.

    They are closed at the end, unless a holder has inherited them. None if there are no ports.

    ``own``: what the VM holds now. Ports that collide with it can be bound only when it is let go;
    of these, those that are to be on more addresses are looked for on each.

    Without ``look`` only what programs have is refused: for who holds the ports of several VMs, and
    then looks once for what rules of others do with any of them.
    """
    fresh, wider = _beside(ports, own)
    ports = [*fresh, *(port for port, _ in wider)]
    if not ports:
        yield None
        return
    from hvtx.drivers import portholder

    with _naming_installations(peers, ports):
        held = portholder.hold(fresh)
    try:
        with _naming_installations(peers, ports):
            _refuse_wider(peers, wider)
        unknown: str | None = None
        if look:
            refuse_others_ports(peers, ports)
            unknown = refuse_translated(peers, ports, families)
        _tell_of_away(list(dict.fromkeys(held.away)))
        for port, why in held.unheld.items():
            notice.warning(
                f"port {port.host_port}/{port.protocol} is published but not held, so another "
                f"program can bind it: {why}"
            )
        yield held
        tell_of_unknown(ports, unknown)
    finally:
        held.close()


def _beside(
    ports: Sequence[Publish], own: Sequence[Publish]
) -> tuple[list[Publish], list[tuple[Publish, set[str]]]]:
    """Of ``ports`` those beside a VM's ``own``, and those that are to be wider than these (pure).

    These with the addresses on which the VM has them; the others it has whole, or in part.
    """
    held: dict[tuple[str, int], set[str | None]] = {}
    for port in own:
        held.setdefault((port.protocol, port.host_port), set()).add(port.host_ip)
    fresh, wider = [], []
    for port in ports:
        had = held.get((port.protocol, port.host_port), set())
        if port.host_ip is None and had and None not in had:
            wider.append((port, {address for address in had if address}))
        elif not had & {None, port.host_ip}:
            fresh.append(port)
    return fresh, wider


def _refuse_wider(peers: Peers, wider: Sequence[tuple[Publish, set[str]]]) -> None:
    """Raise Conflict for a port that somebody has on an address on which the VM has it not."""
    if wider:
        here = peers.addresses()
        for port, addresses in wider:
            refuse_taken_beside(port, addresses, here)


@contextmanager
def _naming_installations(peers: Peers, ports: Sequence[Publish]) -> Iterator[None]:
    """Where a program has a port, say so if it holds the port for another installation of hvtx."""
    try:
        yield
    except Conflict:
        refuse_others_ports(peers, ports)
        raise


def tell_of_unknown(ports: Sequence[Publish], why: str | None) -> None:
    """Tell of ports of which it is not known whether others translate them, and why."""
    if why is not None:
        shown = ", ".join(f"{port.host_port}/{port.protocol}" for port in ports)
        notice.warning(
            f"cannot tell whether a rule of another program translates port {shown}: {why}"
        )


def _tell_of_away(away: Sequence[Publish]) -> None:
    for port in away:
        notice.warning(
            f"no device of this host has {port.host_ip}: port {port.host_port}/{port.protocol}"
            " is not reached there until one has"
        )


def refuse_others_ports(peers: Peers, ports: Sequence[Publish]) -> None:
    """Raise Conflict if another installation publishes one of ``ports``; costs one short dump."""
    if ports and peers.others():
        peers.refuse_published(ports)
