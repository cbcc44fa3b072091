"""Where a store was, from what it left: there, gone, or not to be told."""

from __future__ import annotations

import os
from pathlib import Path

from hvtx.host import store_location


def test_a_store_that_is_there_and_one_that_is_gone(tmp_path: Path) -> None:
    state = tmp_path / "deep" / "state"
    state.mkdir(parents=True)
    trace = store_location.trace_of(str(state))
    (state / "hvtx.db").write_text("x")
    assert store_location.follow(trace) == ("there", str(state / "hvtx.db"))
    (state / "hvtx.db").unlink()
    assert store_location.follow(trace).verdict == "gone"
    state.rmdir()
    assert store_location.follow(trace).verdict == "gone"
    (tmp_path / "deep").rmdir()
    assert store_location.follow(trace).verdict == "gone"


def test_what_cannot_be_seen_is_not_gone(tmp_path: Path) -> None:
    """Another device: its disk is not mounted here, or the path is of another container."""
    state = tmp_path / "state"
    state.mkdir()
    device, above, path = store_location.trace_of(str(state)).split(":")
    assert store_location.follow(f"{int(device) + 1}:{above}:{path}").verdict == "unseen"
    state.rmdir()
    assert store_location.follow(f"{device}:{int(above) + 1}:{path}").verdict == "unseen"
    assert store_location.follow(f"{int(device) + 1}:{int(above) + 1}:{path}").verdict == "unseen"
    for nonsense in ("", "x", "1:2:relative", "1:2"):
        assert store_location.follow(nonsense) == ("unseen", "")


def test_what_no_comment_can_hold_is_not_told(tmp_path: Path) -> None:
    for name in ('quo"te', "new\nline", "x" * 120):
        (tmp_path / name).mkdir()
        assert store_location.trace_of(str(tmp_path / name)) == ""
    assert store_location.trace_of(os.path.join(str(tmp_path), "absent")) == ""
