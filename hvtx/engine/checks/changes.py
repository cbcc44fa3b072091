"""Checks of what other programs changed, or may change, of hvtx's objects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from hvtx.engine import passages
from hvtx.engine.damage import Damage, look_now
from hvtx.engine.finding import AS_ROOT, Finding
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import all_networks
from hvtx.model.mark import FAMILY
from hvtx.model.resource import Kind


def check_damage(runtime: Runtime) -> Iterator[Finding]:
    """What others flushed or changed under networks and running VMs."""
    from hvtx.engine.leftovers import stuck
    from hvtx.engine.snapshot import take_snapshot

    if runtime.store.missing or runtime.refused is not None:
        return
    snapshot = take_snapshot(runtime)
    damages, strange, unseen = look_now(runtime, snapshot)
    found = [d for d in damages if d.row.kind != Kind.SYSCTL and not _is_told_apart(d)]
    for damage in found:
        yield Finding(
            "damage", "warning" if damage.soft or damage.harmless else "error",
            f"{damage.row.kind} {damage.row.key}: {damage.missing}",
            damage.seen.evidence, damage.fix,
        )  # fmt: skip
    for one in strange:
        level = "error" if one.stops else "warning"
        yield Finding("damage", level, f"{one.place}: {one.words}", (), one.fix)
    for why, rows in unseen.items():
        yield Finding(
            "damage", "warning", f"{', '.join(rows)} could not be inspected", (why,), AS_ROOT
        )
    passing, lacking = _passes(runtime)
    for words in passing:
        yield Finding("damage", "error", words, (), "hvtx repair")
    for words in lacking:  # where that stops a flow, the check `forward` has the error
        yield Finding("damage", "warning", words, (), "hvtx repair")
    left = stuck(snapshot)
    for remains in left:
        words = f"the remains of {remains.whose} cannot be released"
        yield Finding("damage", "error", words, remains.words, remains.hint)
    if not found and not strange and not unseen and not passing and not lacking and not left:
        yield Finding("damage", "ok", "all recorded resources of running VMs and networks exist")


def _is_told_apart(damage: Damage) -> bool:
    """Whether it is a passage's rules that are gone: they may not be needed any more."""
    return damage.row.role == passages.WHAT and damage.seen.problem is None


def _passes(runtime: Runtime) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What of the accepts is not as the host's filters and devices want it, and what is missing."""
    scope = all_networks(runtime)
    found = passages.change(scope)
    if not any(network.firewall == "iptables" for network in scope.every):
        return found.words, found.lacks
    from hvtx.engine.forward_accepts import change

    return (*change(scope).words, *found.words), found.lacks


def check_watchers(runtime: Runtime) -> Iterator[Finding]:
    """Managers of networks that have taken up devices that they did not make."""
    from hvtx.host.links import Links
    from hvtx.host.network_managers import NETWORKD, managers
    from hvtx.planner import network_managers

    with closing(Links()) as links:
        ours = [link for link in links.all() if (link.alias or "").startswith(FAMILY)]
    found = managers([(link.ifindex, link.name) for link in ours], network_managers.kept_files())
    bridges = [link.name for link in ours if link.kind == "bridge"]
    for manager in found:
        if manager.unknown is not None:
            yield Finding(
                "company", "warning", f"cannot tell which devices {manager.name} manages",
                (manager.unknown,), "run hvtx as root, where nmcli answers",
            )  # fmt: skip
        if not manager.devices:
            continue
        if manager.name == NETWORKD:
            harm = "it removes ports and addresses from bridges when it starts"
            fix = network_managers.networkd_fix(manager.devices, bridges, manager.files)
        else:
            harm = "its tools take them down or remove them"
            fix = network_managers.network_manager_fix(
                (managed.device for managed in manager.devices), bridges, manager.files
            )
        yield Finding(
            "company", "warning", f"{manager.name} manages devices of hvtx: {harm}",
            tuple(f"{managed.device}: {managed.by}" for managed in manager.devices), fix,
        )  # fmt: skip
    if not any(manager.devices or manager.unknown for manager in found):
        yield Finding("company", "ok", "no network manager manages devices of hvtx")
