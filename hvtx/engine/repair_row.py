"""One damaged object is put back as its row says: a device, its settings, rules."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from hvtx.drivers.address import remove_link_local
from hvtx.drivers.base import BridgesDriver, LinkDriver, PortDriver
from hvtx.engine import loopback, network_service, own_routes
from hvtx.engine.damage import Damage, guard_of, has_guard, wanted_of
from hvtx.engine.effects import made_by
from hvtx.engine.forwarding import ipv6_problem
from hvtx.engine.outdated import make_anew
from hvtx.engine.registry import driver_name
from hvtx.engine.runtime import Runtime
from hvtx.errors import HvtxError
from hvtx.host.link_settings import LinkSettingsSocket
from hvtx.host.links import Links
from hvtx.host.localnet import lead_loopback
from hvtx.model.address import is_ipv6
from hvtx.model.remaking import ANEW
from hvtx.model.resource import PORTS, Kind, Resource, tap_spec
from hvtx.model.typed import TYPE_CHECKING
from hvtx.store import intents

if TYPE_CHECKING:
    from hvtx.store.database import Store


def repair_object(runtime: Runtime, damage: Damage, rows: Sequence[Resource]) -> None:
    """Put back a setting, an address, a bridge or a TAP; ``rows``: all that stand.

    Raises HvtxError, OSError.
    """
    row, seen = damage.row, damage.seen
    if row.network is not None and row.kind in (Kind.FILE, Kind.PROCESS):
        repair_service(runtime, damage, rows)
        return
    if seen.problem is not None:
        raise HvtxError(
            f"{seen.evidence[0]}: it is not ours to change: {damage.fix}", hint=damage.fix
        )
    if row.kind == Kind.ADDRESS and seen.here:
        with closing(Links()) as links:
            own_routes.put_back(row, links)
        return
    if row.kind in (Kind.SYSCTL, Kind.ADDRESS) or (row.kind == Kind.BRIDGE and seen.here is False):
        if row.kind == Kind.BRIDGE:
            note_remaking(runtime.store, [row], begun=True)
        made_by(runtime.drivers.of(driver_name(row)), [row])
        if row.kind == Kind.BRIDGE:
            _settle_loopback(runtime, row)
        return
    if row.kind in PORTS and seen.here is False:
        raise HvtxError(
            f"the device cannot be made again under a running VM: {damage.fix}",
            hint=damage.fix,
        )
    assert seen.link is not None
    driver: LinkDriver
    devices: PortDriver
    if row.kind == Kind.BRIDGE:
        driver = bridges = runtime.drivers.of("bridge")
        ours = _repair_bridge(bridges, row, rows)
    else:
        veth = row.kind == Kind.VETH
        devices = runtime.drivers.of("veth") if veth else runtime.devices()
        driver = devices
        ours = devices.repair(row, master=_master_of(row, rows), guard=guard_of(row, rows))
    if not ours:
        raise HvtxError("it changed while it was inspected", hint="hvtx repair tries again")
    if row.kind == Kind.BRIDGE:
        _settle_loopback(runtime, row)
    _set_again(driver, row, rows)


def note_remaking(store: Store, bridges: Sequence[Resource], *, begun: bool) -> None:
    """Note of bridges that they are being made anew, or that all is there again.

    Without it, one that is made and has no mark yet would be taken for another's.
    """
    with store.transaction() as sql:
        for row in bridges:
            intents.amend_observed(sql, row.id, {ANEW: True if begun else None})


def repair_service(runtime: Runtime, damage: Damage, rows: Sequence[Resource]) -> None:
    """Start a network's dnsmasq again, or write what it reads. Raises HvtxError."""
    row, seen = damage.row, damage.seen
    if seen.problem is not None:
        raise HvtxError(f"{seen.evidence[0]}: it is not ours to change", hint=damage.fix)
    if row.kind == Kind.PROCESS:
        # one that lives has joined groups of a device that is gone
        network_service.renew(runtime, row, always=not network_service.is_dead(row))
        return
    made_by(runtime.drivers.of(driver_name(row)), [row])
    if not row.is_reservation:  # who was started in the directory that is gone reads none
        for other in rows:
            if other.is_service and other.network == row.network:
                network_service.renew(runtime, other, always=True)


def _settle_loopback(runtime: Runtime, row: Resource) -> None:
    """Let 127.0.0.1 lead to a bridge's guests as what is on record now needs it; see `loopback`."""
    runtime.lock("all", "loopback")
    try:
        lead_loopback(row.key, on=loopback.is_needed(runtime, row.key, row.network))
    finally:
        runtime.unlock("all", "loopback")


def _repair_bridge(driver: BridgesDriver, row: Resource, rows: Sequence[Resource]) -> bool:
    if any(map(is_ipv6, row.addresses)) and (off := ipv6_problem()):
        raise off
    return driver.repair(row, guarded=has_guard(row, rows))


def _master_of(row: Resource, rows: Sequence[Resource]) -> int:
    """The index of a TAP's bridge, which may have been made anew since."""
    bridges = (r.ifindex for r in rows if r.kind == Kind.BRIDGE and r.key == row.bridge)
    return next(bridges, tap_spec(row)["master"])


def _set_again(driver: LinkDriver, row: Resource, rows: Sequence[Resource]) -> None:
    """Give a device the settings that others changed; link-local addresses of its own go."""
    with closing(LinkSettingsSocket()) as traits:
        wanted = wanted_of(row, rows, traits)
        driver.set_traits(row, wanted, traits)
    if wanted.silent:
        remove_link_local(row.ifindex, row.addresses)


def repair_rules(runtime: Runtime, damage: Damage) -> None:
    """Put back what a firewall row stands for, and take away copies of it. Raises HvtxError."""
    row = damage.row
    driver = runtime.firewall(row.backend)
    if damage.copies and not (left := driver.remove_copies(row)).gone:
        raise HvtxError(left.message)
    make_anew(driver, runtime.store, row)
