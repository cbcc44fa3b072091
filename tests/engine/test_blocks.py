"""What a cluster that does not answer means; the rest: integration/cluster/test_blocks.py."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from hvtx.engine import blocks
from hvtx.engine.blocks import Blocks, Settled
from hvtx.engine.etcd_hosts import UNREACHABLE
from hvtx.errors import Busy
from hvtx.model.block import Block


class _Runtime:
    """A record of which something is due, until the blocks were given back."""

    def __init__(self, *, due: bool) -> None:
        self.due = due

    def read(self, what: object, *_: object) -> bool:
        return what is blocks._is_due and self.due


class _CutOff(Blocks):
    """Gives back what is due, then meets an etcd that does not answer."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime

    def ask_again(self, only: Collection[str] | None = None) -> list[str]:
        return []

    def _lose(self) -> list[str]:
        return []

    def _return(self, *, spare: bool, only: Collection[str] | None = None) -> list[Block]:
        self._runtime.due = False
        raise Busy("no etcd answers", code=UNREACHABLE)


@pytest.mark.parametrize(
    ("due", "settled"),
    [
        (True, Settled(failed=(("cluster", "no etcd answers"),))),
        (False, Settled(unasked="no etcd answers")),
    ],
)
def test_who_is_cut_off_in_the_middle_of_what_is_due_has_failed(
    due: bool, settled: Settled
) -> None:
    """A network that is gone stays defined in etcd, though its blocks are off the record."""
    runtime: Any = _Runtime(due=due)
    assert _CutOff(runtime).settle() == settled
