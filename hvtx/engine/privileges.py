"""Privileges that a command needs, checked before it writes its intent.

A missing capability shows in the kernel's answer too, but there it comes late: half of a VM's
network is made by then and must be taken back, or its process has been ended and its device cannot
be released. docs/privileges.md has which command needs what; the kernel is asked where it can be
(opening a file, signal 0), and the capability sets where it cannot.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from hvtx.errors import NotPermitted
from hvtx.host import capabilities, procfs, tun
from hvtx.model.resource import Kind, Resource, file_spec
from hvtx.model.vm import Identity, Network
from hvtx.planner.states import identity_of

_PAGE = "docs/privileges.md"


def need_for(rows: Iterable[Resource]) -> None:
    """Refuse if ``rows`` cannot be removed by this user.

    Raises NotPermitted, naming the capability that is missing. Nothing is changed.
    """
    kinds, backends = set(), set()
    for row in rows:
        kinds.add(row.kind)
        backends.add(row.backend)
        if row.kind == Kind.FILE:
            need_to_empty(file_spec(row)["path"])
    need(devices=Kind.TAP in kinds, legacy="iptables" in backends)


def need_to_empty(directory: str) -> None:
    """Refuse if a run-time directory, which is its VM's user's, cannot be taken over."""
    if capabilities.has("CAP_DAC_OVERRIDE") or capabilities.has("CAP_CHOWN"):
        return
    try:
        owner = os.lstat(directory).st_uid
    except OSError:
        return  # for the driver to say
    if owner != os.geteuid():
        raise NotPermitted(
            f"the run-time directory {directory} belongs to the VM's user {owner}: removing it"
            " needs the capability CAP_CHOWN",
            hint=f"run hvtx as root, or with CAP_CHOWN as well ({_PAGE})",
        )


def need_to_start(networks: Iterable[Network], *, devices: bool = True) -> None:
    """Refuse if a VM in ``networks`` cannot be started by this user, or on this host.

    Without ``devices`` for a container in a network that is there: no TAP device is made for it,
    as a passing one is for a network's bridge.

    Raises NotPermitted, and HostRefused where the iptables backend lacks what it works with.
    """
    networks = list(networks)
    legacy = [network for network in networks if network.firewall == "iptables"]
    need(devices=devices and bool(networks), legacy=bool(legacy))
    if legacy:
        from hvtx.host import xtneeds

        lack = xtneeds.lack({4, *(family for network in legacy for family in network.families)})
        if lack is not None:
            raise lack


def need(*, devices: bool = False, legacy: bool = False) -> None:
    """Refuse if TAP devices (``devices``) or legacy tables cannot be worked with."""
    if devices and (problem := tun_problem()) is not None:
        raise problem
    if legacy and (problem := legacy_problem()) is not None:
        raise problem


def need_to_end(rows: Iterable[Resource], boot_id: str) -> None:
    """Refuse if a VM process on record may not be signalled. Raises NotPermitted."""
    for row in rows:
        identity = identity_of(row) if row.kind == Kind.PROCESS else None
        if identity is not None and identity.boot_id == boot_id:
            _need_to_signal(identity)


def _need_to_signal(identity: Identity) -> None:
    if procfs.may_signal(identity):
        return
    raise NotPermitted(
        f"the VM process {identity.pid} belongs to another user: ending it needs the capability"
        " CAP_KILL",
        hint=f"run hvtx as root or as that user, or with CAP_KILL ({_PAGE})",
    )


def tun_problem() -> NotPermitted | None:
    """Why no TAP device can be opened by this user; None if one can, or none is there at all."""
    try:
        os.close(tun.open_device())
    except PermissionError:
        return NotPermitted(
            f"{tun.DEVICE} may not be opened by this user: it needs mode 0666, or the capability"
            " CAP_DAC_OVERRIDE",
            hint=f"chmod 666 {tun.DEVICE} (the kernel asks for CAP_NET_ADMIN all the same); in a"
            " container, allow the device",
        )
    except OSError:
        return None  # for the driver to say
    return None


def legacy_problem() -> NotPermitted | None:
    """What of the legacy tables this user may not do; None if all may be done."""
    from hvtx.host import xtnames

    if not capabilities.has("CAP_NET_RAW"):
        return _legacy("are read and changed through a raw socket", "CAP_NET_RAW")
    for family in (4, 6):
        try:
            xtnames.listed(family)
        except NotPermitted:
            path = xtnames.names_path(family)
            return _legacy(f"are listed in {path}, which only root may read", "CAP_DAC_READ_SEARCH")
    missing = _lock_problem()
    return _legacy(*missing) if missing else None


def _legacy(why: str, capability: str) -> NotPermitted:
    return NotPermitted(
        f"the legacy iptables tables {why}: it needs the capability {capability}",
        hint=f"run hvtx as root, or with {capability} as well ({_PAGE}); networks made with"
        " --firewall nftables do without",
    )


def _lock_problem() -> tuple[str, str] | None:
    """The lock of iptables: read it if it is there; else it must be made."""
    from hvtx.host import xtlock

    path = xtlock.lock_path()
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except PermissionError:
        return f"are guarded by {path}, which this user may not open", "CAP_DAC_READ_SEARCH"
    except FileNotFoundError:
        directory = os.path.dirname(path) or "."
        if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
            return f"are guarded by {path}, which this user may not make", "CAP_DAC_OVERRIDE"
    except OSError:
        pass  # for the driver to say
    return None
