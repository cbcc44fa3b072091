"""The drivers' contract (tests/drivers) on the real kernel, and with a real firewalld."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hvtx.engine.registry import DRIVERS
from hvtx.host import firewalld_zones
from integration import lab
from integration.lab import firewalld
from integration.lab.machine_world import RealWorld
from tests.drivers.contract import *  # noqa: F403


class HostWorld(RealWorld):
    """A host for one driver: with firewalld, where that is what the driver talks to."""

    drivers = frozenset(DRIVERS)


@pytest.fixture(scope="module")
def packages() -> Path | None:
    """firewalld's, before a test has a namespace from which nothing can be downloaded."""
    try:
        return firewalld.root()
    except pytest.skip.Exception:
        return None


@pytest.fixture
def world(
    request: pytest.FixtureRequest,
    packages: Path | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[RealWorld]:
    """A network namespace."""
    asked = getattr(request.node, "callspec", None)
    of_firewalld = asked is not None and asked.params.get("bench") == "firewalld"
    if of_firewalld and packages is None:
        pytest.skip("Debian's package firewalld cannot be had")
    with ExitStack() as stack:
        found = HostWorld(tmp_path)
        stack.callback(found.close)
        if of_firewalld and packages is not None:
            daemon = firewalld.Firewalld(packages, lab.open_place())
            stack.callback(daemon.close)
            monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", daemon.address)
            monkeypatch.setattr(firewalld_zones, "ZONES", str(daemon.zones))
            lock = daemon.zones.parent.with_name("lock")
            monkeypatch.setattr(firewalld_zones, "LOCK", str(lock))
            daemon.start()
        yield found
