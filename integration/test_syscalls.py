"""Killed before any of its system calls, every command recovers: the crash matrix from inside.

The ordinary run takes an even sample of the calls; `HVTX_CRASH=all` (tox -e crash) takes each one.
Commands join by standing in `test_crash.COMMANDS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from integration import lab
from integration.program import Forked, preload
from integration.stepper import run_stepped
from integration.test_crash import BACKENDS, COMMANDS, NEITHER, end_everything, given, guests, host

__all__ = ["guests"]  # the fixture that ends what `vm attach` was given
SAMPLE = 7


def chosen(calls: int) -> list[int]:
    """Which system calls to be killed before: each, or an even sample with both ends."""
    if os.environ.get("HVTX_CRASH") == "all":
        return list(range(1, calls + 1))
    return sorted({1 + round(n * (calls - 1) / (SAMPLE - 1)) for n in range(SAMPLE)})


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("firewall", BACKENDS)
@pytest.mark.parametrize("name", list(COMMANDS))
def test_killed_before_any_system_call_it_recovers(
    name: str, firewall: str, record_property: Callable[[str, object], None]
) -> None:
    """After `recover` the host is as before the command or as after it, and a plan is empty."""
    preload()
    hvtx = Forked(HVTX_FIREWALL=firewall)
    COMMANDS[name].prepare(hvtx)
    whole = run_stepped(given(name), hvtx.environment)
    assert whole.ran.code == 0, whole.ran
    after = host()
    end_everything(hvtx)
    points = chosen(whole.calls)
    record_property("calls", whole.calls)
    record_property("killed", len(points))
    prepared = False
    for point in points:
        if not prepared:
            COMMANDS[name].prepare(hvtx)
            before = host()
        run_stepped(given(name), hvtx.environment, kill_at=point)
        hvtx("recover")
        where = f"{name} before system call {point} of {whole.calls}"
        assert hvtx("intents", "--json").json()["operations"] == [], where
        if name in NEITHER:
            hvtx("gc", "--apply")
        assert hvtx.is_clean(), where
        now = host()
        prepared = name not in NEITHER and not lab.difference(before, now)
        if name not in NEITHER:
            assert prepared or not lab.difference(after, now), (
                f"{where}\n{lab.difference(before, now)}"
            )
        if not prepared:
            end_everything(hvtx)
    end_everything(hvtx)
    left = lab.dump()
    assert (left["links"][1:], left["nft"]) == ([], [])  # type: ignore[index]
