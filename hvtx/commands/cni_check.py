"""CHECK of the container network interface: what of an attachment is missing or was changed.

It looks as `repair` does, and inside the container's namespace besides; it changes nothing. What
hurts no container is a warning, as of `doctor`: a runtime takes a CHECK that fails for the
container's end.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from hvtx.drivers import netns
from hvtx.engine import attachments, damage, notice, ownrules
from hvtx.engine.damage import Damage
from hvtx.engine.loopback import bridges_in_need
from hvtx.engine.runtime import Runtime
from hvtx.engine.snapshot import take_snapshot
from hvtx.model.address import family_of
from hvtx.model.attachment import AttachmentRequest, Missing
from hvtx.model.container import has_default, inner_tap, namespace_id, veth_spec
from hvtx.model.plan import Snapshot
from hvtx.model.resource import Kind, Resource, State
from hvtx.model.ruleset import Difference
from hvtx.model.vm import Liveness, Vm

# Others' commands change what all containers of a network have, and a look is not one moment: what
# is damage is found at each of some looks.
_LOOKS, _PAUSE = 3, 0.2  # seconds


def check(runtime: Runtime, request: AttachmentRequest) -> tuple[Missing, ...]:
    """Everything that hurts and is not as ADD made it, with the command that puts it back.

    Raises Refused where nothing may be concluded, NotPermitted.
    """
    if runtime.refused is not None:
        raise runtime.refused
    vm = attachments.find(runtime, request.key)
    what = f"interface {request.key.ifname} of container {request.key.container}"
    snapshot = take_snapshot(runtime) if vm is not None else None
    if vm is None or snapshot is None or vm.id not in snapshot.vms:  # or was released meanwhile
        return (Missing(f"{what} is not attached", "the runtime has to ADD it"),)
    anew = f"hvtx vm rm {vm.name} --force; then the runtime has to ADD it again"
    rows = [row for row in snapshot.rows if row.vm == vm.id and row.state == State.COMMITTED]
    pair = next((row for row in rows if row.kind == Kind.VETH), None)
    if pair is None or snapshot.vms[vm.id].liveness is Liveness.DEAD:
        told = snapshot.vms[vm.id].evidence
        evidence = "; ".join(line for line in told if vm.attachment and line != vm.attachment.words)
        return (Missing(f"{what} is not attached any more: {evidence}", anew),)
    damages = _damages(snapshot, vm, ownrules.look(runtime))
    for _ in range(_LOOKS - 1):
        hurting = {one.row.id for one in damages if one.hurts}
        if not hurting:
            break
        time.sleep(_PAUSE)
        snapshot = take_snapshot(runtime)
        if vm.id not in snapshot.vms:
            return (Missing(f"{what} is not attached", "the runtime has to ADD it"),)
        again = _damages(snapshot, vm, ownrules.look(runtime))
        damages = [one for one in again if one.row.id in hurting or not one.hurts]
    return (*_on_host(damages), *_inside(request, rows, pair, anew))


def _damages(snapshot: Snapshot, vm: Vm, differences: Sequence[Difference]) -> list[Damage]:
    """What of the attachment, its network and the installation is damaged."""
    networks = {None, *(interface.network for interface in vm.interfaces)}
    own = [
        row
        for row in damage.made_here(snapshot)
        if row.vm == vm.id or (row.vm is None and row.network in networks)
    ]
    found = damage.damages_of(
        damage.sight(snapshot, own),
        bridges_in_need(snapshot.rows, snapshot.life.id),
        differences,
    )
    known = {row.id for row in own}
    return [one for one in damage.with_remedies(snapshot, found) if one.row.id in known]


def _on_host(damages: Sequence[Damage]) -> Iterator[Missing]:
    """What hurts; the rest is a warning: a runtime would end a container that lacks nothing."""
    for one in damages:
        words = f"{one.row.kind} {one.row.key}: {one.missing}"
        if one.hurts:
            yield Missing(words, one.fix)
        else:
            notice.warning(f"{words}; {one.fix}")


def _inside(
    request: AttachmentRequest, rows: list[Resource], pair: Resource, anew: str
) -> Iterator[Missing]:
    """What is not as it was in the container's namespace. Raises NotFound, NotPermitted."""
    numbers = {namespace_id(row) for row in rows if row.kind == Kind.NETNS}
    spec = veth_spec(pair)
    tap = inner_tap(rows)
    seen = netns.look_inside(request.netns, spec["peer"], tap)
    if seen.nsid not in numbers:
        yield Missing(f"{request.netns} is another network namespace than that of ADD", anew)
        return
    name = f"{spec['peer']} in {request.netns}"
    if tap is not None:
        problem = _wrong_with_tap(seen, pair.mark)
        if problem is not None:
            yield Missing(f"the TAP device {tap} in {request.netns} {problem}", anew)
    if seen.link is None:
        yield Missing(f"{name} is gone", anew)
        return
    if seen.link.alias != pair.mark:
        yield Missing(f"{name} is another interface: its alias is {seen.link.alias!r}", anew)
        return
    if seen.link.mac != spec["peer_mac"]:
        yield Missing(f"{name} has the MAC address {seen.link.mac}, not {spec['peer_mac']}", anew)
    if not seen.link.up:
        yield Missing(f"{name} is down", anew)
    for address, _ in spec["peer_addresses"]:
        if address not in seen.addresses:
            yield Missing(f"{name} has lost {address}", anew)
    # One by another device does, since a later plugin may have put it; one that was there before,
    # ADD left to whoever made it.
    for gateway in dict.fromkeys(gateway for _, gateway in spec["peer_addresses"]):
        family = family_of(gateway)
        if family not in seen.worlds and has_default(pair, family):
            yield Missing(f"{request.netns} has no default route by {gateway}", anew)


def _wrong_with_tap(seen: netns.Inside, mark: str) -> str | None:
    """What of the TAP device that a VM in the namespace is to have is not as ADD made it (pure)."""
    tap = seen.tap
    if tap is None:
        return "is gone"
    if tap.kind != "tun" or tap.alias != mark:
        return f"is another interface: its alias is {tap.alias!r}"
    if not tap.up:
        return "is down"
    if seen.link is not None and not seen.joined:
        return f"is not joined to {seen.link.name} any more: a tc filter that redirects is gone"
    return None
