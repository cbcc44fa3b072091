"""Kernel settings that guests need: turned on, recorded with what they were, and left on.

Others may rely on a setting by the time the last network goes, so a release only closes the record.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence

from hvtx.drivers.base import Host
from hvtx.errors import HostRefused, NotPermitted
from hvtx.host import sysctl
from hvtx.model.resource import GONE, Kind, Outcome, Resource, sysctl_spec
from hvtx.model.typed import Any


class SysctlDriver:
    """Turns settings on (``SysctlSpec``)."""

    kinds = frozenset({Kind.SYSCTL})

    def __init__(self, host: Host) -> None:
        """Settings below ``/proc/sys/net`` are those of the caller's network namespace."""
        self._host = host

    def create(self, resources: Sequence[Resource]) -> Mapping[int, dict[str, Any]]:
        """Write the values; returns ``{"value"}`` each, as read back."""
        return {row.id: _write(row) for row in resources}

    def release(self, resources: Sequence[Resource]) -> Mapping[int, Outcome]:
        """Leave everything as it is."""
        return {row.id: GONE for row in resources}


def _write(row: Resource) -> dict[str, Any]:
    spec = sysctl_spec(row)
    try:
        sysctl.write(spec["path"], spec["value"])
        return {"value": sysctl.value(spec["path"])}
    except OSError as problem:
        if problem.errno in (errno.EPERM, errno.EACCES, errno.EROFS):
            raise NotPermitted(
                f"not permitted to set {row.key} to {spec['value']}",
                hint=f"run hvtx as root, or set it by hand: sysctl -w {row.key}={spec['value']}",
            ) from problem
        words = f"{row.key} cannot be set to {spec['value']}: {problem.strerror}"
        raise HostRefused(words) from problem
