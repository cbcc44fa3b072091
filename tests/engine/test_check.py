"""CHECK of an attachment: what is told of it, and others who change things meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hvtx import Host
from hvtx.commands import cni_check
from hvtx.drivers.netns import Inside
from hvtx.model.resource import Kind, Link, Resource, State
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


@pytest.mark.parametrize(
    ("others", "worlds", "told"),
    [
        ([], {4, 6}, []),
        ([], {6}, ["10.77.0.1"]),
        ([4], {6}, []),  # ADD found one by another interface, left it, and told none
        ([4], set(), ["fd77::1"]),
    ],
)
def test_a_default_route_that_add_did_not_make_is_not_missed(
    others: list[int], worlds: set[int], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = [("10.77.0.2/24", "10.77.0.1"), ("fd77::2/64", "fd77::1")]
    spec: dict[str, Any] = {
        "peer": "eth0",
        "peer_mac": "02:00:00:00:00:03",
        "peer_addresses": addresses,
    }
    pair = Resource(
        1, Kind.VETH, "hvhost", State.COMMITTED, "mark", spec, {"others_default": others}, 1, 1,
        "id-web", "id-lan",
    )  # fmt: skip
    evidence = Resource(
        2, Kind.NETNS, "netns", State.COMMITTED, "", {}, {"nsid": 7}, 1, 1, "id-web", None
    )
    link = Link(
        3, "eth0", "veth", "mark", spec["peer_mac"], 1500, 0, 0, 0, True, 0, 0, persistent=False
    )  # fmt: skip
    seen = Inside(7, link, None, False, frozenset(one for one, _ in addresses), frozenset(worlds))
    monkeypatch.setattr(cni_check.netns, "look_inside", lambda *_: seen)
    asked = request("/run/netns/box")
    found = list(cni_check._inside(asked, [pair, evidence], pair, "anew"))
    assert [one.what.rpartition(" ")[2] for one in found] == told
