"""Tests fail for what is wrong, not for a busy machine."""

from __future__ import annotations

import time

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@settings(max_examples=2)
@given(st.booleans())
def test_an_example_takes_as_long_as_it_takes(flag: bool) -> None:
    """Hypothesis ends a test by default that takes 200 ms once, and less the next time."""
    time.sleep(0.25)
    assert flag in (False, True)


def test_values_are_made_as_slowly_as_the_machine_makes_them() -> None:
    assert HealthCheck.too_slow in settings().suppress_health_check
