"""`recover` after a boot with many `--autostart` VMs: in slices, told as it goes, killed half-way."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvtx.engine import together
from integration import lab
from integration.commands.test_recover import other_boot
from integration.commands.test_several import operations
from integration.lab.program import Program
from integration.lab.verbs import create, hvtx, network, state, stopped
from integration.lab.vms import end_vms

__all__ = ["hvtx"]  # the fixture

NAMES = [f"n{number}" for number in range(5)]


@pytest.fixture
def booted(hvtx: Program, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    """A host that has just booted, with five VMs to start, in slices of two."""
    monkeypatch.setattr(together, "SLICE", 2)
    network(hvtx)
    for name in NAMES:
        create(hvtx, name, "--autostart")
    other_boot()
    with lab.private_network():
        yield hvtx
        end_vms(hvtx)


def up(hvtx: Program) -> list[str]:
    return [name for name in NAMES if state(hvtx, name) == "running"]


@pytest.mark.parametrize(
    ("point", "at_once"),
    [
        ("attempted:kill", 2),
        ("attempted:kill:2", 4),
        ("opened:kill:3", 2),
        ("registered:kill:2", 2),
    ],
)
def test_killed_half_way_it_goes_on(booted: Program, point: str, at_once: int) -> None:
    """Those of the slices before are up, and are not started again; then all are."""
    booted("recover", code=-signal.SIGKILL, HVTX_FAILPOINT=point)
    assert len(up(booted)) >= at_once
    booted("recover")
    assert up(booted) == NAMES
    assert booted.is_clean()
    before = [booted.vm(name)["pid"] for name in NAMES]
    assert booted("recover").err == ""
    assert [booted.vm(name)["pid"] for name in NAMES] == before


def test_each_is_started_once(booted: Program) -> None:
    """An operation each, as many as VMs."""
    done = booted("recover", "--json").json()
    assert done["started"] == NAMES
    ids = operations(booted, "start")
    assert sorted(ids) == NAMES
    assert len(set.union(*ids.values())) == len(NAMES)


def test_who_does_not_start_keeps_nobody_back(booted: Program) -> None:
    """Its error is told, the others are up, and the next run does not try it again."""
    booted("vm", "set", "n2", "--", "false")
    done = booted("recover", "--json", code=9).json()
    assert done["started"] == [name for name in NAMES if name != "n2"]
    assert [failed["what"] for failed in done["failed"]] == ["VM n2"]
    assert "exit status 1" in done["failed"][0]["why"]
    assert booted("recover").out == "nothing to recover\n"
    assert booted.is_clean()


def test_it_tells_while_it_works(booted: Program) -> None:
    """The networks are told before the first VM is up, and not only at the end."""
    run = stopped(booted, "attempted", "recover")
    assert run.stdout is not None
    told = os.read(run.stdout.fileno(), 1 << 16).decode()
    assert "network net is rebuilt" in told
    assert "is running" not in told
    os.kill(run.pid, signal.SIGCONT)
    rest, _ = run.communicate(timeout=60)
    assert [line for line in rest.decode().splitlines() if "is running" in line] == [
        f"VM {name} is running" for name in NAMES
    ]


def test_in_a_units_sandbox_systemd_starts_a_slice_at_a_time(
    booted: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for systemd-run: who did not come up is told, with where to read why."""
    told = tmp_path / "told"
    stand_in = tmp_path / "systemd-run"
    stand_in.write_text(
        f'#!/bin/sh\necho "$@" >>{told}\nunset HVTX_AUTOSTART\n'
        'while [ "$1" != -- ]; do shift; done; shift\nexec "$@"\n'
    )
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    booted("vm", "set", "n2", "--", "false")
    done = booted("recover", "--json", code=9, HVTX_AUTOSTART="systemd-run").json()
    assert done["started"] == ["n0", "n1", "n3", "n4"]
    assert [failed["what"] for failed in done["failed"]] == ["VM n2"]
    assert "journalctl -u hvtx-start-n2.2" in done["failed"][0]["why"]
    calls = told.read_text().splitlines()
    assert [call.rpartition(" vm start ")[2] for call in calls] == ["n0 n1", "n2 n3", "n4"]
    assert up(booted) == ["n0", "n1", "n3", "n4"]
