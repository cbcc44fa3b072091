"""Unit tests touch no network; what one of them does by mistake stays in a namespace of their own."""

from __future__ import annotations

import os

import pytest

from integration import lab


def pytest_configure() -> None:
    """In the process that starts the tests, and in each that runs them."""
    lab.default_signals()


@pytest.fixture(scope="session", autouse=True)
def elsewhere() -> None:
    """Leave the machine's own namespace, for good; only root could change it."""
    if os.geteuid() == 0:
        lab.unshare(lab.CLONE_NEWNET)
        lab.run("ip", "link", "set", "lo", "up")
