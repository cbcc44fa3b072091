"""A TAP device in a container's namespace, for a VM there: one wire with the veth peer.

It carries the pair's mark and is nobody's row. It goes with the pair where its namespace is found
and nobody holds it, and with the namespace at the latest. One that an earlier ADD in the same
namespace left, whose pair is gone, and that nobody holds, is made anew: attaching is the lock, as
of any TAP.
"""

from __future__ import annotations

import errno
import os
from contextlib import closing, suppress
from functools import partial

from hvtx.errors import Conflict, HvtxError
from hvtx.host import failpoint, network_namespace, nsid, redirect, tun
from hvtx.host.links import Links
from hvtx.model.container import InnerTap, VethSpec
from hvtx.model.mark import Mark, parse_mark
from hvtx.model.resource import Link


def make(spec: VethSpec, tap: InnerTap, mark: str) -> str:
    """Make it, in a thread that is inside the namespace; returns its MAC. Raises OSError, Conflict.

    The kernel chooses its address, which no frame carries: its VM has the peer's.
    """
    with closing(Links()) as links:
        _take_away(spec, tap["name"], mark, links)
        descriptor = tun.open_device()
        try:
            tun.create(descriptor, tap["name"], 0)  # the kernel chooses its index
            own, peer = links.get(name=tap["name"]), links.get(name=spec["peer"])
            if own is None or peer is None:
                raise OSError(errno.ENODEV, f"{tap['name']} or {spec['peer']} is gone")
            links.change(own.ifindex, alias=mark, mtu=spec["mtu"], up=True, quiet6=True)
            if tap["owner"] is not None:
                tun.set_owner(descriptor, tap["owner"])
            if tap["group"] is not None:
                tun.set_group(descriptor, tap["group"])
            redirect.join(own.ifindex, peer.ifindex, links)
            failpoint.reach("joined:veth")
            tun.set_persistent(descriptor, True)
            return own.mac
        finally:
            os.close(descriptor)


def leave(spec: VethSpec, tap: InnerTap, mark: str) -> None:
    """Remove it, its pair being gone, if the namespace at the path is still that of ADD.

    What nobody can find or somebody holds open stays there: it needs nothing of this host.
    """
    with (
        suppress(OSError, HvtxError),
        network_namespace.opened(spec["netns"]) as namespace,
        nsid.ids() as ids,
    ):
        if ids.of(namespace) == spec["nsid"]:
            network_namespace.inside(namespace, partial(_leave, tap["name"], mark))


def _leave(name: str, mark: str) -> None:
    """In a thread that is inside. Raises OSError: EBUSY while a process holds it."""
    with closing(Links()) as links:
        seen = links.get(name=name)
    if seen is not None and seen.kind == "tun" and seen.alias == mark:
        _end(seen)


def _take_away(spec: VethSpec, name: str, mark: str, links: Links) -> None:
    """Remove an earlier one of ours of this name. Raises OSError, Conflict for another's."""
    seen = links.get(name=name)
    if seen is None:
        return
    if not (seen.kind == "tun" and _same_installation(seen.alias, mark)):
        raise Conflict(
            f"the network namespace {spec['netns']} has an interface {name} already",
            hint="remove it there, or choose another name (TC_REDIRECT_TAP_NAME)",
        )
    beside = [link.name for link in links.all() if link.kind == "veth" and link.alias == seen.alias]
    if beside:
        raise Conflict(
            f"{name} in the network namespace {spec['netns']} is the TAP device of {beside[0]}",
            hint="choose another name (TC_REDIRECT_TAP_NAME)",
        )
    try:
        _end(seen)
    except OSError as problem:
        if problem.errno != errno.EBUSY:
            raise
        raise Conflict(
            f"{name} in the network namespace {spec['netns']} is held open by some process",
            hint="end the VM that has it first, or choose another name (TC_REDIRECT_TAP_NAME)",
        ) from problem


def _end(seen: Link) -> None:
    """Remove a TAP device that nobody holds. Raises OSError: EBUSY where somebody does."""
    descriptor = tun.open_device()
    try:
        tun.attach(descriptor, seen.name, seen.tun_flags)
        tun.set_persistent(descriptor, False)
    finally:
        os.close(descriptor)


def _same_installation(alias: str | None, mark: str) -> bool:
    """Whether a device carries a mark of the installation that ``mark`` is of (pure)."""
    seen, own = parse_mark(alias or ""), parse_mark(mark)
    if not isinstance(seen, Mark) or not isinstance(own, Mark):
        return False
    return seen.installation == own.installation
