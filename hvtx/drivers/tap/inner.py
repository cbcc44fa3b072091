"""A TAP device in a container's namespace, for a VM there: one wire with the veth peer.

It carries the pair's mark, is nobody's row, and goes with the namespace. One that an earlier ADD in
the same namespace left, whose pair is gone, and that nobody holds, is made anew: attaching is the
lock, as of any TAP.
"""

from __future__ import annotations

import errno
import os
from contextlib import closing

from hvtx.errors import Conflict
from hvtx.host import failpoint, redirect, tun
from hvtx.host.links import Links
from hvtx.model.container import InnerTap, VethSpec
from hvtx.model.mark import Mark, parse_mark


def make(spec: VethSpec, tap: InnerTap, mark: str) -> None:
    """Make it, in a thread that is inside the namespace. Raises OSError, Conflict."""
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
        finally:
            os.close(descriptor)


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
    descriptor = tun.open_device()
    try:
        tun.attach(descriptor, seen.name, seen.tun_flags)
        tun.set_persistent(descriptor, False)
    except OSError as problem:
        if problem.errno != errno.EBUSY:
            raise
        raise Conflict(
            f"{name} in the network namespace {spec['netns']} is held open by some process",
            hint="end the VM that has it first, or choose another name (TC_REDIRECT_TAP_NAME)",
        ) from problem
    finally:
        os.close(descriptor)


def _same_installation(alias: str | None, mark: str) -> bool:
    """Whether a device carries a mark of the installation that ``mark`` is of (pure)."""
    seen, own = parse_mark(alias or ""), parse_mark(mark)
    if not isinstance(seen, Mark) or not isinstance(own, Mark):
        return False
    return seen.installation == own.installation
