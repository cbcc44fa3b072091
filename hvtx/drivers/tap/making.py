"""TAP devices are made: some at a time, of which each is marked before any is to outlive us.

A device lives as long as its descriptor until it is told to persist. So of what is made in one go
nothing is left where one of them fails, or this process ends, before all have their marks.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from hvtx.drivers.tap import filters
from hvtx.errors import Conflict, HostRefused, HvtxError, NotPermitted
from hvtx.host import failpoint, inet, new_ports, tun
from hvtx.host.links import Links
from hvtx.host.new_ports import Given, NewPort
from hvtx.host.tun import refusal
from hvtx.model.address import guest_addresses
from hvtx.model.resource import Resource, tap_spec
from hvtx.model.typed import Any
from hvtx.model.vm import no_port_left

_AT_ONCE = 16  # devices: a descriptor each; more in one go would save hardly anything
_FOR_LIMITS = 4  # descriptors: a map, a program, a socket, and the file of a module


def make(
    rows: Sequence[Resource], links: Links, program: int | None, owner: int
) -> dict[int, dict[str, Any]]:
    """Make the devices; returns ``{"ifindex", "mac", "guarded", "summed"}`` each, by row.

    ``program`` is of :func:`filters.program`; ``owner`` may attach to a device that has no other.
    """
    made: dict[int, dict[str, Any]] = {}
    while len(made) < len(rows):
        made |= _make_some(rows[len(made) :], links, program, owner)
    return made


def _make_some(
    rows: Sequence[Resource], links: Links, program: int | None, owner: int
) -> dict[int, dict[str, Any]]:
    """Make the first of them: as many as descriptors are to be had for, but at least one."""
    found: dict[int, dict[str, Any]] = {}
    with ExitStack() as opened:
        held: list[tuple[Resource, int]] = []
        left = _left_for_limits(rows[:_AT_ONCE])
        opened.enter_context(left)
        for row in rows[:_AT_ONCE]:
            try:
                descriptor = tun.open_device()
            except OSError as problem:
                if held:  # these first: they are closed then
                    break
                raise refused(row.key, problem) from problem
            opened.callback(os.close, descriptor)
            held.append((row, descriptor))
            _new_device(row, descriptor)
        left.close()
        failpoint.reach("made:tap")
        ports = [filters.new_port(row, program) for row, _ in held]
        for (row, descriptor), port, given in zip(held, ports, _equip(links, ports), strict=True):
            if isinstance(given, OSError):
                raise _refused_on(row, given, links) from given
            _dress(row, descriptor, owner)
            found[row.id] = {"ifindex": port.ifindex, "mac": port.mac, **filters.told(port, given)}
        for row, descriptor in held:
            try:
                failpoint.reach("marked:tap")
                tun.set_persistent(descriptor, True)
            except OSError as problem:
                raise refused(row.key, problem) from problem
        for row, descriptor in held:
            _announce(row, descriptor)
    return found


def _left_for_limits(rows: Sequence[Resource]) -> ExitStack:
    """Descriptors that the devices are not to take, where a limit of one needs some after them."""
    left = ExitStack()
    if any(tap_spec(row).get("limit") for row in rows):
        with suppress(OSError):
            for _ in range(_FOR_LIMITS):
                left.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    return left


def _new_device(row: Resource, descriptor: int) -> None:
    spec = tap_spec(row)
    try:
        flags = tun.tap_flags(spec.get("queues", 1))
        tun.create(descriptor, spec["device"], spec["ifindex"], flags)
    except OSError as problem:
        raise refused(spec["device"], problem, bridge=spec["bridge"]) from problem


def _equip(links: Links, ports: Sequence[NewPort]) -> list[Given | OSError]:
    try:
        return new_ports.equip(links, ports)
    except OSError as problem:  # the socket's
        return [problem for _ in ports]


def _dress(row: Resource, descriptor: int, owner: int) -> None:
    """What no message gives a device: its limits, and who may attach to it."""
    spec = tap_spec(row)
    try:
        if spec.get("limit"):
            filters.limit(row)
        tun.set_owner(descriptor, spec.get("owner", owner))
    except OSError as problem:
        raise refused(spec["device"], problem, bridge=spec["bridge"]) from problem


def _announce(row: Resource, descriptor: int) -> None:
    """Tell the guest's neighbours of its addresses, as it would itself, were it not silent.

    Whoever has spoken with an earlier holder of an address has that one's MAC address for up to a
    minute. It is a help, no promise: what the kernel does not take is not sent.
    """
    guard = tap_spec(row).get("guard") or {}
    with suppress(OSError):
        for address in guest_addresses(guard):
            tun.send(descriptor, inet.announcement(guard["mac"], address))


def _refused_on(row: Resource, problem: OSError, links: Links) -> HvtxError:
    """The error of what a new device could not be given: a bridge that is gone is EINVAL."""
    spec = tap_spec(row)
    gone = problem.errno == errno.EINVAL and not links.get(ifindex=spec["master"])
    why = OSError(errno.ENODEV, "no bridge") if gone else problem
    return refused(spec["device"], why, bridge=spec["bridge"])


def refused(name: str, problem: OSError, *, bridge: str = "") -> HvtxError:
    """The error for what the kernel refused of a device."""
    if problem.errno == errno.EBUSY:
        return Conflict(f"a device named {name} exists already", hint="try again: names are random")
    if problem.errno in (errno.EPERM, errno.EACCES):
        return NotPermitted(
            f"not permitted to make the TAP device {name}", hint="run hvtx as root (CAP_NET_ADMIN)"
        )
    if (missing := refusal(problem)) is not None:
        return missing
    if problem.errno == errno.EXFULL:
        message, hint = no_port_left(bridge, f"the TAP device {name}")
        return HostRefused(message, hint=hint)
    if problem.errno == errno.ENODEV and not problem.filename:
        return HostRefused(
            f"bridge {bridge} of {name} is gone", hint="`hvtx repair` puts networks back"
        )
    return HostRefused(
        f"the kernel refused the TAP device {name}: {problem.strerror}",
        hint="`hvtx doctor` checks this host",
    )
