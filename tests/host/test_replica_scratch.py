"""The scratch that flows are tried in: what is said where none can be made."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from hvtx.engine import translated_ports
from hvtx.host.replica.scratch import Unavailable, within
from hvtx.model.vm import Publish


@pytest.mark.parametrize("problem", [RuntimeError("can't start new thread"), MemoryError()])
def test_a_system_that_gives_no_thread_is_no_mistake_of_ours(
    problem: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is at a limit of tasks (pids.max, RLIMIT_NPROC), which root's threads meet too."""

    def refuse(_: threading.Thread) -> None:
        raise problem

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(Unavailable, match="no thread can be made") as told:
        within(cast("Any", None), lambda _: None)
    assert "limit of tasks" in told.value.hint


def test_a_port_whose_translation_cannot_be_tried_is_not_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The start goes on and says so."""

    def fail(*_: object, **__: object) -> None:
        raise Unavailable("no thread can be made to try it in", "raise the limit")

    monkeypatch.setattr(translated_ports, "among", fail)
    port = Publish("tcp", None, 8080, 80)
    assert translated_ports.refuse([port], (4,)) == "no thread can be made to try it in"
