"""Fixtures of the integration tests: each test lives in a network namespace of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import lab


@pytest.fixture(autouse=True)
def netns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A fresh network namespace, state and run directories, and an xtables lock of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces")
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    monkeypatch.setenv("HVTX_VERIFY", "1")
    monkeypatch.setenv("HVTX_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("HVTX_RUN_DIR", str(tmp_path / "run"))
    (tmp_path / "config.toml").write_text("")
    monkeypatch.setenv("HVTX_CONFIG", str(tmp_path / "config.toml"))
    with lab.private_network():
        yield


@pytest.fixture
def world(netns: None) -> Iterator[lab.Namespace]:
    """The host's neighbour, reachable over a veth pair."""
    with lab.world() as other:
        yield other
