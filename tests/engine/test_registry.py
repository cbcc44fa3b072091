"""Which driver is made for what, and when its module is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hvtx.drivers.base import Host
from hvtx.engine.registry import DRIVERS, Drivers, outdated
from hvtx.model.resource import Kind
from tests.planner.test_scope import row

HOST = Host("0123456789", "/nonexistent", "/nonexistent", 1.0)


@pytest.mark.parametrize("name", DRIVERS)
def test_a_driver_is_made_once(name: str) -> None:
    drivers = Drivers(lambda: HOST)
    made = drivers.of(name)
    assert type(made).__name__ == DRIVERS[name].partition(":")[2]
    assert drivers.of(name) is made


@pytest.mark.parametrize("name", ["nftables", "iptables", "firewalld"])
def test_a_backend_is_the_driver_of_its_name(name: str) -> None:
    drivers = Drivers(lambda: HOST)
    assert drivers.firewall(name) is drivers.of(name)


def test_rules_of_others_have_a_driver_that_makes_nothing() -> None:
    drivers = Drivers(lambda: HOST)
    assert not hasattr(drivers.of_others(), "create")
    assert drivers.of_others() is drivers.of_others()


def test_no_driver_is_imported_before_it_is_asked_for() -> None:
    code = (
        "import sys; import hvtx.engine.registry;"
        "print(sorted(m for m in sys.modules if m.startswith('hvtx.drivers.')))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "['hvtx.drivers.base']\n"


def test_a_backend_s_driver_says_what_is_out_of_date() -> None:
    old = row(1, Kind.FILTER)._replace(spec={"backend": "nftables", "what": "base"})
    assert outdated(old), "its tables have no layout on record"
    assert not outdated(old._replace(spec={"backend": "firewalld"}))
