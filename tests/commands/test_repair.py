"""In which order `repair` puts back; what it puts back is in integration/commands/test_repair.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hvtx.drivers.tap import filters
from hvtx.host import new_ports
from hvtx.host.new_ports import Given
from tests.fake.host import FakeLinks
from tests.machine.attachment_verbs import WORD
from tests.machine.fake_world import FakeWorld


@pytest.fixture(params=["tap", "veth"])
def port(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[FakeWorld, str]]:
    """A host with a guest's device of either kind, and its name."""
    world = FakeWorld(tmp_path)
    path = world.act("contain", name="c1", nsid="")
    guest = {
        "tap": ("vm", "run", "web", "--network", "net", "--", "sleep", "60"),
        "veth": (WORD, "add", path, "c1"),
    }
    subnets = ("--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
    for argv in (("network", "create", "net", *subnets), guest[request.param]):
        ran = world.hvtx(*argv)
        assert ran.code == 0, ran
    (device,) = [row.key for row in world.record().rows if row.kind == request.param]
    yield world, device
    world.close()


@pytest.mark.parametrize("flushed", [False, True], ids=["its filter went", "and all rules"])
def test_what_holds_a_guest_is_there_before_its_device_is_on_its_bridge(
    port: tuple[FakeWorld, str], flushed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs on, and may send as soon as its device is plugged in."""
    world, device = port
    world.act("unplug", device=device)
    if flushed:
        world.act("flush")
    index = next(i for i, link in world.look().links.items() if link.name == device)
    del world.kernel.guards[index, 0]
    own = {row.mark for row in world.record().rows if row.vm}
    change, held = FakeLinks.change, []

    def noting(links: FakeLinks, ifindex: int, **new: Any) -> None:
        if ifindex == index and ("master" in new or "up" in new):
            elements = world.look().elements.values()
            rules = any(mark in own for _, mark in elements)
            held.append((rules, (index, 0) in world.kernel.guards))
        change(links, ifindex, **new)

    monkeypatch.setattr(FakeLinks, "change", noting)
    ran = world.hvtx("repair")
    assert ran.code == 0, ran
    assert held
    assert set(held) == {(True, True)}
    assert world.look().links[index].master


class Ordered:
    """A socket that notes what a device is given."""

    def __init__(self) -> None:
        self.given: list[str] = []

    def change(self, ifindex: int, **new: Any) -> None:
        assert ifindex == 7
        self.given.append(" ".join(sorted(new)))

    def set_apart(self, ifindex: int) -> None:
        assert ifindex == 7
        self.given.append("apart")


@pytest.mark.parametrize("apart", [False, True])
def test_a_port_is_up_last_and_its_limit_is_first(
    apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only a port of a bridge can have comes once it is one."""
    links: Any = Ordered()
    row: Any = type("Row", (), {"ifindex": 7, "spec": {"mac": "m", "mtu": 1500}, "kind": "tap"})

    def guard(_: Any, ifindex: int, program: bytes, *__: Any) -> Given:
        assert (ifindex, program) == (7, str(spec).encode())
        links.given.append("filter")
        return Given(True, True)

    monkeypatch.setattr(new_ports, "guard", guard)
    spec = {"apart": apart}
    monkeypatch.setattr(filters, "program_of", lambda whole: str(whole).encode())
    monkeypatch.setattr(filters, "tap_spec", lambda row: row.spec)
    monkeypatch.setattr(filters, "limit", lambda _: links.given.append("limit"))
    filters.put_back(links, row, master=2, spec=spec)
    where = ["hairpin mac master mtu", *(["apart"] if apart else []), "up"]
    assert links.given == ["filter", "limit", *where]
