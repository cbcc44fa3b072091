"""Requirements of the iptables backend."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from hvtx.errors import HostRefused
from hvtx.host import libiptc, program, xtnames
from hvtx.host.xtnames import OR_NFTABLES, TOOLS
from hvtx.host.xtsaved import save_program

_MODULES = {4: "ip_tables", 6: "ip6_tables"}


def lack(families: Iterable[int] = tuple(TOOLS)) -> HostRefused | None:
    """What the iptables backend needs for ``families`` and this host does not have, if anything.

    Nothing is loaded into the kernel, and no table is read.
    """
    for family in sorted(families):
        try:
            libiptc.library(family)
        except HostRefused as problem:
            return problem
        if save_program(family) is None:
            return HostRefused(
                f"the iptables backend cannot work here: there is no {TOOLS[family]}-legacy-save",
                hint=f"install the package iptables, {OR_NFTABLES}",
            )
    if not os.path.exists(xtnames.NAMES[4]) and not _has_module(_MODULES[4]):
        return HostRefused(
            "the iptables backend cannot work here: this kernel has no legacy iptables tables,"
            f" and no module {_MODULES[4]} for them",
            hint=f"boot a kernel that has them, or load the module from outside, {OR_NFTABLES}",
        )
    return None


def _has_module(name: str) -> bool:
    """Whether this kernel could load a module."""
    directory = f"/lib/modules/{os.uname().release}"
    with contextlib.suppress(OSError), open(f"{directory}/modules.dep", encoding="utf-8") as known:
        return any(line.partition(":")[0].rpartition("/")[2].startswith(f"{name}.ko")
                   for line in known)  # fmt: skip
    return False


def load_module(family: int) -> None:
    """Have the kernel load the family's tables, as iptables does, where it has none yet.

    It does so by itself for each table, but not for what they have in common. Without success
    nothing is said: the next call to the kernel does.
    """
    if os.path.exists(xtnames.NAMES[family]) or not os.path.exists("/proc/modules"):
        return
    with contextlib.suppress(OSError):
        with open("/proc/sys/kernel/modprobe", encoding="utf-8") as path:
            modprobe = path.read().strip()
        if modprobe:
            program.run((modprobe, "-q", _MODULES[family]), 30)
