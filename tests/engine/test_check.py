"""CHECK of an attachment beside others who release it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvtx import Host
from hvtx.commands import cni_check
from tests.machine.attachment_verbs import WORD, request
from tests.machine.fake_world import FakeWorld


def test_what_is_released_meanwhile_is_not_attached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, look, done = FakeWorld(tmp_path), cni_check.take_snapshot, []
    path = world.container()

    def late(runtime: object) -> object:
        world._elsewhere(lambda: done.append(world.hvtx(WORD, "del", "c9")))()
        return look(runtime)  # type: ignore[arg-type]

    monkeypatch.setattr(cni_check, "take_snapshot", late)
    try:
        ran = world.hvtx(WORD, "add", path, "c9")
        assert ran.code == 0, ran.err
        with world.kernel.run():
            (found,) = Host().attachments.check(request(path, "c9"))
        assert [ran.code for ran in done] == [0], done
        assert found.what == "interface eth0 of container c9 is not attached"
    finally:
        world.close()
