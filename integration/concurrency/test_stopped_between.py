"""A command that stands still between its look and its deed, and what others do meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from integration import lab
from integration.crash.test_model_replay import stopped
from integration.lab.program import Forked, Program, preload
from integration.lab.services import services
from integration.lab.vms import end_vms


@pytest.fixture
def hvtx(monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    """The program, in processes that a test may stop."""
    preload()
    monkeypatch.setenv("HVTX_FIREWALL", "nftables")
    program = Forked()
    yield program
    end_vms(program)


def test_a_service_that_recover_starts_meanwhile_goes_with_its_network(hvtx: Program) -> None:
    """Who takes its row had read it when another process stood there, which is dead."""
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24", "--dhcp")
    lab.end(*services())
    with stopped("network", "rm", "net", at="intended:stop") as removal:
        hvtx("recover")
        assert len(services()) == 1
        assert removal.go_on() == 0, removal.output
    assert services() == []
    assert hvtx.is_clean()
