"""Limits of a VM that runs, where the kernel does not take them."""

from __future__ import annotations

from typing import Any

import pytest

from hvtx.engine.living_limits import hold
from hvtx.errors import HostRefused
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.resource import Kind
from tests.planner.scene import Scene


@pytest.mark.parametrize(
    ("problem", "words"),
    [(OSError(28, "No space left on device"), "No space"), (DumpInterrupted(), "cut short")],
)
def test_what_cannot_be_held_is_refused_in_words(problem: Exception, words: str) -> None:
    """Also where what is there by now could not be listed whole."""

    class Driver:
        def limit(self, rows: Any) -> None:
            del rows
            raise problem

    driver: Any = Driver()
    with pytest.raises(HostRefused, match=words):
        hold(driver, [Scene().row(Kind.TAP, vm="id-web")])
