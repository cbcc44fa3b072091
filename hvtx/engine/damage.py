"""Detection of damage: hvtx's objects that are missing or were changed. Reads only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import closing

from hvtx.drivers import bridge
from hvtx.drivers.dnsmasq import names_table, serving
from hvtx.drivers.tap import damage as tap_damage
from hvtx.engine import own_routes, ownrules, port_holders
from hvtx.engine.forwarding import tuned
from hvtx.engine.loopback import bridges_in_need
from hvtx.engine.registry import outdated
from hvtx.engine.repaired import Failed
from hvtx.engine.runtime import Runtime
from hvtx.host.link_settings import LinkSettingsSocket
from hvtx.host.links import Links
from hvtx.host.localnet import route_localnet
from hvtx.host.portowner import Owner
from hvtx.host.sysctl import read as read_setting
from hvtx.model.firewall import firewall_spec
from hvtx.model.link_settings import WantedSettings
from hvtx.model.plan import Snapshot
from hvtx.model.remaking import is_remade
from hvtx.model.resource import (
    FIREWALL_KINDS,
    Kind,
    Link,
    Resource,
    State,
    bridge_spec,
    device_spec,
    process_spec,
    sysctl_spec,
    tap_spec,
)
from hvtx.model.ruleset import Difference
from hvtx.model.typed import Any, NamedTuple
from hvtx.model.vm import Liveness
from hvtx.planner import remedy
from hvtx.planner.drift import drift
from hvtx.planner.own_routes import SOFT
from hvtx.planner.ownrules import by_row, told
from hvtx.planner.presence import Presence, index, presence
from hvtx.planner.provision import guards_bridge, port_guard

OPEN = "the host's 127.0.0.1 was reached from it, and no port needs that (route_localnet)"


class Damage(NamedTuple):
    """A row whose object is not as it should be, and what is missing, in words."""

    row: Resource
    missing: str
    seen: Presence
    fix: str = remedy.REPAIR  # as people type it
    unheld: bool = False  # a published port that no socket is bound to
    copies: bool = False  # more of it than one
    harmless: bool = False  # nothing is let through or stopped by it

    @property
    def cuts(self) -> bool:
        """Whether it stops traffic; a port that nobody holds still leads to its guest."""
        return self.missing != port_holders.UNHELD

    @property
    def soft(self) -> bool:
        """Whether guests have all that they are promised without it."""
        return not self.cuts or self.missing.startswith((SOFT, serving.UNLOGGED))

    @property
    def hurts(self) -> bool:
        """Whether a guest lacks something; what is open to it is for the host's administrator."""
        return not (self.soft or self.harmless or self.missing == OPEN)


def look_now(
    runtime: Runtime, snapshot: Snapshot
) -> tuple[list[Damage], list[Difference], dict[str, list[str]]]:
    """What `repair` would find under every network and running VM; changes nothing.

    Then what is somebody else's in our tables; and by the reason, the things of which nothing can
    be said.
    """
    differences = ownrules.look(runtime)
    rows = made_here(snapshot)
    sighted = sight(snapshot, [r for r in rows if r.vm is None or may_run(snapshot, r.vm)])
    loopback = bridges_in_need(snapshot.rows, snapshot.life.id)
    damages = damages_of(sighted, loopback, differences)
    unseen: dict[str, list[str]] = {}
    for item in unseen_of(sighted):
        unseen.setdefault(item.why, []).append(f"{item.kind} {item.key}")
    strange = [difference for difference in differences if difference.row is None]
    strange += ownrules.filters_ahead([row for row, seen in sighted if seen.link and seen.here])
    instead = {one.instead for one in strange}  # told with the command that takes it away
    damages = [damage for damage in damages if damage.row.id not in instead]
    return with_remedies(snapshot, damages), strange, unseen


def with_remedies(snapshot: Snapshot, damages: Sequence[Damage]) -> list[Damage]:
    """Each with what a person does about it."""
    external = {
        row.vm
        for row in snapshot.rows
        if row.kind == Kind.PROCESS and process_spec(row).get("hypervisor") == "external"
    }
    others = port_holders.had_by([d.row for d in damages if d.missing == port_holders.UNHELD])
    found = []
    for damage in damages:
        row = damage.row
        name = snapshot.vms[row.vm].name if row.vm else ""
        if damage.missing == port_holders.UNHELD:
            found.append(_had_by_others(damage, others[row.id]))
            continue
        fix = remedy.remedy(row, damage.seen, name, external=row.vm in external)
        found.append(damage._replace(fix=fix))
    return found


def _had_by_others(damage: Damage, others: Sequence[Owner]) -> Damage:
    """A port that is not held, with who has it instead: `repair` cannot hold it while he does."""
    if not others:
        return damage
    words = f"{port_holders.words_of(others)} has it now"
    seen = damage.seen._replace(evidence=(words, *damage.seen.evidence))
    return damage._replace(seen=seen, fix=port_holders.fix(others))


def made_here(snapshot: Snapshot) -> list[Resource]:
    """What stands on record as made by us, in this life of the host."""
    return [
        row
        for row in snapshot.rows
        if row.state == State.COMMITTED
        and not row.imported  # made by others, who put it as they want it
        and row.life == snapshot.life.id
    ]


def sight(snapshot: Snapshot, rows: Sequence[Resource]) -> list[tuple[Resource, Presence]]:
    """Each row with what was seen of its object."""
    sights = index(snapshot)
    return [(row, presence(row, snapshot, sights)) for row in rows]


def damages_of(
    sighted: Sequence[tuple[Resource, Presence]],
    loopback: Collection[str],
    differences: Sequence[Difference],
) -> list[Damage]:
    """Rows whose object is gone, incomplete or not attached as recorded (reads settings only).

    ``loopback`` are the bridges that lead 127.0.0.1 to guests, ``differences`` those of our tables.
    """
    with closing(Links()) as links, closing(LinkSettingsSocket()) as traits:
        found = _damage_of(sighted, loopback, links, traits)
    return _with_unheld(_with_differences(found, sighted, by_row(differences)), sighted)


def _with_differences(
    found: Sequence[Damage],
    sighted: Sequence[tuple[Resource, Presence]],
    differences: Mapping[int, Sequence[Difference]],
) -> list[Damage]:
    """The damages, in the words of what was seen of their rules; and those that only these tell."""
    known = {damage.row.id: damage for damage in found}
    for row, seen in sighted:
        own = differences.get(row.id, ())
        before = known.get(row.id)
        if not own or seen.here is False:
            continue
        copies, harmless = any(d.copies for d in own), not any(d.stops for d in own)
        if before is None:
            known[row.id] = Damage(row, told(own), seen, copies=copies, harmless=harmless)
        elif not seen.complete or seen.problem is not None:
            what = seen._replace(problem=None)  # what stands in its place is told by itself
            known[row.id] = before._replace(missing=told(own), seen=what, copies=copies)
    return list(known.values())


def _with_unheld(
    found: Sequence[Damage], sighted: Sequence[tuple[Resource, Presence]]
) -> list[Damage]:
    """The damages, with the published ports that no socket is bound to.

    Those of containers are the runtime's to hold (:func:`hvtx.engine.peer_ports.refuse_ports`).
    """
    attached = {row.vm for row, _ in sighted if row.kind == Kind.NETNS}
    bare = {r.id for r in port_holders.unheld(r for r, _ in sighted if r.vm not in attached)}
    known = {damage.row.id for damage in found}
    return [
        *(damage._replace(unheld=damage.row.id in bare) for damage in found),
        *(
            Damage(row, port_holders.UNHELD, seen, unheld=True)
            for row, seen in sighted
            if row.id in bare - known and seen.here is not None
        ),
    ]


def _damage_of(
    sighted: Sequence[tuple[Resource, Presence]],
    loopback: Collection[str],
    links: Links,
    traits: LinkSettingsSocket,
) -> list[Damage]:
    bridges = {row.key: row.ifindex for row, _ in sighted if row.kind == Kind.BRIDGE}
    rows = [row for row, _ in sighted]
    found = []
    for row, seen in sighted:
        missing = _missing(row, seen, bridges, loopback)
        if missing is None and row.kind == Kind.ADDRESS and seen.here:
            missing = own_routes.missing(row, links)
        elif missing is None and seen.link is not None:
            missing = _unguarded(row, rows, links) or _setting(row, rows, traits)
        if missing:
            found.append(Damage(row, missing, seen))
    return found


def unseen_of(sighted: Sequence[tuple[Resource, Presence]]) -> list[Failed]:
    """Rows of which nothing can be said, since the host could not be read, and why."""
    return [
        Failed(str(row.kind), row.key, f"it could not be inspected: {'; '.join(seen.evidence)}")
        for row, seen in sighted
        if seen.here is None and seen.problem is None
    ]


def _missing(
    row: Resource, seen: Presence, bridges: Mapping[str, int], loopback: Collection[str]
) -> str | None:
    if row.kind == Kind.SYSCTL:
        spec = sysctl_spec(row)
        value, wanted = read_setting(spec["path"]), spec["value"]
        gone = value is None and "/conf/" in spec["path"]  # with its device
        return None if gone or value == wanted else f"it was {value}, and {wanted} is needed"
    if seen.problem is not None:
        return f"{seen.problem.value}: {seen.evidence[0]}"
    if seen.here is False:
        return "it was gone"
    if seen.here is None:
        return None
    if is_remade(row):
        return "it was being made anew, and that was cut off"
    if not seen.complete:
        return "a part of it was gone"
    if row.is_service:
        return names_table.missing(row) or serving.unlogged(row)
    if row.kind in FIREWALL_KINDS and outdated(row):
        return "it was made by an earlier version, and lacks rules of this one"
    return _drift(row, seen.link, bridges, loopback) if seen.link is not None else None


def guard_of(row: Resource, rows: Sequence[Resource]) -> dict[str, Any] | None:
    """What a TAP's filter holds its guest to; from other rows where its own is older."""
    if guard := tap_spec(row).get("guard"):
        return guard
    port = next((r for r in rows if r.key == row.key and r.role == "port"), None)
    on = next((r for r in rows if (r.kind, r.key) == (Kind.BRIDGE, row.bridge)), None)
    if port is None or on is None:
        return None
    return port_guard(firewall_spec(port), bridge_spec(on)["mac"], on.addresses)


def has_guard(row: Resource, rows: Sequence[Resource]) -> bool:
    """Whether a bridge should have a filter; an older row does not say, its network's does."""
    spec = bridge_spec(row)
    if "guard" in spec:
        return spec["guard"]
    network = (r for r in rows if r.role == "network" and r.network == row.network)
    return any(guards_bridge(r.backend, nat=firewall_spec(r)["nat"]) for r in network)


def _unguarded(row: Resource, rows: Sequence[Resource], links: Links) -> str | None:
    if row.kind != Kind.BRIDGE:
        guard = guard_of(row, rows)
        return None if guard is None else tap_damage.missing(row, links, guard)
    if has_guard(row, rows) and bridge.unguarded(row, links):
        return "its address filter (which works without nft rules) was missing or replaced"
    if bridge.hidden(row, links):
        return "guests did not reach the host: bridge fdb had not the MAC address of the bridge"
    return None


def wanted_of(
    row: Resource, rows: Sequence[Resource], traits: LinkSettingsSocket
) -> WantedSettings:
    """How a device of ours should be set, where somebody changed that."""
    seen = traits.get(row.ifindex)
    if seen is None:
        return WantedSettings()
    if row.kind == Kind.BRIDGE:
        return drift(seen, bridge=True)
    guard = guard_of(row, rows)
    return drift(seen, bridge=False, apart=guard is not None and bool(guard["apart"]))


def _setting(row: Resource, rows: Sequence[Resource], traits: LinkSettingsSocket) -> str | None:
    return ", ".join(wanted_of(row, rows, traits).words) or None


def _drift(
    row: Resource, link: Link, bridges: Mapping[str, int], loopback: Collection[str]
) -> str | None:
    """What others changed of a device of ours, in words."""
    if link.name != row.key:
        return f"it was renamed to {link.name}"
    if not link.up:
        return "it was down"
    if link.mac != device_spec(row)["mac"]:
        return f"its MAC address was {link.mac}"
    if link.mtu != device_spec(row)["mtu"]:
        return f"its MTU was {link.mtu}"
    if row.kind == Kind.BRIDGE:
        if (untuned := tuned(row, link.name)) is not None:
            return untuned
        leads, should = read_setting(route_localnet(link.name)) == "1", row.key in loopback
        if leads == should:
            return None
        if should:
            return "127.0.0.1 did not reach its guests (route_localnet)"
        return OPEN
    if link.master != bridges.get(row.bridge, tap_spec(row)["master"]):
        return f"it was not a port of {row.bridge}"
    return None


def may_run(snapshot: Snapshot, vm: str) -> bool:
    """Whether a VM may be running: `unknown` is repaired too, since it may well be up."""
    return snapshot.vms[vm].liveness is not Liveness.DEAD
