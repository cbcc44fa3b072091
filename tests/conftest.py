"""Unit tests touch no network; what one of them does by mistake stays in a namespace of their own."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from integration import lab


def pytest_configure() -> None:
    """In the process that starts the tests, and in each that runs them.

    Hypothesis' own limits of time are off: on a busy machine an example takes as long as it takes.
    """
    lab.default_signals()
    slow = [HealthCheck.too_slow]
    settings.register_profile("patient", settings(), deadline=None, suppress_health_check=slow)
    settings.load_profile("patient")


@pytest.fixture(scope="session", autouse=True)
def elsewhere() -> None:
    """Leave the machine's own namespace, for good; only root could change it."""
    if os.geteuid() == 0:
        lab.unshare(lab.CLONE_NEWNET)
        lab.run("ip", "link", "set", "lo", "up")
