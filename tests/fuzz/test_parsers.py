"""No parser of what strangers write raises what it does not name, or concludes what was not there.

The ordinary run takes some examples, always the same. ``HVTX_FUZZ=<seconds>`` gives each parser so
long with other ones, prints the seed of each round (``HVTX_FUZZ_SEED`` begins with it again), and
keeps what was found in ``.cache/fuzz``, which the next run tries first.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis.database import DirectoryBasedExampleDatabase

from tests.fuzz.parsers import PARSERS, Parser

ROOT = Path(__file__).resolve().parents[2]
SECONDS = float(os.environ.get("HVTX_FUZZ", "0"))
EXAMPLES, ROUND = 40, 500


def options(*, examples: int, **more: Any) -> settings:
    """Settings that ask for nothing but the property."""
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        **more,
    )


def property_of(parser: Parser) -> Callable[..., None]:
    """Only the named errors come out."""

    @given(parser.inputs)
    def holds(given_: Any) -> None:
        try:
            parser.call(given_)
        except AssertionError:
            raise
        except parser.errors:
            pass

    return holds


@pytest.mark.timeout(int(SECONDS * 3) + 300)
@pytest.mark.parametrize("name", PARSERS)
def test_only_named_errors(name: str) -> None:
    holds = property_of(PARSERS[name])
    if not SECONDS:
        options(examples=EXAMPLES, derandomize=True, database=None)(holds)()
        return
    kept = DirectoryBasedExampleDatabase(ROOT / ".cache/fuzz")
    number = int(os.environ.get("HVTX_FUZZ_SEED", "0")) or random.SystemRandom().getrandbits(32)
    end, rounds = time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        print(f"{name}: HVTX_FUZZ_SEED={number}", flush=True)  # noqa: T201
        seed(number)(options(examples=ROUND, database=kept)(property_of(PARSERS[name])))()
        number, rounds = number + 1, rounds + 1
    print(f"{name}: {rounds * ROUND} examples")  # noqa: T201
