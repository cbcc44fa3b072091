"""How long and how randomly the machine runs: fixed in the ordinary run, at will in the long one."""

from __future__ import annotations

import os
import random

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.machine.machine import Machine

LONG = int(os.environ.get("HVTX_MACHINE", "0"))  # examples


def run(machine: type[Machine], *, examples: int, steps: int, share: float = 1) -> None:
    """Run the machine: always the same sequences, or with HVTX_MACHINE so many random ones.

    Those (``share`` of them where they take their time) are twice as long, and begin from a seed
    that is printed, and can be given in HVTX_MACHINE_SEED.
    """
    chosen = int(os.environ.get("HVTX_MACHINE_SEED", "0")) or random.SystemRandom().getrandbits(32)
    machine.counts.clear()
    if LONG:
        print(f"\n{machine.__name__}: HVTX_MACHINE={LONG} HVTX_MACHINE_SEED={chosen}")  # noqa: T201
        machine = seed(chosen)(machine)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max(1, int(LONG * share)) if LONG else examples,
            stateful_step_count=steps * 2 if LONG else steps,
            derandomize=not LONG,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink),
        ),
    )
    if LONG:
        print(f"{machine.__name__}: {dict(machine.counts)}")  # noqa: T201
