"""CHECK of an attachment: what is told of it, and others who change things meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from hvtx import Host
from hvtx.commands import cni_check
from hvtx.drivers.netns import Inside
from hvtx.engine import damage, port_holders
from hvtx.engine.damage import Damage
from hvtx.model.resource import Kind, Link, Resource, State
from hvtx.planner.presence import Presence
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


# -- what hurts, and what does not -----------------------------------------------------------------

NONE = Resource(1, Kind.BRIDGE, "hvlan", State.COMMITTED, "", {}, {}, 1, 1, None, "id-lan")
SEEN = Presence(True, ())
SOFT = Damage(NONE, "its route for all at once was gone: broadcast 10.77.0.255", SEEN)
CUT = Damage(NONE, "it was down", SEEN)


@pytest.mark.parametrize(
    ("found", "hurts"),
    [
        (CUT, True),
        (SOFT, False),
        (CUT._replace(harmless=True), False),
        (CUT._replace(missing=damage.OPEN), False),
        (CUT._replace(missing=port_holders.UNHELD), False),
        (CUT._replace(missing="127.0.0.1 did not reach its guests (route_localnet)"), True),
    ],
)
def test_what_hurts(found: Damage, hurts: bool) -> None:
    assert found.hurts == hurts


@pytest.fixture
def looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[list[str], list[str]]]]:
    """What CHECK answers and tells where its looks find this, one after another."""
    world = FakeWorld(tmp_path)
    path, told = world.container(), []
    monkeypatch.setattr(cni_check, "_PAUSE", 0)
    monkeypatch.setattr(cni_check, "_inside", lambda *_: ())

    def check(*found: Sequence[Damage]) -> tuple[list[str], list[str]]:
        left = list(found)

        def damages_of(sighted: Any, *_: object) -> list[Damage]:
            bridge = next(row for row, _ in sighted if row.kind == Kind.BRIDGE)
            return [one._replace(row=bridge) for one in left.pop(0)]

        monkeypatch.setattr(damage, "damages_of", damages_of)
        with world.kernel.run(), Host(notices=lambda _, words: told.append(words)) as host:
            missing = host.attachments.check(request(path, "box"))
        assert not left, "it looked less often"
        return [one.what.partition(": ")[2] for one in missing], told

    ran = world.hvtx(WORD, "add", path, "box")
    assert ran.code == 0, ran.err
    yield check
    world.close()


def test_what_hurts_no_container_is_a_warning(looks: Any) -> None:
    """A runtime ends a container whose CHECK fails."""
    missing, (warning,) = looks([SOFT])
    assert missing == []
    assert warning.endswith("broadcast 10.77.0.255; hvtx repair")


def test_what_others_change_meanwhile_is_no_damage(looks: Any) -> None:
    """Another container comes or goes, or a network is changed: the next look finds it well."""
    assert looks([CUT], []) == ([], [])
    assert looks([CUT], [CUT], [])[0] == []
    assert looks([CUT], [CUT], [CUT])[0] == ["it was down"]


def test_what_is_released_between_two_looks(looks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    look, seen = cni_check.take_snapshot, []

    def late(runtime: object) -> object:
        found = look(runtime)  # type: ignore[arg-type]
        seen.append(found)
        return found if len(seen) == 1 else found._replace(vms={})

    monkeypatch.setattr(cni_check, "take_snapshot", late)
    assert looks([CUT]) == ([""], [])
    assert len(seen) == 2


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
